//! Added processes: their own lives, and their place before the first one's end (TASK-2).

use super::*;
use std::time::Duration;
use wharf_messages::{
    RefusalKind,
    task::{EXIT_KILLED, EXIT_UNKNOWN, TaskStatus},
};

#[test]
fn a_life_of_its_own() {
    play(async |stage| {
        stage.run().await;
        stage.exec("x").await.unwrap();
        assert_eq!(kind(stage.exec("x").await), RefusalKind::AlreadyExists);
        let running = stage.start(Some("x")).await.unwrap();
        assert_eq!((running.exec_id, running.status), (Some(exec("x")), TaskStatus::Running));
        assert!(running.pid > 101);
        assert_eq!(kind(stage.delete(Some("x")).await), RefusalKind::Unknown);
        let waiting = stage.waiting(Some("x"));
        stage.exit(Some("x"), 4);
        assert_eq!(waiting.await.unwrap().code, 4);
        let deleted = stage.delete(Some("x")).await.unwrap();
        assert_eq!((deleted.pid, deleted.exit.code), (running.pid, 4));
        assert_eq!(kind(stage.wait(Some("x")).await), RefusalKind::NotFound);
        // Its name is free again.
        stage.run_exec("x").await;
        assert_eq!(
            stage.story(),
            ["created", "started", "added x", "started x", "exited x 4", "deleted x", "added x", "started x"]
        );
    });
}

#[test]
fn one_that_cannot_be_added_leaves_nothing() {
    play(async |stage| {
        stage.run().await;
        stage.shims.refuse("exec x", Refusal::invalid("bad spec"));
        assert_eq!(stage.exec("x").await, Err(Refusal::invalid("bad spec")));
        assert_eq!(kind(stage.start(Some("x")).await), RefusalKind::NotFound);
        assert!(stage.row().unwrap().execs.is_empty());
        stage.run_exec("x").await;
    });
}

#[test]
fn who_waits_for_one_that_is_deleted_unstarted_hears_of_it() {
    play(async |stage| {
        stage.run().await;
        stage.exec("x").await.unwrap();
        let waiting = stage.waiting(Some("x"));
        stage.shims.refuse("start x", Refusal::internal("no such command"));
        stage.start(Some("x")).await.unwrap_err();
        assert_eq!(stage.delete(Some("x")).await.unwrap().exit.code, EXIT_KILLED);
        assert_eq!(waiting.await.unwrap().code, EXIT_KILLED);
        assert_eq!(stage.story(), ["created", "started", "added x", "deleted x"]);
    });
}

#[test]
fn the_first_one_s_end_waits_for_theirs() {
    play(async |stage| {
        stage.run().await;
        stage.run_exec("x").await;
        stage.run_exec("y").await;
        let waiting = stage.waiting(None);
        stage.exit(None, 1);
        stage.world.until(|| !stage.shims.is_watched(&task(), None)).await;
        stage.exit(Some("y"), 2);
        assert_eq!(stage.wait(Some("y")).await.unwrap().code, 2);
        stage.exit(Some("x"), 3);
        assert_eq!(waiting.await.unwrap().code, 1);
        assert_eq!(stage.story()[6..], ["exited y 2", "exited x 3", "exited 1"]);
    });
}

#[test]
fn the_first_one_s_end_does_not_wait_for_ever() {
    play(async |stage| {
        stage.run().await;
        stage.run_exec("x").await;
        stage.run_exec("y").await;
        // Its start is under way when everything ends.
        stage.exec("z").await.unwrap();
        let gate = stage.shims.hold("started z");
        let starting = tokio::task::spawn_local(
            stage.tasks.ask(meta(), StartTask { container_id: web(), exec_id: Some(exec("z")) }),
        );
        gate.reached().await;
        stage.exit(None, 1);
        stage.world.until(|| !stage.shims.is_watched(&task(), None)).await;
        stage.kill(Some("x")).await.unwrap();
        assert_eq!(stage.wait(Some("x")).await.unwrap().code, EXIT_KILLED);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3)).await;
        tokio::time::resume();
        assert_eq!(stage.wait(None).await.unwrap().code, 1);
        assert_eq!(stage.wait(Some("y")).await.unwrap().code, EXIT_UNKNOWN);
        gate.open();
        starting.await.unwrap().unwrap_err();
        assert_eq!(stage.story()[7..], ["exited x 137", "exited y 255", "exited z 255", "exited 1"]);
        // Their own ends, told too late, change nothing.
        stage.exit(Some("y"), 0);
        assert_eq!(stage.delete(None).await.unwrap().exit.code, 1);
    });
}

#[test]
fn they_go_with_their_task() {
    play(async |stage| {
        stage.run().await;
        stage.run_exec("x").await;
        stage.exec("unstarted").await.unwrap();
        let waiting = stage.waiting(Some("unstarted"));
        stage.exit(Some("x"), 0);
        stage.exit(None, 0);
        stage.wait(None).await.unwrap();
        stage.shims.die(&task());
        stage.delete(None).await.unwrap();
        assert_eq!(kind(waiting.await), RefusalKind::NotFound);
        stage.run().await;
        stage.run_exec("x").await;
    });
}
