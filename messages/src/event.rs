//! What is told on the bus: facts, in the past tense, each written in the same transaction as the change it tells of.
//!
//! **Stored for ever:** variants and fields are only ever appended; the store's codec puts a version before each
//! record so that an older form can be read after a change.

use crate::{
    Any, ContainerId, Descriptor, Digest, ExecId, ImageName, Labels, LeaseId, Mount, Namespace, SnapshotKey,
    SnapshotterName, Timestamp,
    container::Runtime,
    cursor::UseCursor,
    health::HealthStatus,
    task::{Exit, Stdio},
};
use serde::{Deserialize, Serialize};

/// A place in the log. The first event has 1; 0 stands before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its place in the log; the only order there is.
    pub seq: Seq,
    /// When it was written.
    pub at: Timestamp,
    /// Where its object lives; none for what belongs to the daemon.
    pub namespace: Option<Namespace>,
    /// What happened.
    pub event: Event,
    /// Set if it was learnt late (after a restart of the daemon).
    pub late: bool,
}

/// What happened. The predecessor rule per object: created < started < exited < deleted; exec added < exec started <
/// exec exited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A namespace was made.
    NamespaceCreated {
        /// Which.
        name: Namespace,
        /// Its labels.
        labels: Labels,
    },
    /// A namespace's labels changed.
    NamespaceUpdated {
        /// Which.
        name: Namespace,
        /// Its labels now.
        labels: Labels,
    },
    /// A namespace is gone.
    NamespaceDeleted {
        /// Which.
        name: Namespace,
    },
    /// An image was named.
    ImageCreated {
        /// Which.
        name: ImageName,
        /// Its labels.
        labels: Labels,
    },
    /// An image changed.
    ImageUpdated {
        /// Which.
        name: ImageName,
        /// Its labels now.
        labels: Labels,
    },
    /// An image's name is gone.
    ImageDeleted {
        /// Which.
        name: ImageName,
    },
    /// A blob is here and verified.
    ContentCreated {
        /// Which.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
    },
    /// A blob left the namespace.
    ContentDeleted {
        /// Which.
        digest: Digest,
    },
    /// A writable snapshot was made.
    SnapshotPrepared {
        /// Where.
        snapshotter: SnapshotterName,
        /// Which.
        key: SnapshotKey,
        /// On what.
        parent: Option<SnapshotKey>,
    },
    /// A snapshot was frozen.
    SnapshotCommitted {
        /// Where.
        snapshotter: SnapshotterName,
        /// The active one it was.
        key: SnapshotKey,
        /// What it is called now.
        name: SnapshotKey,
    },
    /// A snapshot is gone.
    SnapshotRemoved {
        /// Where.
        snapshotter: SnapshotterName,
        /// Which.
        key: SnapshotKey,
    },
    /// A container was made.
    ContainerCreated {
        /// Which.
        id: ContainerId,
        /// From what.
        image: String,
        /// Run by what.
        runtime: Runtime,
    },
    /// A container changed.
    ContainerUpdated {
        /// Which.
        id: ContainerId,
        /// Its image now.
        image: String,
        /// Its labels now.
        labels: Labels,
        /// Its snapshot now.
        snapshot_key: Option<SnapshotKey>,
    },
    /// A container is gone.
    ContainerDeleted {
        /// Which.
        id: ContainerId,
    },
    /// A task is ready to start.
    TaskCreated {
        /// Whose.
        container_id: ContainerId,
        /// Its bundle's folder.
        bundle: String,
        /// Its root file system.
        rootfs: Vec<Mount>,
        /// Its streams.
        stdio: Stdio,
        /// What it was restored from.
        checkpoint: String,
        /// Its first process.
        pid: u32,
    },
    /// A task's first process runs.
    TaskStarted {
        /// Whose.
        container_id: ContainerId,
        /// Its first process.
        pid: u32,
    },
    /// A process ended.
    TaskExited {
        /// Whose.
        container_id: ContainerId,
        /// Which; none is the first.
        exec_id: Option<ExecId>,
        /// It was this one.
        pid: u32,
        /// How.
        exit: Exit,
    },
    /// The kernel's OOM killer struck.
    TaskOomKilled {
        /// Whose.
        container_id: ContainerId,
    },
    /// A task, or one of its processes, was deleted.
    TaskDeleted {
        /// Whose.
        container_id: ContainerId,
        /// Which; none is the task as a whole.
        exec_id: Option<ExecId>,
        /// It was this one.
        pid: u32,
        /// How it had ended.
        exit: Exit,
    },
    /// A process was added.
    TaskExecAdded {
        /// Whose.
        container_id: ContainerId,
        /// Which.
        exec_id: ExecId,
    },
    /// An added process runs.
    TaskExecStarted {
        /// Whose.
        container_id: ContainerId,
        /// Which.
        exec_id: ExecId,
        /// It is this one.
        pid: u32,
    },
    /// A task was frozen.
    TaskPaused {
        /// Whose.
        container_id: ContainerId,
    },
    /// A task was thawed.
    TaskResumed {
        /// Whose.
        container_id: ContainerId,
    },
    /// A task's state was written away.
    TaskCheckpointed {
        /// Whose.
        container_id: ContainerId,
        /// Where to: a descriptor's digest or a path.
        checkpoint: String,
    },
    /// A lease was made.
    LeaseCreated {
        /// Which.
        id: LeaseId,
    },
    /// A lease ended.
    LeaseDeleted {
        /// Which.
        id: LeaseId,
    },
    /// A part of the supervision tree was started again.
    ChildRestarted {
        /// Which.
        path: String,
        /// Why.
        reason: String,
        /// How often, since the daemon started.
        restarts: u32,
    },
    /// A client's or shim's own event, kept as it came.
    Published {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Any,
    },
    /// An image was fetched, named and unpacked.
    ImagePulled {
        /// Which.
        name: ImageName,
        /// What it names.
        target: Descriptor,
    },
    /// A task that ended will be started again.
    RestartScheduled {
        /// Whose.
        container_id: ContainerId,
        /// Which restart since its last good run it is.
        restarts: u32,
        /// When, at the earliest.
        due_at: Timestamp,
        /// Why.
        reason: String,
    },
    /// A task that ended, or was about to be started again, will not be.
    RestartGivenUp {
        /// Whose.
        container_id: ContainerId,
        /// How many restarts there were since its last good run.
        restarts: u32,
        /// Why.
        reason: String,
    },
    /// A task's health is another one.
    HealthChanged {
        /// Whose.
        container_id: ContainerId,
        /// How it is now.
        status: HealthStatus,
        /// How many probes in a row have failed.
        failing: u32,
    },
}

