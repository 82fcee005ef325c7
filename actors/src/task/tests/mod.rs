//! Tasks through messages, with shims in memory: what clients, the log and the rows see of their lives.

mod execs;
mod faults;
mod life;
mod restart;

use super::TaskActor;
use crate::{
    drivers::shim::TaskId,
    runtime::{Ask, Ctx, Handler, Request},
    tasks::Tasks,
    testing::{
        World, meta,
        stage::{Machine, Run, create, task, web},
    },
};
use std::{collections::HashMap, ops::Deref, sync::Arc};
use wharf_messages::{
    Answer, Any, ContainerId, ExecId, Labels, Refusal, Timestamp,
    container::{Container, Runtime},
    event::{Event, EventRecord},
    task::{
        CreateTask, DeleteTask, DeletedProcess, ExecTask, Exit, KillTask, Process, Rootfs, StartTask, Stdio, WaitTask,
    },
};
use wharf_store::{Change, Commit, TaskRow, Writer};

/// A daemon's run, with a container called `web`.
struct Stage<'w>(Run<'w>);

impl<'w> Deref for Stage<'w> {
    type Target = Run<'w>;

    fn deref(&self) -> &Run<'w> {
        &self.0
    }
}

impl Machine {
    /// Runs a daemon, and checks at its end that the log tells a life in order and the rows agree.
    fn daemon(&self, boot_id: &str, test: impl AsyncFnOnce(&Stage<'_>)) {
        self.daemon_with(boot_id, |writer| writer, test);
    }

    fn daemon_with<L: crate::journal::Log>(
        &self,
        boot_id: &str,
        log: impl FnOnce(Writer) -> L,
        test: impl AsyncFnOnce(&Stage<'_>),
    ) {
        self.run(boot_id, log, with_container, async |run| {
            let stage = Stage(run);
            test(&stage).await;
            check(&stage.world.records(), &stage.rows());
        });
    }
}

async fn with_container(world: &World) {
    if world.store.read().unwrap().container(&task().namespace, &web()).unwrap().is_none() {
        let commit = Commit::one(&task().namespace, Change::CreateContainer(container(web())));
        world.journal.commit(commit).await.unwrap();
    }
}

/// Runs a test on a new machine.
fn play(test: impl AsyncFnOnce(&Stage<'_>)) {
    Machine::new().daemon("boot", test);
}

fn exec(name: &str) -> ExecId {
    ExecId::new(name).unwrap()
}

impl Stage<'_> {
    async fn start(&self, exec_id: Option<&str>) -> Answer<Process> {
        self.tasks.ask(meta(), StartTask { container_id: web(), exec_id: exec_id.map(exec) }).await
    }

    async fn exec(&self, name: &str) -> Answer<()> {
        self.tasks.ask(meta(), add(name)).await
    }

    async fn kill(&self, exec_id: Option<&str>) -> Answer<()> {
        let kill = KillTask { container_id: web(), exec_id: exec_id.map(exec), signal: 9, all: false };
        self.tasks.ask(meta(), kill).await
    }

    async fn delete(&self, exec_id: Option<&str>) -> Answer<DeletedProcess> {
        self.tasks.ask(meta(), DeleteTask { container_id: web(), exec_id: exec_id.map(exec) }).await
    }

    async fn wait(&self, exec_id: Option<&str>) -> Answer<Exit> {
        self.waiting(exec_id).await
    }

    /// Asks for an end now, to be heard later.
    fn waiting(&self, exec_id: Option<&str>) -> impl Future<Output = Answer<Exit>> + Send + use<> {
        self.tasks.ask(meta(), WaitTask { container_id: web(), exec_id: exec_id.map(exec) })
    }

    /// Creates and starts the task.
    async fn run(&self) {
        self.create().await.unwrap();
        self.start(None).await.unwrap();
    }

    /// Adds and starts a process.
    async fn run_exec(&self, name: &str) {
        self.exec(name).await.unwrap();
        self.start(Some(name)).await.unwrap();
        self.world.until(|| self.shims.is_watched(&task(), Some(&exec(name)))).await;
    }

    fn exit(&self, exec_id: Option<&str>, code: u32) {
        self.shims.exit(&task(), exec_id.map(exec).as_ref(), code);
    }

    fn rows(&self) -> Vec<TaskRow> {
        let reader = self.world.store.read().unwrap();
        reader.all_tasks().unwrap().collect::<Answer<_>>().unwrap()
    }

    /// What the log tells of the task, in short.
    fn story(&self) -> Vec<String> {
        self.world.records().iter().filter_map(short).collect()
    }

    async fn until_told(&self, line: &str) {
        self.world.until(|| self.story().iter().any(|told| told == line)).await;
    }

    /// Has the task's actor panic.
    async fn panic(&self) {
        let poisoned = self.tasks.ask(meta(), Poison { container_id: web() }).await;
        assert_eq!(kind(poisoned), wharf_messages::RefusalKind::Unavailable);
    }
}

fn container(id: ContainerId) -> Container {
    Container { id, ..crate::testing::stage::container(Labels::new(), b"{}") }
}

fn add(name: &str) -> ExecTask {
    let spec = Any { type_url: Any::PROCESS.to_owned(), value: b"{}".to_vec().into() };
    ExecTask { container_id: web(), exec_id: exec(name), stdio: Stdio::default(), spec }
}

/// An event of a task in a word: `started`, `exited x 3`, `late exited 137`.
fn short(record: &EventRecord) -> Option<String> {
    let named = |what: &str, exec_id: &Option<ExecId>| match exec_id {
        None => what.to_owned(),
        Some(exec_id) => format!("{what} {exec_id}"),
    };
    let line = match &record.event {
        Event::TaskCreated { .. } => "created".to_owned(),
        Event::TaskStarted { .. } => "started".to_owned(),
        Event::TaskExited { exec_id, exit, .. } => format!("{} {}", named("exited", exec_id), exit.code),
        Event::TaskDeleted { exec_id, .. } => named("deleted", exec_id),
        Event::TaskExecAdded { exec_id, .. } => format!("added {exec_id}"),
        Event::TaskExecStarted { exec_id, .. } => format!("started {exec_id}"),
        Event::TaskPaused { .. } => "paused".to_owned(),
        Event::TaskResumed { .. } => "resumed".to_owned(),
        Event::TaskOomKilled { .. } => "oom".to_owned(),
        Event::TaskCheckpointed { .. } => "checkpointed".to_owned(),
        _ => return None,
    };
    Some(if record.late { format!("late {line}") } else { line })
}

/// How far a process has come in the log.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Told {
    started: bool,
    exited: Option<Exit>,
    paused: bool,
}

type Lives = HashMap<ContainerId, HashMap<Option<ExecId>, Told>>;

/// Fails unless every event has its predecessor (TASK-2, TASK-3) and the rows say what the log says.
fn check(records: &[EventRecord], rows: &[TaskRow]) {
    let mut lives = Lives::new();
    for record in records {
        let why = || format!("{:?} after {:?}", record.event, records.iter().filter_map(short).collect::<Vec<_>>());
        let process = |lives: &Lives, id: &ContainerId, exec: &Option<ExecId>| -> Told {
            *lives.get(id).and_then(|life| life.get(exec)).unwrap_or_else(|| panic!("{}", why()))
        };
        let mut put = |id: &ContainerId, exec: &Option<ExecId>, change: &dyn Fn(&mut Told)| {
            let mut told = process(&lives, id, exec);
            change(&mut told);
            lives.get_mut(id).unwrap().insert(exec.clone(), told);
        };
        match &record.event {
            Event::TaskCreated { container_id, .. } => {
                let before = lives.insert(container_id.clone(), HashMap::from([(None, Told::default())]));
                assert!(before.is_none(), "{}", why());
            }
            Event::TaskStarted { container_id, .. } => put(container_id, &None, &|told| {
                assert!(!told.started && told.exited.is_none(), "{}", why());
                told.started = true;
            }),
            Event::TaskExecAdded { container_id, exec_id } => {
                let init = process(&lives, container_id, &None);
                assert!(init.exited.is_none(), "{}", why());
                let life = lives.get_mut(container_id).unwrap();
                assert!(life.insert(Some(exec_id.clone()), Told::default()).is_none(), "{}", why());
            }
            Event::TaskExecStarted { container_id, exec_id, .. } => {
                put(container_id, &Some(exec_id.clone()), &|told| {
                    assert!(!told.started && told.exited.is_none(), "{}", why());
                    told.started = true;
                });
            }
            Event::TaskExited { container_id, exec_id, exit, .. } => {
                put(container_id, exec_id, &|told| {
                    assert!(told.exited.is_none(), "{}", why());
                    told.exited = Some(*exit);
                });
                let running =
                    |(id, told): (&Option<ExecId>, &Told)| id.is_some() && told.started && told.exited.is_none();
                assert!(exec_id.is_some() || !lives[container_id].iter().any(running), "{}", why());
            }
            Event::TaskDeleted { container_id, exec_id: None, exit, .. } => {
                let life = lives.remove(container_id).unwrap_or_else(|| panic!("{}", why()));
                assert_eq!(life[&None].exited, Some(*exit), "{}", why());
            }
            Event::TaskDeleted { container_id, exec_id, .. } => {
                let told = process(&lives, container_id, exec_id);
                assert!(told.exited.is_some() || !told.started, "{}", why());
                lives.get_mut(container_id).unwrap().remove(exec_id);
            }
            Event::TaskPaused { container_id } | Event::TaskResumed { container_id } => {
                let pausing = matches!(record.event, Event::TaskPaused { .. });
                put(container_id, &None, &|told| {
                    assert!(told.started && told.exited.is_none() && told.paused != pausing, "{}", why());
                    told.paused = pausing;
                });
            }
            Event::TaskOomKilled { container_id } => put(container_id, &None, &|_| ()),
            _ => {}
        }
    }
    assert_eq!(rows.len(), lives.len(), "{rows:?} and {lives:?}");
    for row in rows {
        let life = &lives[&row.container_id];
        assert_eq!(row.execs.len() + 1, life.len(), "{row:?} and {life:?}");
        for process in std::iter::once(&row.init).chain(&row.execs) {
            let told = life[&process.exec_id];
            assert_eq!(process.exit, told.exited, "{row:?} and {life:?}");
        }
    }
}

/// Makes a task's actor panic.
#[derive(Debug, Clone)]
struct Poison {
    container_id: ContainerId,
}

impl Request for Poison {
    type Reply = ();
    const NAME: &'static str = "task.poison";
    const QUERY: bool = false;
}

impl Handler<Ask<Poison>> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Ask<Poison>, _: &mut Ctx<Self>) {
        panic!("poisoned");
    }
}

crate::route!(Tasks by container_id: Poison);

/// The kind of a refusal.
fn kind<T: std::fmt::Debug>(answer: Answer<T>) -> wharf_messages::RefusalKind {
    let refusal: Refusal = answer.unwrap_err();
    refusal.kind
}
