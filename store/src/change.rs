//! What can be committed: the changes, what each demands of the rows as they are, and what it answers.
//!
//! A change brings its own event where there is one, so that no row can change without the log saying so.

use crate::{
    gc::{Garbage, Swept},
    row::{IngestRow, SnapshotRow, TaskRow},
};
use std::sync::Arc;
use wharf_messages::{
    ContainerId, CursorName, Digest, ImageName, IngestRef, Labels, LeaseId, Namespace, SnapshotKey, SnapshotterName,
    container::{Container, UpdateContainer},
    content::{ContentInfo, UpdateContent},
    cursor::Cursor,
    event::{Event, EventRecord, Seq},
    health::HealthRecord,
    image::{CreateImage, Image, UpdateImage},
    lease::{AddLeaseResource, CreateLease, DeleteLeaseResource, Lease},
    namespace::{CreateNamespace, NamespaceRecord, UpdateNamespace},
    restart::RestartRecord,
    snapshot::{SnapshotKind, Usage},
};

/// Changes and events that become true together, or not at all.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Where the objects live. Every change needs it but those of namespaces themselves; the events carry it.
    pub namespace: Option<Namespace>,
    /// What protects the content, snapshots and ingests that the changes make. They are added to it also when the
    /// answer is `AlreadyExists`: then that, and nothing else of the commit, is done.
    pub lease: Option<LeaseId>,
    /// In order; a later one sees what an earlier one did.
    pub changes: Vec<Change>,
    /// Facts that are no change of a row here, or whose change does not say enough (a task's); after the changes' own.
    pub events: Vec<Event>,
    /// Marks the events as learnt late.
    pub late: bool,
    /// The request that is done with this ([`Meta::request_id`](wharf_messages::Meta)); 0 for none. Refused with `Aborted`
    /// if it was done before: [`Store::done`](crate::Store::done) knows.
    pub request: u64,
}

impl Commit {
    /// An empty commit in a namespace.
    #[must_use]
    pub fn new(namespace: &Namespace) -> Self {
        Self { namespace: Some(namespace.clone()), ..Self::default() }
    }

    /// One change in a namespace.
    #[must_use]
    pub fn one(namespace: &Namespace, change: Change) -> Self {
        Self::new(namespace).change(change)
    }

    /// Adds a change.
    #[must_use]
    pub fn change(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }

    /// Adds an event.
    #[must_use]
    pub fn event(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    /// Sets the lease.
    #[must_use]
    pub fn leased(mut self, lease: Option<LeaseId>) -> Self {
        self.lease = lease;
        self
    }

    /// Whether it is done even on a full disk: what takes something away, and what says how a container goes on that is
    /// there already. It writes little, and replaces what it writes.
    #[must_use]
    pub fn is_spared(&self) -> bool {
        !self.changes.is_empty() && self.changes.iter().all(Change::is_spared)
    }

    /// Says which request is done with it.
    #[must_use]
    pub fn request(mut self, id: u64) -> Self {
        self.request = id;
        self
    }

    /// Marks the events as learnt late.
    #[must_use]
    pub fn late(mut self, late: bool) -> Self {
        self.late = late;
        self
    }
}

/// A new active snapshot or view, whose folder is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Whose.
    pub snapshotter: SnapshotterName,
    /// Its key.
    pub key: SnapshotKey,
    /// What it stands on.
    pub parent: Option<SnapshotKey>,
    /// `Active` or `View`.
    pub kind: SnapshotKind,
    /// The folder's name.
    pub id: u64,
    /// Its labels.
    pub labels: Labels,
}

/// One change. Times in records are ignored: the store sets them.
///
/// All are refused with `InvalidArgument` for a label beyond 4096 bytes or an unknown field in a mask, and with
/// `NotFound` for a lease that is not there.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // Commits are few and short-lived; boxes would only be in the way.
pub enum Change {
    /// Refused with `AlreadyExists`. Answers [`Outcome::Namespace`].
    CreateNamespace(CreateNamespace),
    /// Makes it if it is not there. Answers [`Outcome::Namespace`].
    UpdateNamespace(UpdateNamespace),
    /// Refused with `NotFound`, `FailedPrecondition` naming what is still in it; leases and ingests go with it.
    DeleteNamespace(Namespace),

    /// Refused with `AlreadyExists`, `InvalidArgument` for a target without type or size. Answers [`Outcome::Image`].
    CreateImage(CreateImage),
    /// Refused with `NotFound`. Answers [`Outcome::Image`].
    UpdateImage(UpdateImage),
    /// Makes or replaces, as a pull does: target and labels as given. Answers [`Outcome::Image`].
    PutImage(CreateImage),
    /// Refused with `NotFound`. Answers [`Outcome::Image`], as it was.
    DeleteImage(ImageName),

