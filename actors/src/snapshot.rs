//! A snapshot: a folder in a snapshotter and the row that names it.
//!
//! - Parent `snapshots`; transient; 3 restarts in 5 s; mailbox 64; passivated when idle.
//! - One state: between commands; the next command of the same key waits for this one.
//! - Handles `snapshots.prepare|view|commit|remove|update` of its key -> mounts, record | refusals of the commit and the
//!   backend -> `SnapshotPrepared`, `SnapshotCommitted`, `SnapshotRemoved`.
//! - Jobs: none of its own; measuring and copying run on the pool, making and moving folders on blocking threads.
//! - A restart reads nothing back; a folder whose row did not follow is swept at the next start.
//!
//! Invariants: SNAPSHOTS-1.
//!
//! # Spec
//! API reference, section 3 "Snapshots".

use crate::{
    commit::answer_after_commit,
    drivers::snapshotter::{Placement, Prepared, backend_labels},
    runtime::{Actor, Ask, Ctx, Handler, ReplyTo, Supervised, blocking, to_its_end},
    snapshots::{SnapshotDeps, SnapshotPath, find},
};
use std::{future::Future, sync::Arc};
use wharf_messages::{
    Answer, Labels, LeaseId, Meta, Mount, Refusal, RefusalKind, SnapshotKey,
    snapshot::{
        CommitSnapshot, PrepareSnapshot, RemoveSnapshot, SNAPSHOT_REF_LABEL, SnapshotKind, UpdateSnapshot, Usage,
        ViewSnapshot,
    },
};
use wharf_store::{Change, Commit, NewSnapshot, refuse};

/// The actor.
pub struct SnapshotActor {
    deps: Arc<SnapshotDeps>,
    path: SnapshotPath,
}

impl SnapshotActor {
    /// The actor of one key.
    #[must_use]
    pub fn new(deps: Arc<SnapshotDeps>, path: SnapshotPath) -> Self {
        Self { deps, path }
    }

    /// Does a command to its end before the next message, and answers. It is done even if the actor fails meanwhile: between
    /// folder and row is no place to stop.
    fn answer<T: Send + 'static>(
        &self,
        reply: ReplyTo<T>,
        ctx: &mut Ctx<Self>,
        work: impl Future<Output = Answer<T>> + Send + 'static,
    ) {
        ctx.exclusive(to_its_end("a command of a snapshot", work), |_, end, ctx| {
            reply.send(end);
            ctx.idle();
        });
    }
}

impl Actor for SnapshotActor {
    type Context = Ctx<Self>;
}

impl Supervised for SnapshotActor {}

/// What both kinds of new snapshot need.
struct New {
    kind: SnapshotKind,
    parent: Option<SnapshotKey>,
    labels: Labels,
    lease: Option<LeaseId>,
    request: u64,
}

impl New {
    fn of(kind: SnapshotKind, parent: Option<SnapshotKey>, labels: Labels, meta: Meta) -> Self {
        Self { kind, parent, labels, lease: meta.lease, request: meta.request_id }
    }
}

/// What the backend made of it.
enum Made {
    New(Vec<Mount>),
    AlreadyHere(Labels, Usage),
}

/// What another daemon's labels say to its own collector of garbage is not for ours.
const GC_LABEL_PREFIX: &str = "containerd.io/gc.";

/// Makes the folder, then the row; answers the mounts. What the snapshotter had already gets its row too, as a committed
/// one under the name that was asked for, and the answer is that it exists.
async fn make(deps: Arc<SnapshotDeps>, path: SnapshotPath, new: New) -> Answer<Vec<Mount>> {
    let id = deps.snapshotters.new_id();
    let number = id.id;
    let (kind, parent, labels) = (new.kind, new.parent.clone(), backend_labels(&new.labels));
    let (making, place_of) = (Arc::clone(&deps), path.clone());
    let made = blocking("make a snapshot's folder", move || {
        let reader = making.store.read()?;
        let ancestors = match &parent {
            None => Vec::new(),
            Some(parent) => {
                let row = reader.snapshot(&place_of.namespace, &place_of.snapshotter, parent)?;
                let row = row.ok_or_else(|| refuse::no_parent(parent))?;
                if row.info.kind != SnapshotKind::Committed {
                    return Err(refuse::parent_not_committed(parent));
                }
                let mut ancestors = vec![row.id];
                ancestors.extend(reader.ancestors(&place_of.snapshotter, &row)?);
                ancestors
            }
        };
        let backend = making.snapshotters.backend(&place_of.snapshotter)?;
        let place = Placement::new(number, kind, &ancestors);
        let place = Placement { namespace: place_of.namespace.as_str(), labels: &labels, ..place };
        match backend.prepare(&place)? {
            Prepared::New => Ok(Made::New(backend.mounts(&place)?)),
            Prepared::AlreadyHere(labels) => Ok(Made::AlreadyHere(labels, backend.usage(number)?)),
        }
    })
    .await?;
    let target = new.labels.get(SNAPSHOT_REF_LABEL).map(SnapshotKey::new).transpose()?;
    let mut labels = new.labels;
    if let Made::AlreadyHere(more, _) = &made {
        for (key, value) in more.iter().filter(|(key, _)| !key.starts_with(GC_LABEL_PREFIX)) {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let change = Change::PrepareSnapshot(NewSnapshot {
        snapshotter: path.snapshotter.clone(),
        key: path.key.clone(),
        parent: new.parent,
        kind: new.kind,
        id: number,
        labels: labels.clone(),
    });
    let mut commit = Commit::one(&path.namespace, change).leased(new.lease).request(new.request);
    if let (Made::AlreadyHere(_, usage), Some(target)) = (&made, &target) {
        commit = commit.change(Change::CommitSnapshot {
            snapshotter: path.snapshotter.clone(),
            key: path.key.clone(),
            name: target.clone(),
            parent: None,
            labels,
            usage: *usage,
        });
    }
    wharf_failpoints::failpoint!("snapshot/made");
    let committed = deps.journal.commit(commit).await;
    // In doubt the row may be there: then the next start's sweep knows.
    if committed.as_ref().is_err_and(|refusal| !refusal.is(RefusalKind::Unavailable)) {
        let undoing = Arc::clone(&deps);
        blocking("remove a snapshot's folder", move || undoing.snapshotters.backend(&path.snapshotter)?.remove(number))
            .await?;
    }
    drop(id);
    committed?;
    match made {
        Made::New(mounts) => Ok(mounts),
        Made::AlreadyHere(..) => {
            let target = target.map(String::from).unwrap_or_default();
            Err(Refusal::already_exists(format!("target snapshot {target:?} from snapshotter")))
        }
    }
}

impl Handler<Ask<PrepareSnapshot>> for SnapshotActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<PrepareSnapshot>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        // What is no step of unpacking becomes a container's root, most likely.
        if call.parent.is_some() && !call.labels.contains_key(SNAPSHOT_REF_LABEL) {
            self.deps.shims.expect_launch();
        }
        let new = New::of(SnapshotKind::Active, call.parent, call.labels, meta);
        self.answer(reply, ctx, make(Arc::clone(&self.deps), self.path.clone(), new));
    }
}

