//! `tasks checkpoint`, `containers checkpoint` and `containers restore`: a container's state as an image, and back.
//!
//! ```text
//!   image (an index) -+- the image that it was made from      -+- the runtime's options
//!                     |- the layer of what it has written      |- its specification
//!                     `- what criu wrote of its processes      `- how that was written
//! ```
//!
//! The form is containerd's, so that either can restore what the other has kept. Beside what `ctr` keeps, the
//! specification is there whether or not the processes are: without it nothing can be restored.
//!
//! # Spec
//! containerd 1.6 `container_checkpoint_opts.go`, `container_restore_opts.go` and `task.go`.

use crate::{
    commands::{
        checkpoint_index::Index,
        content::write_blob,
        leases::Leased,
        mount::unpacked,
        run::{self, wants_terminal},
        snapshots::Views,
        tasks::explain,
    },
    context::{Context, parse},
    failure::{Failure, Outcome, warn},
    output,
    session::IoFlags,
};
use clap::Args;
use std::collections::BTreeMap;
use wharf_client::Client;
use wharf_messages::{
    Any, ContainerId, Descriptor, ImageName, Labels, Refusal, RefusalKind, SnapshotKey, SnapshotterName, Timestamp,
    any::put_bytes,
    container::{Container, CreateContainer, Runtime},
    descriptor::media_type,
    image::{CreateImage, GetImage, PlatformChoice, PullImage, RegistryOptions},
    snapshot::{ApplyDiff, GetSnapshotMounts, MakeDiff, PrepareSnapshot, RemoveSnapshot},
    task::{CheckpointTask, GetTask, PauseTask, ResumeTask, TaskStatus},
};

/// What criu wrote.
const PROCESSES: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The container's specification: an `Any`, encoded.
const SPECIFICATION: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";
/// How the processes were written: an `Any`, encoded.
const OPTIONS: &str = "application/vnd.containerd.container.checkpoint.options.v1+proto";
/// The runtime's options: an `Any`, encoded.
const RUNTIME_OPTIONS: &str = "application/vnd.containerd.container.checkpoint.runtime.options+proto";
/// Names the image in a checkpoint.
const IMAGE_KEY: &str = "org.opencontainers.image.ref.name";
/// Names the runtime in a checkpoint.
const RUNTIME_KEY: &str = "io.containerd.checkpoint.runtime";
/// Names the snapshotter in a checkpoint.
const SNAPSHOTTER_KEY: &str = "io.containerd.checkpoint.snapshotter";

/// Write a task's state away.
#[derive(Debug, Args)]
pub struct TaskCheckpoint {
    /// Stop the container afterwards
    #[arg(long)]
    exit: bool,
    /// Where to; an image otherwise
    #[arg(long, value_name = "DIR")]
    image_path: Option<String>,
    /// Where files of the work in between go
    #[arg(long, value_name = "DIR")]
    work_path: Option<String>,
    /// Its id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Keep a container's state.
#[derive(Debug, Args)]
pub struct Checkpoint {
    /// What it has written, too
    #[arg(long)]
    rw: bool,
    /// The image that it was made from, too
    #[arg(long)]
    image: bool,
    /// What its processes are doing, too
    #[arg(long)]
    task: bool,
    /// Its id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The name of the image that is made of it
    #[arg(value_name = "CHECKPOINT")]
    reference: String,
}

/// Make a container of a checkpoint.
#[derive(Debug, Args)]
pub struct Restore {
    /// With what it had written
    #[arg(long)]
    rw: bool,
    /// With its processes, where they were
    #[arg(long)]
    live: bool,
    /// The new container's id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The checkpoint; it is fetched if it is not here
    #[arg(value_name = "CHECKPOINT")]
    reference: String,
}

/// A task that is paused for a while.
struct Paused(Option<ContainerId>);

impl Paused {
    /// Pauses the task, if there is one that is not paused already.
    async fn take(client: &Client, container_id: &ContainerId) -> Outcome<Self> {
        let status = match client.call(GetTask { container_id: container_id.clone(), exec_id: None }).await {
            Ok(task) => task.status,
            Err(refusal) if refusal.is(RefusalKind::NotFound) => return Ok(Self(None)),
            Err(refusal) => return Err(refusal.into()),
        };
        if matches!(status, TaskStatus::Paused) {
            return Ok(Self(None));
        }
        client.call(PauseTask { container_id: container_id.clone() }).await?;
        Ok(Self(Some(container_id.clone())))
    }