    /// Refused with `AlreadyExists`, `InvalidArgument`. Answers [`Outcome::Container`].
    CreateContainer(Container),
    /// Refused with `NotFound`, `InvalidArgument` for another runtime or snapshotter. Answers [`Outcome::Container`].
    UpdateContainer(UpdateContainer),
    /// Refused with `NotFound`, `FailedPrecondition` while it has a task. Answers [`Outcome::Container`], as it was.
    DeleteContainer(ContainerId),

    /// Refused with `NotFound` for the container, `AlreadyExists` if it has a task. Answers [`Outcome::Task`].
    CreateTask(TaskRow),
    /// Replaces the row. Refused with `NotFound`. Answers [`Outcome::Task`].
    PutTask(TaskRow),
    /// Refused with `NotFound`. Answers [`Outcome::Task`], as it was.
    DeleteTask(ContainerId),

    /// Writes how far a restart has come. Refused with `NotFound` for the container.
    PutRestart(RestartRecord),
    /// The same, with the number of restarts in the container's label: the intent to start its task. Refused with
    /// `NotFound`, `FailedPrecondition` if its labels do not wish that it runs, or say that a user has stopped it.
    BeginRestart(RestartRecord),
    /// Forgets a restart. None is fine.
    DeleteRestart(ContainerId),
    /// Writes how a task fares. Refused with `NotFound` for the task.
    PutHealth(HealthRecord),

    /// Refused with `AlreadyExists` for the key or the target of the label `containerd.io/snapshot.ref`, `NotFound`
    /// for the parent, `InvalidArgument` for one that is not committed. Answers [`Outcome::Snapshot`].
    PrepareSnapshot(NewSnapshot),
    /// Freezes an active snapshot under a name; its id stays. Refused with `NotFound`, `AlreadyExists` for the name,
    /// `FailedPrecondition` for what is not active. Answers [`Outcome::Snapshot`].
    CommitSnapshot {
        /// Whose.
        snapshotter: SnapshotterName,
        /// The active one; gone afterwards.
        key: SnapshotKey,
        /// The committed one.
        name: SnapshotKey,
        /// Sets the parent of one that was prepared without.
        parent: Option<SnapshotKey>,
        /// The committed one's labels.
        labels: Labels,
        /// As measured.
        usage: Usage,
    },
    /// Refused with `NotFound`. Answers [`Outcome::Snapshot`].
    UpdateSnapshot {
        /// Whose.
        snapshotter: SnapshotterName,
        /// Its key.
        key: SnapshotKey,
        /// New labels.
        labels: Labels,
        /// `labels` or `labels.KEY`; empty replaces all.
        mask: Vec<String>,
    },
    /// Refused with `NotFound`, `FailedPrecondition` while others stand on it. Answers [`Outcome::Snapshot`], as it was.
    RemoveSnapshot {
        /// Whose.
        snapshotter: SnapshotterName,
        /// Its key.
        key: SnapshotKey,
    },

    /// Names a blob whose file is in place. Refused with `AlreadyExists`. Answers [`Outcome::Content`].
    CreateContent {
        /// Its name.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
        /// Its labels.
        labels: Labels,
    },
    /// Names a blob that another namespace has. Refused with `AlreadyExists`, `NotFound` if no namespace has it.
    /// Answers [`Outcome::Content`].
    ShareContent {
        /// Its name.
        digest: Digest,
        /// Its labels.
        labels: Labels,
    },
    /// Refused with `NotFound`. Answers [`Outcome::Content`].
    UpdateContent(UpdateContent),
    /// Refused with `NotFound`. Answers [`Outcome::ContentDeleted`].
    DeleteContent(Digest),
    /// Makes or replaces. Answers [`Outcome::Ingest`].
    PutIngest(IngestRow),
    /// Refused with `NotFound`. Answers [`Outcome::Ingest`], as it was.
    DeleteIngest(IngestRef),

    /// Refused with `AlreadyExists`, `InvalidArgument` without an id. Answers [`Outcome::Lease`].
    CreateLease(CreateLease),
    /// Refused with `NotFound`. Answers [`Outcome::Lease`], as it was.
    DeleteLease(LeaseId),
    /// Adding twice is fine. Refused with `NotFound`, `InvalidArgument` for the resource.
    AddLeaseResource(AddLeaseResource),
    /// Taking away what is not there is fine. Refused with `NotFound` for the lease, `InvalidArgument`.
    DeleteLeaseResource(DeleteLeaseResource),

