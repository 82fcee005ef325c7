//! A machine with one container, whose daemons come and go: for tests of tasks and of whatever follows them.

use super::{World, meta, run_with};
use crate::{
    drivers::{fake::FakeShims, shim::TaskId, snapshotter::Native},
    journal::{Log, Writer},
    root::Fixed,
    runtime::Handle,
    snapshots::Snapshotters,
    task::TaskDeps,
    tasks::Tasks,
};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use wharf_messages::{
    Answer, Any, ContainerId, Labels, Timestamp,
    container::{Container, Runtime},
    task::{CreateTask, DeleteTask, DeletedProcess, Process, Rootfs, StartTask, Stdio},
};
use wharf_store::{Change, Commit, TaskRow};

/// How far the clock goes on at once.
pub(crate) const STEP: Duration = Duration::from_millis(50);

/// A machine that outlives its daemons: its disk and its shims.
pub(crate) struct Machine {
    root: TempDir,
    pub shims: FakeShims,
}

/// A daemon's run on it, with the real tasks' actors, shims in memory, and a clock that the test moves.
pub(crate) struct Run<'w> {
    pub world: &'w World,
    pub shims: FakeShims,
    pub tasks: Handle<Tasks>,
}

impl Machine {
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), shims: FakeShims::default() }
    }

    /// Runs a daemon in a boot. `before` is done before the tasks' actors start.
    pub fn run<L: Log>(
        &self,
        boot_id: &str,
        log: impl FnOnce(Writer) -> L,
        before: impl AsyncFnOnce(&World),
        test: impl AsyncFnOnce(Run<'_>),
    ) {
        run_with(self.root.path(), log, async |world| {
            let native = Arc::new(Native::open(&world.config.root.join("snapshotters/native")).unwrap());
            let deps = TaskDeps {
                store: world.store.clone(),
                journal: world.journal.clone(),
                shims: Arc::new(self.shims.clone()),
                snapshotters: Snapshotters::new(vec![native], "native", &world.store).unwrap(),
                clock: world.clock.clone(),
                boot_id: boot_id.to_owned(),
                have_failed: Default::default(),
                at_work: Default::default(),
            };
            before(world).await;
            let tasks = world.start(<Tasks as Fixed>::SPEC, Tasks::new(Arc::new(deps))).await;
            test(Run { world, shims: self.shims.clone(), tasks }).await;
        });
    }
}

/// The container.
pub(crate) fn web() -> ContainerId {
    ContainerId::new("web").unwrap()
}

/// Its task.
pub(crate) fn task() -> TaskId {
    TaskId { namespace: meta().namespace.unwrap(), container: web() }
}

/// Its record.
pub(crate) fn container(labels: Labels, spec: &[u8]) -> Container {
    Container {
        id: web(),
        labels,
        image: String::new(),
        runtime: Runtime::default(),
        spec: Some(Any::new(Any::SPEC, spec)),
        snapshotter: None,
        snapshot_key: None,
        created_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
        extensions: Default::default(),
        sandbox: String::new(),
    }
}

/// How its task is made.
pub(crate) fn create() -> CreateTask {
    CreateTask {
        container_id: web(),
        rootfs: Rootfs::Mounts(Vec::new()),
        stdio: Stdio::default(),
        options: None,
        runtime_path: String::new(),
        checkpoint: None,
    }
}

impl Run<'_> {
    pub async fn commit(&self, change: Change) {
        self.world.journal.commit(Commit::one(&task().namespace, change)).await.unwrap();
    }

    pub async fn create(&self) -> Answer<Process> {
        self.tasks.ask(meta(), create()).await
    }

    /// Creates and starts the task as a client does, and waits until its end is waited for.
    pub async fn start_task(&self) {
        self.create().await.unwrap();
        self.tasks.ask(meta(), StartTask { container_id: web(), exec_id: None }).await.unwrap();
        self.watched().await;
    }

    pub async fn delete_task(&self) -> Answer<DeletedProcess> {
        self.tasks.ask(meta(), DeleteTask { container_id: web(), exec_id: None }).await
    }

    pub fn row(&self) -> Option<TaskRow> {
        self.world.store.read().unwrap().task(&task().namespace, &web()).unwrap()
    }

    pub async fn watched(&self) {
        self.world.until(|| self.shims.is_watched(&task(), None)).await;
    }

    /// Lets the clock and all timers go on a bit, and whoever waits for the disk get on.
    pub async fn go_on(&self) {
        self.world.clock.advance(STEP);
        tokio::time::pause();
        tokio::time::advance(STEP).await;
        tokio::time::resume();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    /// Lets time go on until it is so.
    pub async fn in_time(&self, mut so: impl FnMut() -> bool) {
        while !so() {
            self.go_on().await;
        }
    }

    /// Lets this much time go by.
    pub async fn pass(&self, time: Duration) {
        let end = self.world.clock.now().plus(time);
        self.in_time(|| self.world.clock.now() >= end).await;
    }
}
