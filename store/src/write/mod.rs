//! Writing: one writer, whole batches in one transaction, each commit of a batch for itself.
//!
//! ```text
//! batch -> begin -> commit 1: changes -> events ----------------> ok
//!                -> commit 2: change -> refused -> undo to mark -> refused (its lease still learns what exists)
//!                -> commit 3: ...                               -> ok
//!       -> redb commit (fsync) -> answers
//! ```

mod batch;
mod container;
mod content;
mod cursor;
mod image;
mod lease;
mod namespace;
mod reindex;
mod restart;
mod retention;
mod snapshot;
mod sweep;
mod tables;
mod task;

pub(crate) use batch::oldest_at;
pub(crate) use retention::weight;
pub(crate) use tables::Tables;

pub use retention::{LogSize, Retention};

use crate::{
    Store,
    change::{Commit, Committed},
    error::refusal,
    gc::Barrier,
};
use batch::Batch;
use wharf_messages::{Answer, Refusal, Timestamp, event::Seq};

const DOING: &str = "write the database";

/// The most commits that share a transaction; a longer batch becomes several. It bounds what one fsync makes wait
/// and what one failure puts in doubt.
pub const BATCH_MAX_COMMITS: usize = 1024;

/// The only way to change a row. There is one for a root; the journal has it.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    /// The log as committed.
    log: LogSize,
    /// Set by an error of the disk: nothing can be written until [`Writer::reopen`].
    broken: Option<Refusal>,
    /// What was written since a garbage collection began.
    barrier: Barrier,
    /// What is being made durable: where the log ends with it, and its answers. Still there after a failure, it is in doubt.
    doubt: Option<Doubt>,
    /// Whether the last batch was written in part only, for want of room; then nobody can tell of the rest.
    partial: bool,
}

type Doubt = (Seq, Vec<Answer<Committed>>);

impl Writer {
    pub(crate) fn new(store: Store, log: LogSize) -> Self {
        Self { store, log, broken: None, barrier: Barrier::default(), doubt: None, partial: false }
    }

    /// Does a batch, and answers each commit once all are durable.
    ///
    /// A commit that is refused changes nothing and does not disturb the others. A commit that was answered is on the
    /// disk. On a full disk only what gives room back is done ([`Commit::is_spared`]). After an error of the disk (all answers of the batch say so) what was in flight is in doubt, nothing more is
    /// written, and [`Writer::reopen`] is due.
    pub fn commit(&mut self, batch: impl AsRef<[Commit]>, now: Timestamp) -> Vec<Answer<Committed>> {
        let (batch, tight) = (batch.as_ref(), self.store.is_tight());
        self.partial = tight;
        self.store.spare(tight);
        if !tight {
            return self.commit_all(batch, now);
        }
        let spared: Vec<bool> = batch.iter().map(Commit::is_spared).collect();
        let kept: Vec<Commit> = batch.iter().filter(|commit| commit.is_spared()).cloned().collect();
        let mut answers = self.commit_all(&kept, now).into_iter();
        let no_room = || {
            let root = self.store.root().display();
            Err(Refusal::resource_exhausted(format!(
                "no space left in {root}: only what gives space back is done until there is some"
            )))
        };
        spared.iter().map(|spared| spared.then(|| answers.next()).flatten().unwrap_or_else(no_room)).collect()
    }

    fn commit_all(&mut self, batch: &[Commit], now: Timestamp) -> Vec<Answer<Committed>> {
        let mut answers = Vec::with_capacity(batch.len());
        for part in batch.chunks(BATCH_MAX_COMMITS) {
            match self.usable().and_then(|()| self.write(part, now)) {
                Ok(part) => answers.extend(part),
                Err(refusal) => answers.extend(std::iter::repeat_n(Err(refusal), part.len())),
            }
        }
        answers
    }

    fn write(&mut self, part: &[Commit], now: Timestamp) -> Answer<Vec<Answer<Committed>>> {
        self.doubt = None;
        self.transact(|batch| batch.run(part, now), |doubt, end, answers| *doubt = Some((end, answers)))?;
        wharf_failpoints::failpoint!("store/written");
        Ok(self.doubt.take().map(|(_, answers)| answers).unwrap_or_default())
    }

