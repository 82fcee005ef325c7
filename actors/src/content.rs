//! Content: grants the writing of blobs, one writer a reference, and changes what namespaces know of blobs.
//!
//! - Parent root; permanent; mailbox 1,024.
//! - Handles `content.update|delete|abort` -> record | refusals of the commit -> `ContentCreated`, `ContentDeleted`;
//!   [`OpenIngest`] -> a writer | `Unavailable` (somebody writes it), `AlreadyExists` (the blob is here), `OutOfRange`.
//! - Jobs: opening (a resumed ingest is read to know its hash); the sweep at the start.
//! - A restart reads nothing back: who writes what is kept with the writers, which live on.
//!
//! Bytes do not come here: the front end or a pull writes them through its [`IngestWriter`].
//!
//! Invariants:
//! - **CONTENT-1** A reference has at most one writer. Dropping it keeps the bytes and frees the reference.
//! - **CONTENT-2** A blob's file is verified and in its place before its row is committed, and goes after its last row.
//!
//! # Spec
//! API reference, section 3 "Content".

mod sharing;

pub use sharing::Sharing;

use crate::{
    Wharf,
    commit::answer_after_commit,
    journal::Journal,
    root::Fixed,
    runtime::{Actor, Ask, ChildSpec, Ctx, Handler, Request, Supervised, blocking, waiting},
};
use bytes::Bytes;
use std::{
    collections::HashSet,
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use wharf_messages::{
    Answer, Digest, IngestRef, Labels, LeaseId, Meta, Namespace, Refusal, RefusalKind,
    content::{AbortIngest, ContentInfo, DeleteContent, UpdateContent},
    id::DigestAlgorithm,
    lease::{AddLeaseResource, LeaseResource},
};
use wharf_store::{Change, Commit, Committed, Growing, IngestFile, IngestRow, Outcome, Placed, Store, refuse};

/// The first pause before a reference that another has is tried again. Each is twice the one before.
const LOCK_PAUSE: Duration = Duration::from_millis(1);
/// The last: half a second in all, as long as containerd tries.
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(256);
/// How much of a blob is copied at once.
const COPY_BYTES: usize = 256 << 10;

/// What content needs from the rest of the system.
#[derive(Clone)]
pub struct ContentDeps {
    /// Rows and files.
    pub store: Store,
    /// For changing rows.
    pub journal: Journal,
    /// Whether namespaces have what others have.
    pub sharing: Sharing,
    writers: Writers,
}

impl ContentDeps {
    /// Nobody writes yet.
    #[must_use]
    pub fn new(store: Store, journal: Journal, sharing: Sharing) -> Self {
        Self { store, journal, sharing, writers: Writers::default() }
    }

    /// What is being written right now.
    #[must_use]
    pub fn being_written(&self) -> Vec<(Namespace, IngestRef)> {
        self.writers.references()
    }
}

/// References that have a writer.
#[derive(Clone, Default)]
struct Writers(Arc<Mutex<HashSet<(Namespace, IngestRef)>>>);

impl Writers {
    fn set(&self) -> MutexGuard<'_, HashSet<(Namespace, IngestRef)>> {
        // A set is whole at any moment, also after a panic beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every reference that has a writer.
    fn references(&self) -> Vec<(Namespace, IngestRef)> {
        self.set().iter().cloned().collect()
    }

    /// Takes a reference; waits a little for whoever has it. A client that has just closed its stream and opens another has
    /// done all it can: that the first is not yet seen to be closed is not its fault.
    async fn lock(&self, namespace: &Namespace, reference: &IngestRef) -> Answer<RefLock> {
        let key = (namespace.clone(), reference.clone());
        let mut pause = LOCK_PAUSE;
        while !self.set().insert(key.clone()) {
            if pause > LOCK_PAUSE_MAX {
                return Err(Refusal::unavailable(format!("ref {reference} locked for writing by another")));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(RefLock { writers: self.clone(), key })
    }
}

/// The right to write a reference, until it is dropped.
struct RefLock {
    writers: Writers,
    key: (Namespace, IngestRef),
}

impl Drop for RefLock {
    fn drop(&mut self) {
        self.writers.set().remove(&self.key);
    }
}

/// Asks for the writing of a blob.
#[derive(Debug, Clone)]
pub struct OpenIngest {
    /// The ingest's name.
    pub reference: IngestRef,
    /// The expected length; 0 if not known.
    pub total_bytes: u64,
    /// What it must turn out to be.
    pub expected: Option<Digest>,
    /// Labels for the blob.
    pub labels: Labels,
    /// Whether a blob that only another namespace has is as good as written: the writer begins at its end.
    pub shares: bool,
}

impl Request for OpenIngest {
    type Reply = IngestWriter;
    const NAME: &'static str = "content.open";
    const QUERY: bool = false;
}

/// The actor.
pub struct Content {
    deps: ContentDeps,
}

impl Content {
    /// Over the store.
    #[must_use]
    pub fn new(deps: ContentDeps) -> Self {
        Self { deps }
    }
}

impl Actor for Content {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let store = self.deps.store.clone();
        let sweep = async move { blocking("sweep content", move || store.sweep_content()).await };
        ctx.job(
            "sweep content",
            |_| sweep,
            |_, swept, _| match swept {
                Ok(0) => {}
                Ok(files) => tracing::info!(files, "removed files that no content names"),
                // Left-over files take space and harm nobody; the next start tries again.
                Err(refusal) => tracing::warn!(%refusal, "content could not be swept"),
            },
        );
    }
}

impl Supervised for Content {}

impl Handler<Ask<OpenIngest>> for Content {
    type Result = ();

    fn handle(&mut self, ask: Ask<OpenIngest>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let deps = self.deps.clone();
        let work = async move {
            let namespace = meta.namespace()?.clone();
            let lock = deps.writers.lock(&namespace, &call.reference).await?;
            open(deps, lock, namespace, meta.lease, call).await
        };
        ctx.job("open ingest", |_| work, |_, opened, _| reply.send(opened));
    }
}

async fn open(
    deps: ContentDeps,
    lock: RefLock,
    namespace: Namespace,
    lease: Option<LeaseId>,
    call: OpenIngest,
) -> Answer<IngestWriter> {
    let (store, looking, wanted, sharing) = (deps.store.clone(), namespace.clone(), call.clone(), deps.sharing);
    let (row, file, borrowed) = blocking("open ingest", move || {
        let reader = store.read()?;
        let row = reader.ingest(&looking, &wanted.reference)?;
        if let Some(expected) = &wanted.expected
            && reader.content(&looking, expected)?.is_some()
        {
            return Ok((row, None, None));
        }
        let borrowed = match &wanted.expected {
            Some(digest) if wanted.shares && row.is_none() => {
                sharing.offered(&reader, digest)?.map(|size| (digest.clone(), size))
            }
            _ => None,
        };
        let algorithm = wanted.expected.as_ref().map_or(DigestAlgorithm::Sha256, Digest::algorithm);
        let file = match &row {
            Some(row) => store.blobs().resume(&row.file_id, algorithm)?,
            None => store.blobs().begin(algorithm)?,
        };
        Ok((row, Some(file), borrowed))
    })
    .await?;
    let Some(file) = file else {
        // Nothing to write; what was begun is thrown away, and the lease holds the blob.
        if row.is_some() {
            discard(&deps, &namespace, &call.reference, 0).await?;
        }
        let digest = call.expected.ok_or_else(|| Refusal::internal("a blob without a name cannot be here"))?;
        if lease.is_some() {
            let change = Change::CreateContent { digest: digest.clone(), size_bytes: 0, labels: Labels::new() };
            deps.journal.commit(Commit::one(&namespace, change).leased(lease)).await?;
        }
        return Err(refuse::content_exists(&digest));
    };
    let now = wharf_messages::Timestamp::ZERO;
    let row = IngestRow {
        reference: call.reference,
        file_id: file.id().clone(),
        total_bytes: call.total_bytes,
        expected: call.expected,
        started_at: row.map_or(now, |row| row.started_at),
        updated_at: now,
        labels: call.labels,
    };
    deps.journal.commit(Commit::one(&namespace, Change::PutIngest(row.clone())).leased(lease.clone())).await?;
    Ok(IngestWriter { deps, namespace, lease, row, borrowed, file: Some(Locked { file, lock }) })
}

/// Removes an ingest's row, then its bytes.
async fn discard(deps: &ContentDeps, namespace: &Namespace, reference: &IngestRef, request: u64) -> Answer<()> {
    let commit = Commit::one(namespace, Change::DeleteIngest(reference.clone())).request(request);
    let row = deps.journal.commit(commit).await?.into_ingest();
    let store = deps.store.clone();
    blocking("discard ingest", move || match row {
        Some(row) => store.blobs().discard_ingest(&row.file_id, || Ok(true)).map(|_| ()),
        None => Ok(()),
    })
    .await
}

/// The writing of one blob: holds the reference until it is dropped.
pub struct IngestWriter {
    deps: ContentDeps,
    namespace: Namespace,
    lease: Option<LeaseId>,
    row: IngestRow,
    /// Another namespace's blob and its length, which counts as written as long as nothing else is.
    borrowed: Option<(Digest, u64)>,
    /// None while a blocking thread has it; gone for good after an error of that thread.
    file: Option<Locked>,
}

/// An ingest's file, and the right to write it. They stay together: a thread that still writes when its caller has gone
/// away keeps the reference (CONTENT-1).
struct Locked {
    file: IngestFile,
    lock: RefLock,
}

impl std::fmt::Debug for IngestWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IngestWriter({}, {:?})", self.row.reference, self.file.as_ref().map(|locked| &locked.file))
    }
}

