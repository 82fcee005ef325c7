//! `debug`: looking into the daemon while it runs.

use crate::{context::Context, failure::Outcome, output};
use clap::Subcommand;
use wharf_messages::system::SetLogLevel;

/// Look into the daemon while it runs.
#[derive(Debug, Subcommand)]
pub enum Debug {
    /// Show what the daemon logs, or change it until the daemon ends
    LogLevel {
        /// trace, debug, info, warn or error; or levels of parts, such as info,wharf_actors::bus=trace
        level: Option<String>,
    },
}

impl Debug {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let Self::LogLevel { level } = self;
        let level = level.unwrap_or_default();
        let logged = context.client().await?.call(SetLogLevel { level }).await?;
        Ok(output::line(logged)?)
    }
}
