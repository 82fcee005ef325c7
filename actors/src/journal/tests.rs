//! The journal's invariants, with the real store behind a stand-in that can wait, fail and panic.

use super::*;
use crate::testing::{World, run, run_in, run_with};
use std::sync::{Condvar, Mutex, atomic::AtomicUsize};
use wharf_messages::{Any, Labels, Namespace, RefusalKind, event::Event, namespace::CreateNamespace};
use wharf_store::{Change, LogSize, Outcome};

/// What a test makes the disk do.
#[derive(Default)]
struct Disk {
    /// Writes wait while it is closed.
    gate: Mutex<bool>,
    opened: Condvar,
    /// The sizes of the batches that were written.
    batches: Mutex<Vec<usize>>,
    full: AtomicBool,
    /// How many writes to come panic.
    panics: AtomicUsize,
    reopened: Mutex<u32>,
}

impl Disk {
    fn close(&self) {
        *self.gate.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.gate.lock().unwrap() = false;
        self.opened.notify_all();
    }
}

struct Faulty {
    writer: Writer,
    disk: Arc<Disk>,
    broken: bool,
}

impl Log for Faulty {
    fn settled(&mut self) -> Option<Vec<Answer<Committed>>> {
        Log::settled(&mut self.writer)
    }

    fn commit(&mut self, batch: &[Commit], now: Timestamp) -> Vec<Answer<Committed>> {
        self.disk.batches.lock().unwrap().push(batch.len());
        drop(self.disk.opened.wait_while(self.disk.gate.lock().unwrap(), |closed| *closed).unwrap());
        // What is told of restarts comes whenever it comes.
        if batch.iter().any(|commit| !commit.changes.is_empty()) {
            let panics = self.disk.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            let poison = batch
                .iter()
                .flat_map(|commit| &commit.changes)
                .any(|change| matches!(change, Change::CreateNamespace(call) if call.name.as_str() == "poison"));
            assert!(panics.is_err() && !poison, "a bug in the writer");
        }
        if self.disk.full.load(Ordering::SeqCst) {
            self.broken = true;
            return batch.iter().map(|_| Err(Refusal::resource_exhausted("write the database: no space"))).collect();
        }
        Log::commit(&mut self.writer, batch, now)
    }

    fn cut(&mut self, retention: &Retention, now: Timestamp) -> Answer<u64> {
        Log::cut(&mut self.writer, retention, now)
    }

    fn is_broken(&self) -> bool {
        self.broken
    }

    fn reopen(&mut self) -> Answer<()> {
        if self.disk.full.load(Ordering::SeqCst) {
            return Err(Refusal::resource_exhausted("open the database: no space"));
        }
        *self.disk.reopened.lock().unwrap() += 1;
        self.broken = false;
        Log::reopen(&mut self.writer)
    }

    fn last_seq(&self) -> Seq {
        Log::last_seq(&self.writer)
    }

    fn log_size(&self) -> LogSize {
        Log::log_size(&self.writer)
    }
}

/// Runs a test on a disk that obeys it.
fn faulty(test: impl AsyncFnOnce(&World, Arc<Disk>)) {
    let (root, disk) = (tempfile::tempdir().unwrap(), Arc::<Disk>::default());
    let behind = Arc::clone(&disk);
    run_with(
        root.path(),
        |writer| Faulty { writer, disk: behind, broken: false },
        async |world| {
            test(world, Arc::clone(&disk)).await;
            disk.open();
        },
    );
}

fn published(topic: &str) -> Commit {
    let payload = Any { type_url: "test".to_owned(), value: Vec::new().into() };
    Commit::new(&Namespace::new("default").unwrap()).event(Event::Published { topic: topic.to_owned(), payload })
}

fn namespace(name: &str) -> Commit {
    let create = CreateNamespace { name: Namespace::new(name).unwrap(), labels: Labels::new() };
    Commit { changes: vec![Change::CreateNamespace(create)], ..Commit::default() }
}

#[test]
fn a_commit_is_durable_and_on_the_bus_when_it_is_answered() {
    run(async |world| {
        let committed = world.journal.commit(namespace("a")).await.unwrap();
        assert_eq!(committed.last_seq, Seq(1));
        assert!(matches!(&committed.outcomes[..], [Outcome::Namespace(record)] if record.name.as_str() == "a"));
        assert_eq!(world.bus.last_seq(), Seq(1));
        assert!(matches!(&world.events()[..], [Event::NamespaceCreated { .. }]));
        assert_eq!(world.records()[0].at, crate::testing::START);
    });
}

#[test]
fn a_daemon_that_starts_again_finds_what_was_answered() {
    let root = tempfile::tempdir().unwrap();
    run_in(root.path(), async |world| drop(world.journal.commit(namespace("a")).await.unwrap()));
    run_in(root.path(), async |world| {
        world.until(|| world.bus.last_seq() == Seq(1)).await;
        let refusal = world.journal.commit(namespace("a")).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::AlreadyExists);
    });
}

