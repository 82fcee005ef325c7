//! Shims in memory. They live as long as the value that tests hold, so a second world finds those of the first one, as a
//! daemon does that starts again.

use crate::drivers::shim::{CreateProcess, ExitRecord, Launch, ProcessState, Shim, ShimAddress, ShimLauncher, TaskId};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Any, ExecId, Labels, Refusal, Timestamp,
    task::{EXIT_KILLED, Exit, PidInfo, Stdio, TaskStatus},
};

/// When every process of a fake shim ends.
pub(crate) const ENDED: Timestamp = Timestamp(1_577_836_800_000_000_007);
/// The first process id.
const FIRST_PID: u32 = 100;

type ProcessId = Option<ExecId>;

/// What a test does to a coming call.
enum Fault {
    Refuse(Refusal),
    Panic,
    /// It tells that it has come, and goes on when it is let.
    Wait(Arc<Gate>),
}

/// Where a call waits for the test.
#[derive(Default)]
pub(crate) struct Gate {
    reached: Notify,
    opened: Notify,
}

impl Gate {
    /// Waits until the call has come.
    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets the call go on.
    pub(crate) fn open(&self) {
        self.opened.notify_one();
    }
}

struct Process {
    pid: u32,
    status: TaskStatus,
    stdio: Stdio,
    end: watch::Sender<Option<(u32, Timestamp)>>,
}

/// A bundle and its shim.
struct Bundle {
    /// Whether the shim's process is there.
    alive: bool,
    /// It is there and does not answer.
    hung: bool,
    /// Broken when the shim dies or the test cuts it; a reattached one has a new one.
    connection: CancellationToken,
    processes: BTreeMap<ProcessId, Process>,
    records: BTreeMap<ProcessId, ExitRecord>,
}

#[derive(Default)]
struct State {
    bundles: BTreeMap<TaskId, Bundle>,
    faults: HashMap<String, VecDeque<Fault>>,
    calls: Vec<String>,
    pids: u32,
}

/// All shims of a machine: cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct FakeShims(Arc<Mutex<State>>);

impl FakeShims {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, call: &str, fault: Fault) {
        self.state().faults.entry(call.to_owned()).or_default().push_back(fault);
    }

    /// Has the next such call (`launch`, `start`, `start x` for an added process) refused.
    pub(crate) fn refuse(&self, call: &str, refusal: Refusal) {
        self.fault(call, Fault::Refuse(refusal));
    }

    /// Has the next such call panic.
    pub(crate) fn panic(&self, call: &str) {
        self.fault(call, Fault::Panic);
    }

    /// Has the next such call wait.
    pub(crate) fn hold(&self, call: &str) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        self.fault(call, Fault::Wait(Arc::clone(&gate)));
        gate
    }

    /// Every call so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// How many such calls there were.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.state().calls.iter().filter(|c| *c == call).count()
    }

    /// Ends a process: recorded first, then told.
    pub(crate) fn exit(&self, task: &TaskId, exec: Option<&ExecId>, code: u32) {
        let mut state = self.state();
        let bundle = state.bundles.get_mut(task).expect("the task has a bundle");
        bundle.end(exec, code, false);
    }

    /// As [`Self::exit`], of the first process and at a time of the test's choice.
    pub(crate) fn exit_at(&self, task: &TaskId, code: u32, at: Timestamp) {
        let mut state = self.state();
        state.bundles.get_mut(task).expect("the task has a bundle").end_at(None, code, false, at);
    }

    /// As [`Self::exit`], by the kernel's OOM killer: only the record knows.
    pub(crate) fn oom_kill(&self, task: &TaskId) {
        self.state().bundles.get_mut(task).expect("the task has a bundle").end(None, EXIT_KILLED, true);
    }

    /// Writes the record of the first process's end anew.
    pub(crate) fn record(&self, task: &TaskId, record: ExitRecord) {
        self.state().bundles.get_mut(task).expect("the task has a bundle").records.insert(None, record);
    }

    /// Lets the shim die; what it recorded stays.
    pub(crate) fn die(&self, task: &TaskId) {
        let mut state = self.state();
        let bundle = state.bundles.get_mut(task).expect("the task has a bundle");
        bundle.alive = false;
        bundle.connection.cancel();
    }

    /// Makes the shim answer nothing any more.
    pub(crate) fn hang(&self, task: &TaskId) {
        self.state().bundles.get_mut(task).expect("the task has a bundle").hung = true;
    }

    /// Breaks the connections to a shim that lives on.
    pub(crate) fn disconnect(&self, task: &TaskId) {
        let mut state = self.state();
        let bundle = state.bundles.get_mut(task).expect("the task has a bundle");
        std::mem::take(&mut bundle.connection).cancel();
    }

    /// Makes a bundle that no task knows, with a shim or without.
    pub(crate) fn stray(&self, task: &TaskId, alive: bool) {
        self.state().bundles.insert(task.clone(), Bundle { alive, ..Bundle::default() });
    }

    /// Whether nothing is left: no bundle, no shim.
    pub(crate) fn is_clean(&self) -> bool {
        self.state().bundles.is_empty()
    }

    /// Whether somebody waits for this process's end.
    pub(crate) fn is_watched(&self, task: &TaskId, exec: Option<&ExecId>) -> bool {
        let state = self.state();
        let process = state.bundles.get(task).and_then(|bundle| bundle.processes.get(&exec.cloned()));
        process.is_some_and(|process| process.end.receiver_count() > 0)
    }

    /// Writes the call down, and does what the test wants of it.
    async fn come(&self, call: String) -> Answer<()> {
        let fault = {
            let mut state = self.state();
            let fault = state.faults.get_mut(&call).and_then(VecDeque::pop_front);
            state.calls.push(call.clone());
            fault
        };
        match fault {
            None => Ok(()),
            Some(Fault::Refuse(refusal)) => Err(refusal),
            Some(Fault::Panic) => panic!("{call} was poisoned"),
            Some(Fault::Wait(gate)) => {
                gate.reached.notify_one();
                gate.opened.notified().await;
                Ok(())
            }
        }
    }
}

