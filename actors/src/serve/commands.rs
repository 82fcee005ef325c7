//! Calls that are messages to an actor: one line each.

use super::{CallIo, Serve};
use crate::Wharf;
use wharf_messages::{
    Answer, Meta,
    container::{CreateContainer, DeleteContainer, UpdateContainer},
    content::{AbortIngest, DeleteContent, UpdateContent},
    gc::CollectGarbage,
    image::{CreateImage, DeleteImage, UpdateImage},
    lease::{AddLeaseResource, CreateLease, DeleteLease, DeleteLeaseResource},
    namespace::{CreateNamespace, DeleteNamespace, UpdateNamespace},
    snapshot::{CleanupSnapshots, CommitSnapshot, PrepareSnapshot, RemoveSnapshot, UpdateSnapshot, ViewSnapshot},
    task::{
        CloseIo, DeleteTask, ExecTask, KillTask, ListPids, PauseTask, ResizePty, ResumeTask, StartTask, UpdateTask,
        WaitTask,
    },
};

macro_rules! to_actor {
    ($($actor:ident: $($call:ty),+;)+) => {$($(
        impl Serve for $call {
            async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<Self::Reply> {
                wharf.actors.$actor.ask(meta, self).await
            }
        }
    )+)+};
}

to_actor! {
    namespaces: CreateNamespace, UpdateNamespace, DeleteNamespace, CreateLease, AddLeaseResource, DeleteLeaseResource;
    content: UpdateContent, DeleteContent, AbortIngest;
    snapshots: PrepareSnapshot, ViewSnapshot, CommitSnapshot, RemoveSnapshot, UpdateSnapshot, CleanupSnapshots;
    images: CreateImage, UpdateImage;
    containers: CreateContainer, UpdateContainer, DeleteContainer;
    tasks: StartTask, DeleteTask, KillTask, ExecTask, ResizePty, CloseIo, PauseTask, ResumeTask, ListPids, UpdateTask,
        WaitTask;
    gc: CollectGarbage;
}

/// As above, and a collection before the answer if it is asked for.
macro_rules! to_actor_and_collected {
    ($($actor:ident: $call:ty;)+) => {$(
        impl Serve for $call {
            async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<()> {
                let sync = self.sync;
                wharf.actors.$actor.ask(meta.clone(), self).await?;
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
