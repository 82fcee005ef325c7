//! Health checks through messages: with the real tasks' actors, shims in memory, and a clock that the test moves.

use super::*;
use crate::{
    drivers::{fake::FakeShims, shim::TaskId, snapshotter::Native},
    healths::Healths,
    root::Fixed,
    snapshots::Snapshotters,
    task::TaskDeps,
    testing::{World, meta, run_with},
};
use tempfile::TempDir;
use wharf_messages::{
    ExecId, Labels,
    container::{Runtime, UpdateContainer},
    health::{HEALTHCHECK_LABEL, HealthStatus},
    task::{CreateTask, DeleteTask, KillTask, PauseTask, ResumeTask, Rootfs, StartTask, Stdio},
};

const CHECK: &str = r#"{"Test":["CMD","probe"],"Interval":1000000000,"Timeout":400000000,"Retries":2}"#;
const INTERVAL: Duration = Duration::from_secs(1);
/// How far the clock goes on at once.
const STEP: Duration = Duration::from_millis(50);

struct Machine {
    root: TempDir,
    shims: FakeShims,
}

struct Stage<'w> {
    world: &'w World,
    shims: FakeShims,
    tasks: Handle<Tasks>,
}

impl Machine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), shims: FakeShims::default() }
    }

    fn daemon(&self, test: impl AsyncFnOnce(&Stage<'_>)) {
        run_with(
            self.root.path(),
            |writer| writer,
            async |world| {
                let native = Arc::new(Native::open(&world.config.root.join("snapshotters/native")).unwrap());
                let deps = TaskDeps {
                    store: world.store.clone(),
                    journal: world.journal.clone(),
                    shims: Arc::new(self.shims.clone()),
                    snapshotters: Snapshotters::new(vec![native], "native", &world.store).unwrap(),
                    clock: world.clock.clone(),
                    boot_id: "boot".to_owned(),
                };
                let tasks = world.start(<Tasks as Fixed>::SPEC, Tasks::new(Arc::new(deps))).await;
                let deps = HealthDeps {
                    store: world.store.clone(),
                    journal: world.journal.clone(),
                    tasks: tasks.clone(),
                    clock: world.clock.clone(),
                };
                let healths = Healths::new(Arc::new(deps), world.bus.clone());
                world.start(<Healths as Fixed>::SPEC, healths).await;
                test(&Stage { world, shims: self.shims.clone(), tasks }).await;
            },
        );
    }
}

fn web() -> ContainerId {
    ContainerId::new("web").unwrap()
}

fn task() -> TaskId {
    TaskId { namespace: meta().namespace.unwrap(), container: web() }
}

fn probe() -> ExecId {
    ExecId::new("wharf-probe").unwrap()
}