impl Default for Bundle {
    fn default() -> Self {
        Self {
            alive: true,
            hung: false,
            connection: CancellationToken::new(),
            processes: BTreeMap::new(),
            records: BTreeMap::new(),
        }
    }
}

impl Bundle {
    fn end(&mut self, exec: Option<&ExecId>, code: u32, oom: bool) {
        self.end_at(exec, code, oom, ENDED);
    }

    fn end_at(&mut self, exec: Option<&ExecId>, code: u32, oom: bool, at: Timestamp) {
        let id = exec.cloned();
        let process = self.processes.get_mut(&id).expect("the shim has the process");
        let was = std::mem::replace(&mut process.status, TaskStatus::Stopped);
        self.records.insert(
            id,
            ExitRecord {
                version: 1,
                pid: process.pid,
                status: code,
                exited_at_ns: at.0,
                oom_killed: oom,
                started: was != TaskStatus::Created,
            },
        );
        process.end.send_replace(Some((code, at)));
    }

    fn process(&mut self, exec: Option<&ExecId>) -> Answer<&mut Process> {
        self.processes.get_mut(&exec.cloned()).ok_or_else(|| Refusal::not_found("process of the shim"))
    }
}

fn address_of(task: &TaskId) -> ShimAddress {
    ShimAddress { address: format!("unix:///fake/{task}"), version: 3, binary: "/fake/shim".to_owned() }
}

#[async_trait]
impl ShimLauncher for FakeShims {
    fn bundle_path(&self, task: &TaskId) -> String {
        format!("/fake/{task}")
    }

    fn expect_launch(&self) {
        self.state().calls.push("expect_launch".to_owned());
    }

    async fn launch(&self, launch: Launch) -> Answer<(ShimAddress, Arc<dyn Shim>)> {
        self.come("launch".to_owned()).await?;
        let task = launch.task;
        let mut state = self.state();
        if state.bundles.contains_key(&task) {
            return Err(Refusal::already_exists(format!("bundle {task}")));
        }
        let bundle = Bundle::default();
        let connection = bundle.connection.clone();
        state.bundles.insert(task.clone(), bundle);
        drop(state);
        Ok((address_of(&task), Arc::new(FakeShim { shims: self.clone(), task, connection })))
    }