    /// Of no namespace, tells no event. Refused with `AlreadyExists`, `ResourceExhausted` for one too many.
    CreateCursor(Cursor),
    /// Moves a cursor on, never back; of no namespace, tells no event. Refused with `NotFound`.
    MoveCursor {
        /// Which.
        name: CursorName,
        /// Everything up to here is acknowledged.
        acked: Seq,
    },
    /// Of no namespace, tells no event. Refused with `NotFound`.
    DeleteCursor(CursorName),

    /// Begins a garbage collection: what is written from here on survives its sweep, with all that it leads to. Writes
    /// nothing, of no namespace. Answers [`Outcome::CollectionBegun`].
    BeginCollection,
    /// Removes what a mark found unreachable and nothing has referred to since, in whatever namespace. Refused with
    /// `Aborted` if another collection has begun. Answers [`Outcome::Swept`].
    Sweep(Garbage),
}

impl Change {
    fn is_spared(&self) -> bool {
        match self {
            Self::DeleteNamespace(_)
            | Self::DeleteImage(_)
            | Self::UpdateContainer(_)
            | Self::DeleteContainer(_)
            | Self::PutTask(_)
            | Self::DeleteTask(_)
            | Self::PutRestart(_)
            | Self::DeleteRestart(_)
            | Self::PutHealth(_)
            | Self::RemoveSnapshot { .. }
            | Self::DeleteContent(_)
            | Self::DeleteIngest(_)
            | Self::DeleteLease(_)
            | Self::DeleteLeaseResource(_)
            | Self::MoveCursor { .. }
            | Self::DeleteCursor(_)
            | Self::BeginCollection
            | Self::Sweep(_) => true,
            Self::CreateNamespace(_)
            | Self::UpdateNamespace(_)
            | Self::CreateImage(_)
            | Self::UpdateImage(_)
            | Self::PutImage(_)
            | Self::CreateContainer(_)
            | Self::CreateTask(_)
            | Self::BeginRestart(_)
            | Self::PrepareSnapshot(_)
            | Self::CommitSnapshot { .. }
            | Self::UpdateSnapshot { .. }
            | Self::CreateContent { .. }
            | Self::ShareContent { .. }
            | Self::UpdateContent(_)
            | Self::PutIngest(_)
            | Self::CreateLease(_)
            | Self::CreateCursor(_)
            | Self::AddLeaseResource(_) => false,
        }
    }
}

/// What a change wrote, or what was there before a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // As Change.
pub enum Outcome {
    /// Nothing to say.
    Done,
    /// The namespace now.
    Namespace(NamespaceRecord),
    /// The image.
    Image(Image),
    /// The container.
    Container(Container),
    /// The task.
    Task(TaskRow),
    /// The snapshot.
    Snapshot(SnapshotRow),
    /// The blob.
    Content(ContentInfo),
    /// The blob as it was; `last` if no namespace has it any more, so that its file may go
    /// ([`Store::discard_blob`](crate::Store::discard_blob)).
    ContentDeleted {
        /// As it was.
        info: ContentInfo,
        /// Whether no namespace has it any more.
        last: bool,
    },
    /// The ingest.
    Ingest(IngestRow),
    /// The lease.
    Lease(Lease),
    /// The collection's number.
    CollectionBegun(u64),
    /// What was removed.
    Swept(Swept),
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The log's end after this commit: its own last event, or the one before if it had none.
    pub last_seq: Seq,
    /// One for each change, in order.
    pub outcomes: Vec<Outcome>,
    /// What it wrote to the log, in order and as the bus hands it on: for the bus's ring, so that the tail need not be read back.
    pub events: Vec<Arc<EventRecord>>,
}

macro_rules! take {
    ($($(#[$doc:meta])* $name:ident $variant:ident $of:ty;)*) => {
        impl Committed {$(
            $(#[$doc])*
            #[must_use]
            pub fn $name(self) -> Option<$of> {
                self.outcomes.into_iter().find_map(|outcome| match outcome {
                    Outcome::$variant(row) => Some(row),
                    _ => None,
                })
            }
        )*}
    };
}

take! {
    /// The first namespace among the outcomes.
    into_namespace Namespace NamespaceRecord;
    /// The first image among the outcomes.
    into_image Image Image;
    /// The first container among the outcomes.
    into_container Container Container;
    /// The first task among the outcomes.
    into_task Task TaskRow;
    /// The first snapshot among the outcomes.
    into_snapshot Snapshot SnapshotRow;
    /// The first blob among the outcomes.
    into_content Content ContentInfo;
    /// The first ingest among the outcomes.
    into_ingest Ingest IngestRow;
    /// The first lease among the outcomes.
    into_lease Lease Lease;
    /// The collection that was begun.
    into_collection CollectionBegun u64;
    /// What the first sweep among the outcomes removed.
    into_swept Swept Swept;
}
