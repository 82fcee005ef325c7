//! The daemon itself.

use crate::{Labels, Timestamp};
use serde::{Deserialize, Serialize};

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonInfo {
    /// Version of the package.
    pub version: String,
    /// Revision of the source; empty if not known.
    pub revision: String,
    /// The root folder's own id.
    pub uuid: String,
    /// The daemon's process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// Where the durable state is.
    pub root: String,
    /// Where the state that dies with a boot is.
    pub state: String,
}

/// Asks the daemon who it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GetDaemonInfo {}

/// Copies all the daemon knows, as it is at one moment: its database, as a file. Items: its bytes, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BackupMetadata {}

/// Reads what is logged, or changes it until the daemon ends. The reply is what is logged from then on.
///
/// Refused with `InvalidArgument` for a level that there is not.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SetLogLevel {
    /// A level (`debug`), or levels of parts (`info,wharf_actors::bus=trace`); empty only reads.
    pub level: String,
}

/// A part of the daemon that clients look for, as containerd's introspection names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// `io.containerd.snapshotter.v1`.
    pub kind: String,
    /// `overlayfs`.
    pub id: String,
    /// For which platforms.
    pub platforms: Vec<String>,
    /// What it tells of itself: `root`, its folder.
    pub exports: Labels,
    /// What it can do besides.
    pub capabilities: Vec<String>,
    /// Why it does not work here, if it does not; `skip plugin: ...` if it was left out on purpose.
    pub problem: Option<String>,
}

/// Reads the parts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListPlugins {
    /// containerd filters on `type`, `id`, `platforms`, `capabilities`.
    pub filters: Vec<String>,
}
