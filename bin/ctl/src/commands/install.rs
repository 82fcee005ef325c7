//! `install`: programs of an image on this host.

use crate::{
    context::{Context, parse},
    failure::Outcome,
};
use clap::Args;
use wharf_messages::{Refusal, image::InstallImage};

/// What to install, and where.
#[derive(Debug, Args)]
pub struct Install {
    /// Libraries too
    #[arg(long, short)]
    libs: bool,
    /// Replace programs and libraries that are there
    #[arg(long, short)]
    replace: bool,
    /// A folder, in whose bin (and lib) they are put; the daemon's for installed programs otherwise
    #[arg(long, value_name = "DIR")]
    path: Option<String>,
    /// The image
    #[arg(value_name = "REF")]
    image: String,
}

impl Install {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let name = parse(&self.image)?;
        let path = self.path.filter(|path| !path.is_empty());
        // The daemon has a working folder of its own.
        let path =
            path.map(|path| std::path::absolute(&path).map_err(|error| Refusal::io(path, &error))).transpose()?;
        let path = path.map(|path| path.to_string_lossy().into_owned());
        let client = context.client().await?;
        context.image(&client, &name).await?;
        client.call(InstallImage { name, path, libraries: self.libs, replace: self.replace }).await?;
        Ok(())
    }
}
