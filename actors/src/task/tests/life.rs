//! A task's own life: made, started, ended, deleted, and asked things in between.

use super::*;
use crate::{
    drivers::{fake::ENDED, shim::ShimEvent},
    task::ReadFigures,
};
use wharf_messages::{
    RefusalKind,
    task::{CheckpointTask, CloseIo, EXIT_KILLED, ListPids, PauseTask, ResizePty, ResumeTask, TaskStatus, UpdateTask},
};

#[test]
fn a_life_from_beginning_to_end() {
    play(async |stage| {
        let made = stage.create().await.unwrap();
        assert_eq!((made.pid, made.status, made.exit), (101, TaskStatus::Created, None));
        let running = stage.start(None).await.unwrap();
        assert_eq!((running.pid, running.status), (101, TaskStatus::Running));
        let waiting = stage.waiting(None);
        stage.exit(None, 3);
        let exit = Exit { code: 3, exited_at: ENDED, oom: false };
        assert_eq!(waiting.await, Ok(exit));
        // Whoever comes late hears it, too, and the row says it.
        assert_eq!(stage.wait(None).await, Ok(exit));
        assert_eq!(stage.row().unwrap().init.exit, Some(exit));
        assert_eq!(stage.delete(None).await, Ok(DeletedProcess { pid: 101, exit }));
        assert_eq!(stage.story(), ["created", "started", "exited 3", "deleted"]);
        assert!(stage.shims.is_clean() && stage.row().is_none());
        assert_eq!(kind(stage.wait(None).await), RefusalKind::NotFound);
    });
}

#[test]
fn a_name_can_be_used_again_at_once() {
    play(async |stage| {
        for _ in 0..3 {
            stage.run().await;
            stage.exit(None, 0);
            stage.wait(None).await.unwrap();
            stage.delete(None).await.unwrap();
        }
        assert_eq!(stage.story().len(), 12);
    });
}

#[test]
fn two_creators_make_one() {
    play(async |stage| {
        let gate = stage.shims.hold("launch");
        let first = stage.tasks.ask(meta(), create());
        gate.reached().await;
        assert_eq!(kind(stage.create().await), RefusalKind::AlreadyExists);
        // Between intent and shim only waiting is legal.
        assert_eq!(kind(stage.start(None).await), RefusalKind::FailedPrecondition);
        assert_eq!(kind(stage.delete(None).await), RefusalKind::FailedPrecondition);
        gate.open();
        first.await.unwrap();
        assert_eq!(kind(stage.create().await), RefusalKind::AlreadyExists);
        assert_eq!(stage.shims.count("launch"), 1);
        assert_eq!(stage.story(), ["created"]);
    });
}

#[test]
fn a_container_that_is_not_there_has_no_task() {
    play(async |stage| {
        let other = CreateTask { container_id: ContainerId::new("other").unwrap(), ..create() };
        assert_eq!(kind(stage.tasks.ask(meta(), other).await), RefusalKind::NotFound);
        for answer in [stage.start(None).await.err(), stage.kill(None).await.err(), stage.delete(None).await.err()] {
            assert_eq!(answer.unwrap().kind, RefusalKind::NotFound);
        }
        assert!(stage.shims.calls().is_empty());
    });
}

#[test]
fn a_task_that_cannot_be_made_leaves_nothing() {
    play(async |stage| {
        let words = "no such command";
        for (call, told) in [("launch", words.to_owned()), ("create", format!("failed to create shim task: {words}"))] {
            stage.shims.refuse(call, Refusal::invalid(words));
            let refusal = stage.create().await.unwrap_err();
            assert_eq!(refusal, Refusal::invalid(told));
            assert!(stage.row().is_none() && stage.shims.is_clean() && stage.story().is_empty());
        }
        let snapshot = CreateTask { rootfs: Rootfs::Snapshot, ..create() };
        assert_eq!(kind(stage.tasks.ask(meta(), snapshot).await), RefusalKind::FailedPrecondition);
        assert!(stage.row().is_none() && stage.shims.is_clean());
        stage.run().await;
    });
}

#[test]
fn who_waits_for_a_task_in_making_hears_that_it_was_not_made() {
    play(async |stage| {
        let gate = stage.shims.hold("create");
        stage.shims.refuse("create", Refusal::internal("unused"));
        let creating = stage.tasks.ask(meta(), create());
        gate.reached().await;
        let waiting = stage.waiting(None);
        // Its shim goes away under it.
        stage.shims.die(&task());
        gate.open();
        assert_eq!(kind(creating.await), RefusalKind::Unavailable);
        assert_eq!(kind(waiting.await), RefusalKind::NotFound);
        assert!(stage.row().is_none() && stage.shims.is_clean());
    });
}

