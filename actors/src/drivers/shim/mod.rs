//! Shims: the processes that hold containers, one each, and outlive the daemon.
//!
//! [`ShimLauncher`] starts and finds them, [`Shim`] is the conversation with one. The real ones speak containerd's shim
//! protocol, so wharf's own shim and any containerd shim work alike; tests have a fake one.
//!
//! # Spec
//! containerd `runtime/v2/README.md` (1.6) and API reference, section 3 "Shim bootstrap".

mod binary;
mod bootstrap;
mod bundle;
mod cgroup_lock;
mod connection;
mod events;
mod launcher;
mod options;
#[cfg(test)]
mod tests;

pub use binary::{ShimBinaries, search_path};
pub use bootstrap::parse_answer;
pub use bundle::{Bundle, ExitRecord};
pub use events::{ShimEvent, ShimEvents, check_event, forward};
pub use launcher::{ProcessShims, ShimSettings};
pub use options::{checkpoint_path, restore_path};

use async_trait::async_trait;
use std::{path::PathBuf, sync::Arc};
use wharf_messages::{
    Answer, Any, ContainerId, ExecId, Labels, Mount, Namespace, Timestamp,
    container::Runtime,
    task::{Exit, PidInfo, Stdio, TaskStatus},
};

/// Names one task, and so its bundle and its shim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Where.
    pub namespace: Namespace,
    /// Whose.
    pub container: ContainerId,
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.container)
    }
}

/// Where a shim listens and what it is: kept with the task so that a later daemon finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimAddress {
    /// `unix:///run/...`.
    pub address: String,
    /// 2 or 3: which Task service it speaks.
    pub version: u32,
    /// The binary that was started; runs `delete` when the shim itself is gone.
    pub binary: String,
}

impl From<&wharf_store::ShimRecord> for ShimAddress {
    fn from(record: &wharf_store::ShimRecord) -> Self {
        Self { address: record.address.clone(), version: record.protocol_version, binary: record.binary.clone() }
    }
}

impl From<&ShimAddress> for wharf_store::ShimRecord {
    fn from(address: &ShimAddress) -> Self {
        Self {
            address: address.address.clone(),
            protocol_version: address.version,
            binary: address.binary.clone(),
            // A shim is found by its socket and ended by its own binary; its pid is nobody's business.
            pid: 0,
            start_ticks: 0,
        }
    }
}

/// Where a bundle has the checkpoint that its task is restored from.
pub const CHECKPOINT_FOLDER: &str = "checkpoint";

/// What a new shim needs to know.
#[derive(Debug, Clone)]
pub struct Launch {
    /// For which task.
    pub task: TaskId,
    /// Which shim and its options.
    pub runtime: Runtime,
    /// A shim binary instead of the runtime's.
    pub runtime_path: String,
    /// The OCI runtime spec, JSON.
    pub spec_json: Vec<u8>,
    /// A folder with a checkpoint; it becomes the bundle's [`CHECKPOINT_FOLDER`].
    pub checkpoint: Option<PathBuf>,
}

/// What a task's first process is made from.
#[derive(Debug, Clone)]
pub struct CreateProcess {
    /// The bundle's folder.
    pub bundle: String,
    /// Mounted on the bundle's rootfs by the shim.
    pub rootfs: Vec<Mount>,
    /// Its streams.
    pub stdio: Stdio,
    /// Where to restore from; empty for a new process.
    pub checkpoint: String,
    /// The shim's own options.
    pub options: Option<Any>,
}

/// What a shim says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessState {
    /// In the daemon's pid namespace.
    pub pid: u32,
    /// What it is doing.
    pub status: TaskStatus,
    /// Its streams.
    pub stdio: Stdio,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
}

/// Starts shims and finds them again.
#[async_trait]
pub trait ShimLauncher: Send + Sync {
    /// The bundle's folder of a task, whether it exists or not.
    fn bundle_path(&self, task: &TaskId) -> String;

    /// Told when a container is in the making: what a launch would wait for may begin now. Answers at once.
    fn expect_launch(&self);

    /// Makes the bundle and starts its shim. On an error nothing is left of either.
    ///
    /// # Errors
    /// `NotFound` for a runtime without a binary, and what the shim said for anything else.
    async fn launch(&self, launch: Launch) -> Answer<(ShimAddress, Arc<dyn Shim>)>;

    /// Connects to a shim that an earlier daemon started.
    ///
    /// # Errors
    /// `Unavailable` if nobody listens there, `DeadlineExceeded` if it does not answer in time.
    async fn reattach(&self, task: &TaskId, address: &ShimAddress) -> Answer<Arc<dyn Shim>>;

    /// Cleans up after a shim that is gone: kills what it left, and removes its bundle.
    ///
    /// Answers how the task ended: the shim's own record if it wrote one.
    async fn clean_up(&self, task: &TaskId, address: Option<&ShimAddress>) -> Answer<Exit>;

    /// Reads the exit a shim has recorded for a process, if it has.
    fn recorded_exit(&self, task: &TaskId, exec: Option<&ExecId>) -> Option<ExitRecord>;

    /// Removes the bundle of a task whose shim has ended in good order.
    async fn remove_bundle(&self, task: &TaskId) -> Answer<()>;

    /// Every bundle there is, for finding those without an owner.
    ///
    /// # Errors
    /// What reading the state folder says.
    fn bundles(&self) -> Answer<Vec<TaskId>>;
}

/// The conversation with one shim. Every call has a deadline but [`Shim::wait`].
///
/// Refusals carry the shim's own words; `Unavailable` means that the connection is gone.
#[async_trait]
pub trait Shim: Send + Sync {
    /// Makes the task's first process; answers its pid.
    async fn create(&self, create: CreateProcess) -> Answer<u32>;
    /// Starts a process; answers its pid.
    async fn start(&self, exec: Option<&ExecId>) -> Answer<u32>;
    /// Reads a process's state.
    async fn state(&self, exec: Option<&ExecId>) -> Answer<ProcessState>;
    /// Waits for a process's end, for as long as it takes.
    async fn wait(&self, exec: Option<&ExecId>) -> Answer<(u32, Timestamp)>;
    /// Deletes a stopped process; answers its pid, code and end.
    async fn delete(&self, exec: Option<&ExecId>) -> Answer<(u32, u32, Timestamp)>;
    /// Adds a process.
    async fn exec(&self, exec: &ExecId, stdio: &Stdio, spec: &Any) -> Answer<()>;
    /// Sends a signal.
    async fn kill(&self, exec: Option<&ExecId>, signal: u32, all: bool) -> Answer<()>;
    /// Freezes.
    async fn pause(&self) -> Answer<()>;
    /// Thaws.
    async fn resume(&self) -> Answer<()>;
    /// Sets a terminal's size.
    async fn resize(&self, exec: Option<&ExecId>, width: u32, height: u32) -> Answer<()>;
    /// Closes standard input.
    async fn close_io(&self, exec: Option<&ExecId>) -> Answer<()>;
    /// Reads the processes.
    async fn pids(&self) -> Answer<Vec<PidInfo>>;
    /// Reads the figures.
    async fn stats(&self) -> Answer<Any>;
    /// Changes resources.
    async fn update(&self, resources: &Any, annotations: &Labels) -> Answer<()>;
    /// Writes the task's state to a folder.
    async fn checkpoint(&self, path: &str, options: Option<&Any>) -> Answer<()>;
    /// Tells the shim to end if it holds nothing any more.
    async fn shutdown(&self) -> Answer<()>;
}
