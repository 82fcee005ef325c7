//! The journal: the only writer of the store, on a thread of its own.
//!
//! - Parent root; permanent; its own failures are 3 in 5 s, one more is the root's; stop budget 10 s; 1024 commits may
//!   wait, whoever brings more waits with them.
//! - Takes commits, writes what waits in one transaction, and answers each once all are on the disk. A commit that comes
//!   alone is written alone, at once: batches form only behind a write that is under way.
//! - No jobs. A restart reopens the database and asks it where the log ends.
//!
//! ```text
//!             commits wait                     written             an error of the disk
//!   Waiting ---------------> Writing one batch -------> Waiting    ----------------------> Broken
//!                                                                  reopened, on demand      |
//!                                                       Waiting <---------------------------+
//! ```
//!
//! Invariants:
//! - **JOURNAL-1** A commit is answered, and its events are on the bus, only after it is durable.
//! - **JOURNAL-2** Whoever has an answer finds its events on the bus: the high-water mark moves first.
//! - **JOURNAL-3** One commit's refusal changes nothing and disturbs no other of its batch.
//! - **JOURNAL-4** Nobody is left in doubt by a failure that a reopening settles: what was done is answered, what was not
//!   is done again or refused.

use crate::{
    bus::Tail,
    figures::Figures,
    gc::{Activity, Counted},
    runtime::{ChildSpec, Clock, Failures, Group, Node, ThreadPart, panic_message},
};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;
use wharf_failpoints::failpoint;
use wharf_messages::{Answer, Refusal, Timestamp, event::Seq};
pub(crate) use wharf_store::Writer;
use wharf_store::{Commit, Committed, LogSize, Retention};

/// How the journal stands in the tree.
pub const SPEC: ChildSpec =
    ChildSpec::permanent("journal").stop_budget(Duration::from_secs(10)).mailbox(COMMITS_WAITING_MAX);

/// How many commits may wait.
const COMMITS_WAITING_MAX: u32 = 1024;
/// How many are written at once: enough to make the disk's sync cheap for each, few enough not to keep the first waiting.
const BATCH_MAX_COMMITS: usize = 256;
/// How long a database that could not be reopened is left alone: at first, and at most.
const REOPEN_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What the journal writes to: the store's writer, or a test's stand-in.
pub(crate) trait Log: Send + 'static {
    /// Writes a batch and answers each commit, once all are durable.
    fn commit(&mut self, batch: &[Commit], now: Timestamp) -> Vec<Answer<Committed>>;
    /// The answers of the last batch, if a failure left it in doubt and the reopening found it done.
    fn settled(&mut self) -> Option<Vec<Answer<Committed>>>;
    /// Forgets the events that retention does not keep, if there are enough of them.
    fn cut(&mut self, retention: &Retention, now: Timestamp) -> Answer<u64>;
    /// Whether nothing can be written until it is reopened.
    fn is_broken(&self) -> bool;
    /// Opens it again.
    fn reopen(&mut self) -> Answer<()>;
    /// Where the log ends.
    fn last_seq(&self) -> Seq;
    /// The log as it lies.
    fn log_size(&self) -> LogSize;
}

impl Log for Writer {
    fn commit(&mut self, batch: &[Commit], now: Timestamp) -> Vec<Answer<Committed>> {
        Writer::commit(self, batch, now)
    }

    fn settled(&mut self) -> Option<Vec<Answer<Committed>>> {
        Writer::settled(self)
    }

    fn cut(&mut self, retention: &Retention, now: Timestamp) -> Answer<u64> {
        Writer::cut(self, retention, now)
    }

    fn is_broken(&self) -> bool {
        self.broken().is_some()
    }

    fn reopen(&mut self) -> Answer<()> {
        Writer::reopen(self)
    }

    fn last_seq(&self) -> Seq {
        Writer::last_seq(self)
    }

    fn log_size(&self) -> LogSize {
        Writer::log_size(self)
    }
}

/// A commit on its way, and whom to answer.
struct Entry {
    commit: Commit,
    reply: oneshot::Sender<Answer<Committed>>,
}

/// How commits reach the journal: from actors, jobs and front ends alike. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    commits: mpsc::Sender<Option<Entry>>,
    node: Arc<Node>,
    activity: Activity,
    figures: Arc<Figures>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Journal({:?})", self.node)
    }
}

impl Journal {
    /// What it has counted.
    #[must_use]
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Has a commit written, and waits until it is durable.
    ///
    /// # Errors
    /// The refusal of the change that could not be done, then nothing was; `ResourceExhausted` if the disk is full,
    /// `Unavailable` if the journal was restarted meanwhile: then it is in doubt whether the commit was done.
    ///
    /// # Cancel safety
    /// A commit that is waiting or being written is written when the future is dropped.
    pub async fn commit(&self, commit: Commit) -> Answer<Committed> {
        let (changes, events) = (commit.changes.len(), commit.events.len());
        let span = tracing::trace_span!("journal commit", changes, events).or_current();
        let written = async {
            let (reply, answer) = oneshot::channel();
            self.node.enter()?;
            if self.commits.send(Some(Entry { commit, reply })).await.is_err() {
                self.node.taken();
                return Err(self.node.gone());
            }
            answer.await.unwrap_or_else(|_| Err(self.node.gone()))
        };
        written.instrument(span).await
    }

