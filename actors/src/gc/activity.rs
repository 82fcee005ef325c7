//! What was committed that may have made garbage: the journal counts, the collector looks.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use wharf_messages::{
    Namespace, Timestamp,
    gc::{self, Resource},
};
use wharf_store::{Change, Commit, InUse};

/// How long a snapshot is kept that was made without a lease: whoever makes a container makes its snapshot first, and
/// need not take a lease for that moment. A daemon that starts again forgets it: the client has lost its connection.
const YOUNG_FOR: Duration = Duration::from_secs(60);

/// What was committed, or is about to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Changes of what garbage collection looks at.
    pub mutations: u64,
    /// Of these, how many took something away that may have kept something.
    pub deletions: u64,
    /// When the first of what was made ends by itself: it is kept until that moment has passed.
    pub first_end: Option<Timestamp>,
    /// What a container is about to get, and until when it is waited for that.
    young: Vec<(Timestamp, Namespace, Resource)>,
    /// What a container has got.
    taken: Vec<(Namespace, Resource)>,
}

impl Counted {
    /// What a commit comes to once it is durable.
    pub fn of(commit: &Commit, now: Timestamp) -> Self {
        let mut counted = Self::default();
        for change in &commit.changes {
            let (mutates, deletes) = kind(change);
            counted.mutations += u64::from(mutates);
            counted.deletions += u64::from(deletes);
            counted.ends(end(change));
            let Some(namespace) = &commit.namespace else { continue };
            match change {
                Change::PrepareSnapshot(new) if commit.lease.is_none() => {
                    let until = now.plus(YOUNG_FOR);
                    let snapshot = Resource::Snapshot(new.snapshotter.clone(), new.key.clone());
                    counted.young.push((until, namespace.clone(), snapshot));
                    counted.ends(Some(until));
                }
                Change::CreateContainer(container) => {
                    if let (Some(snapshotter), Some(key)) = (&container.snapshotter, &container.snapshot_key) {
                        let snapshot = Resource::Snapshot(snapshotter.clone(), key.clone());
                        counted.taken.push((namespace.clone(), snapshot));
                    }
                }
                _ => {}
            }
        }
        counted
    }

    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.mutations += other.mutations;
        self.deletions += other.deletions;
        self.ends(other.first_end);
        self.young.extend(other.young);
        self.taken.extend(other.taken);
    }

    fn ends(&mut self, end: Option<Timestamp>) {
        self.first_end = self.first_end.into_iter().chain(end).min();
    }
}

/// Whether a change is one of what garbage collection looks at, and whether it may make garbage.
fn kind(change: &Change) -> (bool, bool) {
    match change {
        // A collection is no reason for another one.
        Change::BeginCollection
        | Change::Sweep(_)
        // What is young is nobody's garbage, and tasks and cursors keep nothing.
        | Change::CreateCursor(_)
        | Change::MoveCursor { .. }
        | Change::DeleteCursor(_)
        | Change::CreateNamespace(_)
        | Change::UpdateNamespace(_)
        | Change::CreateTask(_)
        | Change::PutTask(_)
        | Change::DeleteTask(_)
        | Change::PutRestart(_)
        | Change::BeginRestart(_)
        | Change::DeleteRestart(_)
        | Change::PutHealth(_) => (false, false),
        Change::CreateImage(_)
        | Change::CreateContainer(_)
        | Change::PrepareSnapshot(_)
        | Change::CommitSnapshot { .. }
        | Change::CreateContent { .. }
        | Change::ShareContent { .. }
        | Change::PutIngest(_)
        | Change::CreateLease(_)
        | Change::AddLeaseResource(_)
        // Labels that are taken away may have kept something; waiting for more changes is soon enough.
        | Change::UpdateImage(_)
        | Change::PutImage(_)
        | Change::UpdateContainer(_)
        | Change::UpdateSnapshot { .. }
        | Change::UpdateContent(_)
        // A finished blob's own ingest kept nothing else.
        | Change::DeleteIngest(_) => (true, false),
        Change::DeleteNamespace(_)
        | Change::DeleteImage(_)
        | Change::DeleteContainer(_)
        | Change::RemoveSnapshot { .. }
        | Change::DeleteContent(_)
        | Change::DeleteLease(_)
        | Change::DeleteLeaseResource(_) => (true, true),
    }
}

/// When what a change makes ends by itself.
fn end(change: &Change) -> Option<Timestamp> {
    match change {
        Change::CreateLease(call) => gc::expires_at(&call.labels),
        Change::CreateImage(call) | Change::PutImage(call) => gc::expires_at(&call.labels),
        Change::UpdateImage(call) => gc::expires_at(&call.labels),
        _ => None,
    }
}

/// What was committed since somebody last looked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Activity {
    counted: watch::Sender<Counted>,
    young: Arc<Mutex<Vec<(Timestamp, Namespace, Resource)>>>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { counted: watch::Sender::new(Counted::default()), young: Arc::default() }
    }
}

impl Activity {
    /// Adds what is durable now. Called before those are answered who committed it: a collection that is begun later
    /// sees it all.
    pub fn add(&self, mut counted: Counted) {
        if !counted.young.is_empty() || !counted.taken.is_empty() {
            let mut young = self.lock();
            young.append(&mut counted.young);
            for (namespace, resource) in counted.taken.drain(..) {
                young.retain(|(_, ns, made)| (ns, made) != (&namespace, &resource));
            }
        }
        if counted.mutations > 0 {
            self.counted.send_modify(|all| all.add(counted));
        }
    }

    /// Takes what there is.
    pub fn take(&self) -> Counted {
        let mut taken = Counted::default();
        self.counted.send_if_modified(|all| {
            taken = std::mem::take(all);
            false
        });
        taken
    }

    /// For waiting until there is more.
    pub fn watch(&self) -> watch::Receiver<Counted> {
        self.counted.subscribe()
    }

    /// What containers are about to get.
    pub fn young(&self, now: Timestamp) -> InUse {
        let mut young = self.lock();
        young.retain(|(until, ..)| *until >= now);
        young.iter().map(|(_, namespace, resource)| (namespace.clone(), resource.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Timestamp, Namespace, Resource)>> {
        // Entries come and go whole.
        self.young.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
