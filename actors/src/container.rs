//! A container: the record a task is made from.
//!
//! - Parent `containers`; transient; 3 restarts in 5 s; mailbox 64; passivated when idle.
//! - One state: between commands. Each command is one commit, and the next waits for it.
//! - Handles `containers.create|update|delete` of its name -> record | `AlreadyExists`, `NotFound`,
//!   `FailedPrecondition` (it has a task), `InvalidArgument` -> `Container*` events, `SnapshotRemoved`.
//! - No jobs; a restart reads nothing back: every command reads the row it decides on inside its commit.
//!
//! Invariants:
//! - **CONTAINER-1** A snapshot that goes with its container goes in the same commit; its folder goes after that, even if
//!   the actor fails meanwhile.
//!
//! # Spec
//! API reference, section 3 "Images and containers".

use crate::{
    commit::answer_after_commit,
    journal::Journal,
    runtime::{Actor, Ask, Ctx, Handler, Scoped, Supervised, blocking, to_its_end},
    snapshots::Snapshotters,
};
use std::sync::Arc;
use wharf_messages::{
    Answer, ContainerId, SnapshotKey, SnapshotterName,
    container::{CreateContainer, DeleteContainer, UpdateContainer},
};
use wharf_store::{Change, Commit, Committed, Store, refuse};

/// What containers need from the rest of the system.
pub struct ContainerDeps {
    /// For reading rows.
    pub store: Store,
    /// For changing them.
    pub journal: Journal,
    /// For snapshots that go with their container.
    pub snapshotters: Snapshotters,
}

/// The actor.
pub struct ContainerActor {
    deps: Arc<ContainerDeps>,
    key: Scoped<ContainerId>,
}

impl ContainerActor {
    /// The actor of one name.
    #[must_use]
    pub fn new(deps: Arc<ContainerDeps>, key: Scoped<ContainerId>) -> Self {
        Self { deps, key }
    }
}

impl Actor for ContainerActor {
    type Context = Ctx<Self>;
}

impl Supervised for ContainerActor {}

impl Handler<Ask<CreateContainer>> for ContainerActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<CreateContainer>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let mut container = call.container;
        if container.snapshot_key.is_some() && container.snapshotter.is_none() {
            // The namespace's default may change later; the container's snapshot stays where it is.
            let default = self
                .deps
                .store
                .read()
                .and_then(|reader| self.deps.snapshotters.resolve(&reader, &self.key.namespace, None));
            match default {
                Ok(default) => container.snapshotter = Some(default),
                Err(refusal) => return reply.send(Err(refusal)),
            }
        }
        let commit = Commit::one(&self.key.namespace, Change::CreateContainer(container))
            .leased(meta.lease)
            .request(meta.request_id);
        answer_after_commit(&self.deps.journal, commit, reply, ctx, Committed::into_container);
    }
}

impl Handler<Ask<UpdateContainer>> for ContainerActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<UpdateContainer>, ctx: &mut Ctx<Self>) {
        let commit = Commit::one(&self.key.namespace, Change::UpdateContainer(ask.call)).request(ask.meta.request_id);
        answer_after_commit(&self.deps.journal, commit, ask.reply, ctx, Committed::into_container);
    }
}

impl Handler<Ask<DeleteContainer>> for ContainerActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<DeleteContainer>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let (deps, key) = (Arc::clone(&self.deps), self.key.clone());
        let delete = async move {
            let mut commit = Commit::one(&key.namespace, Change::DeleteContainer(call.id)).request(meta.request_id);
            let snapshot = if call.with_snapshot { snapshot_of(&deps.store, &key)? } else { None };
            if let Some((snapshotter, key)) = snapshot.clone() {
                commit = commit.change(Change::RemoveSnapshot { snapshotter, key });
            }
            let row = deps.journal.commit(commit).await?.into_snapshot();
            // CONTAINER-1
            wharf_failpoints::failpoint!("container/deleted");
            match snapshot.zip(row) {
                Some(((snapshotter, _), row)) => {
                    let snapshotters = deps.snapshotters.clone();
                    blocking("remove a snapshot's folder", move || snapshotters.discard(&snapshotter, &row)).await
                }
                None => Ok(()),
            }
        };
        ctx.exclusive(to_its_end("delete a container", delete), move |_, deleted, ctx| {
            reply.send(deleted);
            ctx.idle();
        });
    }
}

/// A container's snapshot, if it has one that is still there.
fn snapshot_of(store: &Store, key: &Scoped<ContainerId>) -> Answer<Option<(SnapshotterName, SnapshotKey)>> {
    let reader = store.read()?;
    let container =
        reader.container(&key.namespace, &key.id)?.ok_or_else(|| refuse::no_container(&key.namespace, &key.id))?;
    let Some((snapshotter, snapshot)) = container.snapshotter.zip(container.snapshot_key) else { return Ok(None) };
    // A container stays deletable when its snapshot is gone.
    let there = reader.snapshot(&key.namespace, &snapshotter, &snapshot)?.is_some();
    Ok(there.then_some((snapshotter, snapshot)))
}

#[cfg(test)]
mod tests;
