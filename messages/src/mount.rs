//! What `mount(8)` would be given.

use serde::{Deserialize, Serialize};

/// One mount that a snapshot (or a container) needs; the caller chooses where unless `target` says.
///
/// # Spec
/// containerd `api/types/mount.proto`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mount {
    /// The file system's type: `overlay`, `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where below the caller's place; empty means at the place itself.
    pub target: String,
    /// `fstab`-style options.
    pub options: Vec<String>,
}