impl IngestWriter {
    /// How many bytes it has.
    ///
    /// # Errors
    /// `Internal` after a write that panicked.
    pub fn offset_bytes(&self) -> Answer<u64> {
        if let Some((_, size_bytes)) = &self.borrowed {
            return Ok(*size_bytes);
        }
        self.file.as_ref().map(|locked| locked.file.offset_bytes()).ok_or_else(lost)
    }

    /// What the bytes so far are called.
    ///
    /// # Errors
    /// `Internal` after a write that panicked.
    pub fn digest(&self) -> Answer<Digest> {
        if let Some((digest, _)) = &self.borrowed {
            return Ok(digest.clone());
        }
        self.file.as_ref().ok_or_else(lost)?.file.digest()
    }

    /// How its growth can be followed.
    ///
    /// # Errors
    /// `Internal` after a write that panicked.
    pub fn growing(&self) -> Answer<Growing> {
        self.file.as_ref().map(|locked| locked.file.growing()).ok_or_else(lost)
    }

    async fn with_file<T: Send + 'static>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut IngestFile) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let mut locked = self.file.take().ok_or_else(lost)?;
        let (locked, answer) = blocking(name, move || {
            let answer = work(&mut locked.file);
            Ok((locked, answer))
        })
        .await?;
        self.file = Some(locked);
        answer
    }

    /// Writes bytes at the end.
    ///
    /// # Errors
    /// `ResourceExhausted` on a full disk, and other operating errors; what was written before stays.
    pub async fn write(&mut self, chunks: Vec<Bytes>) -> Answer<()> {
        if let Some((digest, _)) = self.borrowed.take() {
            // Something follows, so it becomes another blob than the one that is here.
            let store = self.deps.store.clone();
            self.with_file("copy blob", move |file| copy(&store, &digest, file)).await?;
        }
        self.with_file("write ingest", move |file| chunks.iter().try_for_each(|chunk| file.append(chunk).map(|_| ())))
            .await
    }

    /// Writes what comes through the channel until it closes. Bytes are taken while others are being written.
    ///
    /// # Errors
    /// The first error of the sender's or of the disk; what was written before stays.
    pub async fn write_all(&mut self, mut chunks: tokio::sync::mpsc::Receiver<Answer<Bytes>>) -> Answer<()> {
        let mut locked = self.file.take().ok_or_else(lost)?;
        let (locked, answer) = waiting("write ingest", move || {
            let mut write = || {
                while let Some(chunk) = chunks.blocking_recv() {
                    locked.file.append(&chunk?)?;
                }
                Ok(())
            };
            let answer = write();
            Ok((locked, answer))
        })
        .await?;
        self.file = Some(locked);
        answer
    }

    /// Throws away what is beyond a length.
    ///
    /// # Errors
    /// `OutOfRange`, and operating errors.
    pub async fn truncate(&mut self, len_bytes: u64) -> Answer<()> {
        if let Some((digest, _)) = self.borrowed.take()
            && len_bytes > 0
        {
            let store = self.deps.store.clone();
            self.with_file("copy blob", move |file| copy(&store, &digest, file)).await?;
        }
        self.with_file("truncate ingest", move |file| file.truncate(len_bytes)).await
    }

    /// Makes it a blob. `size_bytes` of 0 means not known; `labels` come on top of those it was opened with.
    ///
    /// # Errors
    /// `FailedPrecondition` for another size or digest: the ingest stays. `AlreadyExists` if the namespace has the blob:
    /// the ingest is gone.
    pub async fn commit(mut self, size_bytes: u64, expected: Option<Digest>, labels: Labels) -> Answer<ContentInfo> {
        if let Some(borrowed) = self.borrowed.take() {
            return self.adopt(borrowed, size_bytes, expected, labels).await;
        }
        let Locked { file, lock } = self.file.take().ok_or_else(lost)?;
        let expected = expected.or_else(|| self.row.expected.clone());
        let size_bytes = if size_bytes == 0 { self.row.total_bytes } else { size_bytes };
        let written = file.offset_bytes();
        if size_bytes != 0 && size_bytes != written {
            let reference = &self.row.reference;
            let why = format!("{reference:?} failed size validation: {written} != {size_bytes}");
            return Err(Refusal::failed_precondition(why));
        }
        let (placed, _lock) =
            blocking("commit blob", move || Ok((file.commit(size_bytes, expected.as_ref())?, lock))).await?;
        let mut all = std::mem::take(&mut self.row.labels);
        all.extend(labels);
        let change = created(&placed, all);
        let ended = Change::DeleteIngest(self.row.reference.clone());
        let commit = Commit::one(&self.namespace, change).change(ended).leased(self.lease.clone());
        let committed = self.deps.journal.commit(commit).await;
        if let Err(refusal) = &committed
            && refusal.is(RefusalKind::AlreadyExists)
        {
            discard(&self.deps, &self.namespace, &self.row.reference, 0).await?;
        }
        // Until here only this kept the file from a sweep (CONTENT-2).
        drop(placed);
        committed?.into_content().ok_or_else(|| Refusal::internal("a new blob has no record"))
    }
}