    /// What was committed, as far as garbage collection is concerned.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.activity
    }
}

/// The journal before it runs.
pub(crate) struct JournalSeat {
    journal: Journal,
    waiting: mpsc::Receiver<Option<Entry>>,
}

impl JournalSeat {
    /// Makes its place in the tree.
    pub(crate) fn new(group: &Group) -> Self {
        let (commits, waiting) = mpsc::channel(COMMITS_WAITING_MAX as usize);
        let node = group.seat_thread(&SPEC);
        let journal = Journal { commits, node, activity: Activity::default(), figures: Arc::default() };
        Self { journal, waiting }
    }

    /// How commits will reach it.
    pub(crate) fn journal(&self) -> Journal {
        self.journal.clone()
    }

    /// Starts it. Events go to `tail`; the log keeps what `retention` says.
    pub(crate) fn start(
        self,
        group: &mut Group,
        log: impl Log,
        tail: Tail,
        clock: Clock,
        retention: Retention,
    ) -> std::io::Result<()> {
        // Before the thread runs: whoever subscribes first must find the log as long as it is.
        tail.reset(log.last_seq());
        let stopping = Arc::new(AtomicBool::new(false));
        let wake = self.journal.commits.downgrade();
        if let Some(age) = retention.age_max {
            tokio::spawn(cut_by_age(self.journal.commits.downgrade(), age));
        }
        let Journal { node, activity, figures, .. } = self.journal;
        let part = Work {
            log,
            waiting: self.waiting,
            tail,
            activity,
            clock,
            node: Arc::clone(&node),
            stopping: Arc::clone(&stopping),
            reopen: Reopen::default(),
            retention,
            figures,
            failures: Failures::default(),
        };
        group.start_thread(node, part, move || {
            stopping.store(true, Ordering::Release);
            // A full queue wakes the thread by itself.
            let _ = wake.upgrade().map(|wake| wake.try_send(None));
        })
    }
}

/// Wakes the journal from time to time: events grow old also when nothing is written.
async fn cut_by_age(wake: mpsc::WeakSender<Option<Entry>>, age: Duration) {
    let interval = (age / 64).clamp(Duration::from_secs(1), Duration::from_secs(600));
    loop {
        tokio::time::sleep(interval).await;
        let Some(wake) = wake.upgrade() else { return };
        // A full queue wakes it anyway.
        let _ = wake.try_send(None);
    }
}

/// What the thread works on. It survives the thread.
struct Work<L> {
    log: L,
    waiting: mpsc::Receiver<Option<Entry>>,
    tail: Tail,
    activity: Activity,
    clock: Clock,
    node: Arc<Node>,
    stopping: Arc<AtomicBool>,
    reopen: Reopen,
    retention: Retention,
    figures: Arc<Figures>,
    failures: Failures,
}

impl<L: Log> ThreadPart for Work<L> {
    fn run(&mut self) {
        self.tail.reset(self.log.last_seq());
        self.figures.is(self.log.log_size());
        while let Some(first) = self.waiting.blocking_recv() {
            let mut batch = Vec::new();
            let mut replies = Vec::new();
            let rest = std::iter::from_fn(|| self.waiting.try_recv().ok()).take(BATCH_MAX_COMMITS - 1);
            for entry in std::iter::once(first).chain(rest).flatten() {
                self.node.taken();
                batch.push(entry.commit);
                replies.push(entry.reply);
            }
            if batch.is_empty() {
                self.cut();
            } else {
                self.write(batch, replies);
            }
            if self.stopping.load(Ordering::Acquire) && self.waiting.is_empty() {
                return;
            }
        }
    }

    fn reset(&mut self) {
        self.stopping.store(false, Ordering::Release);
        // A panic in the middle of a write leaves the database in doubt, exactly as an error of the disk does.
        self.reopen.due = true;
        self.failures.forget();
    }
}