impl Handler<Ask<ViewSnapshot>> for SnapshotActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<ViewSnapshot>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let new = New::of(SnapshotKind::View, call.parent, call.labels, meta);
        self.answer(reply, ctx, make(Arc::clone(&self.deps), self.path.clone(), new));
    }
}

impl Handler<Ask<CommitSnapshot>> for SnapshotActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<CommitSnapshot>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let (deps, path) = (Arc::clone(&self.deps), self.path.clone());
        let work = async move {
            let (measuring, place, late) = (Arc::clone(&deps), path.clone(), call.parent.clone());
            let labels = backend_labels(&call.labels);
            let name = call.name.clone();
            let usage = deps
                .pool
                .run("freeze a snapshot", move || {
                    let reader = measuring.store.read()?;
                    if reader.snapshot(&place.namespace, &place.snapshotter, &name)?.is_some() {
                        // Refused below, whether or not there is such a key: a commit that is sent again finds its own
                        // work, as containerd has it. Nothing is frozen for that.
                        return Ok(Usage::default());
                    }
                    let row = find(&reader, &place.namespace, &place.snapshotter, &place.key)?;
                    if row.info.kind != SnapshotKind::Active {
                        return Err(refuse::not_active(&place.key));
                    }
                    let backend = measuring.snapshotters.backend(&place.snapshotter)?;
                    let ancestors = match &late {
                        None => reader.ancestors(&place.snapshotter, &row)?,
                        Some(_) if row.parent_id.is_some() || !backend.late_parent() => {
                            return Err(Refusal::failed_precondition(format!(
                                "snapshot {} cannot get another parent",
                                place.key
                            )));
                        }
                        Some(parent) => {
                            let parent = find(&reader, &place.namespace, &place.snapshotter, parent)?;
                            let mut ancestors = vec![parent.id];
                            ancestors.extend(reader.ancestors(&place.snapshotter, &parent)?);
                            ancestors
                        }
                    };
                    let at = Placement::new(row.id, row.info.kind, &ancestors);
                    backend.commit(&Placement { namespace: place.namespace.as_str(), labels: &labels, ..at })
                })
                .await?;
            let change = Change::CommitSnapshot {
                snapshotter: path.snapshotter,
                key: path.key,
                name: call.name,
                parent: call.parent,
                labels: call.labels,
                usage,
            };
            let commit = Commit::one(&path.namespace, change).leased(meta.lease).request(meta.request_id);
            deps.journal.commit(commit).await.map(|_| ())
        };
        self.answer(reply, ctx, work);
    }
}

impl Handler<Ask<RemoveSnapshot>> for SnapshotActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<RemoveSnapshot>, ctx: &mut Ctx<Self>) {
        let (deps, path) = (Arc::clone(&self.deps), self.path.clone());
        let request = ask.meta.request_id;
        let work = async move {
            let change = Change::RemoveSnapshot { snapshotter: path.snapshotter.clone(), key: path.key };
            let committed = deps.journal.commit(Commit::one(&path.namespace, change).request(request)).await?;
            wharf_failpoints::failpoint!("snapshot/removed");
            let Some(row) = committed.into_snapshot() else { return Ok(()) };
            let snapshotters = deps.snapshotters.clone();
            blocking("remove a snapshot's folder", move || snapshotters.discard(&path.snapshotter, &row)).await
        };
        self.answer(ask.reply, ctx, work);
    }
}

impl Handler<Ask<UpdateSnapshot>> for SnapshotActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<UpdateSnapshot>, ctx: &mut Ctx<Self>) {
        let change = Change::UpdateSnapshot {
            snapshotter: self.path.snapshotter.clone(),
            key: self.path.key.clone(),
            labels: ask.call.labels,
            mask: ask.call.mask,
        };
        let commit = Commit::one(&self.path.namespace, change).request(ask.meta.request_id);
        answer_after_commit(&self.deps.journal, commit, ask.reply, ctx, |committed| {
            committed.into_snapshot().map(|row| row.info)
        });
    }
}

#[cfg(test)]
mod tests;
