//! A task under which things break: connections, shims, the disk.

use super::*;
use crate::journal::Log;
use std::sync::atomic::{AtomicU32, Ordering};
use wharf_messages::{
    RefusalKind,
    event::Seq,
    task::{EXIT_KILLED, EXIT_UNKNOWN, TaskStatus},
};
use wharf_store::{Committed, LogSize, Retention};

#[test]
fn a_broken_connection_is_made_again() {
    play(async |stage| {
        stage.run().await;
        stage.run_exec("x").await;
        let waiting = stage.waiting(None);
        stage.shims.disconnect(&task());
        stage.world.until(|| stage.shims.count("wait") == 2 && stage.shims.count("wait x") == 2).await;
        stage.kill(Some("x")).await.unwrap();
        stage.kill(None).await.unwrap();
        assert_eq!(waiting.await.unwrap().code, EXIT_KILLED);
        assert_eq!(stage.shims.count("reattach"), 1);
        assert_eq!(stage.story()[4..], ["exited x 137", "exited 137"]);
    });
}

#[test]
fn a_shim_that_dies_ends_its_task() {
    play(async |stage| {
        stage.run().await;
        stage.run_exec("x").await;
        stage.run_exec("y").await;
        let (first, added) = (stage.waiting(None), stage.waiting(Some("x")));
        stage.shims.die(&task());
        assert_eq!(added.await.unwrap().code, EXIT_UNKNOWN);
        assert_eq!(first.await.unwrap().code, EXIT_KILLED);
        assert_eq!(stage.story()[6..], ["late exited x 255", "late exited y 255", "late exited 137"]);
        assert!(stage.shims.is_clean());
        stage.delete(Some("x")).await.unwrap();
        stage.delete(None).await.unwrap();
        stage.run().await;
    });
}

#[test]
fn a_shim_that_dies_while_a_process_starts() {
    play(async |stage| {
        stage.create().await.unwrap();
        let gate = stage.shims.hold("started");
        let start = StartTask { container_id: web(), exec_id: None };
        let starting = tokio::task::spawn_local(stage.tasks.ask(meta(), start));
        gate.reached().await;
        stage.shims.die(&task());
        stage.until_told("late exited 137").await;
        gate.open();
        assert_eq!(kind(starting.await.unwrap()), RefusalKind::Unavailable);
        assert_eq!(stage.wait(None).await.unwrap().code, EXIT_KILLED);
        assert_eq!(stage.row().unwrap().init.status, TaskStatus::Stopped);
        assert_eq!(stage.delete(None).await.unwrap().exit.code, EXIT_KILLED);
    });
}

#[test]
fn a_shim_that_dies_while_a_process_is_added() {
    play(async |stage| {
        stage.run().await;
        let gate = stage.shims.hold("exec x");
        let adding = tokio::task::spawn_local(stage.tasks.ask(meta(), add("x")));
        gate.reached().await;
        stage.shims.die(&task());
        stage.until_told("late exited 137").await;
        gate.open();
        assert_eq!(kind(adding.await.unwrap()), RefusalKind::Unavailable);
        assert_eq!(stage.story(), ["created", "started", "late exited 137"]);
        stage.delete(None).await.unwrap();
    });
}

#[test]
fn a_connection_that_breaks_while_a_process_starts() {
    play(async |stage| {
        stage.create().await.unwrap();
        let gate = stage.shims.hold("started");
        let start = StartTask { container_id: web(), exec_id: None };
        let starting = tokio::task::spawn_local(stage.tasks.ask(meta(), start));
        gate.reached().await;
        stage.shims.disconnect(&task());
        stage.world.until(|| stage.shims.count("state") == 1).await;
        gate.open();
        assert_eq!(kind(starting.await.unwrap()), RefusalKind::Unavailable);
        // It runs, and that is found out.
        stage.until_told("late started").await;
        stage.exit(None, 2);
        assert_eq!(stage.wait(None).await.unwrap().code, 2);
        assert_eq!(stage.story(), ["created", "late started", "exited 2"]);
    });
}

#[test]
fn a_call_that_panics_is_a_refusal() {
    play(async |stage| {
        stage.shims.panic("launch");
        assert_eq!(kind(stage.create().await), RefusalKind::Internal);
        assert!(stage.row().is_none());
        stage.run().await;
        stage.shims.panic("kill");
        assert_eq!(kind(stage.kill(None).await), RefusalKind::Internal);
        stage.kill(None).await.unwrap();
        assert_eq!(stage.wait(None).await.unwrap().code, EXIT_KILLED);
    });
}

#[test]
fn a_start_that_takes_too_long_is_what_the_shim_says_of_it() {
    play(async |stage| {
        stage.create().await.unwrap();
        stage.shims.refuse("started", Refusal::deadline_exceeded("start"));
        let start = StartTask { container_id: web(), exec_id: None };
        assert_eq!(kind(stage.tasks.ask(meta(), start).await), RefusalKind::DeadlineExceeded);
        stage.until_told("late started").await;
        stage.exit(None, 2);
        assert_eq!(stage.wait(None).await.unwrap().code, 2);
        assert_eq!(stage.story(), ["created", "late started", "exited 2"]);
    });
}

#[test]
fn a_watch_that_fails_is_taken_up_again() {
    play(async |stage| {
        stage.shims.refuse("wait", Refusal::internal("out of descriptors"));
        stage.run().await;
        stage.exit(None, 3);
        assert_eq!(stage.wait(None).await.unwrap().code, 3);
    });
}