impl<L: Log> Work<L> {
    fn write(&mut self, batch: Vec<Commit>, replies: Vec<oneshot::Sender<Answer<Committed>>>) {
        let (now, begun, commits) = (self.clock.now(), Instant::now(), batch.len());
        let counted: Vec<Counted> = batch.iter().map(|commit| Counted::of(commit, now)).collect();
        let answers = match self.reopen.make_usable(&mut self.log, &self.tail, &self.figures) {
            Ok(()) => self.commit(&batch),
            Err(refusal) => refuse_all(&batch, &refusal),
        };
        for committed in answers.iter().flatten() {
            self.tail.push(&committed.events);
        }
        self.tail.advance(self.log.last_seq());
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        self.figures.wrote(commits, refused, begun.elapsed(), self.log.log_size());
        debug_assert_eq!(answers.len(), replies.len(), "every commit has its answer");
        let mut all = Counted::default();
        counted
            .into_iter()
            .zip(&answers)
            .filter(|(_, answer)| answer.is_ok())
            .for_each(|(counted, _)| all.add(counted));
        self.activity.add(all);
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever asked may have gone away; the commit stands.
            let _ = reply.send(answer);
        }
        self.cut();
    }

    /// Writes a batch. A failure in the middle leaves it in doubt: the database is opened again, and says whether it was
    /// done (JOURNAL-4).
    fn commit(&mut self, batch: &[Commit]) -> Vec<Answer<Committed>> {
        match self.attempt(batch) {
            Ok(answers) if !self.log.is_broken() => answers,
            Ok(answers) => {
                let usable = self.reopen.make_usable(&mut self.log, &self.tail, &self.figures);
                usable.ok().and_then(|()| self.log.settled()).unwrap_or(answers)
            }
            Err(reason) => self.settle(batch, &reason),
        }
    }

    /// After a panic: what was not done is done again, each commit for itself, so that the one that cannot be done costs
    /// no other.
    fn settle(&mut self, batch: &[Commit], reason: &str) -> Vec<Answer<Committed>> {
        self.reopen.due = true;
        if let Err(refusal) = self.reopen.make_usable(&mut self.log, &self.tail, &self.figures) {
            return refuse_all(batch, &refusal);
        }
        if let Some(answers) = self.log.settled() {
            return answers;
        }
        if batch.len() > 1 {
            return batch.iter().flat_map(|commit| self.commit(std::slice::from_ref(commit))).collect();
        }
        match self.attempt(batch) {
            Ok(answers) => answers,
            Err(again) => {
                self.reopen.due = true;
                let settled = self
                    .reopen
                    .make_usable(&mut self.log, &self.tail, &self.figures)
                    .ok()
                    .and_then(|()| self.log.settled());
                let failed =
                    || Refusal::internal(format!("the journal failed twice over this change: {reason}; {again}"));
                settled.unwrap_or_else(|| refuse_all(batch, &failed()))
            }
        }
    }

    /// Tries once; a panic is counted, and is the root's if it is one too many.
    fn attempt(&mut self, batch: &[Commit]) -> Result<Vec<Answer<Committed>>, String> {
        let now = self.clock.now();
        let done = catch_unwind(AssertUnwindSafe(|| {
            failpoint!("journal/write");
            self.log.commit(batch, now)
        }));
        done.map_err(|panic| {
            let reason = panic_message(&*panic).to_owned();
            self.node.failed(&reason);
            if self.failures.count(Instant::now(), SPEC.intensity, SPEC.backoff).is_none() {
                resume_unwind(panic);
            }
            self.node.restarted(&reason);
            tracing::error!(reason, "the journal failed and opens the database again");
            reason
        })
    }

    /// Cuts the log's oldest events off, some at a time: each cut is a transaction of its own.
    fn cut(&mut self) {
        if self.log.is_broken() {
            return;
        }
        match self.log.cut(&self.retention, self.clock.now()) {
            Ok(0) => {}
            Ok(events) => {
                let log = self.log.log_size();
                self.tail.forget(log.first);
                self.figures.is(log);
                tracing::debug!(events, "the log was cut");
            }
            Err(refusal) => tracing::warn!(%refusal, "the log could not be cut"),
        }
    }
}

fn refuse_all(batch: &[Commit], refusal: &Refusal) -> Vec<Answer<Committed>> {
    batch.iter().map(|_| Err(refusal.clone())).collect()
}

/// When to open a broken database again: whenever something is to be written, but not all the time.
#[derive(Default)]
struct Reopen {
    /// Besides what the log itself says.
    due: bool,
    failures: u32,
    last_try: Option<(Instant, Refusal)>,
}

impl Reopen {
    fn make_usable(&mut self, log: &mut impl Log, tail: &Tail, figures: &Figures) -> Answer<()> {
        if !self.due && !log.is_broken() {
            return Ok(());
        }
        let (first, max) = REOPEN_BACKOFF;
        let backoff = first.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(max);
        if let Some((at, refusal)) = &self.last_try
            && self.failures > 0
            && at.elapsed() < backoff
        {
            return Err(refusal.clone());
        }
        match log.reopen() {
            Ok(()) => {
                tracing::info!(failures = self.failures, "the database was reopened");
                *self = Self::default();
                // What was in doubt is decided now, and may be more than what was told.
                tail.reset(log.last_seq());
                figures.reopened();
                Ok(())
            }
            Err(refusal) => {
                let refusal = refusal.context("nothing can be changed until the database is open again");
                if self.failures == 0 {
                    tracing::error!(%refusal, "the database cannot be reopened");
                }
                self.failures += 1;
                self.last_try = Some((Instant::now(), refusal.clone()));
                Err(refusal)
            }
        }
    }
}

#[cfg(test)]
mod tests;
