//! Containers: what a task will be made from.

use crate::{Any, ContainerId, Labels, SnapshotKey, SnapshotterName, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The runtime that is used when nothing names another.
pub const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

/// Which shim runs it, and with what options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `io.containerd.NAME.vN` or an absolute path to a shim.
    #[serde(deserialize_with = "crate::text::string")]
    pub name: String,
    /// The shim's own options.
    pub options: Option<Any>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self { name: DEFAULT_RUNTIME.to_owned(), options: None }
    }
}

/// A container as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name.
    pub id: ContainerId,
    /// Its labels.
    #[serde(deserialize_with = "crate::text::labels")]
    pub labels: Labels,
    /// The image it was made from, for information.
    #[serde(deserialize_with = "crate::text::string")]
    pub image: String,
    /// Which shim runs it.
    pub runtime: Runtime,
    /// The OCI runtime spec as JSON ([`Any::SPEC`]).
    pub spec: Option<Any>,
    /// Where its root file system is.
    pub snapshotter: Option<SnapshotterName>,
    /// Its root file system.
    pub snapshot_key: Option<SnapshotKey>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Clients' own data.
    pub extensions: BTreeMap<String, Any>,
    /// The sandbox it belongs to; empty for none.
    pub sandbox: String,
}

/// Makes a container; times in it are ignored. Refused with `AlreadyExists`, `InvalidArgument`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateContainer {
    /// What to keep.
    pub container: Container,
}

/// Changes a container. Refused with `NotFound`; `InvalidArgument` for an unknown path or a change of runtime or
/// snapshotter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateContainer {
    /// The new values; its id names the container.
    pub container: Container,
    /// `labels`, `labels.KEY`, `spec`, `extensions`, `extensions.KEY`, `image`, `snapshotkey`; empty replaces all of these.
    pub mask: Vec<String>,
}

/// Removes a container. Refused with `NotFound`, `FailedPrecondition` while it has a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteContainer {
    /// Its name.
    pub id: ContainerId,
    /// Whether its snapshot goes in the same commit.
    pub with_snapshot: bool,
}

/// Reads one container. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetContainer {
    /// Its name.
    pub id: ContainerId,
}

/// Reads containers, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListContainers {
    /// containerd filters on `id`, `runtime.name`, `image`, `labels`.
    pub filters: Vec<String>,
}