impl IngestWriter {
    /// Makes another namespace's blob this one's too.
    async fn adopt(
        mut self,
        (digest, own_bytes): (Digest, u64),
        size_bytes: u64,
        expected: Option<Digest>,
        labels: Labels,
    ) -> Answer<ContentInfo> {
        if size_bytes != 0 && size_bytes != own_bytes {
            let why = format!("unexpected commit size {own_bytes}, expected {size_bytes}");
            return Err(Refusal::failed_precondition(why));
        }
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Refusal::failed_precondition(format!(
                "unexpected commit digest {digest}, expected {expected}"
            )));
        }
        let Locked { file, lock: _lock } = self.file.take().ok_or_else(lost)?;
        let mut all = std::mem::take(&mut self.row.labels);
        all.extend(labels);
        let change = Change::ShareContent { digest, labels: all };
        let ended = Change::DeleteIngest(self.row.reference.clone());
        let commit = Commit::one(&self.namespace, change).change(ended).leased(self.lease.clone());
        let committed = self.deps.journal.commit(commit).await;
        drop(file);
        if committed.as_ref().is_err_and(|refusal| refusal.is(RefusalKind::AlreadyExists)) {
            discard(&self.deps, &self.namespace, &self.row.reference, 0).await?;
        }
        let info = committed?.into_content().ok_or_else(|| Refusal::internal("a shared blob has no record"))?;
        let store = self.deps.store.clone();
        blocking("discard ingest", move || store.blobs().discard_ingest(&self.row.file_id, || Ok(true))).await?;
        Ok(info)
    }
}

