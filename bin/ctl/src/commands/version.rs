//! `version`: who we are and who the daemon is.

use crate::{
    context::Context,
    failure::{Outcome, warn},
    output,
};
use clap::Args;
use wharf_messages::system::{DaemonInfo, GetDaemonInfo};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The revision this was built from, if the build says so.
const REVISION: &str = match option_env!("WHARF_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// Print the versions of client and daemon.
#[derive(Debug, Args)]
pub struct Version {}

impl Version {
    /// Prints the client's part first, since the daemon may not be there.
    ///
    /// # Errors
    /// If the daemon cannot be asked.
    pub async fn run(self, context: &Context) -> Outcome {
        output::line(client_text())?;
        let daemon = context.client().await?.call(GetDaemonInfo {}).await?;
        output::line(server_text(&daemon))?;
        for (what, ours, theirs) in
            [("version", VERSION, daemon.version.as_str()), ("revision", REVISION, daemon.revision.as_str())]
        {
            if ours != theirs {
                warn(format!("WARNING: {what} mismatch"));
            }
        }
        Ok(())
    }
}

fn client_text() -> String {
    format!(
        "Client:\n  Version:  {VERSION}\n  Revision: {REVISION}\n  Rust version: {}\n",
        env!("CARGO_PKG_RUST_VERSION")
    )
}

fn server_text(daemon: &DaemonInfo) -> String {
    format!("Server:\n  Version:  {}\n  Revision: {}\n  UUID: {}", daemon.version, daemon.revision, daemon.uuid)
}