    /// Lets it go on; one that was stopped by its checkpoint does not.
    async fn end(self, client: &Client) {
        let Some(container_id) = self.0 else { return };
        let get = GetTask { container_id: container_id.clone(), exec_id: None };
        let Err(refusal) = client.call(ResumeTask { container_id }).await else { return };
        // It may have ended: then there is nothing to resume.
        let is_paused = client.call(get).await.is_ok_and(|task| task.status == TaskStatus::Paused);
        if is_paused || !matches!(refusal.kind, RefusalKind::NotFound | RefusalKind::Unknown) {
            warn(format!("error resuming task: {refusal}"));
        }
    }
}

impl TaskCheckpoint {
    /// Writes it and prints the name of the image.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let id: ContainerId = parse(&self.container)?;
        let client = context.client().await?;
        let container = context.container(&client, &id).await?;
        context.task(&client, &id).await?;
        let leased = Leased::take(&client).await?;
        let made = async {
            let paused = Paused::take(&client, &id).await?;
            let made = self.make(context, &leased.client, &container).await;
            paused.end(&client).await;
            made
        };
        let made = made.await;
        leased.end().await;
        match made? {
            Some(name) => Ok(output::line(name)?),
            None => Ok(()),
        }
    }

    /// The name of the image; none if it was written to a folder.
    async fn make(&self, context: &Context, client: &Client, container: &Container) -> Outcome<Option<ImageName>> {
        let image_path = self.image_path.clone().unwrap_or_default();
        let options = Options { exit: self.exit, image_path: &image_path, work_path: self.work_path.as_deref() };
        let call = CheckpointTask {
            container_id: container.id.clone(),
            image_path: image_path.clone(),
            options: Some(options.any()),
        };
        let answer = client.call(call).await;
        let written = explain(context, client, &container.id, answer).await?;
        if !image_path.is_empty() {
            return Ok(None);
        }
        let mut index = Index::default();
        written.into_iter().for_each(|blob| index.add_here(blob));
        if !container.image.is_empty() {
            let image = client.call(GetImage { name: parse(&container.image)? }).await?;
            index.manifests.push(image.target);
            index.annotations.insert("image.name".to_owned(), container.image.clone());
        }
        if container.snapshot_key.is_some() {
            index.add_here(written_layer(client, container).await?);
        }
        let name = ImageName::new(default_name(&container.id, Timestamp::from(std::time::SystemTime::now())))?;
        let target = index.store(client, container.id.as_str()).await?;
        let labels = Labels::from([("containerd.io/checkpoint".to_owned(), "true".to_owned())]);
        client.call(CreateImage { name: name.clone(), target, labels }).await?;
        Ok(Some(name))
    }
}

/// What a checkpoint is called that nobody has named: `containerd.io/checkpoint/web:11-27-2026-06:45:55`.
fn default_name(id: &ContainerId, at: Timestamp) -> String {
    format!("containerd.io/checkpoint/{id}:{}", output::time::local(at, "%m-%d-%Y-%H:%M:%S"))
}

/// How processes are written.
#[derive(Default)]
struct Options<'a> {
    exit: bool,
    image_path: &'a str,
    work_path: Option<&'a str>,
}

impl Options<'_> {
    /// # Spec
    /// containerd `runtime/v2/runc/options/oci.proto`, message `CheckpointOptions`: fields 1, 8 and 9.
    fn any(&self) -> Any {
        let mut value = Vec::new();
        if self.exit {
            value.extend_from_slice(&[1 << 3, 1]);
        }
        put_bytes(&mut value, 8, self.image_path.as_bytes());
        put_bytes(&mut value, 9, self.work_path.unwrap_or_default().as_bytes());
        Any::new(Self::URL, value)
    }

    /// Those that `ctr` uses for a container's checkpoint: locks on files are kept, field 5.
    fn with_locks() -> Any {
        Any::new(Self::URL, [5 << 3, 1])
    }

    const URL: &'static str = "containerd.runc.v1.CheckpointOptions";
}

