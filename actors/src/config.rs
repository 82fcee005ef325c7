//! What the actor system is told when it starts. Files, flags and environment are the daemon's affair.

use std::path::PathBuf;

/// The configuration of the actor system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemConfig {
    /// Where the durable state is.
    pub root: PathBuf,
    /// Where the state that dies with a boot is.
    pub state: PathBuf,
}
