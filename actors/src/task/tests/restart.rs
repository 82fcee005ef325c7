//! A task that is found again: by a daemon that starts again, or by its own actor.

use super::*;
use crate::drivers::{fake::ENDED, shim::ExitRecord};
use std::time::Duration;
use wharf_messages::{
    RefusalKind,
    event::Event,
    task::{EXIT_KILLED, EXIT_UNKNOWN, PauseTask, TaskStatus},
};
use wharf_store::TaskPhase;

/// A machine with a running task and no daemon.
fn running(execs: &[&str]) -> Machine {
    let machine = Machine::new();
    machine.daemon("boot", async |stage| {
        stage.run().await;
        for name in execs {
            stage.run_exec(name).await;
        }
    });
    machine
}

#[test]
fn a_daemon_stops_beside_running_tasks_at_once() {
    let machine = Machine::new();
    machine.daemon("boot", async |stage| {
        stage.run().await;
        stage.world.until(|| stage.shims.is_watched(&task(), None)).await;
        let began = std::time::Instant::now();
        stage.world.stop().await;
        assert!(began.elapsed() < Duration::from_secs(4), "its budget is 5 s, and nothing is to be waited for");
    });
    assert!(!machine.shims.is_clean());
}

#[test]
fn what_runs_goes_on() {
    let machine = running(&["x"]);
    machine.daemon("boot", async |stage| {
        let waiting = stage.waiting(None);
        stage.kill(Some("x")).await.unwrap();
        stage.kill(None).await.unwrap();
        assert_eq!(waiting.await.unwrap().code, EXIT_KILLED);
        stage.delete(None).await.unwrap();
        assert_eq!(stage.story()[4..], ["exited x 137", "exited 137", "deleted"]);
        assert_eq!(stage.shims.count("launch"), 1);
    });
}

#[test]
fn what_ended_meanwhile_is_told_late_with_its_true_end() {
    let machine = running(&["x"]);
    machine.shims.exit(&task(), Some(&exec("x")), 2);
    machine.shims.oom_kill(&task());
    machine.daemon("boot", async |stage| {
        // Told by itself, before anybody asks.
        stage.until_told("late exited 137").await;
        let exit = stage.wait(None).await.unwrap();
        assert_eq!(exit, Exit { code: 137, exited_at: ENDED, oom: true });
        assert_eq!(stage.story()[4..], ["late exited x 2", "late exited 137"]);
        let deleted = stage.delete(None).await.unwrap();
        assert_eq!(deleted.exit, exit);
    });
}

#[test]
fn what_was_killed_before_its_start_was_never_started() {
    let machine = Machine::new();
    machine.daemon("boot", async |stage| drop(stage.create().await.unwrap()));
    machine.shims.exit(&task(), None, 137);
    machine.daemon("boot", async |stage| {
        stage.until_told("late exited 137").await;
        assert_eq!(stage.story(), ["created", "late exited 137"]);
    });
}

#[test]
fn messages_wait_until_the_shim_is_found() {
    let machine = running(&[]);
    machine.shims.exit(&task(), None, 5);
    let gate = machine.shims.hold("reattach");
    machine.daemon("boot", async |stage| {
        gate.reached().await;
        let deleting =
            tokio::task::spawn_local(stage.tasks.ask(meta(), DeleteTask { container_id: web(), exec_id: None }));
        gate.open();
        assert_eq!(deleting.await.unwrap().unwrap().exit.code, 5);
        assert_eq!(stage.story()[2..], ["late exited 5", "deleted"]);
    });
}

#[test]
fn a_dead_shim_that_left_a_record_is_believed() {
    let machine = running(&["x", "y"]);
    machine.shims.exit(&task(), Some(&exec("x")), 2);
    machine.shims.exit(&task(), None, 7);
    machine.shims.die(&task());
    machine.daemon("boot", async |stage| {
        assert_eq!(stage.wait(None).await.unwrap(), Exit { code: 7, exited_at: ENDED, oom: false });
        assert_eq!(stage.story()[6..], ["late exited x 2", "late exited y 255", "late exited 7"]);
        assert!(stage.shims.is_clean());
        assert_eq!(kind(stage.kill(None).await), RefusalKind::NotFound);
        assert_eq!(stage.delete(None).await.unwrap().exit.code, 7);
    });
    // Once is enough: the next daemon has nothing more to tell.
    machine.daemon("boot", async |stage| assert_eq!(stage.story().len(), 10));
}