#[test]
fn an_end_before_the_starts_answer_is_told_after_it() {
    play(async |stage| {
        stage.create().await.unwrap();
        let gate = stage.shims.hold("started");
        let starting =
            tokio::task::spawn_local(stage.tasks.ask(meta(), StartTask { container_id: web(), exec_id: None }));
        gate.reached().await;
        let waiting = stage.waiting(None);
        stage.exit(None, 1);
        gate.open();
        starting.await.unwrap().unwrap();
        assert_eq!(waiting.await.unwrap().code, 1);
        assert_eq!(stage.story(), ["created", "started", "exited 1"]);
    });
}

#[test]
fn a_start_that_fails_can_be_tried_again_or_deleted() {
    play(async |stage| {
        stage.create().await.unwrap();
        stage.shims.refuse("start", Refusal::internal("no"));
        assert_eq!(stage.start(None).await, Err(Refusal::internal("no")));
        assert_eq!(stage.start(None).await.unwrap().status, TaskStatus::Running);
        stage.kill(None).await.unwrap();
        assert_eq!(stage.wait(None).await.unwrap().code, EXIT_KILLED);
        stage.delete(None).await.unwrap();
        assert_eq!(stage.story(), ["created", "started", "exited 137", "deleted"]);
    });
}

#[test]
fn one_that_was_never_started_ends_by_being_deleted() {
    play(async |stage| {
        stage.create().await.unwrap();
        stage.world.until(|| stage.shims.is_watched(&task(), None)).await;
        // Its end is heard while the deletion goes on, and once it is over.
        let gate = stage.shims.hold("remove_bundle");
        let waiting = stage.waiting(None);
        let deleting =
            tokio::task::spawn_local(stage.tasks.ask(meta(), DeleteTask { container_id: web(), exec_id: None }));
        gate.reached().await;
        stage.world.until(|| !stage.shims.is_watched(&task(), None)).await;
        // The end that the watcher heard reaches the actor before this.
        stage.tasks.ask(meta(), ListPids { container_id: web() }).await.unwrap_err();
        gate.open();
        // Who deletes what has not run is told of no failure; who waits is told of the end.
        assert_eq!(deleting.await.unwrap().unwrap().exit.code, 0);
        assert_eq!(waiting.await.unwrap().code, EXIT_KILLED);
        assert_eq!(stage.story(), ["created", "exited 137", "deleted"]);
        assert!(stage.shims.is_clean() && stage.row().is_none());
    });
}

#[test]
fn running_ones_are_not_deleted_and_ended_ones_not_killed() {
    play(async |stage| {
        stage.run().await;
        let refusal = stage.delete(None).await.unwrap_err();
        assert_eq!(refusal.to_string(), "failed to delete task: cannot delete a running process");
        assert_eq!(kind(stage.start(None).await), RefusalKind::Unknown);
        stage.kill(None).await.unwrap();
        stage.wait(None).await.unwrap();
        assert_eq!(kind(stage.kill(None).await), RefusalKind::NotFound);
        assert_eq!(kind(stage.exec("x").await), RefusalKind::Unknown);
        stage.delete(None).await.unwrap();
    });
}

#[test]
fn a_deletion_that_fails_can_be_tried_again() {
    play(async |stage| {
        stage.run().await;
        stage.exit(None, 7);
        stage.wait(None).await.unwrap();
        for call in ["delete", "shutdown", "remove_bundle"] {
            stage.shims.refuse(call, Refusal::internal("not now"));
            assert_eq!(stage.delete(None).await, Err(Refusal::internal("not now")));
            assert_eq!(stage.wait(None).await.unwrap().code, 7);
        }
        assert_eq!(stage.delete(None).await.unwrap().exit.code, 7);
        assert!(stage.shims.is_clean());
    });
}

#[test]
fn a_deletion_without_its_shim_cleans_up() {
    play(async |stage| {
        stage.run().await;
        stage.exit(None, 7);
        stage.wait(None).await.unwrap();
        stage.shims.die(&task());
        assert_eq!(stage.delete(None).await.unwrap().exit.code, 7);
        assert!(stage.shims.is_clean() && stage.row().is_none());
    });
}

#[test]
fn freezing_and_thawing() {
    play(async |stage| {
        stage.run().await;
        stage.run_exec("x").await;
        let pause = || stage.tasks.ask(meta(), PauseTask { container_id: web() });
        let resume = || stage.tasks.ask(meta(), ResumeTask { container_id: web() });
        assert_eq!(kind(resume().await), RefusalKind::Unknown);
        pause().await.unwrap();
        assert_eq!(kind(pause().await), RefusalKind::Unknown);
        let row = stage.row().unwrap();
        assert_eq!((row.init.status, row.execs[0].status), (TaskStatus::Paused, TaskStatus::Paused));
        assert_eq!(kind(stage.exec("y").await), RefusalKind::Unknown);
        resume().await.unwrap();
        assert_eq!(stage.row().unwrap().init.status, TaskStatus::Running);
        pause().await.unwrap();
        // Killing ends a frozen one, too.
        stage.kill(Some("x")).await.unwrap();
        stage.kill(None).await.unwrap();
        assert_eq!(stage.wait(None).await.unwrap().code, EXIT_KILLED);
        assert_eq!(stage.story()[4..], ["paused", "resumed", "paused", "exited x 137", "exited 137"]);
    });
}