/// A layer of what a container has written.
async fn written_layer(client: &Client, container: &Container) -> Outcome<Descriptor> {
    let key = container.snapshot_key.clone();
    let key = key.ok_or_else(|| Failure::new(format!("container {} has no snapshot", container.id)))?;
    let packing = MakeDiff {
        lower: Vec::new(),
        upper: Vec::new(),
        media_type: media_type::OCI_LAYER_GZIP.to_owned(),
        reference: format!("checkpoint-rw-{key}"),
        labels: Labels::new(),
    };
    let mut views = Views::new(client, container.snapshotter.clone());
    let layer = views.layer(key, None, packing).await;
    views.remove().await;
    Ok(layer?)
}

impl Checkpoint {
    /// Makes the checkpoint.
    ///
    /// # Errors
    /// The daemon's refusal; if the container was made from no image.
    pub async fn run(self, context: &Context) -> Outcome {
        let (id, name): (ContainerId, ImageName) = (parse(&self.container)?, parse(&self.reference)?);
        let client = context.client().await?;
        let container = context.container(&client, &id).await?;
        let leased = Leased::take(&client).await?;
        let made = async {
            let paused = Paused::take(&client, &id).await?;
            let made = self.make(context, &leased.client, &container, name).await;
            paused.end(&client).await;
            made
        };
        let made = made.await;
        leased.end().await;
        made
    }

    async fn make(&self, context: &Context, client: &Client, container: &Container, name: ImageName) -> Outcome {
        if container.image.is_empty() {
            return Err(Refusal::not_found("container not created from an image").into());
        }
        let image = context.image(client, &parse(&container.image)?).await?;
        let mut index = Index::default();
        let snapshotter = container.snapshotter.as_ref().map_or("", SnapshotterName::as_str);
        for (key, value) in [
            (IMAGE_KEY, container.image.as_str()),
            (RUNTIME_KEY, &container.runtime.name),
            (SNAPSHOTTER_KEY, snapshotter),
        ] {
            index.annotations.insert(key.to_owned(), value.to_owned());
        }
        let id = &container.id;
        if let Some(options) = &container.runtime.options {
            index.put(client, RUNTIME_OPTIONS, &format!("{id}-runtime-options"), options.to_proto()).await?;
        }
        if self.image {
            index.manifests.push(image.target);
        }
        if self.rw {
            index.add_here(written_layer(client, container).await?);
        }
        if self.task {
            let options = Options::with_locks();
            let call =
                CheckpointTask { container_id: id.clone(), image_path: String::new(), options: Some(options.clone()) };
            let answer = client.call(call).await;
            let written = explain(context, client, id, answer).await?;
            written.into_iter().for_each(|blob| index.add_here(blob));
            index.put(client, OPTIONS, &format!("{id}-checkpoint-options"), options.to_proto()).await?;
        }
        if index.find(SPECIFICATION).is_none()
            && let Some(spec) = &container.spec
        {
            index.put(client, SPECIFICATION, &format!("{id}-specification"), spec.to_proto()).await?;
        }
        let target = index.store(client, &format!("{id}index")).await?;
        client.call(CreateImage { name, target, labels: Labels::new() }).await?;
        Ok(())
    }
}

impl Restore {
    /// Makes the container and starts it.
    ///
    /// # Errors
    /// The daemon's refusal, or what the checkpoint lacks; then no snapshot is left.
    pub async fn run(self, context: &Context) -> Outcome {
        let (id, name): (ContainerId, ImageName) = (parse(&self.container)?, parse(&self.reference)?);
        let client = context.client().await?;
        let target = match client.call(GetImage { name: name.clone() }).await {
            Ok(image) => image.target,
            Err(refusal) if refusal.is(RefusalKind::NotFound) => fetch(&client, &name).await?,
            Err(refusal) => return Err(refusal.into()),
        };
        let index = Index::load(&client, &target).await?;
        let processes = match self.live {
            true => Some(index.find(PROCESSES).ok_or_else(|| {
                Failure::new(format!("checkpoint not found in index {}: it was made without --task", target.digest))
            })?),
            false => None,
        };
        let leased = Leased::take(&client).await?;
        let made = self.make(&leased.client, &index, id).await;
        leased.end().await;
        let container = made?;
        let flags = IoFlags { tty: wants_terminal(&container)?, ..IoFlags::default() };
        let how = run::Start { flags, detach: true, checkpoint: processes, ..run::Start::default() };
        run::start(&client, &container, how).await
    }

