//! One transaction's work: commits one after the other, each taken back if it is refused.

use super::{
    retention::{LogSize, weight},
    tables::{Select, Tables, Undo},
};
use crate::{
    change::{Change, Commit, Committed, Outcome},
    gc::Barrier,
    record::{self, Record},
    schema::{self, Bytes, Key2},
};
use redb::{Key, ReadableTable, StorageError, Value};
use std::sync::Arc;
use wharf_messages::{
    Answer, Namespace, Refusal, Timestamp,
    event::{Event, EventRecord, Seq},
    gc::Resource,
    lease::LeaseResource,
};

/// Why a change was not done.
pub(super) enum Fault {
    /// Its precondition does not hold; the rest of the batch goes on.
    Refused(Refusal),
    /// It is there already; a lease that wanted it gets what is there.
    Exists(Refusal, LeaseResource),
    /// The disk failed; the batch is lost.
    Storage(StorageError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// What a change answers.
pub(super) type Done<T = Outcome> = Result<T, Fault>;

/// A transaction at work.
pub(super) struct Batch<'t, 'w> {
    pub tables: Tables<'t>,
    undo: Undo<'t>,
    /// The log, with what this transaction has written.
    pub log: LogSize,
    log_bytes_before: u64,
    wrote: bool,
    /// The requests done by this transaction.
    requests: Vec<(u64, Seq)>,
    pub barrier: &'w mut Barrier,
}

/// When the log's first event was written. The log cannot be cut by an age that cannot be read.
pub(crate) fn oldest_at(events: &impl ReadableTable<u64, Bytes>) -> Result<Timestamp, StorageError> {
    let first = events.first()?;
    let record = first.and_then(|(_, value)| record::decode::<EventRecord>(value.value()).ok());
    Ok(record.map(|record| record.at).unwrap_or_default())
}

/// A commit at work.
pub(super) struct Scope<'b, 't, 'w> {
    pub batch: &'b mut Batch<'t, 'w>,
    pub commit: &'b Commit,
    /// Where what is told happens: the commit's, or that of what a sweep is removing.
    pub namespace: Option<Namespace>,
    pub now: Timestamp,
    /// Written to the log once all changes are done.
    pub events: Vec<(Option<Namespace>, Event)>,
}

impl<'t, 'w> Batch<'t, 'w> {
    pub fn new(tables: Tables<'t>, log: LogSize, barrier: &'w mut Barrier) -> Self {
        Self {
            tables,
            undo: Undo::default(),
            log,
            log_bytes_before: log.bytes,
            wrote: false,
            requests: Vec::new(),
            barrier,
        }
    }

    /// Forgets these requests; answers those that were done.
    pub fn settle_requests(&mut self, surplus: impl FnOnce(usize) -> Vec<u64>) -> Result<Vec<(u64, Seq)>, redb::Error> {
        // No undo: nothing can refuse it.
        for id in surplus(self.requests.len()) {
            self.tables.requests.remove(id)?;
        }
        Ok(std::mem::take(&mut self.requests))
    }

    /// Ends the work; answers the log as it is now, and whether there is anything to make durable.
    pub fn finish(mut self) -> Result<(LogSize, bool), redb::Error> {
        if self.log.bytes != self.log_bytes_before {
            let bytes = self.log.bytes.to_le_bytes();
            self.tables.meta.insert(schema::META_LOG_BYTES, bytes.as_slice())?;
        }
        Ok((self.log, self.wrote))
    }

    /// Says that something was written past the undo.
    pub fn touch(&mut self) {
        self.wrote = true;
    }

    pub fn run(&mut self, commits: &[Commit], now: Timestamp) -> Result<Vec<Answer<Committed>>, redb::Error> {
        commits.iter().map(|commit| self.one(commit, now)).collect()
    }

    fn one(&mut self, commit: &Commit, now: Timestamp) -> Result<Answer<Committed>, redb::Error> {
        let mark = self.undo.mark();
        let done = Scope::new(self, commit, now).run();
        let fault = match done {
            Ok(committed) => {
                self.wrote |= self.undo.mark() > mark || !committed.events.is_empty();
                if commit.request != 0 {
                    self.requests.push((commit.request, committed.last_seq));
                }
                return Ok(Ok(committed));
            }
            Err(fault) => fault,
        };
        let (refusal, exists) = match fault {
            Fault::Storage(error) => return Err(error.into()),
            Fault::Refused(refusal) => (refusal, None),
            Fault::Exists(refusal, resource) => (refusal, Some(resource)),
        };
        self.undo.back_to(mark, &mut self.tables)?;
        if let Some(resource) = exists
            && commit.lease.is_some()
        {
            match Scope::new(self, commit, now).lease(resource) {
                Ok(()) => self.wrote |= self.undo.mark() > mark,
                Err(Fault::Storage(error)) => return Err(error.into()),
                // The lease itself is missing: that is the graver answer.
                Err(Fault::Refused(refusal) | Fault::Exists(refusal, _)) => return Ok(Err(refusal)),
            }
        }
        Ok(Err(refusal))
    }

