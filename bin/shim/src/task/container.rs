//! A container: its init, what was executed in it, and what belongs to all of them.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use rustix::process::WaitStatus;
use wharf_messages::{Answer, Refusal, Timestamp};

use crate::cgroup::Cgroup;
use crate::cgroup::memory::MemoryWatch;
use crate::io::Prepared;
use crate::runtime::Runtime;
use crate::service::QueuedCall;

use super::process::Process;
use super::spec::Spec;

/// A checkpoint that a container is to be restored from when it is started.
#[derive(Debug)]
pub struct Restore {
    /// Where the checkpoint is.
    pub image: PathBuf,
    /// The checkpoint that it builds on.
    pub parent: String,
    /// The streams to be.
    pub prepared: Prepared,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its bundle.
    pub bundle: PathBuf,
    /// What the shim knows of its configuration.
    pub spec: Spec,
    /// What makes it.
    pub runtime: Runtime,
    /// It is being made: nobody sees it yet, and its name is taken.
    pub creating: bool,
    /// A verb of its runtime runs; calls that change it wait.
    pub busy: bool,
    /// The verb that runs starts it: its end is not told before its start.
    pub starting: bool,
    /// The calls that wait.
    pub queue: VecDeque<QueuedCall>,
    /// Its cgroups, once it is made.
    pub cgroup: Option<Cgroup>,
    /// The watch on its memory.
    pub memory: Option<MemoryWatch>,
    /// How many mounts its root has.
    pub mounts: usize,
    /// The owner of its pipes, if the daemon wants another one than its user.
    pub io_owner: (u32, u32),
    /// Its first process.
    pub init: Process,
    /// The others, by name.
    pub execs: BTreeMap<String, Process>,
    /// Its init has ended, and that is told when the others have.
    pub held_exit: Option<(WaitStatus, Timestamp)>,
    /// What its start restores.
    pub restore: Option<Restore>,
}

impl Container {
    /// The process of that name; the empty name is init's.
    ///
    /// # Errors
    /// Not found.
    pub fn process(&mut self, exec_id: &str) -> Answer<&mut Process> {
        if exec_id.is_empty() {
            return Ok(&mut self.init);
        }
        self.execs.get_mut(exec_id).ok_or_else(|| Refusal::not_found(format!("process {exec_id:?}")))
    }

    /// All of its processes with their names.
    pub fn processes(&mut self) -> impl Iterator<Item = (&str, &mut Process)> {
        std::iter::once(("", &mut self.init)).chain(self.execs.iter_mut().map(|(id, exec)| (id.as_str(), exec)))
    }

    /// Where its root is.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// Whether a process that was executed later still runs.
    #[must_use]
    pub fn has_running_execs(&self) -> bool {
        self.execs.values().any(Process::is_running)
    }
}
