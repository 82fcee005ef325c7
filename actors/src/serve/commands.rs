//! Calls that are messages to an actor: one line each.

use super::{CallIo, Serve};
use crate::{Wharf, drivers::differ, runtime::Pool};
use wharf_messages::{
    Answer, Descriptor, Meta, Refusal,
    container::{CreateContainer, DeleteContainer, UpdateContainer},
    content::{AbortIngest, DeleteContent, UpdateContent},
    descriptor::media_type,
    image::{CreateImage, DeleteImage, UpdateImage},
    lease::{AddLeaseResource, CreateLease, DeleteLease, DeleteLeaseResource},
    namespace::{CreateNamespace, DeleteNamespace, UpdateNamespace},
    snapshot::{
        AppliedDiff, ApplyDiff, CleanupSnapshots, CommitSnapshot, MakeDiff, PrepareSnapshot, RemoveSnapshot,
        UpdateSnapshot, ViewSnapshot,
    },
    task::{
        CheckpointTask, CloseIo, CreateTask, DeleteTask, ExecTask, KillTask, ListPids, PauseTask, ResizePty,
        ResumeTask, StartTask, UpdateTask, WaitTask,
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
    namespaces: CreateNamespace, UpdateNamespace, DeleteNamespace, CreateLease, DeleteLease, AddLeaseResource,
        DeleteLeaseResource;
    content: UpdateContent, DeleteContent, AbortIngest;
    snapshots: PrepareSnapshot, ViewSnapshot, CommitSnapshot, RemoveSnapshot, UpdateSnapshot, CleanupSnapshots;
    images: CreateImage, UpdateImage, DeleteImage;
    containers: CreateContainer, UpdateContainer, DeleteContainer;
    tasks: CreateTask, StartTask, DeleteTask, KillTask, ExecTask, ResizePty, CloseIo, PauseTask, ResumeTask, ListPids,
        CheckpointTask, UpdateTask, WaitTask;
}

impl Serve for ApplyDiff {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<()>) -> Answer<AppliedDiff> {
        let namespace = meta.namespace()?.clone();
        let (pool, store): (Pool, _) = (wharf.pool.clone(), wharf.store.clone());
        let compression = media_type::layer_compression(&self.layer.media_type).ok_or_else(|| {
            Refusal::invalid(format!("{} is no layer ({})", self.layer.digest, self.layer.media_type))
        })?;
        pool.run("apply a layer", move || {
            let digest = &self.layer.digest;
            // The namespace's own row decides, not the file that another one may have.
            if store.read()?.content(&namespace, digest)?.is_none() {
                return Err(wharf_store::refuse::no_content(digest));
            }
            let (mut file, _) = store.blobs().read(digest)?;
            let options = differ::ApplyOptions::default();
            let applied = differ::apply(&mut file, compression, &self.mounts, &options, &|| io.cancel.is_cancelled())?;
            Ok(AppliedDiff { diff_id: applied.diff_id, size_bytes: applied.size_bytes })
        })
        .await
    }
}

impl Serve for MakeDiff {
    async fn serve(self, _: Wharf, _: Meta, _: CallIo<()>) -> Answer<Descriptor> {
        Err(Refusal::not_implemented("diff.make"))
    }
}