    /// Forgets the log before a place, but never its last event: the next one's number comes from it.
    pub fn trim(&mut self, before: Seq) -> Result<u64, redb::Error> {
        let end = before.min(self.log.last).0;
        let (mut gone, mut bytes) = (0, 0);
        // No undo: nothing can refuse it.
        self.tables.events.retain_in(..end, |_, value| {
            gone += 1;
            bytes += weight(value);
            false
        })?;
        self.wrote |= gone > 0;
        self.log.bytes = self.log.bytes.saturating_sub(bytes);
        if gone > 0 {
            self.log.first = Seq(end);
            self.log.oldest_at = oldest_at(&self.tables.events)?;
        }
        Ok(gone)
    }
}

impl<'b, 't, 'w> Scope<'b, 't, 'w> {
    fn new(batch: &'b mut Batch<'t, 'w>, commit: &'b Commit, now: Timestamp) -> Self {
        Self { batch, commit, namespace: commit.namespace.clone(), now, events: Vec::new() }
    }

    fn run(mut self) -> Done<Committed> {
        let request = self.commit.request;
        if request != 0 && self.batch.tables.requests.get(request)?.is_some() {
            return Err(Refusal::aborted(format!("request {request:016x} was done before")).into());
        }
        let mut outcomes = Vec::with_capacity(self.commit.changes.len());
        for change in &self.commit.changes {
            outcomes.push(self.apply(change)?);
        }
        if request != 0 {
            let Seq(last) = self.batch.log.last;
            let told = self.events.len() + self.commit.events.len();
            self.put(|t| &mut t.requests, request, last + told as u64)?;
        }
        let events = self.append()?;
        Ok(Committed { last_seq: self.batch.log.last, outcomes, events })
    }

    /// Appends the events to the log. All are encoded before the first is written: what can be refused comes before what
    /// would have to be taken back.
    fn append(&mut self) -> Done<Vec<Arc<EventRecord>>> {
        let given = self.commit.events.iter().map(|event| (self.commit.namespace.clone(), event.clone()));
        let told = std::mem::take(&mut self.events).into_iter().chain(given);
        let Seq(last) = self.batch.log.last;
        let mut events = Vec::with_capacity(told.size_hint().0);
        let mut encoded = Vec::with_capacity(told.size_hint().0);
        for ((namespace, event), seq) in told.zip(last + 1..) {
            let record = EventRecord { seq: Seq(seq), at: self.now, namespace, event, late: self.commit.late };
            encoded.push(record::encode(&record)?);
            events.push(Arc::new(record));
        }
        let log = &mut self.batch.log;
        if log.events() == 0 && !events.is_empty() {
            (log.first, log.oldest_at) = (Seq(last + 1), self.now);
        }
        for (record, bytes) in events.iter().zip(&encoded) {
            self.batch.tables.events.insert(record.seq.0, bytes.as_slice())?;
            log.last = record.seq;
            log.bytes += weight(bytes);
        }
        Ok(events)
    }

