//! The whole system in a test's world: every noun's actor, the real store and snapshotters, shims and a registry in memory.

use super::World;
use crate::{
    System, Wharf,
    container::ContainerDeps,
    containers::Containers,
    content::{Content, ContentDeps},
    drivers::{
        Drivers,
        fake::FakeShims,
        registry::fake::FakeRegistry,
        snapshotter::{Native, Overlayfs, Snapshotter},
    },
    gc::{Gc, GcConfig, GcDeps},
    health::HealthDeps,
    healths::Healths,
    image::{ImageDeps, flights::Flights},
    images::Images,
    namespaces::Namespaces,
    restart::RestartDeps,
    restarts::Restarts,
    root::{Actors, Fixed},
    runtime::Pool,
    serve::{Attempts, CallIo, Serve},
    snapshots::{SnapshotDeps, Snapshots, Snapshotters},
    task::TaskDeps,
    tasks::Tasks,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use wharf_messages::{Answer, Meta, RefusalKind, SnapshotterName, event::Seq, meta::next_request_id};

/// The system, and what the test does to what stands behind it.
pub(crate) struct Whole<'w> {
    pub world: &'w World,
    pub wharf: Wharf,
    pub registry: FakeRegistry,
    pub shims: FakeShims,
}

/// Runs a test with a whole system, in which nothing is collected unless it is asked for.
pub(crate) fn run_whole(test: impl AsyncFnOnce(&Whole<'_>)) {
    super::run(async |world| test(&Whole::start(world).await).await);
}

/// Runs a test with a whole system that collects garbage as the daemon does, but not because it has started.
pub(crate) fn run_collecting(test: impl AsyncFnOnce(&Whole<'_>)) {
    let config = GcConfig { startup_delay: Duration::ZERO, ..GcConfig::default() };
    super::run(async |world| test(&Whole::collecting(world, config).await).await);
}

impl<'w> Whole<'w> {
    /// Starts every actor, in the order of the tree.
    pub async fn start(world: &'w World) -> Self {
        let late = GcConfig { startup_delay: Duration::from_secs(3600), ..GcConfig::default() };
        Self::collecting(world, late).await
    }

    async fn collecting(world: &'w World, gc: GcConfig) -> Self {
        let (registry, shims) = (FakeRegistry::default(), FakeShims::default());
        let (store, journal, pool) = (world.store.clone(), world.journal.clone(), Pool::start().unwrap());
        let folder = |name: &str| world.config.root.join("snapshotters").join(name);
        let backends: Vec<Arc<dyn Snapshotter>> = vec![
            Arc::new(Overlayfs::open(&folder("overlayfs")).unwrap()),
            Arc::new(Native::open(&folder("native")).unwrap()),
        ];
        let drivers = Drivers {
            shims: Arc::new(shims.clone()),
            snapshotters: Snapshotters::new(backends, "overlayfs", &store).unwrap(),
            registries: Arc::new(registry.clone()),
            content: ContentDeps::new(store.clone(), journal.clone(), world.config.content_sharing),
            flights: Flights::default(),
            pid: 1,
            boot_id: "boot".to_owned(),
            apply: Drivers::open_scratch(&world.config).unwrap(),
        };
        let snapshotters = drivers.snapshotters.clone();
        let namespaces = world.start(<Namespaces as Fixed>::SPEC, Namespaces::new(journal.clone())).await;
        let content = world.start(<Content as Fixed>::SPEC, Content::new(drivers.content.clone())).await;
        let deps = SnapshotDeps {
            store: store.clone(),
            journal: journal.clone(),
            snapshotters: snapshotters.clone(),
            pool: pool.clone(),
            shims: Arc::clone(&drivers.shims),
        };
        let snapshots = world.start(<Snapshots as Fixed>::SPEC, Snapshots::new(Arc::new(deps))).await;
        let deps = ImageDeps {
            content: drivers.content.clone(),
            ingests: content.clone(),
            snapshots: snapshots.clone(),
            snapshotters: snapshotters.clone(),
            registries: Arc::clone(&drivers.registries),
            flights: drivers.flights.clone(),
            pool: pool.clone(),
            apply: drivers.apply.clone(),
            max_concurrent_downloads: 3,
        };
        let images = world.start(<Images as Fixed>::SPEC, Images::new(Arc::new(deps))).await;
        let deps = ContainerDeps { store: store.clone(), journal: journal.clone(), snapshotters: snapshotters.clone() };
        let containers = world.start(<Containers as Fixed>::SPEC, Containers::new(Arc::new(deps))).await;
        let deps = TaskDeps {
            store: store.clone(),
            journal: journal.clone(),
            shims: Arc::clone(&drivers.shims),
            snapshotters,
            clock: world.clock.clone(),
            boot_id: drivers.boot_id.clone(),
            have_failed: Default::default(),
            at_work: Default::default(),
        };
        let tasks = world.start(<Tasks as Fixed>::SPEC, Tasks::new(Arc::new(deps))).await;
        let deps = GcDeps {
            content: drivers.content.clone(),
            flights: drivers.flights.clone(),
            snapshotters: drivers.snapshotters.clone(),
            pool: pool.clone(),
            clock: world.clock.clone(),
            activity: journal.activity().clone(),
            config: gc,
        };
        let gc = world.start(<Gc as Fixed>::SPEC, Gc::new(deps)).await;
        let deps = RestartDeps {
            store: store.clone(),
            journal: journal.clone(),
            tasks: tasks.clone(),
            clock: world.clock.clone(),
            backoff: world.config.restart,
        };
        let restarts = world.start(<Restarts as Fixed>::SPEC, Restarts::new(Arc::new(deps), world.bus.clone())).await;
        let deps = HealthDeps {
            store: store.clone(),
            journal: journal.clone(),
            tasks: tasks.clone(),
            clock: world.clock.clone(),
        };
        let healths = world.start(<Healths as Fixed>::SPEC, Healths::new(Arc::new(deps), world.bus.clone())).await;
        let wharf = Wharf::new(System {
            actors: Actors { namespaces, content, snapshots, images, containers, tasks, gc, restarts, healths },
            attempts: Attempts::default(),
            bus: world.bus.clone(),
            clock: world.clock.clone(),
            config: world.config.clone(),
            drivers,
            started_at: world.clock.now(),
            started_after: Seq(0),
            journal,
            pool,
            store,
            tree: Arc::clone(&world.tree),
        });
        Self { world, wharf, registry, shims }
    }

    /// Has a call done that nothing flows beside.
    pub async fn call<C: Serve>(&self, meta: Meta, call: C) -> Answer<C::Reply> {
        call.serve(self.wharf.clone(), meta, CallIo::none()).await
    }

    /// Has a call done that must succeed, by a caller that retries under the same request id, as the client library does.
    pub async fn again<C: Serve + Clone>(&self, call: C) -> C::Reply {
        let meta = Meta { request_id: next_request_id(), ..super::meta() };
        for _ in 0..20 {
            match self.call(meta.clone(), call.clone()).await {
                Err(refusal) if refusal.is(RefusalKind::Unavailable) => {}
                answer => return answer.unwrap_or_else(|refusal| panic!("{}: {refusal}", C::NAME)),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} is lost each time", C::NAME);
    }

    /// As [`Self::again`], for a call that may be done again, and is refused in these words if it needs not be.
    pub async fn again_or<C: Serve<Reply = ()> + Clone>(&self, call: C, words: &str) {
        let meta = Meta { request_id: next_request_id(), ..super::meta() };
        for attempt in 0..20 {
            match self.call(meta.clone(), call.clone()).await {
                Err(refusal) if refusal.is(RefusalKind::Unavailable) => {}
                Err(refusal) if attempt > 0 && refusal.detail.contains(words) => return,
                answer => return answer.unwrap_or_else(|refusal| panic!("{}: {refusal}", C::NAME)),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} is lost each time", C::NAME);
    }

    /// The folders that a snapshotter has.
    pub fn folders(&self, snapshotter: &SnapshotterName) -> Vec<PathBuf> {
        let folder = self.world.config.root.join("snapshotters").join(snapshotter.as_str()).join("snapshots");
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}