fn container(check: &str) -> Container {
    Container {
        id: web(),
        labels: Labels::from([(HEALTHCHECK_LABEL.to_owned(), check.to_owned())]),
        image: String::new(),
        runtime: Runtime::default(),
        spec: Some(Any::new(Any::SPEC, *br#"{"process":{"args":["sh"],"terminal":true,"cwd":"/srv"}}"#)),
        snapshotter: None,
        snapshot_key: None,
        created_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
        extensions: Default::default(),
        sandbox: String::new(),
    }
}

impl Stage<'_> {
    async fn commit(&self, change: Change) {
        self.world.journal.commit(Commit::one(&task().namespace, change)).await.unwrap();
    }

    async fn run(&self, check: &str) {
        self.commit(Change::CreateContainer(container(check))).await;
        self.start().await;
        self.world.until(|| self.health().is_some()).await;
    }

    async fn start(&self) {
        let create = CreateTask {
            container_id: web(),
            rootfs: Rootfs::Mounts(Vec::new()),
            stdio: Stdio::default(),
            options: None,
            runtime_path: String::new(),
            checkpoint: None,
        };
        self.tasks.ask(meta(), create).await.unwrap();
        self.tasks.ask(meta(), StartTask { container_id: web(), exec_id: None }).await.unwrap();
        self.world.until(|| self.shims.is_watched(&task(), None)).await;
    }

    fn health(&self) -> Option<HealthRecord> {
        self.world.store.read().unwrap().health(&task().namespace, &web()).unwrap()
    }

    /// Lets time go on until it is so, and whoever waits for the disk get on meanwhile.
    async fn in_time(&self, mut so: impl FnMut() -> bool) {
        while !so() {
            self.world.clock.advance(STEP);
            tokio::time::pause();
            tokio::time::advance(STEP).await;
            tokio::time::resume();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn pass(&self, time: Duration) {
        let end = self.world.clock.now().plus(time);
        self.in_time(|| self.world.clock.now() >= end).await;
    }

    /// Lets time go on until the next probe runs.
    async fn probing(&self) {
        self.in_time(|| self.shims.is_watched(&task(), Some(&probe()))).await;
    }

    fn probes(&self) -> usize {
        self.shims.count("exec wharf-probe")
    }

    /// The next probe comes and ends with this code.
    async fn probed(&self, code: u32) {
        let before = self.probes();
        self.probing().await;
        assert_eq!(self.probes(), before + 1);
        self.shims.exit(&task(), Some(&probe()), code);
        let deleted = before + 1;
        self.world.until(|| self.shims.count("delete wharf-probe") >= deleted).await;
    }

    async fn until(&self, status: HealthStatus, failing: u32) {
        let is = |health: HealthRecord| (health.status, health.failing) == (status, failing);
        self.world.until(|| self.health().is_some_and(is)).await;
    }

    fn told(&self) -> Vec<HealthStatus> {
        let status = |event| match event {
            Event::HealthChanged { status, .. } => Some(status),
            _ => None,
        };
        self.world.events().into_iter().filter_map(status).collect()
    }
}

use HealthStatus::{Healthy, Starting, Unhealthy};

#[test]
fn probes_say_how_a_task_fares() {
    Machine::new().daemon(async |stage| {
        stage.run(CHECK).await;
        stage.until(Starting, 0).await;
        assert_eq!(stage.probes(), 0, "the first comes after an interval");
        stage.probed(0).await;
        stage.until(Healthy, 0).await;
        stage.probed(0).await;
        stage.probed(7).await;
        stage.until(Healthy, 1).await;
        assert_eq!(stage.health().unwrap().last_failure, "it ended with 7");
        stage.probed(7).await;
        stage.until(Unhealthy, 2).await;
        stage.probed(0).await;
        stage.until(Healthy, 0).await;
        assert_eq!(stage.told(), [Starting, Healthy, Unhealthy, Healthy]);
        // HEALTH-1: not a word of the probes themselves.
        let of_execs = |event: &Event| {
            matches!(event, Event::TaskExecAdded { .. } | Event::TaskExecStarted { .. })
                || matches!(event, Event::TaskExited { exec_id: Some(_), .. })
        };
        assert!(!stage.world.events().iter().any(of_execs));
    });
}

#[test]
fn a_probe_that_takes_too_long_is_killed_and_has_failed() {
    Machine::new().daemon(async |stage| {
        stage.run(CHECK).await;
        stage.probing().await;
        stage.in_time(|| stage.health().is_some_and(|health| health.failing == 1)).await;
        assert_eq!(stage.health().unwrap().last_failure, "it took longer than 400 ms");
        assert_eq!((stage.shims.count("kill wharf-probe"), stage.shims.count("delete wharf-probe")), (1, 1));
        // The next one comes an interval after that, not before.
        let ended_at = stage.world.clock.now();
        stage.probing().await;
        assert!(stage.world.clock.now().since(ended_at) >= INTERVAL - STEP * 2);
        assert_eq!(stage.probes(), 2);
    });
}

#[test]
fn a_command_that_is_not_there_has_failed() {
    Machine::new().daemon(async |stage| {
        stage.run(CHECK).await;
        for _ in 0..2 {
            stage.shims.refuse("start wharf-probe", Refusal::invalid("exec: \"probe\": not in $PATH"));
            let before = stage.probes();
            stage.in_time(|| stage.probes() == before + 1).await;
        }
        stage.until(Unhealthy, 2).await;
        assert!(stage.health().unwrap().last_failure.contains("not in $PATH"));
        // What was added for it is gone: the next one has its place.
        stage.probed(0).await;
        stage.until(Healthy, 0).await;
    });
}

#[test]
fn failures_do_not_count_while_it_starts() {
    Machine::new().daemon(async |stage| {
        stage.run(&CHECK.replace('}', r#","StartPeriod":2500000000}"#)).await;
        let made_at = stage.world.clock.now();
        for _ in 0..2 {
            stage.probed(1).await;
            stage.until(Starting, 0).await;
        }
        let failing = |failing| move |health: HealthRecord| health.failing == failing;
        while !stage.health().is_some_and(failing(1)) {
            stage.probed(1).await;
        }
        assert!(stage.world.clock.now().since(made_at) >= Duration::from_millis(2500));
        while !stage.health().is_some_and(failing(2)) {
            stage.probed(1).await;
        }
        assert_eq!(stage.health().unwrap().status, Unhealthy);
    });
}

#[test]
fn probes_end_with_their_task_and_begin_with_the_next() {
    Machine::new().daemon(async |stage| {
        stage.run(CHECK).await;
        stage.probed(0).await;
        stage.until(Healthy, 0).await;
        // It ends in the middle of a probe.
        stage.probing().await;
        stage.shims.exit(&task(), Some(&probe()), 137);
        let kill = KillTask { container_id: web(), exec_id: None, signal: 9, all: true };
        stage.tasks.ask(meta(), kill).await.unwrap();
        stage.world.until(|| stage.world.events().iter().any(|e| matches!(e, Event::TaskExited { .. }))).await;
        stage.tasks.ask(meta(), DeleteTask { container_id: web(), exec_id: None }).await.unwrap();
        assert_eq!(stage.health(), None);
        let before = stage.probes();
        for _ in 0..3 {
            stage.pass(INTERVAL).await;
        }
        assert_eq!(stage.probes(), before);
        stage.world.clock.advance(Duration::from_secs(1));
        stage.start().await;
        stage.until(Starting, 0).await;
        stage.probed(0).await;
        stage.until(Healthy, 0).await;
    });
}

#[test]
fn a_frozen_task_is_not_probed() {
    Machine::new().daemon(async |stage| {
        stage.run(CHECK).await;
        stage.tasks.ask(meta(), PauseTask { container_id: web() }).await.unwrap();
        for _ in 0..3 {
            stage.pass(INTERVAL).await;
        }
        assert_eq!(stage.probes(), 0);
        stage.tasks.ask(meta(), ResumeTask { container_id: web() }).await.unwrap();
        stage.probed(0).await;
        stage.until(Healthy, 0).await;
    });
}

#[test]
fn a_daemon_that_comes_back_goes_on_where_it_was() {
    let machine = Machine::new();
    machine.daemon(async |stage| {
        stage.run(CHECK).await;
        stage.probed(0).await;
        stage.probed(1).await;
        stage.until(Healthy, 1).await;
        // It dies in the middle of a probe, which stays.
        stage.probing().await;
    });
    machine.daemon(async |stage| {
        stage.until(Healthy, 1).await;
        let (killed, started) = (stage.shims.count("kill wharf-probe"), stage.shims.count("start wharf-probe"));
        stage.in_time(|| stage.shims.count("started wharf-probe") > started).await;
        stage.probing().await;
        assert_eq!(stage.shims.count("kill wharf-probe"), killed + 1, "what was left is ended first");
        stage.shims.exit(&task(), Some(&probe()), 1);
        stage.until(Unhealthy, 2).await;
        assert_eq!(stage.told(), [Starting, Healthy, Unhealthy]);
    });
}

#[test]
fn a_check_that_is_taken_away_is_made_no_more() {
    Machine::new().daemon(async |stage| {
        stage.run(CHECK).await;
        let container = Container { labels: Labels::new(), ..container("") };
        let mask = vec![format!("labels.{HEALTHCHECK_LABEL}")];
        stage.commit(Change::UpdateContainer(UpdateContainer { container, mask })).await;
        stage.pass(INTERVAL).await;
        stage.pass(INTERVAL).await;
        assert_eq!(stage.probes(), 0);
    });
}

#[test]
fn the_probe_is_a_process_of_the_container() {
    let check = HealthCheck::of(&container(CHECK).labels).unwrap().unwrap();
    let process = process(&container(CHECK), &check).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&process.value).unwrap();
    assert_eq!(json, serde_json::json!({"args": ["probe"], "terminal": false, "cwd": "/srv"}));
    let bare = Container { spec: None, ..container(CHECK) };
    assert!(super::process(&bare, &check).unwrap_err().detail.contains("container web"));
}