#[test]
fn an_end_while_it_is_frozen_is_no_freezing_any_more() {
    play(async |stage| {
        stage.run().await;
        let gate = stage.shims.hold("pause");
        let pausing = tokio::task::spawn_local(stage.tasks.ask(meta(), PauseTask { container_id: web() }));
        gate.reached().await;
        stage.exit(None, 1);
        stage.wait(None).await.unwrap();
        gate.open();
        pausing.await.unwrap().unwrap();
        assert_eq!(stage.story(), ["created", "started", "exited 1"]);
        assert_eq!(stage.row().unwrap().init.status, TaskStatus::Stopped);
    });
}

#[test]
fn words_with_the_shim() {
    play(async |stage| {
        let ask = &stage.tasks;
        assert_eq!(kind(ask.ask(meta(), ListPids { container_id: web() }).await), RefusalKind::NotFound);
        stage.run().await;
        assert_eq!(ask.ask(meta(), ListPids { container_id: web() }).await.unwrap()[0].pid, 101);
        assert_eq!(ask.ask(meta(), ReadFigures { container_id: web() }).await.unwrap().type_url, "figures");
        ask.ask(meta(), ResizePty { container_id: web(), exec_id: None, width: 80, height: 25 }).await.unwrap();
        ask.ask(meta(), CloseIo { container_id: web(), exec_id: None }).await.unwrap();
        let resources = Any { type_url: Any::RESOURCES.to_owned(), value: b"{}".to_vec().into() };
        let update = UpdateTask { container_id: web(), resources, annotations: Labels::new() };
        ask.ask(meta(), update).await.unwrap();
        let missing = ResizePty { container_id: web(), exec_id: Some(exec("no")), width: 80, height: 25 };
        assert_eq!(kind(ask.ask(meta(), missing).await), RefusalKind::NotFound);
        let checkpoint =
            |path: &str| CheckpointTask { container_id: web(), image_path: path.to_owned(), options: None };
        assert_eq!(kind(ask.ask(meta(), checkpoint("")).await), RefusalKind::InvalidArgument);
        ask.ask(meta(), checkpoint("/somewhere")).await.unwrap();
        assert_eq!(stage.story(), ["created", "started", "checkpointed"]);
    });
}

#[test]
fn a_slow_word_holds_up_nobody() {
    play(async |stage| {
        stage.run().await;
        let gate = stage.shims.hold("stats");
        let figures = tokio::task::spawn_local(stage.tasks.ask(meta(), ReadFigures { container_id: web() }));
        gate.reached().await;
        stage.kill(None).await.unwrap();
        assert_eq!(stage.wait(None).await.unwrap().code, EXIT_KILLED);
        gate.open();
        figures.await.unwrap().unwrap();
    });
}

fn shim_event(topic: &str, value: Vec<u8>) -> ShimEvent {
    let payload = Any { type_url: "test".to_owned(), value: value.into() };
    ShimEvent { namespace: task().namespace, at: Timestamp::ZERO, topic: topic.to_owned(), payload }
}

#[test]
fn the_oom_killer_is_told_of_and_kept_with_the_end() {
    play(async |stage| {
        stage.run().await;
        let notice =
            |id: &str| shim_event("/tasks/oom", [&[0x0a, u8::try_from(id.len()).unwrap()], id.as_bytes()].concat());
        stage.tasks.tell(notice("web")).unwrap();
        stage.tasks.tell(notice("nobody")).unwrap();
        stage.until_told("oom").await;
        stage.shims.oom_kill(&task());
        let exit = stage.wait(None).await.unwrap();
        assert!(exit.oom, "{exit:?}");
        assert_eq!(stage.story(), ["created", "started", "oom", "exited 137"]);
    });
}

#[test]
fn events_of_a_shim_s_own_are_passed_on_and_those_of_tasks_are_not() {
    play(async |stage| {
        stage.tasks.tell(shim_event("/tasks/exit", Vec::new())).unwrap();
        stage.tasks.tell(shim_event("/shim/own", Vec::new())).unwrap();
        let published = |event: &Event| matches!(event, Event::Published { topic, .. } if topic == "/shim/own");
        stage.world.until(|| stage.world.events().iter().any(published)).await;
        assert_eq!(stage.world.events().iter().filter(|e| matches!(e, Event::Published { .. })).count(), 1);
    });
}

#[test]
fn who_has_no_task_is_forgotten() {
    play(async |stage| {
        stage.run().await;
        stage.kill(None).await.unwrap();
        stage.wait(None).await.unwrap();
        stage.delete(None).await.unwrap();
        let alive = || stage.world.tree.report().iter().any(|child| child.path == "tasks/default/web");
        assert!(alive());
        // Nothing else is due: the clock may be moved past the time that idle ones are kept for.
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(6)).await;
        tokio::time::resume();
        stage.world.until(|| !alive()).await;
    });
}