    async fn reattach(&self, task: &TaskId, address: &ShimAddress) -> Answer<Arc<dyn Shim>> {
        assert_eq!(*address, address_of(task), "the row knows where the shim is");
        self.come("reattach".to_owned()).await?;
        let connection = {
            let state = self.state();
            let alive = state.bundles.get(task).filter(|bundle| bundle.alive);
            alive.map(|bundle| (bundle.connection.clone(), bundle.hung))
        };
        match connection {
            None => Err(Refusal::unavailable(format!("connect to the shim of {task}"))),
            Some((_, true)) => std::future::pending().await,
            Some((connection, false)) => Ok(Arc::new(FakeShim { shims: self.clone(), task: task.clone(), connection })),
        }
    }

    async fn clean_up(&self, task: &TaskId, _: Option<&ShimAddress>) -> Answer<Exit> {
        self.come("clean_up".to_owned()).await?;
        let killed = Exit { code: EXIT_KILLED, exited_at: Timestamp::ZERO, oom: false };
        let Some(mut bundle) = self.state().bundles.remove(task) else { return Ok(killed) };
        bundle.connection.cancel();
        Ok(bundle.records.remove(&None).map_or(killed, Exit::from))
    }

    fn recorded_exit(&self, task: &TaskId, exec: Option<&ExecId>) -> Option<ExitRecord> {
        self.state().bundles.get(task).and_then(|bundle| bundle.records.get(&exec.cloned()).cloned())
    }

    async fn remove_bundle(&self, task: &TaskId) -> Answer<()> {
        self.come("remove_bundle".to_owned()).await?;
        let mut state = self.state();
        if let Some(bundle) = state.bundles.get(task) {
            assert!(!bundle.alive, "the shim has ended before its bundle goes");
        }
        state.bundles.remove(task);
        Ok(())
    }

    fn bundles(&self) -> Answer<Vec<TaskId>> {
        Ok(self.state().bundles.keys().cloned().collect())
    }
}

/// A connection to one shim.
struct FakeShim {
    shims: FakeShims,
    task: TaskId,
    connection: CancellationToken,
}

impl FakeShim {
    fn lost(&self) -> Refusal {
        Refusal::unavailable(format!("the connection to the shim of {} is gone", self.task))
    }

    /// Has a word with the shim, if it still listens.
    async fn say<T>(
        &self,
        verb: &str,
        exec: Option<&ExecId>,
        word: impl FnOnce(&mut Bundle, &mut u32) -> Answer<T>,
    ) -> Answer<T> {
        let call = exec.map_or_else(|| verb.to_owned(), |exec| format!("{verb} {exec}"));
        tokio::select! {
            biased;
            come = self.shims.come(call) => come?,
            () = self.connection.cancelled() => return Err(self.lost()),
        }
        let hung = self.shims.state().bundles.get(&self.task).is_some_and(|bundle| bundle.hung);
        if hung {
            self.connection.cancelled().await;
        }
        if self.connection.is_cancelled() {
            return Err(self.lost());
        }
        let mut state = self.shims.state();
        let State { bundles, pids, .. } = &mut *state;
        let bundle = bundles.get_mut(&self.task).ok_or_else(|| self.lost())?;
        word(bundle, pids)
    }

    /// Adds a process.
    async fn add(&self, verb: &str, exec: Option<&ExecId>, stdio: Stdio) -> Answer<u32> {
        self.say(verb, exec, |bundle, pids| {
            if bundle.processes.contains_key(&exec.cloned()) {
                return Err(Refusal::already_exists("process of the shim"));
            }
            *pids += 1;
            // An added process has no pid before it starts.
            let pid = if exec.is_none() { FIRST_PID + *pids } else { 0 };
            let process = Process { pid, status: TaskStatus::Created, stdio, end: watch::channel(None).0 };
            bundle.processes.insert(exec.cloned(), process);
            Ok(pid)
        })
        .await
    }
}

#[async_trait]
impl Shim for FakeShim {
    async fn create(&self, create: CreateProcess) -> Answer<u32> {
        self.add("create", None, create.stdio).await
    }

    async fn start(&self, exec: Option<&ExecId>) -> Answer<u32> {
        let started = self.say("start", exec, |bundle, pids| {
            *pids += 1;
            let next = FIRST_PID + *pids;
            let process = bundle.process(exec)?;
            if process.pid == 0 {
                process.pid = next;
            }
            process.status = TaskStatus::Running;
            Ok(process.pid)
        });
        let pid = started.await?;
        // The process runs; its shim's answer takes its time.
        self.say("started", exec, |_, _| Ok(())).await?;
        Ok(pid)
    }