#[test]
fn what_cannot_be_cleaned_up_after_is_tried_again_and_fails_nobody_else() {
    play(async |stage| {
        for call in ["create", "clean_up", "clean_up", "clean_up"] {
            stage.shims.refuse(call, Refusal::internal("busy"));
        }
        assert_eq!(kind(stage.create().await), RefusalKind::Internal);
        // Its intent stands until nothing is left.
        stage.world.until(|| stage.row().is_none() && stage.shims.is_clean()).await;
        assert_eq!(stage.shims.count("clean_up"), 4);
        stage.run().await;
    });
}

/// A store that has no space for some commits.
struct Full {
    writer: Writer,
    /// How many of the coming commits are refused.
    refusals: Arc<AtomicU32>,
}

impl Log for Full {
    fn settled(&mut self) -> Option<Vec<Answer<Committed>>> {
        Log::settled(&mut self.writer)
    }

    fn commit(&mut self, batch: &[Commit], now: Timestamp) -> Vec<Answer<Committed>> {
        let refused = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match refused {
            Ok(_) => batch.iter().map(|_| Err(Refusal::resource_exhausted("no space"))).collect(),
            Err(_) => Log::commit(&mut self.writer, batch, now),
        }
    }

    fn cut(&mut self, retention: &Retention, now: Timestamp) -> Answer<u64> {
        Log::cut(&mut self.writer, retention, now)
    }

    fn is_broken(&self) -> bool {
        false
    }

    fn reopen(&mut self) -> Answer<()> {
        Log::reopen(&mut self.writer)
    }

    fn last_seq(&self) -> Seq {
        Log::last_seq(&self.writer)
    }

    fn log_size(&self) -> LogSize {
        Log::log_size(&self.writer)
    }
}

/// Runs a test with a disk that refuses as many of the coming commits as it is told.
fn full(test: impl AsyncFnOnce(&Stage<'_>, &AtomicU32)) {
    let refusals = Arc::new(AtomicU32::new(0));
    let behind = Arc::clone(&refusals);
    Machine::new().daemon_with(
        "boot",
        |writer| Full { writer, refusals: behind },
        async |stage| {
            test(stage, &refusals).await;
        },
    );
}

/// Waits until the refused commits were tried, moving the clock where the next try waits for it.
async fn until_tried(stage: &Stage<'_>, refusals: &AtomicU32) {
    stage.world.until(|| refusals.load(Ordering::SeqCst) == 0).await;
}

#[test]
fn an_end_that_cannot_be_committed_is_tried_again() {
    full(async |stage, refusals| {
        stage.run().await;
        stage.run_exec("x").await;
        refusals.store(2, Ordering::SeqCst);
        let waiting = stage.waiting(None);
        stage.exit(None, 9);
        stage.exit(Some("x"), 8);
        until_tried(stage, refusals).await;
        assert_eq!(waiting.await.unwrap().code, 9);
        assert_eq!(stage.story()[4..], ["exited x 8", "exited 9"]);
    });
}

#[test]
fn a_creation_that_cannot_be_committed_leaves_nothing() {
    full(async |stage, refusals| {
        refusals.store(1, Ordering::SeqCst);
        assert_eq!(kind(stage.create().await), RefusalKind::ResourceExhausted);
        assert!(stage.shims.calls().is_empty());
        // The intent can be committed, what came of it can not.
        let gate = stage.shims.hold("create");
        let creating = tokio::task::spawn_local(stage.tasks.ask(meta(), create()));
        gate.reached().await;
        refusals.store(1, Ordering::SeqCst);
        gate.open();
        assert_eq!(kind(creating.await.unwrap()), RefusalKind::ResourceExhausted);
        stage.world.until(|| stage.row().is_none()).await;
        assert!(stage.shims.is_clean());
        stage.run().await;
        assert_eq!(stage.story(), ["created", "started"]);
    });
}

#[test]
fn a_start_that_cannot_be_committed_is_told_with_what_comes_next() {
    full(async |stage, refusals| {
        stage.create().await.unwrap();
        refusals.store(1, Ordering::SeqCst);
        assert_eq!(kind(stage.start(None).await), RefusalKind::ResourceExhausted);
        stage.exec("x").await.unwrap();
        refusals.store(1, Ordering::SeqCst);
        assert_eq!(kind(stage.start(Some("x")).await), RefusalKind::ResourceExhausted);
        stage.exit(Some("x"), 1);
        stage.wait(Some("x")).await.unwrap();
        assert_eq!(stage.story(), ["created", "started", "added x", "started x", "exited x 1"]);
    });
}

#[test]
fn a_deletion_that_cannot_be_committed_is_finished_later() {
    full(async |stage, refusals| {
        stage.run().await;
        stage.exit(None, 3);
        stage.wait(None).await.unwrap();
        refusals.store(1, Ordering::SeqCst);
        let refusal = stage.delete(None).await.unwrap_err();
        assert!(matches!(refusal.kind, RefusalKind::ResourceExhausted | RefusalKind::Unavailable), "{refusal}");
        // Shim and bundle are gone already; the row goes with the next try.
        assert_eq!(stage.wait(None).await.unwrap().code, 3);
        assert_eq!(stage.delete(None).await.unwrap().exit.code, 3);
        assert!(stage.row().is_none());
    });
}
