//! A task: one container's processes and the shim that holds them.
//!
//! - Parent `tasks`; transient; 3 restarts in 5 s; stop budget 5 s (jobs are cancelled, shims live on); mailbox 64.
//! - States: see [`machine`]. While the actor starts it finds its shim again, and reads no message until it has.
//! - Handles `tasks.*` of one container -> reply | refusal -> `Task*` events.
//! - Jobs: create (launch the shim, make the first process), start, exec, delete, kill and the other words to the
//!   shim: each has the shim driver's time limit; one watcher a process that lives, without limit; a probe, for as long as
//!   whoever asks for it says.
//! - A restart reads the task's row and asks the shim for each process's state. What happened meanwhile is told as late.
//!   A shim that is gone is cleaned up after, and its processes ended as its records say.
//!
//! Invariants:
//! - **TASK-1** A shim is launched only after the row that says so is committed, and the row goes only after the shim did.
//! - **TASK-2** created < started < exited < deleted, and an added process's end comes before the first one's.
//! - **TASK-3** An end is told once, after its commit; waiters hear it after that.
//! - **TASK-4** An incarnation touches the shim only after what its predecessor had begun with it is over.
//! - **TASK-5** An incarnation reads the row only after what its predecessor had sent to the journal is decided.
//!
//! # Spec
//! API reference, section 3 "Tasks" and "Shim bootstrap"; containerd 1.6 `runtime/v2/README.md`.

mod commands;
mod create;
mod delete;
mod exits;
pub mod machine;
mod probe;
mod recover;

use crate::{
    drivers::shim::{Shim, ShimLauncher, TaskId},
    journal::Journal,
    runtime::{Actor, Clock, Ctx, ReplyTo, Supervised, to_its_end},
};
pub use exits::OomReported;
use machine::{Machine, Phase, ProcessId, Step, Verb};
pub use probe::{Probe, Probed};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio_util::task::{TaskTracker, task_tracker::TrackedFuture};
use wharf_messages::{
    Answer, ContainerId, Namespace, Refusal,
    event::Event,
    task::{Exit, Process, Stdio, TaskStatus},
};
use wharf_store::{Change, Commit, ProcessRow, Store, TaskPhase, TaskRow, refuse};

/// What every task needs from the rest of the system.
pub struct TaskDeps {
    /// For reading rows.
    pub store: Store,
    /// For changing them.
    pub journal: Journal,
    /// For making and finding shims.
    pub shims: Arc<dyn ShimLauncher>,
    /// For a root file system that is a snapshot.
    pub snapshotters: crate::snapshots::Snapshotters,
    /// What time it is.
    pub clock: Clock,
    /// This boot; a row of another one has no processes any more.
    pub boot_id: String,
    /// Whether an actor of a task, or their parent, was restarted since the daemon started: from then on a first incarnation
    /// may have had a predecessor, too (TASK-5).
    pub have_failed: AtomicBool,
    /// What is being done with which shim, for an actor whose predecessor ended with their parent.
    pub at_work: AtWork,
}

/// The shims that something is being done with (TASK-4).
#[derive(Debug, Default)]
pub struct AtWork(Mutex<HashMap<TaskId, TaskTracker>>);

impl AtWork {
    fn all(&self) -> MutexGuard<'_, HashMap<TaskId, TaskTracker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is being done with a task's shim.
    fn of(&self, id: &TaskId) -> TaskTracker {
        self.all().get(id).cloned().unwrap_or_else(closed_tracker)
    }

    /// Something has begun with a task's shim; what is over is forgotten.
    fn begun(&self, id: &TaskId, tracker: &TaskTracker) {
        let mut all = self.all();
        all.retain(|_, tracker| !tracker.is_empty());
        all.insert(id.clone(), tracker.clone());
    }
}

