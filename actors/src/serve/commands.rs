//! Calls that are messages to an actor: one line each, with the query that answers for one that was done already.

use super::{CallIo, Serve, once};
use crate::Wharf;
use wharf_messages::{
    Answer, ContainerId, ExecId, LeaseId, Meta, Refusal,
    container::{CreateContainer, DeleteContainer, GetContainer, UpdateContainer},
    content::{AbortIngest, DeleteContent, GetContent, UpdateContent},
    event::{Event, Seq},
    gc::{CollectGarbage, Collected},
    image::{CreateImage, DeleteImage, GetImage, UpdateImage},
    lease::{AddLeaseResource, CreateLease, DeleteLease, DeleteLeaseResource, Lease},
    namespace::{CreateNamespace, DeleteNamespace, GetNamespace, UpdateNamespace},
    snapshot::{
        CleanupSnapshots, CommitSnapshot, GetSnapshotMounts, PrepareSnapshot, RemoveSnapshot, StatSnapshot,
        UpdateSnapshot, ViewSnapshot,
    },
    task::{
        CloseIo, DeleteTask, DeletedProcess, ExecTask, GetTask, KillTask, ListPids, PauseTask, ResizePty, ResumeTask,
        StartTask, UpdateTask, WaitTask,
    },
};
use wharf_store::refuse;

/// `Call => |call, meta| QUERY` answers a retry by that query, `Call, RESULT` always so, and `Call` alone changes nothing.
macro_rules! to_actor {
    ($($actor:ident { $($call:ty $(=> |$it:ident, $meta:ident| $again:expr)? $(, $result:expr)?;)+ })+) => {$($(
        impl Serve for $call {
            async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<Self::Reply> {
                to_actor!(@do $actor self wharf meta $(=> |$it, $meta| $again)? $(, $result)?)
            }
        }
    )+)+};
    (@do $actor:ident $this:ident $wharf:ident $given:ident) => {
        $wharf.actors.$actor.query($given, $this).await
    };
    (@do $actor:ident $this:ident $wharf:ident $given:ident => |$it:ident, $meta:ident| $again:expr) => {{
        let again = {
            let ($it, $meta) = (&$this, $given.clone());
            $again
        };
        once(&$wharf, $given.request_id, $wharf.actors.$actor.ask($given, $this), again).await
    }};
    (@do $actor:ident $this:ident $wharf:ident $given:ident, $result:expr) => {
        once(&$wharf, $given.request_id, $wharf.actors.$actor.ask($given, $this), |_, _| async { Ok($result) }).await
    };
}

/// Answers with a query, whenever that is.
macro_rules! query {
    ($meta:ident, $query:expr) => {{
        let (query, meta) = ($query, $meta);
        move |wharf: Wharf, _: Seq| query.serve(wharf, meta, CallIo::none())
    }};
}

to_actor! {
    namespaces {
        CreateNamespace => |call, meta| query!(meta, GetNamespace { name: call.name.clone() });
        UpdateNamespace => |call, meta| query!(meta, GetNamespace { name: call.name.clone() });
        DeleteNamespace, ();
        CreateLease => |call, meta| {
            let id = call.id.clone();
            move |wharf, _| lease(wharf, meta, id)
        };
        AddLeaseResource, ();
        DeleteLeaseResource, ();
    }
    content {
        UpdateContent => |call, meta| query!(meta, GetContent { digest: call.digest.clone() });
        DeleteContent, ();
        AbortIngest, ();
    }
    snapshots {
        PrepareSnapshot => |call, meta| query!(meta, GetSnapshotMounts {
            snapshotter: call.snapshotter.clone(), key: call.key.clone()
        });
        ViewSnapshot => |call, meta| query!(meta, GetSnapshotMounts {
            snapshotter: call.snapshotter.clone(), key: call.key.clone()
        });
        CommitSnapshot, ();
        RemoveSnapshot, ();
        UpdateSnapshot => |call, meta| query!(meta, StatSnapshot {
            snapshotter: call.snapshotter.clone(), key: call.key.clone()
        });
        CleanupSnapshots, ();
    }
    images {
        CreateImage => |call, meta| query!(meta, GetImage { name: call.name.clone() });
        UpdateImage => |call, meta| query!(meta, GetImage { name: call.name.clone() });
    }
    containers {
        CreateContainer => |call, meta| query!(meta, GetContainer { id: call.container.id.clone() });
        UpdateContainer => |call, meta| query!(meta, GetContainer { id: call.container.id.clone() });
        DeleteContainer, ();
    }
    tasks {
        StartTask => |call, meta| query!(meta, GetTask {
            container_id: call.container_id.clone(), exec_id: call.exec_id.clone()
        });
        DeleteTask => |call, meta| {
            let (container, exec, _) = (call.container_id.clone(), call.exec_id.clone(), meta);
            move |wharf, seq| deleted(wharf, seq, container, exec)
        };
        KillTask, ();
        ExecTask, ();
        ResizePty, ();
        CloseIo, ();
        PauseTask, ();
        ResumeTask, ();
        UpdateTask, ();
        ListPids;
        WaitTask;
    }
}

/// As above, and a collection before the answer if it is asked for.
macro_rules! to_actor_and_collected {
    ($($actor:ident: $call:ty;)+) => {$(
        impl Serve for $call {
            async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<()> {
                let sync = self.sync;
                let delete = wharf.actors.$actor.ask(meta.clone(), self);
                once(&wharf, meta.request_id, delete, |_, _| async { Ok(()) }).await?;
                if sync {
                    wharf.actors.gc.ask(meta, CollectGarbage {}).await?;
                }
                Ok(())
            }
        }
    )+};
}

to_actor_and_collected! {
    namespaces: DeleteLease;
    images: DeleteImage;
}

impl Serve for CollectGarbage {
    async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<Collected> {
        wharf.actors.gc.ask(meta, self).await
    }
}

/// The lease that a request made, under the name it asked for or was given.
async fn lease(wharf: Wharf, meta: Meta, id: Option<LeaseId>) -> Answer<Lease> {
    let id = match id {
        Some(id) => id,
        None => LeaseId::new(crate::names::of_request(meta.request_id))?,
    };
    wharf.store.read()?.lease(meta.namespace()?, &id)?.ok_or_else(|| refuse::no_lease(&id))
}

/// What a deletion came to: the row is gone, but the log has it.
async fn deleted(wharf: Wharf, seq: Seq, container: ContainerId, exec: Option<ExecId>) -> Answer<DeletedProcess> {
    let told = wharf.store.read()?.events(Seq(seq.0.saturating_sub(1)), 1)?.into_iter().next();
    match told.map(|record| record.event) {
        Some(Event::TaskDeleted { container_id, exec_id, pid, exit })
            if (&container_id, &exec_id) == (&container, &exec) =>
        {
            Ok(DeletedProcess { pid, exit })
        }
        _ => Err(Refusal::aborted(format!("task {container} was deleted, and how it ended is forgotten already"))),
    }
}