    /// The answers of the last batch, if a failure left it in doubt and [`Writer::reopen`] found it done. If it wrote no
    /// event, nobody can tell, and it counts as not done.
    pub fn settled(&mut self) -> Option<Vec<Answer<Committed>>> {
        let (end, answers) = self.doubt.take().filter(|_| !self.partial)?;
        let told = answers.iter().flatten().any(|committed| !committed.events.is_empty());
        (told && end == self.log.last).then_some(answers)
    }

    /// Forgets the log before a place (the log's last event always stays); answers how many events went.
    ///
    /// # Errors
    /// An operating error of the disk.
    pub fn trim(&mut self, before: Seq) -> Answer<u64> {
        self.usable()?;
        self.store.spare(true);
        self.transact(|batch| batch.trim(before), |_, _, trimmed| trimmed)
    }

    /// Writes the indexes anew from the rows that they speak of.
    ///
    /// # Errors
    /// An operating error of the disk.
    pub(crate) fn reindex(&mut self) -> Answer<()> {
        self.usable()?;
        self.transact(|batch| batch.reindex(), |_, _, done| done)
    }

    /// Cuts off what retention does not keep, if that is worth a transaction; answers how many events went. A large cut is
    /// made in pieces, one a call.
    ///
    /// # Errors
    /// An operating error of the disk.
    pub fn cut(&mut self, retention: &Retention, now: Timestamp) -> Answer<u64> {
        if !retention.is_due(&self.log, now) {
            return Ok(0);
        }
        self.usable()?;
        // It gives room back.
        self.store.spare(true);
        self.transact(|batch| batch.cut(retention, now), |_, _, cut| cut)
    }

    /// Whether an error of the disk makes [`Writer::reopen`] necessary, and which.
    #[must_use]
    pub fn broken(&self) -> Option<&Refusal> {
        self.broken.as_ref()
    }

    /// Opens the database again after an error of the disk. Readers are not disturbed while it fails.
    ///
    /// # Errors
    /// `ResourceExhausted` while the disk is still full, and other operating errors of it.
    pub fn reopen(&mut self) -> Answer<()> {
        self.store.spare(true);
        self.store.reopen()?;
        // What was in doubt is decided now.
        self.log = self.store.read()?.log_size()?;
        self.broken = None;
        Ok(())
    }

    /// The log's end.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.log.last
    }

    /// The log as it lies.
    #[must_use]
    pub fn log_size(&self) -> LogSize {
        self.log
    }

    fn usable(&self) -> Answer<()> {
        match &self.broken {
            None => Ok(()),
            Some(refusal) => Err(refusal.clone().context("the database waits to be reopened after an error")),
        }
    }

    /// Does work in a transaction. `keep` has its outcome before that is durable.
    fn transact<T, U>(
        &mut self,
        work: impl FnOnce(&mut Batch<'_, '_>) -> Result<T, redb::Error>,
        keep: impl FnOnce(&mut Option<Doubt>, Seq, T) -> U,
    ) -> Answer<U> {
        let (log, store, barrier, doubt) = (self.log, &self.store, &mut self.barrier, &mut self.doubt);
        let done = (|| {
            let transaction = store.begin_write()?;
            let mut batch = Batch::new(Tables::open(&transaction)?, log, barrier);
            let done = work(&mut batch)?;
            let requests = batch.settle_requests(|more| store.requests().surplus(more))?;
            let (log, wrote) = batch.finish()?;
            let done = keep(doubt, log.last, done);
            if wrote {
                transaction.commit()?;
                store.requests().remember(requests);
            } else {
                transaction.abort()?;
            }
            Ok::<_, redb::Error>((done, log))
        })();
        match done {
            Ok((done, log)) => {
                self.log = log;
                Ok(done)
            }
            Err(error) => {
                let refusal = refusal(DOING, error);
                tracing::error!(%refusal, "the database must be reopened");
                self.broken = Some(refusal.clone());
                Err(refusal)
            }
        }
    }
}