    async fn state(&self, exec: Option<&ExecId>) -> Answer<ProcessState> {
        self.say("state", exec, |bundle, _| {
            let process = bundle.process(exec)?;
            let exit = process.end.borrow().map(|(code, exited_at)| Exit { code, exited_at, oom: false });
            Ok(ProcessState { pid: process.pid, status: process.status, stdio: process.stdio.clone(), exit })
        })
        .await
    }

    async fn wait(&self, exec: Option<&ExecId>) -> Answer<(u32, Timestamp)> {
        let mut end = self.say("wait", exec, |bundle, _| Ok(bundle.process(exec)?.end.subscribe())).await?;
        tokio::select! {
            biased;
            () = self.connection.cancelled() => Err(self.lost()),
            end = end.wait_for(Option::is_some) => match end.ok().and_then(|end| *end) {
                Some(end) => Ok(end),
                None => Err(self.lost()),
            }
        }
    }

    async fn delete(&self, exec: Option<&ExecId>) -> Answer<(u32, u32, Timestamp)> {
        self.say("delete", exec, |bundle, _| {
            let process = bundle.process(exec)?;
            match process.status {
                TaskStatus::Stopped => {}
                TaskStatus::Created => bundle.end(exec, EXIT_KILLED, false),
                _ => return Err(Refusal::failed_precondition("the process runs")),
            }
            let process = bundle.processes.remove(&exec.cloned()).ok_or_else(|| Refusal::not_found("process"))?;
            if exec.is_none() {
                bundle.processes.clear();
            }
            let (code, at) = process.end.borrow().unwrap_or((EXIT_KILLED, ENDED));
            Ok((process.pid, code, at))
        })
        .await
    }

    async fn exec(&self, exec: &ExecId, stdio: &Stdio, _: &Any) -> Answer<()> {
        self.add("exec", Some(exec), stdio.clone()).await.map(|_| ())
    }

    async fn kill(&self, exec: Option<&ExecId>, signal: u32, _: bool) -> Answer<()> {
        self.say("kill", exec, |bundle, _| {
            bundle.process(exec)?;
            bundle.end(exec, 128 + signal, false);
            Ok(())
        })
        .await
    }

    async fn pause(&self) -> Answer<()> {
        self.say("pause", None, |bundle, _| {
            bundle.process(None)?.status = TaskStatus::Paused;
            Ok(())
        })
        .await
    }

    async fn resume(&self) -> Answer<()> {
        self.say("resume", None, |bundle, _| {
            bundle.process(None)?.status = TaskStatus::Running;
            Ok(())
        })
        .await
    }

    async fn resize(&self, exec: Option<&ExecId>, _: u32, _: u32) -> Answer<()> {
        self.say("resize", exec, |bundle, _| bundle.process(exec).map(|_| ())).await
    }

    async fn close_io(&self, exec: Option<&ExecId>) -> Answer<()> {
        self.say("close_io", exec, |bundle, _| bundle.process(exec).map(|_| ())).await
    }

    async fn pids(&self) -> Answer<Vec<PidInfo>> {
        self.say("pids", None, |bundle, _| {
            Ok(bundle.processes.values().map(|process| PidInfo { pid: process.pid, info: None }).collect())
        })
        .await
    }

    async fn stats(&self) -> Answer<Any> {
        self.say("stats", None, |_, _| Ok(Any { type_url: "figures".to_owned(), value: Vec::new().into() })).await
    }

    async fn update(&self, _: &Any, _: &Labels) -> Answer<()> {
        self.say("update", None, |_, _| Ok(())).await
    }

    async fn checkpoint(&self, _: &str, _: Option<&Any>) -> Answer<()> {
        self.say("checkpoint", None, |_, _| Ok(())).await
    }

    async fn shutdown(&self) -> Answer<()> {
        self.say("shutdown", None, |bundle, _| {
            if bundle.processes.is_empty() {
                bundle.alive = false;
                bundle.connection.cancel();
            }
            Ok(())
        })
        .await
    }
}
