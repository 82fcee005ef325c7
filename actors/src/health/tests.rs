//! Health checks through messages: with the real tasks' actors, shims in memory, and a clock that the test moves.

use super::*;
use crate::{
    healths::Healths,
    root::Fixed,
    testing::{
        meta,
        stage::{Machine, Run, STEP, task, web},
    },
};
use std::ops::Deref;
use wharf_messages::{
    ExecId, Labels,
    container::UpdateContainer,
    health::{HEALTHCHECK_LABEL, HealthStatus},
    task::{DeleteTask, KillTask, PauseTask, ResumeTask},
};

const CHECK: &str = r#"{"Test":["CMD","probe"],"Interval":1000000000,"Timeout":400000000,"Retries":2}"#;
const INTERVAL: Duration = Duration::from_secs(1);

/// A daemon's run, with health checks.
struct Stage<'w>(Run<'w>);

impl<'w> Deref for Stage<'w> {
    type Target = Run<'w>;

    fn deref(&self) -> &Run<'w> {
        &self.0
    }
}

impl Machine {
    fn check(&self, test: impl AsyncFnOnce(&Stage<'_>)) {
        self.run(
            "boot",
            |writer| writer,
            async |_| (),
            async |run| {
                let deps = HealthDeps {
                    store: run.world.store.clone(),
                    journal: run.world.journal.clone(),
                    tasks: run.tasks.clone(),
                    clock: run.world.clock.clone(),
                };
                let healths = Healths::new(Arc::new(deps), run.world.bus.clone());
                run.world.start(<Healths as Fixed>::SPEC, healths).await;
                test(&Stage(run)).await;
            },
        );
    }
}

fn probe() -> ExecId {
    ExecId::new("wharf-probe").unwrap()
}

fn container(check: &str) -> Container {
    let labels = Labels::from([(HEALTHCHECK_LABEL.to_owned(), check.to_owned())]);
    crate::testing::stage::container(labels, br#"{"process":{"args":["sh"],"terminal":true,"cwd":"/srv"}}"#)
}

impl Stage<'_> {
    async fn run(&self, check: &str) {
        self.commit(Change::CreateContainer(container(check))).await;
        self.start_task().await;
        self.world.until(|| self.health().is_some()).await;
    }

    fn health(&self) -> Option<HealthRecord> {
        self.world.store.read().unwrap().health(&task().namespace, &web()).unwrap()
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
    Machine::new().check(async |stage| {
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
    Machine::new().check(async |stage| {
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
    Machine::new().check(async |stage| {
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
    Machine::new().check(async |stage| {
        stage.run(&CHECK.replace('}', r#","StartPeriod":2500000000}"#)).await;
        let made_at = stage.world.clock.now();
        for _ in 0..2 {
            stage.probed(1).await;
            stage.until(Starting, 0).await;
        }
        // The record may tell of a probe only after the next one has begun.
        let failing = |failing| move |health: HealthRecord| health.failing >= failing;
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
    Machine::new().check(async |stage| {
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
        stage.start_task().await;
        stage.until(Starting, 0).await;
        stage.probed(0).await;
        stage.until(Healthy, 0).await;
    });
}

#[test]
fn a_frozen_task_is_not_probed() {
    Machine::new().check(async |stage| {
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
    machine.check(async |stage| {
        stage.run(CHECK).await;
        stage.probed(0).await;
        stage.probed(1).await;
        stage.until(Healthy, 1).await;
        // It dies in the middle of a probe, which stays.
        stage.probing().await;
    });
    machine.check(async |stage| {
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
    Machine::new().check(async |stage| {
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