#[test]
fn a_dead_shim_without_a_record_was_killed() {
    let machine = running(&[]);
    machine.shims.die(&task());
    machine.daemon("boot", async |stage| {
        let exit = stage.wait(None).await.unwrap();
        assert_eq!((exit.code, exit.exited_at), (EXIT_KILLED, crate::testing::START));
        assert_eq!(stage.story(), ["created", "started", "late exited 137"]);
    });
    // It stays, ended, until it is deleted.
    machine.daemon("boot", async |stage| {
        assert_eq!(stage.wait(None).await.unwrap().code, EXIT_KILLED);
        stage.delete(None).await.unwrap();
        assert_eq!(stage.story().len(), 4);
    });
}

#[test]
fn a_shim_that_hangs_is_given_up() {
    let machine = running(&["x"]);
    machine.shims.hang(&task());
    machine.daemon("boot", async |stage| {
        stage.world.until(|| stage.shims.count("reattach") == 1).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(5)).await;
        tokio::time::resume();
        assert_eq!(stage.wait(None).await.unwrap().code, EXIT_KILLED);
        assert_eq!(stage.story()[4..], ["late exited x 255", "late exited 137"]);
        assert!(stage.shims.is_clean());
    });
}

#[test]
fn a_shim_that_hangs_holds_up_nobody_else() {
    let machine = running(&[]);
    machine.shims.hang(&task());
    machine.daemon("boot", async |stage| {
        let other = ContainerId::new("other").unwrap();
        let commit = Commit::one(&task().namespace, Change::CreateContainer(container(other.clone())));
        stage.world.journal.commit(commit).await.unwrap();
        stage.tasks.ask(meta(), CreateTask { container_id: other, ..create() }).await.unwrap();
        stage.shims.die(&task());
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(5)).await;
        tokio::time::resume();
        stage.until_told("late exited 137").await;
    });
}

#[test]
fn what_was_started_and_frozen_behind_our_back_is_told_late() {
    let machine = Machine::new();
    machine.daemon("boot", async |stage| {
        stage.create().await.unwrap();
        let gate = stage.shims.hold("started");
        let starting = stage.tasks.ask(meta(), StartTask { container_id: web(), exec_id: None });
        gate.reached().await;
        // The daemon goes before it hears the answer.
        drop(starting);
        stage.panic().await;
        gate.open();
        stage.until_told("late started").await;
        assert_eq!(stage.row().unwrap().init.status, TaskStatus::Running);
    });
    machine.daemon("boot", async |stage| {
        stage.tasks.ask(meta(), PauseTask { container_id: web() }).await.unwrap();
        stage.kill(None).await.unwrap();
        stage.wait(None).await.unwrap();
        assert_eq!(stage.story(), ["created", "late started", "paused", "exited 137"]);
    });
}

/// A row as a daemon leaves it that is killed at the worst moment.
async fn leave(stage: &Stage<'_>, phase: TaskPhase) {
    let id = task();
    let row = TaskRow {
        namespace: id.namespace.clone(),
        container_id: id.container.clone(),
        phase,
        bundle: String::new(),
        runtime: Runtime::default(),
        shim: None,
        boot_id: "boot".to_owned(),
        rootfs: Vec::new(),
        init: super::super::new_row(None, Stdio::default()),
        execs: Vec::new(),
        created_at: Timestamp::ZERO,
    };
    stage.world.journal.commit(Commit::one(&id.namespace, Change::CreateTask(row))).await.unwrap();
}

#[test]
fn a_creation_that_was_cut_short_is_undone() {
    let machine = Machine::new();
    machine.run(
        "boot",
        |writer| writer,
        with_container,
        async |run| {
            leave(&Stage(run), TaskPhase::Creating).await;
            machine.shims.stray(&task(), true);
        },
    );
    machine.daemon("boot", async |stage| {
        stage.world.until(|| stage.row().is_none()).await;
        assert!(stage.shims.is_clean());
        // A client does not wait for that: it comes in line.
        stage.run().await;
    });
}

#[test]
fn a_client_that_comes_while_a_creation_is_undone_waits_for_it() {
    let machine = Machine::new();
    machine.run(
        "boot",
        |writer| writer,
        with_container,
        async |run| {
            leave(&Stage(run), TaskPhase::Creating).await;
            machine.shims.stray(&task(), true);
        },
    );
    let gate = machine.shims.hold("clean_up");
    machine.daemon("boot", async |stage| {
        gate.reached().await;
        let creating = tokio::task::spawn_local(stage.tasks.ask(meta(), create()));
        tokio::task::yield_now().await;
        gate.open();
        creating.await.unwrap().unwrap();
        assert_eq!(stage.story(), ["created"]);
    });
}

#[test]
fn a_deletion_that_was_cut_short_is_finished() {
    let machine = running(&[]);
    machine.shims.exit(&task(), None, 4);
    machine.daemon("boot", async |stage| {
        stage.wait(None).await.unwrap();
        let row = TaskRow { phase: TaskPhase::Deleting, ..stage.row().unwrap() };
        stage.world.journal.commit(Commit::one(&task().namespace, Change::PutTask(row))).await.unwrap();
    });
    machine.daemon("boot", async |stage| {
        stage.until_told("late deleted").await;
        assert!(stage.shims.is_clean() && stage.row().is_none());
        stage.run().await;
    });
}