impl Event {
    /// Its topic: containerd's where containerd has the event.
    #[must_use]
    pub fn topic(&self) -> &str {
        match self {
            Self::NamespaceCreated { .. } => "/namespaces/create",
            Self::NamespaceUpdated { .. } => "/namespaces/update",
            Self::NamespaceDeleted { .. } => "/namespaces/delete",
            Self::ImageCreated { .. } => "/images/create",
            Self::ImageUpdated { .. } => "/images/update",
            Self::ImageDeleted { .. } => "/images/delete",
            Self::ImagePulled { .. } => "/wharf/images/pull",
            Self::ContentCreated { .. } => "/content/create",
            Self::ContentDeleted { .. } => "/content/delete",
            Self::SnapshotPrepared { .. } => "/snapshot/prepare",
            Self::SnapshotCommitted { .. } => "/snapshot/commit",
            Self::SnapshotRemoved { .. } => "/snapshot/remove",
            Self::ContainerCreated { .. } => "/containers/create",
            Self::ContainerUpdated { .. } => "/containers/update",
            Self::ContainerDeleted { .. } => "/containers/delete",
            Self::TaskCreated { .. } => "/tasks/create",
            Self::TaskStarted { .. } => "/tasks/start",
            Self::TaskExited { .. } => "/tasks/exit",
            Self::TaskOomKilled { .. } => "/tasks/oom",
            Self::TaskDeleted { .. } => "/tasks/delete",
            Self::TaskExecAdded { .. } => "/tasks/exec-added",
            Self::TaskExecStarted { .. } => "/tasks/exec-started",
            Self::TaskPaused { .. } => "/tasks/paused",
            Self::TaskResumed { .. } => "/tasks/resumed",
            Self::TaskCheckpointed { .. } => "/tasks/checkpointed",
            Self::LeaseCreated { .. } => "/wharf/leases/create",
            Self::LeaseDeleted { .. } => "/wharf/leases/delete",
            Self::ChildRestarted { .. } => "/wharf/supervision/restart",
            Self::Published { topic, .. } => topic,
            Self::RestartScheduled { .. } => "/wharf/restarts/scheduled",
            Self::RestartGivenUp { .. } => "/wharf/restarts/given-up",
            Self::HealthChanged { .. } => "/wharf/health/change",
        }
    }

