//! Checkpoints of tasks that are kept as content: packed when they are made, unpacked for a restore.
//!
//! The runtime knows folders only. What it wrote becomes one archive, as containerd makes it; the container's
//! specification is kept beside it, because a restore needs the one that the processes were made by.
//!
//! # Spec
//! containerd 1.6 `services/tasks/local.go`, `Checkpoint` and `Create`.

use super::{CallIo, Serve, once};
use crate::{
    Wharf, content,
    drivers::{differ, scratch::ScratchFolder, shim::checkpoint_path},
    runtime::blocking,
    task::RestoreTask,
};
use wharf_messages::{
    Answer, Call, Descriptor, Labels, Meta, Refusal,
    descriptor::media_type::{self, Compression},
    snapshot::MakeDiff,
    task::{CheckpointTask, CreateTask, GetTask, Process},
};
use wharf_store::refuse;

/// What criu wrote, in one archive.
const CHECKPOINT: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The container's specification: an `Any`, encoded.
const CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";

impl Serve for CheckpointTask {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<()>) -> Answer<Vec<Descriptor>> {
        // Its steps are several; a retry makes the image again.
        let meta = Meta { request_id: 0, ..meta };
        let Self { container_id, image_path, options } = self;
        let named = if image_path.is_empty() { checkpoint_path(options.as_ref())? } else { image_path };
        if !named.is_empty() {
            return wharf.actors.tasks.ask(meta, Self { container_id, image_path: named, options }).await;
        }
        let (store, namespace, id) = (wharf.store.clone(), meta.namespace()?.clone(), container_id.clone());
        let spec = blocking(Self::NAME, move || {
            let reader = store.read()?;
            reader.task(&namespace, &id)?.ok_or_else(|| refuse::no_task(&id))?;
            let container = reader.container(&namespace, &id)?.ok_or_else(|| refuse::no_container(&namespace, &id))?;
            Ok(container.spec.unwrap_or_default())
        })
        .await?;
        let folder = scratch(&wharf)?;
        let image_path = folder.path().to_string_lossy().into_owned();
        wharf.actors.tasks.ask(meta.clone(), Self { container_id, image_path, options }).await?;
        let pack = MakeDiff {
            lower: Vec::new(),
            upper: vec![folder.mount()],
            media_type: media_type::OCI_LAYER.to_owned(),
            reference: String::new(),
            labels: Labels::new(),
        };
        let packed = pack.serve(wharf.clone(), meta.clone(), io).await?;
        let spec = spec.to_proto();
        let length = spec.len() as u64;
        let config = content::insert(&wharf.drivers.content, &meta, spec, None, Labels::new()).await?;
        blocking("remove a checkpoint's folder", move || {
            drop(folder);
            Ok(())
        })
        .await?;
        Ok(vec![
            Descriptor::new(CHECKPOINT.to_owned(), packed.digest, packed.size_bytes),
            Descriptor::new(CONFIG.to_owned(), config, length),
        ])
    }
}

impl Serve for CreateTask {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<()>) -> Answer<Process> {
        let Some(checkpoint) = self.checkpoint.clone() else {
            let (request, find) = (meta.request_id, GetTask { container_id: self.container_id.clone(), exec_id: None });
            let again = meta.clone();
            let create = wharf.actors.tasks.ask(meta, self);
            return once(&wharf, request, create, |wharf, _| find.serve(wharf, again, CallIo::none())).await;
        };
        if checkpoint.media_type != CHECKPOINT {
            return Err(Refusal::invalid(format!("unsupported checkpoint type {:?}", checkpoint.media_type)));
        }
        let (store, namespace, folder) = (wharf.store.clone(), meta.namespace()?.clone(), scratch(&wharf)?);
        let options = wharf.drivers.apply.clone();
        let unpack = move || {
            let digest = &checkpoint.digest;
            if store.read()?.content(&namespace, digest)?.is_none() {
                return Err(refuse::no_content(digest));
            }
            let (mut archive, _) = store.blobs().read(digest)?;
            differ::apply(&mut archive, Compression::None, &[folder.mount()], &options, &|| io.cancel.is_cancelled())?;
            Ok(folder)
        };
        let folder = wharf.pool.run("unpack a checkpoint", unpack).await?;
        let restore =
            RestoreTask { container_id: self.container_id.clone(), create: self, image: folder.path().to_owned() };
        let restored = wharf.actors.tasks.ask(meta, restore).await;
        // It is the bundle's by now, or nobody's.
        blocking("remove a checkpoint's folder", move || {
            drop(folder);
            Ok(())
        })
        .await?;
        restored
    }
}

fn scratch(wharf: &Wharf) -> Answer<ScratchFolder> {
    let parent = wharf.drivers.apply.scratch.clone().unwrap_or_else(std::env::temp_dir);
    ScratchFolder::new(&parent)
}