/// Appends a blob to an ingest.
fn copy(store: &Store, digest: &Digest, ingest: &mut IngestFile) -> Answer<()> {
    let (mut blob, _) = store.blobs().read(digest)?;
    let mut chunk = vec![0; COPY_BYTES];
    loop {
        match blob.read(&mut chunk).map_err(|e| Refusal::io(format!("read content {digest}"), &e))? {
            0 => return Ok(()),
            got => ingest.append(&chunk[..got])?,
        };
    }
}

fn created(placed: &Placed, labels: Labels) -> Change {
    Change::CreateContent { digest: placed.digest().clone(), size_bytes: placed.size_bytes(), labels }
}

fn lost() -> Refusal {
    Refusal::internal("the ingest was lost in a failed write")
}

/// Stores a small blob in one go; one that is here already is fine.
///
/// # Errors
/// `FailedPrecondition` if it is not what is expected, and operating errors.
pub async fn insert(
    deps: &ContentDeps,
    meta: &Meta,
    bytes: Vec<u8>,
    expected: Option<Digest>,
    labels: Labels,
) -> Answer<Digest> {
    let namespace = meta.namespace()?;
    let store = deps.store.clone();
    let placed = blocking("store blob", move || store.blobs().insert(&bytes, expected.as_ref())).await?;
    let digest = placed.digest().clone();
    let commit = Commit::one(namespace, created(&placed, labels)).leased(meta.lease.clone());
    let committed = deps.journal.commit(commit).await;
    drop(placed);
    match committed {
        Err(refusal) if !refusal.is(RefusalKind::AlreadyExists) => Err(refusal),
        _ => Ok(digest),
    }
}