    /// The container that it is about, or whose task it is about.
    #[must_use]
    pub fn container_id(&self) -> Option<&ContainerId> {
        match self {
            Self::ContainerCreated { id, .. } | Self::ContainerUpdated { id, .. } | Self::ContainerDeleted { id } => {
                Some(id)
            }
            Self::TaskCreated { container_id, .. }
            | Self::TaskStarted { container_id, .. }
            | Self::TaskExited { container_id, .. }
            | Self::TaskOomKilled { container_id }
            | Self::TaskDeleted { container_id, .. }
            | Self::TaskExecAdded { container_id, .. }
            | Self::TaskExecStarted { container_id, .. }
            | Self::TaskPaused { container_id }
            | Self::TaskResumed { container_id }
            | Self::TaskCheckpointed { container_id, .. } => Some(container_id),
            _ => None,
        }
    }
}

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Since {
    /// With what comes next.
    Now,
    /// With the first event after this one; 0 is the whole log.
    Seq(Seq),
    /// With the first event at or after this time.
    Time(Timestamp),
}

/// What a subscriber is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// The subscription stands: everything after `after` will be sent.
    Subscribed {
        /// Where it starts.
        after: Seq,
        /// Its number, for acknowledging; 0 without a cursor.
        subscription: u64,
    },
    /// An event that passed the filters.
    Event(Box<EventRecord>),
    /// The log no longer has these: from the first to the last missing, inclusive.
    Gap(Seq, Seq),
    /// The subscriber is slow: after it had once caught up, the log has grown by so many events that it has not taken.
    /// Told at most once a second; nothing is lost by it but what retention takes meanwhile.
    Behind(u64),
}

/// The most deliveries that come as one item.
pub const DELIVERIES_MAX: usize = 256;

/// Follows the log. Items: [`Delivery`], in batches of what is there. The reply comes at the end: the last place read.
///
/// Refused with `InvalidArgument` for a malformed filter, `OutOfRange` for a place beyond the log's end, and
/// `FailedPrecondition` for a cursor that is shared and was asked for unshared, or the other way round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WatchEvents {
    /// Where to start.
    pub since: Since,
    /// Where to stop, if before the end of time.
    pub until: Option<Timestamp>,
    /// Whether to wait for more at the log's end.
    pub follow: bool,
    /// containerd filters on `topic`, `namespace`, `event.*`, and on what the event is about: `container`, `exec`,
    /// `image`, `snapshot`, `content`, `lease`.
    pub filters: Vec<String>,
    /// The cursor that remembers the place; where it stands goes over `since`.
    pub cursor: Option<UseCursor>,
}

/// Puts a client's own event on the bus; the namespace is the call's, the time is the daemon's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishEvent {
    /// Its topic: a path such as `/orders/create`.
    pub topic: String,
    /// Its payload.
    pub payload: Any,
}