#[test]
fn what_waits_behind_a_write_is_written_together_and_refused_alone() {
    faulty(async |world, disk| {
        disk.close();
        let first = tokio::spawn({
            let journal = world.journal.clone();
            async move { journal.commit(namespace("first")).await }
        });
        world.until(|| disk.batches.lock().unwrap().len() == 1).await;
        let names = ["a", "b", "first", "c", "a"];
        let waiting: Vec<_> = names
            .map(|name| {
                let journal = world.journal.clone();
                tokio::spawn(async move { journal.commit(namespace(name)).await })
            })
            .into();
        world.until(|| world.tree.report()[0].mailbox_depth == 5).await;
        disk.open();
        first.await.unwrap().unwrap();
        let mut kinds = Vec::new();
        for answer in waiting {
            kinds.push(answer.await.unwrap().err().map(|refusal| refusal.kind));
        }
        let exists = Some(RefusalKind::AlreadyExists);
        assert_eq!(kinds, [None, None, exists, None, exists]);
        assert_eq!(*disk.batches.lock().unwrap(), [1, 5]);
        assert_eq!(world.tree.report()[0].mailbox_depth, 0);
    });
}

#[test]
fn a_full_disk_is_an_answer_and_ends_with_the_disk_being_full() {
    faulty(async |world, disk| {
        world.journal.commit(namespace("before")).await.unwrap();
        disk.full.store(true, Ordering::SeqCst);
        for _ in 0..5 {
            let refusal = world.journal.commit(namespace("lost")).await.unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::ResourceExhausted, "{refusal}");
            assert!(refusal.detail.contains("no space"), "{refusal}");
        }
        disk.full.store(false, Ordering::SeqCst);
        let mut answer = world.journal.commit(namespace("after")).await;
        while answer.is_err() {
            tokio::time::sleep(REOPEN_BACKOFF.0).await;
            answer = world.journal.commit(namespace("after")).await;
        }
        assert_eq!(answer.unwrap().last_seq, Seq(2));
        assert_eq!(*disk.reopened.lock().unwrap(), 1);
        assert_eq!(world.bus.last_seq(), Seq(2));
        // Not a restart: the thread went on.
        assert_eq!(world.tree.report()[0].restarts, 0);
    });
}

#[test]
fn a_panic_is_settled_and_a_change_that_fails_each_time_is_refused() {
    faulty(async |world, disk| {
        let _gave_up = world.watch();
        disk.panics.store(1, Ordering::SeqCst);
        world.journal.commit(namespace("once")).await.unwrap();
        assert_eq!(world.tree.report()[0].restarts, 1);
        assert!(world.tree.report()[0].last_reason.as_deref().unwrap().contains("a bug in the writer"));
    });
    faulty(async |world, _| {
        let _gave_up = world.watch();
        let refusal = world.journal.commit(namespace("poison")).await.unwrap_err();
        assert!(refusal.is(RefusalKind::Internal) && refusal.detail.contains("a bug in the writer"), "{refusal}");
        world.journal.commit(namespace("next")).await.unwrap();
    });
}

#[test]
fn a_journal_that_fails_too_often_is_the_roots() {
    faulty(async |world, _| {
        let gave_up = world.watch();
        let failing = async {
            let mut lost = 0;
            // The root restarts everything once, and gives up the next time.
            while lost < 2 {
                let refusal = world.journal.commit(namespace("poison")).await.unwrap_err();
                lost += usize::from(refusal.is(RefusalKind::Unavailable));
            }
        };
        failing.await;
        assert_eq!(gave_up.await.path, "journal");
    });
}

#[test]
fn a_panic_costs_no_change_of_its_batch() {
    faulty(async |world, disk| {
        let commit = |n: u32| {
            let journal = world.journal.clone();
            tokio::spawn(async move { journal.commit(namespace(&format!("n-{n}"))).await })
        };
        disk.close();
        let first = commit(0);
        world.until(|| disk.batches.lock().unwrap().len() == 1).await;
        let rest: Vec<_> = (1..9).map(commit).collect();
        world.until(|| world.tree.report()[0].mailbox_depth == 8).await;
        // The batch of eight, and then one of its changes again and again.
        disk.panics.store(3, Ordering::SeqCst);
        disk.open();
        assert!(first.await.unwrap().is_err() || disk.panics.load(Ordering::SeqCst) == 0);
        let mut refused = 0;
        for answer in rest {
            refused += usize::from(answer.await.unwrap().is_err());
        }
        assert!(refused <= 1, "{refused}");
    });
}

#[test]
fn a_stop_writes_what_waits_first() {
    faulty(async |world, disk| {
        disk.close();
        let waiting: Vec<_> = (0..600)
            .map(|n| {
                let journal = world.journal.clone();
                tokio::spawn(async move { journal.commit(published(&format!("/n/{n}"))).await })
            })
            .collect();
        world.until(|| disk.batches.lock().unwrap().len() == 1).await;
        let begun = || disk.batches.lock().unwrap()[0] + world.tree.report()[0].mailbox_depth as usize;
        world.until(|| begun() == 600).await;
        let opening = async {
            tokio::task::yield_now().await;
            disk.open();
        };
        tokio::join!(world.stop(), opening);
        for answer in waiting {
            answer.await.unwrap().unwrap();
        }
        assert_eq!(world.events().len(), 600);
        let refusal = world.journal.commit(namespace("late")).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
        assert!(disk.batches.lock().unwrap().iter().all(|size| *size <= BATCH_MAX_COMMITS));
    });
}

#[test]
fn a_commit_whose_caller_has_gone_is_written_all_the_same() {
    faulty(async |world, disk| {
        disk.close();
        let mut commit = Box::pin(world.journal.commit(namespace("a")));
        assert!(futures_util::poll!(&mut commit).is_pending());
        drop(commit);
        disk.open();
        world.until(|| world.bus.last_seq() == Seq(1)).await;
    });
}