/// The actor.
pub struct TaskActor {
    deps: Arc<TaskDeps>,
    id: TaskId,
    machine: Machine,
    /// What is committed; none while there is no task.
    row: Option<TaskRow>,
    shim: Option<Arc<dyn Shim>>,
    /// Who waits for which end.
    waiters: HashMap<ProcessId, Vec<ReplyTo<Exit>>>,
    /// Ends that are known and not told yet: their start was not known (TASK-2), or the store did not take them.
    early: HashMap<ProcessId, Exit>,
    /// The first process's end, held back for those of the added ones (TASK-2).
    held: Option<Exit>,
    /// Processes with a watcher.
    watched: HashSet<ProcessId>,
    /// Set while the shim is being looked for after its connection broke.
    recovering: bool,
    /// What was done and its caller did not hear of: whoever asks for it next is told that it was.
    unheard: Vec<Verb>,
    /// Facts whose commit failed: the next commit tells them first (TASK-2).
    untold: Vec<Event>,
    /// What is being done with the shim, by any incarnation (TASK-4).
    at_work: TaskTracker,
    /// Counts the tasks of this container, so that what was begun for one does not meet the next.
    life: u64,
}

impl TaskActor {
    /// The actor of one container's task; it reads its row when it starts.
    #[must_use]
    pub fn new(deps: Arc<TaskDeps>, namespace: Namespace, container: ContainerId) -> Self {
        let id = TaskId { namespace, container };
        Self {
            at_work: deps.at_work.of(&id),
            deps,
            machine: Machine::absent(id.container.clone()),
            id,
            row: None,
            shim: None,
            waiters: HashMap::new(),
            early: HashMap::new(),
            held: None,
            watched: HashSet::new(),
            recovering: false,
            unheard: Vec::new(),
            untold: Vec::new(),
            life: 0,
        }
    }

    /// Commits the row as the machine now has it, with the facts that made it so, then does `then`. No message is read
    /// before that. If it fails, the facts are told with the next commit.
    fn commit(
        &mut self,
        events: Vec<Event>,
        late: bool,
        ctx: &mut Ctx<Self>,
        then: impl FnOnce(&mut Self, Answer<()>, &mut Ctx<Self>) + 'static,
    ) {
        self.commit_row(events, late, 0, ctx, then);
    }

    /// As [`Self::commit`], for what a request asked for and is told of by `then`. If it fails, what was done is answered
    /// to whoever asks for it again.
    fn commit_answer(
        &mut self,
        verb: Verb,
        request: u64,
        event: Event,
        ctx: &mut Ctx<Self>,
        then: impl FnOnce(&mut Self, Answer<()>, &mut Ctx<Self>) + 'static,
    ) {
        self.commit_row(vec![event], false, request, ctx, move |task, committed, ctx| {
            if committed.is_err() {
                task.unheard.push(verb);
            }
            then(task, committed, ctx);
        });
    }

    fn commit_row(
        &mut self,
        events: Vec<Event>,
        late: bool,
        request: u64,
        ctx: &mut Ctx<Self>,
        then: impl FnOnce(&mut Self, Answer<()>, &mut Ctx<Self>) + 'static,
    ) {
        let kept = events.clone();
        self.commit_request(self.put_row(), events, late, request, ctx, |task, committed, ctx| {
            if committed.is_err() {
                task.untold.extend(kept);
                task.tell_later(ctx);
            }
            then(task, committed, ctx);
        });
    }

    /// Tells what could not be told, after a rest.
    fn tell_later(&mut self, ctx: &mut Ctx<Self>) {
        ctx.later(exits::COMMIT_AGAIN, |task, ctx| {
            if !task.untold.is_empty() {
                task.commit(Vec::new(), false, ctx, |_, _, _| ());
            }
        });
    }

    fn put_row(&self) -> Vec<Change> {
        self.row.clone().map(Change::PutTask).into_iter().collect()
    }