    fn apply(&mut self, change: &Change) -> Done {
        match change {
            Change::CreateNamespace(call) => return self.create_namespace(call),
            Change::UpdateNamespace(call) => return self.update_namespace(call),
            Change::DeleteNamespace(name) => return self.delete_namespace(name),
            Change::BeginCollection => return Ok(Outcome::CollectionBegun(self.batch.barrier.begin())),
            Change::Sweep(garbage) => return self.sweep(garbage),
            Change::CreateCursor(cursor) => return self.create_cursor(cursor),
            Change::MoveCursor { name, acked } => return self.move_cursor(name, *acked),
            Change::DeleteCursor(name) => return self.delete_cursor(name),
            _ => {}
        }
        let namespace = self.commit.namespace.as_ref();
        let ns = &namespace.ok_or_else(|| Refusal::failed_precondition("namespace is required"))?.clone();
        match change {
            Change::CreateNamespace(_)
            | Change::UpdateNamespace(_)
            | Change::DeleteNamespace(_)
            | Change::BeginCollection
            | Change::CreateCursor(_)
            | Change::MoveCursor { .. }
            | Change::DeleteCursor(_)
            | Change::Sweep(_) => Ok(Outcome::Done),
            Change::CreateImage(call) => self.create_image(ns, call),
            Change::UpdateImage(call) => self.update_image(ns, call),
            Change::PutImage(call) => self.put_image(ns, call),
            Change::DeleteImage(name) => self.delete_image(ns, name),
            Change::CreateContainer(container) => self.create_container(ns, container),
            Change::UpdateContainer(call) => self.update_container(ns, call),
            Change::DeleteContainer(id) => self.delete_container(ns, id),
            Change::CreateTask(row) => self.create_task(ns, row),
            Change::PutTask(row) => self.put_task(ns, row),
            Change::DeleteTask(id) => self.delete_task(ns, id),
            Change::PutRestart(record) => self.put_restart(ns, record),
            Change::BeginRestart(record) => self.begin_restart(ns, record),
            Change::DeleteRestart(id) => self.delete_restart(ns, id),
            Change::PutHealth(record) => self.put_health(ns, record),
            Change::PrepareSnapshot(new) => self.prepare_snapshot(ns, new),
            Change::CommitSnapshot { snapshotter, key, name, parent, labels, usage } => {
                self.commit_snapshot(ns, snapshotter, key, name, parent.as_ref(), labels, *usage)
            }
            Change::UpdateSnapshot { snapshotter, key, labels, mask } => {
                self.update_snapshot(ns, snapshotter, key, labels, mask)
            }
            Change::RemoveSnapshot { snapshotter, key } => self.remove_snapshot(ns, snapshotter, key),
            Change::CreateContent { digest, size_bytes, labels } => {
                self.create_content(ns, digest, *size_bytes, labels)
            }
            Change::ShareContent { digest, labels } => self.share_content(ns, digest, labels),
            Change::UpdateContent(call) => self.update_content(ns, call),
            Change::DeleteContent(digest) => self.delete_content(ns, digest),
            Change::PutIngest(row) => self.put_ingest(ns, row),
            Change::DeleteIngest(reference) => self.delete_ingest(ns, reference),
            Change::CreateLease(call) => self.create_lease(ns, call),
            Change::DeleteLease(id) => self.delete_lease(ns, id),
            Change::AddLeaseResource(call) => self.add_lease_resource(ns, call),
            Change::DeleteLeaseResource(call) => self.delete_lease_resource(ns, call),
        }
    }

    /// Says that something happened.
    pub fn tell(&mut self, event: Event) {
        self.events.push((self.namespace.clone(), event));
    }

    /// Remembers for a garbage collection that a row was written which keeps something, or is kept.
    pub fn note(&mut self, namespace: &Namespace, resource: impl FnOnce() -> Resource) {
        self.batch.barrier.note(namespace, resource);
    }

    /// Writes a row; answers whether one was there.
    pub fn put<K: Key + 'static, V: Value + 'static>(
        &mut self,
        select: Select<'t, K, V>,
        key: K::SelfType<'_>,
        value: V::SelfType<'_>,
    ) -> Done<bool> {
        Ok(self.batch.undo.put(&mut self.batch.tables, select, key, value)?)
    }

    /// Removes a row; answers whether one was there.
    pub fn remove<K: Key + 'static, V: Value + 'static>(
        &mut self,
        select: Select<'t, K, V>,
        key: K::SelfType<'_>,
    ) -> Done<bool> {
        Ok(self.batch.undo.remove(&mut self.batch.tables, select, key)?)
    }

    /// Reads a record by namespace and name.
    pub fn get2<R: Record>(
        &mut self,
        select: Select<'t, Key2, Bytes>,
        namespace: &Namespace,
        name: &str,
    ) -> Done<Option<R>> {
        let row = select(&mut self.batch.tables).get((namespace.as_str(), name))?;
        Ok(row.map(|row| record::decode(row.value())).transpose()?)
    }

    /// Writes a record by namespace and name; the namespace has a row from then on.
    pub fn put2<R: Record>(
        &mut self,
        select: Select<'t, Key2, Bytes>,
        namespace: &Namespace,
        name: &str,
        record: &R,
    ) -> Done<()> {
        self.ensure_namespace(namespace)?;
        let bytes = record::encode(record)?;
        self.put(select, (namespace.as_str(), name), bytes.as_slice())?;
        Ok(())
    }
}