#[test]
fn everything_ends_with_a_boot_once() {
    let machine = running(&["x"]);
    // The state folder went with the boot.
    machine.shims.die(&task());
    for _ in 0..2 {
        machine.daemon("next boot", async |stage| {
            assert_eq!(stage.wait(None).await.unwrap().code, EXIT_UNKNOWN);
            assert_eq!(stage.story()[4..], ["late exited x 255", "late exited 255"]);
            assert_eq!(stage.shims.count("reattach"), 0, "nobody is there to be asked");
        });
    }
    machine.daemon("next boot", async |stage| {
        stage.delete(None).await.unwrap();
        assert!(stage.shims.is_clean());
    });
}

#[test]
fn bundles_without_a_row_are_cleaned_up_after() {
    let machine = running(&[]);
    let stray = |name: &str| TaskId { container: ContainerId::new(name).unwrap(), ..task() };
    machine.shims.stray(&stray("a"), true);
    machine.shims.stray(&stray("b"), false);
    // One that cannot be cleaned up does not keep the others.
    machine.shims.refuse("clean_up", Refusal::internal("busy"));
    machine.daemon("boot", async |stage| {
        stage.world.until(|| stage.shims.count("clean_up") == 2).await;
        stage.kill(None).await.unwrap();
        stage.wait(None).await.unwrap();
        stage.delete(None).await.unwrap();
        assert!(!stage.shims.is_clean(), "the one that was busy is left for the next start");
    });
    machine.daemon("boot", async |stage| assert!(stage.shims.is_clean()));
}

#[test]
fn an_actor_that_panics_finds_its_shim_again() {
    play(async |stage| {
        stage.run().await;
        stage.run_exec("x").await;
        let waiting = stage.waiting(None);
        stage.panic().await;
        // Who waited hears it and asks again.
        assert_eq!(kind(waiting.await), RefusalKind::Unavailable);
        let again = stage.waiting(None);
        stage.kill(Some("x")).await.unwrap();
        stage.kill(None).await.unwrap();
        assert_eq!(again.await.unwrap().code, EXIT_KILLED);
        assert_eq!(stage.story()[4..], ["exited x 137", "exited 137"]);
        let restarted =
            |event: &Event| matches!(event, Event::ChildRestarted { path, .. } if path == "tasks/default/web");
        stage.world.until(|| stage.world.events().iter().any(restarted)).await;
    });
}

#[test]
fn what_an_actor_missed_while_it_rested_is_told_late() {
    play(async |stage| {
        stage.run().await;
        let gate = stage.shims.hold("reattach");
        stage.panic().await;
        gate.reached().await;
        stage.exit(None, 6);
        gate.open();
        assert_eq!(stage.wait(None).await.unwrap().code, 6);
        assert_eq!(stage.story(), ["created", "started", "late exited 6"]);
    });
}

#[test]
fn an_actor_that_panics_while_it_creates_leaves_nothing() {
    play(async |stage| {
        let gate = stage.shims.hold("create");
        let creating = stage.tasks.ask(meta(), create());
        gate.reached().await;
        stage.panic().await;
        assert_eq!(kind(creating.await), RefusalKind::Unavailable);
        gate.open();
        stage.world.until(|| stage.row().is_none() && stage.shims.is_clean()).await;
        stage.run().await;
        assert_eq!(stage.story(), ["created", "started"]);
    });
}

#[test]
fn a_launch_outlives_its_actors_parent_and_leaves_nothing() {
    play(async |stage| {
        let gate = stage.shims.hold("launch");
        let creating = stage.tasks.ask(meta(), create());
        gate.reached().await;
        let later = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            gate.open();
        };
        let (restarted, ()) = tokio::join!(stage.world.tree.restart("tasks"), later);
        restarted.unwrap();
        assert!(creating.await.is_err());
        stage.world.until(|| stage.row().is_none() && stage.shims.is_clean()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(stage.shims.is_clean(), "nothing came after the cleaning");
        stage.run().await;
    });
}

#[test]
fn a_record_beside_a_shim_that_lives_says_more() {
    let machine = running(&[]);
    machine.shims.exit(&task(), None, 137);
    let record =
        ExitRecord { version: 1, pid: 101, status: 137, exited_at_ns: ENDED.0, oom_killed: true, started: true };
    machine.shims.record(&task(), record);
    machine.daemon("boot", async |stage| assert!(stage.wait(None).await.unwrap().oom));
}
