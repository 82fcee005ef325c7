//! Restart policies through messages: with the real tasks' actors, shims in memory, and a clock that the test moves.

use super::*;
use crate::{
    restarts::Restarts,
    root::Fixed,
    runtime::{Ask, Request},
    testing::{
        meta,
        stage::{Machine, Run, task, web},
    },
};
use std::ops::Deref;
use wharf_messages::{
    container::CreateContainer,
    health::HealthStatus,
    restart::{COUNT_LABEL, LOG_URI_LABEL, POLICY_LABEL, STATUS_LABEL},
    task::Stdio,
};

/// All in all below the patience of a test.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_secs(2),
    good_run: Duration::from_secs(10),
    grace: Duration::from_secs(1),
};

/// A daemon's run, with restart policies.
struct Stage<'w> {
    run: Run<'w>,
    restarts: Handle<Restarts>,
}

impl<'w> Deref for Stage<'w> {
    type Target = Run<'w>;

    fn deref(&self) -> &Run<'w> {
        &self.run
    }
}

impl Machine {
    fn follow(&self, boot_id: &str, test: impl AsyncFnOnce(&Stage<'_>)) {
        self.run(
            boot_id,
            |writer| writer,
            async |_| (),
            async |run| {
                let deps = RestartDeps {
                    store: run.world.store.clone(),
                    journal: run.world.journal.clone(),
                    tasks: run.tasks.clone(),
                    clock: run.world.clock.clone(),
                    backoff: BACKOFF,
                };
                let restarts = Restarts::new(Arc::new(deps), run.world.bus.clone());
                let restarts = run.world.start(<Restarts as Fixed>::SPEC, restarts).await;
                test(&Stage { run, restarts }).await;
            },
        );
    }
}

fn play(test: impl AsyncFnOnce(&Stage<'_>)) {
    Machine::new().follow("boot", test);
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn container(labels: Labels) -> Container {
    crate::testing::stage::container(labels, b"{}")
}

impl Stage<'_> {
    /// Makes the container with a policy, and starts its task as a client does.
    async fn run(&self, policy: &str) {
        let labels = labels(&[(STATUS_LABEL, "running"), (POLICY_LABEL, policy)]);
        self.commit(Change::CreateContainer(container(labels))).await;
        self.start_task().await;
    }

    async fn label(&self, key: &str, value: &str) {
        let container = container(labels(&[(key, value)]));
        self.commit(Change::UpdateContainer(UpdateContainer { container, mask: vec![format!("labels.{key}")] })).await;
    }

    fn labels(&self) -> Labels {
        let reader = self.world.store.read().unwrap();
        reader.container(&task().namespace, &web()).unwrap().unwrap().labels
    }

    fn record(&self) -> Option<RestartRecord> {
        self.world.store.read().unwrap().restart(&task().namespace, &web()).unwrap()
    }

    async fn until_phase(&self, phase: RestartPhase) -> RestartRecord {
        self.world.until(|| self.record().is_some_and(|record| record.phase == phase)).await;
        self.record().unwrap()
    }

    /// Lets more time go by than anything waits for.
    async fn long_after(&self) {
        self.pass(BACKOFF.max + BACKOFF.grace).await;
    }

    /// The task ends, after it ran for so long.
    async fn exit(&self, code: u32, ran: Duration) {
        self.watched().await;
        self.world.clock.advance(ran);
        self.shims.exit_at(&task(), code, self.world.clock.now());
    }

    /// Lets time go on until the task was started so often.
    async fn until_starts(&self, count: usize) {
        self.in_time(|| self.starts() == count && self.record().is_none()).await;
        self.watched().await;
    }

    fn starts(&self) -> usize {
        self.world.events().iter().filter(|event| matches!(event, Event::TaskStarted { .. })).count()
    }

    /// What was told of restarts: `1 due in 100 ms: it ended with 3`, `given up after 2: ...`.
    fn told(&self) -> Vec<String> {
        let line = |record: wharf_messages::event::EventRecord| match record.event {
            Event::RestartScheduled { restarts, due_at, reason, .. } => {
                Some(format!("{restarts} due in {} ms: {reason}", due_at.since(record.at).as_millis()))
            }
            Event::RestartGivenUp { restarts, reason, .. } => Some(format!("given up after {restarts}: {reason}")),
            _ => None,
        };
        self.world.records().into_iter().filter_map(line).collect()
    }

    /// Has the policy's actor panic.
    async fn panic(&self) {
        let refusal = self.restarts.ask(meta(), Poison { container_id: web() }).await.unwrap_err();
        assert!(refusal.is(RefusalKind::Unavailable), "{refusal}");
    }
}

const SHORT: Duration = Duration::from_millis(1);

#[test]
fn a_task_that_fails_is_started_again_after_longer_and_longer_rests() {
    play(async |stage| {
        stage.run("always").await;
        for (restart, rest) in [(1, 100), (2, 200), (3, 400)] {
            stage.exit(restart, SHORT).await;
            let record = stage.until_phase(RestartPhase::Waiting).await;
            assert_eq!(record.due_at.since(record.since), Duration::from_millis(rest));
            stage.until_starts(restart as usize + 1).await;
            assert!(stage.row().unwrap().created_at >= record.due_at, "not a moment before");
            assert_eq!(stage.labels()[COUNT_LABEL], restart.to_string());
        }
        let told = [
            "1 due in 100 ms: it ended with 1",
            "2 due in 200 ms: it ended with 2",
            "3 due in 400 ms: it ended with 3",
        ];
        assert_eq!(stage.told(), told);
        // A good run is forgiven everything.
        stage.exit(4, BACKOFF.good_run).await;
        assert_eq!(stage.until_phase(RestartPhase::Waiting).await.restarts, 1);
        stage.until_starts(5).await;
        assert_eq!(stage.labels()[COUNT_LABEL], "1");
    });
}

#[test]
fn on_failure_stops_after_its_number_and_at_success() {
    play(async |stage| {
        stage.run("on-failure:2").await;
        for restart in 1..=2 {
            stage.exit(3, SHORT).await;
            stage.until_phase(RestartPhase::Waiting).await;
            stage.until_starts(restart + 1).await;
        }
        stage.exit(3, SHORT).await;
        stage.until_phase(RestartPhase::GivenUp).await;
        assert_eq!(stage.told().last().unwrap(), "given up after 2: it ended with 3, after 2 restarts");
        stage.long_after().await;
        assert_eq!(stage.starts(), 3);
        // A user starts it again, and it ends well: that is its end.
        stage.delete_task().await.unwrap();
        stage.start_task().await;
        stage.world.until(|| stage.record().is_none()).await;
        stage.exit(0, SHORT).await;
        stage.world.until(|| stage.row().is_some_and(|row| row.init.exit.is_some())).await;
        stage.long_after().await;
        assert_eq!((stage.starts(), stage.record(), stage.told().len()), (4, None, 3));
    });
}

#[test]
fn the_new_task_writes_to_the_containers_log() {
    play(async |stage| {
        stage.run("always").await;
        stage.label(LOG_URI_LABEL, "file:///log").await;
        stage.exit(1, SHORT).await;
        stage.until_phase(RestartPhase::Waiting).await;
        stage.until_starts(2).await;
        let stdio = stage.row().unwrap().init.stdio;
        assert_eq!(stdio, Stdio { stdout: "file:///log".into(), stderr: "file:///log".into(), ..Stdio::default() });
    });
}

#[test]
fn a_users_stop_is_remembered_and_cancels_what_waits() {
    for policy in ["always", "unless-stopped", "on-failure"] {
        play(async |stage| {
            stage.run(policy).await;
            // While it runs: its end is the user's.
            stage.label(EXPLICITLY_STOPPED_LABEL, "true").await;
            stage.exit(137, SHORT).await;
            stage.world.until(|| stage.row().is_some_and(|row| row.init.exit.is_some())).await;
            stage.long_after().await;
            assert_eq!((stage.starts(), stage.told()), (1, Vec::new()), "{policy}");
            // While it rests.
            stage.delete_task().await.unwrap();
            stage.label(EXPLICITLY_STOPPED_LABEL, "false").await;
            stage.start_task().await;
            stage.exit(1, SHORT).await;
            stage.until_phase(RestartPhase::Waiting).await;
            stage.label(EXPLICITLY_STOPPED_LABEL, "true").await;
            stage.world.until(|| stage.record().is_none()).await;
            stage.long_after().await;
            assert_eq!(stage.told().last().unwrap(), "given up after 1: a user has stopped it", "{policy}");
            assert_eq!(stage.starts(), 2, "{policy}");
        });
    }
}

#[test]
fn a_stop_that_comes_while_the_task_is_started_ends_it() {
    play(async |stage| {
        stage.run("always").await;
        let gate = stage.shims.hold("create");
        stage.exit(1, SHORT).await;
        stage.in_time(|| stage.record().is_some_and(|record| record.phase == RestartPhase::Starting)).await;
        gate.reached().await;
        assert_eq!(stage.record().unwrap().phase, RestartPhase::Starting);
        stage.label(EXPLICITLY_STOPPED_LABEL, "true").await;
        gate.open();
        stage.world.until(|| stage.record().is_none() && stage.row().is_none()).await;
        assert!(stage.shims.is_clean());
        stage.long_after().await;
        assert_eq!(stage.row(), None);
    });
}

#[test]
fn a_container_that_is_deleted_while_it_rests_stays_deleted() {
    play(async |stage| {
        stage.run("always").await;
        stage.exit(1, SHORT).await;
        stage.until_phase(RestartPhase::Waiting).await;
        stage.delete_task().await.unwrap();
        // Its grace keeps the policy from making another task under the client's hands.
        let due = stage.world.clock.now().plus(BACKOFF.first * 2);
        stage.in_time(|| stage.world.clock.now() >= due).await;
        stage.commit(Change::DeleteContainer(web())).await;
        stage.long_after().await;
        assert_eq!((stage.starts(), stage.record()), (1, None));
        assert!(stage.shims.is_clean());
        // Another one of its name is another one.
        stage.run("no").await;
        stage.exit(1, SHORT).await;
        stage.long_after().await;
        assert_eq!(stage.starts(), 2);
    });
}

#[test]
fn a_client_that_deletes_the_task_and_does_no_more_gets_a_new_one() {
    play(async |stage| {
        stage.run("on-failure").await;
        stage.exit(1, SHORT).await;
        stage.until_phase(RestartPhase::Waiting).await;
        stage.delete_task().await.unwrap();
        stage.world.until(|| stage.row().is_none()).await;
        stage.until_starts(2).await;
    });
}

#[test]
fn a_label_alone_stops_and_starts_a_task() {
    play(async |stage| {
        stage.run("always").await;
        stage.label(STATUS_LABEL, "stopped").await;
        stage.world.until(|| stage.row().is_none()).await;
        assert!(stage.shims.is_clean());
        stage.label(STATUS_LABEL, "running").await;
        stage.pass(BACKOFF.grace / 2).await;
        assert_eq!(stage.row(), None, "whoever changes it may start the task itself");
        stage.until_starts(2).await;
        // Without the label it is nobody's business.
        stage.label(STATUS_LABEL, "").await;
        stage.exit(1, SHORT).await;
        stage.world.until(|| stage.row().is_some_and(|row| row.init.exit.is_some())).await;
        stage.long_after().await;
        assert_eq!((stage.starts(), stage.record()), (2, None));
    });
}

#[test]
fn an_unhealthy_task_is_ended_and_started_again_with_a_rest() {
    play(async |stage| {
        stage.run("on-failure:1").await;
        let unhealthy = || {
            let event = Event::HealthChanged { container_id: web(), status: HealthStatus::Unhealthy, failing: 3 };
            stage.world.journal.commit(Commit::new(&task().namespace).event(event))
        };
        // It ran for long, and that is none of its merits.
        stage.world.clock.advance(BACKOFF.good_run);
        unhealthy().await.unwrap();
        let record = stage.until_phase(RestartPhase::Waiting).await;
        assert_eq!((record.restarts, record.reason.as_str()), (1, "it is unhealthy"));
        stage.until_starts(2).await;
        // Its policy allows no other restart: better an ill one than none.
        unhealthy().await.unwrap();
        stage.long_after().await;
        assert!(stage.row().unwrap().init.exit.is_none());
    });
}

#[test]
fn a_task_that_cannot_be_started_rests_like_one_that_failed() {
    play(async |stage| {
        stage.run("on-failure:2").await;
        stage.shims.refuse("launch", Refusal::not_found("no such shim"));
        stage.exit(1, SHORT).await;
        stage.in_time(|| stage.told().len() == 2).await;
        assert!(stage.told()[1].starts_with("2 due in 200 ms: it could not be started: no such shim"));
        stage.shims.refuse("start", Refusal::internal("exec format error"));
        stage.in_time(|| stage.told().len() == 3).await;
        assert!(stage.told()[2].contains("exec format error, after 2 restarts"), "{:?}", stage.told());
        stage.world.until(|| stage.shims.is_clean()).await;
    });
}

#[test]
fn a_daemon_that_dies_while_a_task_rests_waits_for_the_rest_of_the_time() {
    let machine = Machine::new();
    machine.follow("boot", async |stage| {
        stage.run("on-failure:3").await;
        stage.exit(1, SHORT).await;
        stage.until_phase(RestartPhase::Waiting).await;
    });
    machine.follow("boot", async |stage| {
        let due_at = stage.record().unwrap().due_at;
        stage.until_starts(2).await;
        assert!(stage.row().unwrap().created_at >= due_at);
        assert_eq!((stage.labels()[COUNT_LABEL].as_str(), stage.told().len()), ("1", 1));
    });
}

#[test]
fn a_daemon_that_dies_in_the_middle_of_a_start_finishes_it() {
    let machine = Machine::new();
    machine.follow("boot", async |stage| {
        stage.run("on-failure:1").await;
        stage.exit(1, SHORT).await;
        stage.until_phase(RestartPhase::Waiting).await;
        // What the daemon has done when it is killed between two commits.
        let begun = RestartRecord { phase: RestartPhase::Starting, ..stage.record().unwrap() };
        stage.commit(Change::BeginRestart(begun)).await;
        stage.delete_task().await.unwrap();
    });
    machine.follow("boot", async |stage| {
        stage.until_starts(2).await;
        assert_eq!(stage.labels()[COUNT_LABEL], "1");
    });
}

#[test]
fn ends_that_nobody_saw_are_followed_when_the_daemon_comes_back() {
    let machine = Machine::new();
    machine.follow("boot", async |stage| stage.run("on-failure").await);
    machine.shims.exit(&task(), None, 9);
    machine.follow("boot", async |stage| {
        let record = stage.until_phase(RestartPhase::Waiting).await;
        assert_eq!(record.reason, "it ended with 9");
    });
}

/// What a daemon does with a task that a user stopped, when it starts and when the machine does.
#[test]
fn after_a_restart_and_after_a_boot_always_and_unless_stopped_are_as_docker_defines_them() {
    for boot in ["boot", "next boot"] {
        for (policy, by_user, starts) in [
            ("always", false, 2),
            ("always", true, 2),
            ("unless-stopped", false, 2),
            ("unless-stopped", true, 1),
            ("on-failure", true, 1),
            ("no", false, 1),
        ] {
            let machine = Machine::new();
            machine.follow("boot", async |stage| {
                stage.run(policy).await;
                if by_user {
                    stage.label(EXPLICITLY_STOPPED_LABEL, "true").await;
                    stage.exit(137, SHORT).await;
                    stage.world.until(|| stage.row().is_some_and(|row| row.init.exit.is_some())).await;
                }
            });
            if !by_user {
                // The machine, or the shim, goes down with the task.
                machine.shims.die(&task());
            }
            machine.follow(boot, async |stage| {
                stage.world.until(|| stage.row().is_some_and(|row| row.init.exit.is_some())).await;
                if starts == 2 {
                    stage.until_starts(2).await;
                    let stopped = stage.labels().get(EXPLICITLY_STOPPED_LABEL).cloned().unwrap_or_default();
                    assert_ne!(stopped, "true", "what runs is not stopped, {policy}, {boot}");
                } else {
                    stage.long_after().await;
                    assert_eq!(stage.starts(), 1, "{policy}, by user {by_user}, {boot}");
                }
            });
        }
    }
}

#[test]
fn an_actor_that_panics_goes_on_from_its_row() {
    play(async |stage| {
        stage.run("on-failure").await;
        stage.exit(1, SHORT).await;
        stage.until_phase(RestartPhase::Waiting).await;
        stage.panic().await;
        stage.world.until(|| stage.world.events().iter().any(|e| matches!(e, Event::ChildRestarted { .. }))).await;
        stage.until_starts(2).await;
        assert_eq!(stage.told().len(), 1);
    });
}

#[test]
fn a_container_made_by_a_client_with_a_policy_is_left_to_it() {
    play(async |stage| {
        let labels = labels(&[(STATUS_LABEL, "running"), (POLICY_LABEL, "unless-stopped")]);
        let create = CreateContainer { container: container(labels) };
        stage.commit(Change::CreateContainer(create.container)).await;
        stage.start_task().await;
        // It fails at once: that is no reason to wait for the client any longer.
        stage.exit(1, SHORT).await;
        stage.until_phase(RestartPhase::Waiting).await;
        stage.until_starts(2).await;
    });
}

/// Makes a policy's actor panic.
#[derive(Debug, Clone)]
struct Poison {
    container_id: ContainerId,
}

impl Request for Poison {
    type Reply = ();
    const NAME: &'static str = "restart.poison";
    const QUERY: bool = false;
}

impl Handler<Ask<Poison>> for RestartActor {
    type Result = ();

    fn handle(&mut self, _: Ask<Poison>, _: &mut Ctx<Self>) {
        panic!("poisoned");
    }
}

crate::route!(Restarts by container_id: Poison);
