//! A world for tests of actors: a real store in a folder of its own, the real journal and bus, a clock that stands still,
//! and an arbiter on which actors run until the test is over.

mod attack;
pub(crate) mod stage;
pub(crate) mod whole;

use crate::{
    bus::Bus,
    config::SystemConfig,
    journal::{Journal, JournalSeat, Log, Writer},
    root::{ROOT, write_restarts},
    runtime::{Actor, ChildSpec, Clock, Ctx, GaveUp, Group, Handle, Supervised, Tree},
};
use std::{cell::RefCell, future::Future, path::Path, sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, LocalSet},
};
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Meta, Namespace, Timestamp,
    event::{Event, EventRecord, Seq},
};
use wharf_store::Store;

/// A test that waits for longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a test's clock stands: 2020-01-01T00:00:00Z.
pub(crate) const START: Timestamp = Timestamp(1_577_836_800_000_000_000);

/// How many events a test's log keeps: few enough to outgrow.
const EVENTS_MAX: u64 = 4096;

/// What a test's actors live in.
pub(crate) struct World {
    pub store: Store,
    pub journal: Journal,
    pub bus: Bus,
    pub clock: Clock,
    pub config: SystemConfig,
    pub tree: Arc<Tree>,
    group: RefCell<Option<Group>>,
    watching: RefCell<Option<JoinHandle<Group>>>,
    unwatch: CancellationToken,
}

/// Runs a test in a new world. Fails if a part is left alive that cannot be stopped.
pub(crate) fn run(test: impl AsyncFnOnce(&World)) {
    let root = tempfile::tempdir().unwrap();
    run_in(root.path(), test);
}

/// Runs a test in the world below a folder: a second run finds what the first one committed, as a daemon does that
/// starts again.
pub(crate) fn run_in(root: &Path, test: impl AsyncFnOnce(&World)) {
    run_with(root, |writer| writer, test);
}

/// Runs a test in a world whose journal writes to something else.
pub(crate) fn run_with<L: Log>(root: &Path, log: impl FnOnce(Writer) -> L, test: impl AsyncFnOnce(&World)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let world = World::new(root, log);
        tokio::time::timeout(PATIENCE, test(&world)).await.expect("the test hangs");
        world.stop().await;
        let alive = world.tree.report();
        assert!(alive.is_empty(), "still alive: {alive:?}");
    });
}

impl World {
    fn new<L: Log>(root: &Path, log: impl FnOnce(Writer) -> L) -> Self {
        let mut config = SystemConfig::new(root.join("root"), root.join("state"));
        config.retention.events_max = EVENTS_MAX;
        let (store, writer) = wharf_store::open(&config.root, wharf_store::Options::default()).unwrap();
        let (tree, restarts) = Tree::new();
        let clock = Clock::manual(START);
        let mut group = Group::new(&tree, &ROOT);
        let seat = JournalSeat::new(&group);
        let journal = seat.journal();
        let (bus, tail) = Bus::new(store.clone(), clock.clone(), journal.clone());
        seat.start(&mut group, log(writer), tail, clock.clone(), config.retention).unwrap();
        tokio::task::spawn_local(write_restarts(restarts, journal.clone()));
        Self {
            store,
            journal,
            bus,
            clock,
            config,
            tree,
            group: RefCell::new(Some(group)),
            watching: RefCell::default(),
            unwatch: CancellationToken::new(),
        }
    }

    #[allow(dead_code, reason = "for the nouns' own tests")]
    /// Starts an actor as the next child of the root and waits until it takes messages.
    pub async fn start<A>(&self, spec: &'static ChildSpec, actor: A) -> Handle<A>
    where
        A: Supervised + Actor<Context = Ctx<A>>,
    {
        let mut group = self.group.take().expect("the group is there between two starts");
        let seat = group.seat(spec);
        let handle = seat.handle();
        let started = group.start(seat, actor).await;
        self.group.replace(Some(group));
        started.unwrap();
        handle
    }

    /// Keeps the root's children alive from here on, as the daemon does; answers what it had to give up.
    pub fn watch(&self) -> impl Future<Output = GaveUp> + 'static {
        let mut group = self.group.take().expect("nobody else watches");
        let (done, gave_up) = oneshot::channel();
        let stop = self.unwatch.clone();
        let watching = tokio::task::spawn_local(async move {
            tokio::select! {
                // The test may not care.
                end = group.watch() => drop(done.send(end)),
                () = stop.cancelled() => {}
            }
            group
        });
        self.watching.replace(Some(watching));
        async move { gave_up.await.expect("the world was stopped") }
    }

    /// Stops the root's children, last first.
    pub async fn stop(&self) {
        self.unwatch.cancel();
        if let Some(watching) = self.watching.take() {
            self.group.replace(Some(watching.await.unwrap()));
        }
        let group = self.group.take();
        if let Some(group) = group {
            group.stop().await;
        }
    }

    /// Every event so far, in order.
    pub fn records(&self) -> Vec<EventRecord> {
        let reader = self.store.read().unwrap();
        let mut records = Vec::new();
        loop {
            let after = records.last().map_or(Seq(0), |record: &EventRecord| record.seq);
            let more = reader.events(after, 1000).unwrap();
            if more.is_empty() {
                return records;
            }
            records.extend(more);
        }
    }

    /// What happened so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.records().into_iter().map(|record| record.event).collect()
    }

    /// Waits until it is so.
    pub async fn until(&self, mut so: impl FnMut() -> bool) {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[allow(dead_code, reason = "for the nouns' own tests")]
/// The context of a call in the namespace `default`.
pub(crate) fn meta() -> Meta {
    Meta::in_namespace(Namespace::new("default").unwrap())
}