/// Whether a namespace has a blob; one that another namespace has becomes this one's too, if they share. The call's lease
/// has it then.
///
/// # Errors
/// Operating errors; `NotFound` for the lease.
pub async fn have(deps: &ContentDeps, meta: &Meta, digest: &Digest, labels: Labels) -> Answer<bool> {
    let namespace = meta.namespace()?;
    let resource = LeaseResource { kind: "content".to_owned(), id: digest.to_string() };
    let look = || {
        let (store, namespace, lease) = (deps.store.clone(), namespace.clone(), meta.lease.clone());
        let (digest, resource, sharing) = (digest.clone(), resource.clone(), deps.sharing);
        blocking("look for a blob", move || {
            let reader = store.read()?;
            let own = reader.content(&namespace, &digest)?.is_some();
            let leased = match lease {
                Some(lease) => reader.leases_of(&namespace, &resource)?.contains(&lease),
                None => true,
            };
            Ok((own, own || sharing.offered(&reader, &digest)?.is_some(), leased))
        })
    };
    let (own, any, leased) = look().await?;
    if own
        && !leased
        && let Some(id) = meta.lease.clone()
    {
        let change = Change::AddLeaseResource(AddLeaseResource { id, resource: resource.clone() });
        deps.journal.commit(Commit::one(namespace, change)).await?;
        // It may have been collected just before.
        return Ok(look().await?.0);
    }
    if own || !any {
        return Ok(own);
    }
    let change = Change::ShareContent { digest: digest.clone(), labels };
    match deps.journal.commit(Commit::one(namespace, change).leased(meta.lease.clone())).await {
        Ok(_) => Ok(true),
        Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => Ok(true),
        // Deleted in between: it must be fetched.
        Err(refusal) if refusal.is(RefusalKind::NotFound) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

impl Handler<Ask<UpdateContent>> for Content {
    type Result = ();

    fn handle(&mut self, ask: Ask<UpdateContent>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        match meta.namespace() {
            Ok(namespace) => {
                let commit = Commit::one(namespace, Change::UpdateContent(call)).request(meta.request_id);
                answer_after_commit(&self.deps.journal, commit, reply, ctx, Committed::into_content);
            }
            Err(refusal) => reply.send(Err(refusal)),
        }
    }
}

impl Handler<Ask<DeleteContent>> for Content {
    type Result = ();

    fn handle(&mut self, ask: Ask<DeleteContent>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let deps = self.deps.clone();
        let work = async move {
            let commit =
                Commit::one(meta.namespace()?, Change::DeleteContent(call.digest.clone())).request(meta.request_id);
            let committed = deps.journal.commit(commit).await?;
            let last = committed.outcomes.iter().any(|o| matches!(o, Outcome::ContentDeleted { last: true, .. }));
            if last {
                let store = deps.store.clone();
                blocking("delete a blob's file", move || store.discard_blob(&call.digest)).await?;
            }
            Ok(())
        };
        ctx.job("delete content", |_| work, |_, end, _| reply.send(end));
    }
}

impl Handler<Ask<AbortIngest>> for Content {
    type Result = ();

    fn handle(&mut self, ask: Ask<AbortIngest>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let deps = self.deps.clone();
        let work = async move {
            let namespace = meta.namespace()?;
            // Held until the ingest is gone, so that nobody begins to write it meanwhile.
            let _lock = deps.writers.lock(namespace, &call.reference).await?;
            discard(&deps, namespace, &call.reference, meta.request_id).await
        };
        ctx.job("abort ingest", |_| work, |_, end, _| reply.send(end));
    }
}

impl Fixed for Content {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("content");

    fn new(wharf: &Wharf) -> Self {
        Self::new(wharf.drivers.content.clone())
    }
}

#[cfg(test)]
mod tests;
