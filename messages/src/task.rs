//! Tasks: running containers, and the processes added to them.

use crate::{Any, ContainerId, Descriptor, ExecId, Labels, Mount, Timestamp};
use serde::{Deserialize, Serialize};

/// The exit code of a process whose end nobody saw.
pub const EXIT_UNKNOWN: u32 = 255;
/// The exit code of a process that was killed while its shim was cleaned up.
pub const EXIT_KILLED: u32 = 137;

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskStatus {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended, not deleted.
    Stopped,
    /// Frozen.
    Paused,
    /// About to be frozen.
    Pausing,
    /// The shim does not answer.
    Unknown,
}

impl TaskStatus {
    /// Its name as containerd's clients print it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
            Self::Paused => "PAUSED",
            Self::Pausing => "PAUSING",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Where a process's streams go: FIFO paths or `file://`, `binary://` URIs; empty means the stream is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// Input.
    pub stdin: String,
    /// Output.
    pub stdout: String,
    /// Errors; unused with a terminal.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal for one that was killed.
    pub code: u32,
    /// When.
    pub exited_at: Timestamp,
    /// Whether the kernel's OOM killer struck in its cgroup.
    pub oom: bool,
}

/// A task's first process, or one added to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Whose task.
    pub container_id: ContainerId,
    /// None for the task's first process.
    pub exec_id: Option<ExecId>,
    /// In the daemon's pid namespace; 0 before it starts.
    pub pid: u32,
    /// What it is doing.
    pub status: TaskStatus,
    /// Its streams.
    pub stdio: Stdio,
    /// Set once it has ended.
    pub exit: Option<Exit>,
}

/// Where a new task's root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// The container's snapshot.
    Snapshot,
    /// These mounts; none at all means that the spec's root path is complete as it is.
    Mounts(Vec<Mount>),
}

/// Makes a container's task, ready to start; answers its first process.
///
/// Refused with `NotFound` for the container, `AlreadyExists` if it has a task, and the runtime's own error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateTask {
    /// Whose.
    pub container_id: ContainerId,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Its streams.
    pub stdio: Stdio,
    /// Options for the shim; none means the container's.
    pub options: Option<Any>,
    /// Another shim binary.
    pub runtime_path: String,
    /// A checkpoint to restore from.
    pub checkpoint: Option<Descriptor>,
}

/// Starts the task, or a process added to it. Refused with `NotFound`, `Unknown` unless it is created: so containerd says
/// that a process is in a wrong state, here and below.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartTask {
    /// Whose.
    pub container_id: ContainerId,
    /// Which process; none is the first.
    pub exec_id: Option<ExecId>,
}

/// Deletes a stopped or created task, or one of its processes; answers how it ended.
///
/// Refused with `NotFound`, `Unknown` while it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteTask {
    /// Whose.
    pub container_id: ContainerId,
    /// Which process; none is the task as a whole.
    pub exec_id: Option<ExecId>,
}

/// What was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedProcess {
    /// Its process id.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
}

/// Reads one process. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetTask {
    /// Whose.
    pub container_id: ContainerId,
    /// Which process; none is the first.
    pub exec_id: Option<ExecId>,
}

/// Reads all tasks' first processes, by container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListTasks {
    /// containerd filters on `id`, `status`; containerd itself ignores them.
    pub filters: Vec<String>,
}

/// Sends a signal. Refused with `NotFound` for a process that is not there or has ended; all that a task has left may be
/// nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KillTask {
    /// Whose.
    pub container_id: ContainerId,
    /// Which process; none is the first.
    pub exec_id: Option<ExecId>,
    /// The signal's number.
    pub signal: u32,
    /// Every process of the container.
    pub all: bool,
}

/// Adds a process to a running task, to be started by [`StartTask`]. Refused with `NotFound`, `AlreadyExists`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecTask {
    /// Whose.
    pub container_id: ContainerId,
    /// Its name.
    pub exec_id: ExecId,
    /// Its streams.
    pub stdio: Stdio,
    /// The OCI `Process` as JSON ([`Any::PROCESS`]).
    pub spec: Any,
}

/// Sets a terminal's size; nothing happens to a process without one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResizePty {
    /// Whose.
    pub container_id: ContainerId,
    /// Which process; none is the first.
    pub exec_id: Option<ExecId>,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Closes a process's standard input once what was written is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloseIo {
    /// Whose.
    pub container_id: ContainerId,
    /// Which process; none is the first.
    pub exec_id: Option<ExecId>,
}

/// Freezes the task. Refused with `Unknown` unless it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PauseTask {
    /// Whose.
    pub container_id: ContainerId,
}

/// Thaws the task. Refused with `Unknown` unless it is paused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResumeTask {
    /// Whose.
    pub container_id: ContainerId,
}

/// A process in the task's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidInfo {
    /// In the daemon's pid namespace.
    pub pid: u32,
    /// What the shim says of it: `containerd.runc.v1.ProcessDetails` for an exec.
    pub info: Option<Any>,
}

/// Reads the processes of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListPids {
    /// Whose.
    pub container_id: ContainerId,
}

/// Writes the task's state away. Refused as the runtime refuses it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckpointTask {
    /// Whose.
    pub container_id: ContainerId,
    /// Where to; empty means into the content store.
    pub image_path: String,
    /// The runtime's own options.
    pub options: Option<Any>,
}

/// Changes the task's resources.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateTask {
    /// Whose.
    pub container_id: ContainerId,
    /// OCI `LinuxResources` as JSON ([`Any::RESOURCES`]).
    pub resources: Any,
    /// Annotations for the runtime.
    pub annotations: Labels,
}

/// One task's figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskMetrics {
    /// Whose.
    pub container_id: ContainerId,
    /// When they were read.
    pub at: Timestamp,
    /// `io.containerd.cgroups.v1.Metrics` or `v2`.
    pub data: Any,
}

/// Reads the figures of running tasks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GetMetrics {
    /// containerd filters on `id` and `namespace`.
    pub filters: Vec<String>,
}

/// Waits for the end of a process; answers at once if it has ended. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WaitTask {
    /// Whose.
    pub container_id: ContainerId,
    /// Which process; none is the first.
    pub exec_id: Option<ExecId>,
}
