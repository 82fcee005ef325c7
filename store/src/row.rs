//! Rows that only the daemon sees: what it must know again after a restart. Public records are rows as they are.

use serde::{Deserialize, Serialize};
use wharf_messages::{
    ContainerId, Digest, ExecId, IngestRef, Labels, Mount, Namespace, Refusal, Timestamp,
    container::Runtime,
    content::IngestStatus,
    snapshot::{SnapshotInfo, Usage},
    task::{Exit, Process, Stdio, TaskStatus},
};

/// A snapshot and its place in the snapshotter's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// What clients see.
    pub info: SnapshotInfo,
    /// The snapshotter's own name for it, unique over all namespaces and never used again while a row has it.
    pub id: u64,
    /// The parent's id; kept beside the parent's key so that mounts need no second look-up.
    pub parent_id: Option<u64>,
    /// Measured when it was committed; nothing changes it afterwards.
    pub usage: Option<Usage>,
}

/// How far a task's life in the world has come: the intent that is committed before the effect it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskPhase {
    /// Bundle, mounts and shim are being made: a start-up that finds this takes them down again.
    Creating,
    /// The shim has the task: a start-up that finds this reattaches.
    Live,
    /// Bundle, mounts and shim are being taken down: a start-up that finds this goes on.
    Deleting,
}

/// How to find a shim again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRecord {
    /// Where it listens: `unix:///...`.
    pub address: String,
    /// Which task API it speaks: 2 or 3.
    pub protocol_version: u32,
    /// Its process id; 0 if it did not say.
    pub pid: u32,
    /// When that process began, in clock ticks since boot (field 22 of `/proc/PID/stat`): a reused pid has another.
    pub start_ticks: u64,
    /// The program, for `delete` after it died.
    pub binary: String,
}

/// One process of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// None for the task's first process.
    pub exec_id: Option<ExecId>,
    /// In the daemon's pid namespace; 0 before it starts.
    pub pid: u32,
    /// What it is doing, as last committed.
    pub status: TaskStatus,
    /// Its streams.
    pub stdio: Stdio,
    /// Set once it has ended.
    pub exit: Option<Exit>,
}

impl ProcessRow {
    /// The row as clients see it.
    #[must_use]
    pub fn to_process(&self, container_id: &ContainerId) -> Process {
        Process {
            container_id: container_id.clone(),
            exec_id: self.exec_id.clone(),
            pid: self.pid,
            status: self.status,
            stdio: self.stdio.clone(),
            exit: self.exit,
        }
    }
}

/// A task: all that a daemon which comes back needs to find it, judge it and take it down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Where its container lives.
    pub namespace: Namespace,
    /// Whose.
    pub container_id: ContainerId,
    /// The committed intent.
    pub phase: TaskPhase,
    /// Its bundle's folder.
    pub bundle: String,
    /// What runs it; the container's, unless the task was made with another.
    pub runtime: Runtime,
    /// Set once there is one.
    pub shim: Option<ShimRecord>,
    /// `/proc/sys/kernel/random/boot_id` when it was made: under another boot nothing of it is alive.
    pub boot_id: String,
    /// Its root file system.
    pub rootfs: Vec<Mount>,
    /// Its first process; `status` is `Paused` while the whole task is.
    pub init: ProcessRow,
    /// Processes added to it.
    pub execs: Vec<ProcessRow>,
    /// When it was made; set by the store.
    pub created_at: Timestamp,
}

impl TaskRow {
    /// The first process (`None`) or an added one.
    #[must_use]
    pub fn process(&self, exec_id: Option<&ExecId>) -> Option<&ProcessRow> {
        match exec_id {
            None => Some(&self.init),
            Some(_) => self.execs.iter().find(|exec| exec.exec_id.as_ref() == exec_id),
        }
    }
}

/// The name of an ingest's folder: hex that the store made, so that no client's text becomes a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileId(String);

impl FileId {
    /// Parses it.
    ///
    /// # Errors
    /// `InvalidArgument` for anything but 32 lowercase hex characters.
    pub fn new(text: impl Into<String>) -> Result<Self, Refusal> {
        let text = text.into();
        if text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text))
        } else {
            Err(Refusal::invalid(format!("ingest file id {text:?}")))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FileId {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::new(text)
    }
}

impl From<FileId> for String {
    fn from(id: FileId) -> String {
        id.0
    }
}

impl std::fmt::Debug for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An unfinished blob. How many bytes it has is the file's to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestRow {
    /// Its name.
    pub reference: IngestRef,
    /// Its folder below `content/ingest`.
    pub file_id: FileId,
    /// Bytes expected; 0 if not known.
    pub total_bytes: u64,
    /// What it is expected to be.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When this row was last written.
    pub updated_at: Timestamp,
    /// Labels for the blob, given at the beginning.
    pub labels: Labels,
}

impl IngestRow {
    /// The row as clients see it, with what the file says.
    #[must_use]
    pub fn to_status(&self, offset_bytes: u64, updated_at: Timestamp) -> IngestStatus {
        IngestStatus {
            reference: self.reference.clone(),
            offset_bytes,
            total_bytes: self.total_bytes,
            expected: self.expected.clone(),
            started_at: self.started_at,
            // Opening it again is no change of it.
            updated_at: updated_at.max(self.started_at),
        }
    }
}
