//! What the actor system is told when it starts. Files, flags and environment are the daemon's affair.

use std::path::PathBuf;

/// The configuration of the actor system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemConfig {
    /// Where the durable state is.
    pub root: PathBuf,
    /// Where the state that dies with a boot is.
    pub state: PathBuf,
    /// How many events the log keeps; older ones are forgotten.
    pub events_max: u64,
}

impl SystemConfig {
    /// How many events the log keeps unless told otherwise: some weeks of a busy machine, some 100 MB at the most.
    pub const EVENTS_MAX: u64 = 200_000;

    /// The configuration for these folders, and otherwise as it comes.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), state: state.into(), events_max: Self::EVENTS_MAX }
    }
}
