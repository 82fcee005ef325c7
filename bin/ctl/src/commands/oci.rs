//! `oci`: specifications.

use crate::{
    failure::Outcome,
    output::{self, json::indent},
};
use clap::Subcommand;
use wharf_client::spec::{self, SpecBuilder, SpecOptions, Users};
use wharf_messages::{ContainerId, Namespace};

/// Show OCI specifications.
#[derive(Debug, Subcommand)]
pub enum Oci {
    /// Print the spec of a container about which nothing is said
    Spec,
}

impl Oci {
    /// Runs the command.
    ///
    /// # Errors
    /// If the default spec cannot be made.
    pub fn run(self) -> Outcome {
        let Self::Spec = self;
        // A command is the one thing that has no default; a shell is what people put there.
        let options = SpecOptions { args: vec!["sh".to_owned()], ..SpecOptions::default() };
        let builder = SpecBuilder::new(&Namespace::new("default")?, &ContainerId::new("default")?);
        let any = spec::to_any(&builder.options(options).build(&Users::default())?)?;
        Ok(output::line(indent(&any.value, "    ")?)?)
    }
}