    async fn make(&self, client: &Client, index: &Index, id: ContainerId) -> Outcome<Container> {
        let named = |key: &str, what: &str| {
            let value = index.annotations.get(key).filter(|value| !value.is_empty());
            value.cloned().ok_or_else(|| Failure::new(format!("{what} not found in index")))
        };
        let image: ImageName = parse(&named(IMAGE_KEY, "image name")?)?;
        let snapshotter = SnapshotterName::new(named(SNAPSHOTTER_KEY, "snapshotter")?)?;
        let runtime = Runtime {
            name: named(RUNTIME_KEY, "runtime")?,
            options: match index.find(RUNTIME_OPTIONS) {
                Some(blob) => Some(read_any(client, &blob).await?),
                None => None,
            },
        };
        let missing = |kind: &str| Failure::new(format!("media type not found: the checkpoint has no {kind}"));
        let spec = read_any(client, &index.find(SPECIFICATION).ok_or_else(|| missing(SPECIFICATION))?).await?;
        let layer = match self.rw {
            true => Some(index.find(media_type::OCI_LAYER_GZIP).ok_or_else(|| missing(media_type::OCI_LAYER_GZIP))?),
            false => None,
        };

        let resolved = unpacked(client, &image, None, Some(snapshotter.clone())).await?;
        let (key, snapshotter) = (SnapshotKey::new(id.as_str())?, Some(snapshotter));
        let parent = Some(SnapshotKey::new(resolved.chain_id.as_str())?);
        let prepare =
            PrepareSnapshot { snapshotter: snapshotter.clone(), key: key.clone(), parent, labels: Labels::new() };
        client.call(prepare).await?;
        let created = async {
            if let Some(layer) = layer {
                let mounts = GetSnapshotMounts { snapshotter: snapshotter.clone(), key: key.clone() };
                let mounts = client.call(mounts).await?;
                client.call(ApplyDiff { layer, mounts, sync: false }).await?;
            }
            let container = Container {
                id,
                labels: Labels::new(),
                image: image.to_string(),
                runtime,
                spec: Some(spec),
                snapshotter: snapshotter.clone(),
                snapshot_key: Some(key.clone()),
                created_at: Timestamp::ZERO,
                updated_at: Timestamp::ZERO,
                extensions: BTreeMap::new(),
                sandbox: String::new(),
            };
            client.call(CreateContainer { container }).await
        };
        let created = created.await;
        if created.is_err() {
            let remove = RemoveSnapshot { snapshotter: snapshotter.clone(), key: key.clone() };
            if let Err(refusal) = client.call(remove).await {
                warn(format!("snapshot {key} is left over: {refusal}"));
            }
        }
        Ok(created?)
    }
}

/// Brings a checkpoint from its registry.
async fn fetch(client: &Client, name: &ImageName) -> Outcome<Descriptor> {
    let call = PullImage {
        reference: name.to_string(),
        platforms: PlatformChoice::Host,
        all_metadata: false,
        labels: Labels::new(),
        unpack: false,
        name_image: true,
        snapshotter: None,
        max_concurrent_downloads: 0,
        registry: RegistryOptions::default(),
    };
    Ok(client.items(call).await?.reply().await?.target)
}

async fn read_any(client: &Client, blob: &Descriptor) -> Outcome<Any> {
    let mut bytes = Vec::new();
    write_blob(client, blob.digest.clone(), &mut bytes).await?;
    Ok(Any::from_proto(&bytes).map_err(|refusal| refusal.context(&blob.media_type))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_options_are_protobuf() {
        let options = Options { exit: true, image_path: "/a", work_path: None };
        assert_eq!(options.any().value[..], b"\x08\x01\x42\x02/a"[..]);
        assert!(Options::default().any().value.is_empty());
        assert_eq!(Options::with_locks().value[..], b"\x28\x01"[..]);
    }

    #[test]
    fn checkpoints_have_names_that_images_can_have() {
        let name = default_name(&ContainerId::new("web").unwrap(), Timestamp::ZERO);
        assert!(name.starts_with("containerd.io/checkpoint/web:"), "{name}");
        ImageName::new(name).unwrap();
    }
}