    fn commit_changes(
        &mut self,
        changes: Vec<Change>,
        events: Vec<Event>,
        late: bool,
        ctx: &mut Ctx<Self>,
        then: impl FnOnce(&mut Self, Answer<()>, &mut Ctx<Self>) + 'static,
    ) {
        self.commit_request(changes, events, late, 0, ctx, then);
    }

    fn commit_request(
        &mut self,
        changes: Vec<Change>,
        events: Vec<Event>,
        late: bool,
        request: u64,
        ctx: &mut Ctx<Self>,
        then: impl FnOnce(&mut Self, Answer<()>, &mut Ctx<Self>) + 'static,
    ) {
        let before = std::mem::take(&mut self.untold);
        let events = before.iter().cloned().chain(events).collect();
        let commit = Commit { changes, events, late, request, ..Commit::new(&self.id.namespace) };
        let journal = self.deps.journal.clone();
        ctx.exclusive(async move { journal.commit(commit).await.map(|_| ()) }, |task, committed, ctx| {
            if committed.is_err() {
                task.untold.splice(..0, before);
            }
            then(task, committed, ctx);
        });
    }

    /// Has the next incarnation wait for the end of `work` (TASK-4).
    fn track<F: Future>(&self, work: F) -> TrackedFuture<F> {
        let tracked = self.at_work.track_future(work);
        self.deps.at_work.begun(&self.id, &self.at_work);
        tracked
    }

    /// Does `work` once the predecessor's is over (TASK-4) and before the next message, then `then`.
    fn before_messages<T: Send + 'static>(
        &self,
        ctx: &mut Ctx<Self>,
        work: impl Future<Output = Answer<T>> + Send + 'static,
        then: impl FnOnce(&mut Self, Answer<T>, &mut Ctx<Self>) + 'static,
    ) {
        let (deps, id, at_work) = (Arc::clone(&self.deps), self.id.clone(), self.at_work.clone());
        let work = async move {
            at_work.wait().await;
            let _token = at_work.token();
            deps.at_work.begun(&id, &at_work);
            work.await
        };
        ctx.exclusive(to_its_end("a word with the shim", work), then);
    }

    /// The shim, for a word with it.
    fn shim(&self) -> Answer<Arc<dyn Shim>> {
        self.shim
            .clone()
            .ok_or_else(|| Refusal::failed_precondition(format!("task {}: its shim is gone", self.id.container)))
    }

    /// A process's row, for a change.
    fn process_row(&mut self, process: &ProcessId) -> Option<&mut ProcessRow> {
        let row = self.row.as_mut()?;
        match process {
            None => Some(&mut row.init),
            Some(exec) => row.execs.iter_mut().find(|row| row.exec_id.as_ref() == Some(exec)),
        }
    }

    /// Moves a process, in the machine and in the row that the next commit writes.
    fn step(&mut self, process: &ProcessId, step: Step) {
        self.machine.put(process.clone(), step);
        if let Some(row) = self.process_row(process) {
            row.status = step.status();
            row.exit = step.exit();
        }
    }

    /// What a client is told of a process.
    fn tell_process(&self, process: &ProcessId) -> Answer<Process> {
        let row = self.row.as_ref().ok_or_else(|| refuse::no_task(&self.id.container))?;
        row.process(process.as_ref())
            .map(|row| row.to_process(&self.id.container))
            .ok_or_else(|| Refusal::not_found(format!("process of task {}", self.id.container)))
    }

    fn read_row(&mut self, ctx: &mut Ctx<Self>) {
        let row = self.deps.store.read().and_then(|reader| reader.task(&self.id.namespace, &self.id.container));
        match row {
            Ok(None) => ctx.idle(),
            Ok(Some(row)) => self.resume(row, ctx),
            Err(refusal) => ctx.fail(format!("read the row of task {}: {refusal}", self.id)),
        }
    }

    /// Whether a verb is legal; none if it was done already and its caller did not hear of it.
    fn permit(&mut self, verb: &Verb) -> Answer<Option<()>> {
        match self.machine.permit(verb) {
            Ok(()) => Ok(Some(())),
            Err(refusal) => match self.unheard.iter().position(|done| done == verb) {
                Some(at) => {
                    self.unheard.swap_remove(at);
                    Ok(None)
                }
                None => Err(refusal),
            },
        }
    }

    /// One without a state of its own that knows what is still being done with the shim.
    fn successor(&self) -> Self {
        let new = Self::new(Arc::clone(&self.deps), self.id.namespace.clone(), self.id.container.clone());
        Self { at_work: self.at_work.clone(), ..new }
    }

    /// Nothing is left: the actor is as one that has just started without a row.
    fn forget(&mut self, ctx: &mut Ctx<Self>) {
        let waiters = std::mem::take(&mut self.waiters);
        *self = Self { life: self.life + 1, ..self.successor() };
        for waiter in waiters.into_values().flatten() {
            waiter.send(Err(refuse::no_task(&self.id.container)));
        }
        ctx.idle();
    }
}

