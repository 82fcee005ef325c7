//! Snapshots: file systems in layers, and the changes between two of them.

use crate::{Descriptor, Digest, Labels, Mount, SnapshotKey, SnapshotterName, Timestamp};
use serde::{Deserialize, Serialize};

/// The label by which an unpacker says what the result will be called.
pub const SNAPSHOT_REF_LABEL: &str = "containerd.io/snapshot.ref";
/// Labels with this prefix (and [`SNAPSHOT_REF_LABEL`]) reach the snapshotter.
pub const BACKEND_LABEL_PREFIX: &str = "containerd.io/snapshot/";
/// The label that says whose outside are a user namespace's user ids: `CONTAINER:HOST:LENGTH`, several apart by commas. A
/// snapshotter that knows it gives a new snapshot's files to them.
///
/// # Spec
/// containerd `snapshots.LabelSnapshotUIDMapping`.
pub const UID_MAPPING_LABEL: &str = "containerd.io/snapshot/uidmapping";
/// Likewise its group ids.
pub const GID_MAPPING_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// Read-only, over a committed one; never committed.
    View,
    /// Writable.
    Active,
    /// Frozen: what others build on.
    Committed,
}

/// A snapshot as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its key; a committed one's name.
    pub key: SnapshotKey,
    /// The committed one it stands on.
    pub parent: Option<SnapshotKey>,
    /// What it is.
    pub kind: SnapshotKind,
    /// Its labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a snapshot takes, without its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Disk space.
    pub size_bytes: u64,
    /// Files, folders and the rest; hard links count once.
    pub inodes: u64,
}

/// Makes a writable snapshot and answers how to mount it.
///
/// Refused with `AlreadyExists` for the key or for the target of [`SNAPSHOT_REF_LABEL`], `NotFound` for the parent,
/// `InvalidArgument` for an unknown snapshotter or a parent that is not committed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrepareSnapshot {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// Its key.
    pub key: SnapshotKey,
    /// What it stands on.
    pub parent: Option<SnapshotKey>,
    /// Its labels.
    pub labels: Labels,
}

/// Makes a read-only snapshot and answers how to mount it. Refused as [`PrepareSnapshot`]. No event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ViewSnapshot {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// Its key.
    pub key: SnapshotKey,
    /// What it shows.
    pub parent: Option<SnapshotKey>,
    /// Its labels.
    pub labels: Labels,
}

/// Answers how to mount an active snapshot or a view. Refused with `NotFound`, `FailedPrecondition` for a committed one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetSnapshotMounts {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// Its key.
    pub key: SnapshotKey,
}

/// Freezes an active snapshot under a name. Refused with `NotFound`, `AlreadyExists` for the name,
/// `FailedPrecondition` for what is not active.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitSnapshot {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// The committed one's name.
    pub name: SnapshotKey,
    /// The active one's key; gone afterwards.
    pub key: SnapshotKey,
    /// The committed one's labels.
    pub labels: Labels,
    /// Sets the parent late: only for one that was prepared without, on a snapshotter that can.
    pub parent: Option<SnapshotKey>,
}

/// Removes a snapshot. Refused with `NotFound`, `FailedPrecondition` while others stand on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveSnapshot {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// Its key.
    pub key: SnapshotKey,
}

/// Reads about one snapshot. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatSnapshot {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// Its key.
    pub key: SnapshotKey,
}

/// Changes a snapshot's labels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateSnapshot {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// Its key.
    pub key: SnapshotKey,
    /// New labels.
    pub labels: Labels,
    /// `labels` or `labels.KEY`; empty replaces all.
    pub mask: Vec<String>,
}

/// Reads about snapshots, by key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListSnapshots {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// containerd filters on `kind`, `name`, `parent`, `labels`.
    pub filters: Vec<String>,
}

/// Measures a snapshot, without its parents. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetSnapshotUsage {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// Its key.
    pub key: SnapshotKey,
}

/// Deletes what removed snapshots left in the snapshotter's folder; answers when it is gone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CleanupSnapshots {
    /// Which snapshotter; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
}

/// Writes a layer's changes into mounted or mountable places.
///
/// Refused with `NotFound` for the blob, `ResourceExhausted` for a layer beyond the limits, `Unknown`, as by containerd, for
/// what is no layer, for one that is cut or damaged, and for mounts that fail or cannot be written to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplyDiff {
    /// The layer, in the content store.
    pub layer: Descriptor,
    /// Where to.
    pub mounts: Vec<Mount>,
    /// Whether to wait for the disk.
    pub sync: bool,
}

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedDiff {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The length of the uncompressed layer.
    pub size_bytes: u64,
}

/// Makes a layer of what `upper` changes over `lower`, as a blob in the content store.
///
/// Refused with `NotImplemented` for a media type that no layer is made of, `Unavailable` for a reference that another
/// writes to, `InvalidArgument` for labels that are too long, `Unknown`, as by containerd, for mounts that fail. What was
/// written under a reference of the caller's stays; mounts that fail leave it as it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MakeDiff {
    /// The older state.
    pub lower: Vec<Mount>,
    /// The newer state.
    pub upper: Vec<Mount>,
    /// How to pack it; empty means a gzipped OCI layer.
    pub media_type: String,
    /// The ingest's name; empty means one of the daemon's.
    pub reference: String,
    /// Labels for the blob.
    pub labels: Labels,
}