impl Actor for TaskActor {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if ctx.epoch() == 1 && !self.deps.have_failed.load(Ordering::Acquire) {
            return self.read_row(ctx);
        }
        // What the predecessor had sent to the journal is decided before this is (TASK-5); its answer is nobody's.
        let journal = self.deps.journal.clone();
        let decided = async move { journal.commit(Commit::default()).await };
        ctx.exclusive(decided, |task, _, ctx| task.read_row(ctx));
    }
}

impl Supervised for TaskActor {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.deps.have_failed.store(true, Ordering::Release);
        *self = self.successor();
    }
}

/// A tracker whose `wait` ends as soon as nothing is tracked.
fn closed_tracker() -> TaskTracker {
    let tracker = TaskTracker::new();
    tracker.close();
    tracker
}

/// The row of a process that is made and not started.
fn new_row(exec_id: ProcessId, stdio: Stdio) -> ProcessRow {
    ProcessRow { exec_id, pid: 0, status: TaskStatus::Created, stdio, exit: None }
}

/// A row's machine.
fn machine_of(row: &TaskRow) -> Machine {
    let mut machine = Machine::absent(row.container_id.clone());
    machine.phase = match row.phase {
        TaskPhase::Creating => Phase::Creating,
        TaskPhase::Live => Phase::Live,
        TaskPhase::Deleting => Phase::Deleting,
    };
    for process in std::iter::once(&row.init).chain(&row.execs) {
        machine.put(process.exec_id.clone(), step_of(process));
    }
    machine
}

fn step_of(process: &ProcessRow) -> Step {
    match (process.status, process.exit) {
        (_, Some(exit)) => Step::Stopped(exit),
        (TaskStatus::Running, None) => Step::Running,
        (TaskStatus::Paused | TaskStatus::Pausing, None) => Step::Paused,
        (TaskStatus::Created | TaskStatus::Stopped | TaskStatus::Unknown, None) => Step::Created,
    }
}

/// Reads a running task's figures: what [`wharf_messages::task::GetMetrics`] asks of each.
#[derive(Debug, Clone)]
pub struct ReadFigures {
    /// Whose.
    pub container_id: ContainerId,
}

impl crate::runtime::Request for ReadFigures {
    type Reply = wharf_messages::Any;
    const NAME: &'static str = "task.figures";
    const QUERY: bool = true;
}

/// Makes a task from a checkpoint that lies in a folder, which becomes its bundle's.
#[derive(Debug, Clone)]
pub struct RestoreTask {
    /// Whose.
    pub container_id: ContainerId,
    /// What is asked for beside the checkpoint.
    pub create: wharf_messages::task::CreateTask,
    /// The folder.
    pub image: std::path::PathBuf,
}

impl crate::runtime::Request for RestoreTask {
    type Reply = Process;
    const NAME: &'static str = "task.restore";
    const QUERY: bool = false;
}

#[cfg(test)]
mod tests;
