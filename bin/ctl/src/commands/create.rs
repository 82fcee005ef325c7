//! What `run` and `containers create` have in common: the flags of a container, and how one is made from them.

use crate::{
    commands::{
        leases::Leased,
        maps::Maps,
        mount::unpacked,
        policy::{Plan, PolicyFlags},
        pull::snapshotter,
        spec_flags::SpecFlags,
    },
    context::{Context, parse},
    failure::{Failure, Outcome, warn},
    labels,
};
use clap::Args;
use std::{collections::BTreeMap, path::PathBuf};
use wharf_client::{
    Client,
    spec::{self, ImageConfig, RuncOptions, STOP_SIGNAL_LABEL, Spec, SpecBuilder, Users},
};
use wharf_messages::{
    Answer, Any, ContainerId, ImageName, Labels, Platform, SnapshotKey, SnapshotterName, Timestamp,
    any::put_bytes,
    container::{Container, CreateContainer, DEFAULT_RUNTIME, Runtime},
    image::ResolvedImage,
    snapshot::{PrepareSnapshot, RemoveSnapshot},
};

/// The signal that stops a container whose image names none.
const DEFAULT_STOP_SIGNAL: &str = "SIGTERM";
/// The longest key and value of a label together.
///
/// # Spec
/// containerd `labels.Validate`.
const LABEL_MAX_BYTES: usize = 4096;

/// The flags of a container.
#[derive(Debug, Args)]
pub struct ContainerFlags {
    /// Where its root file system will be; empty means the namespace's default
    #[arg(long, env = "CONTAINERD_SNAPSHOTTER", hide_env_values = true, value_name = "NAME")]
    snapshotter: Option<String>,
    /// Labels for its root file system's snapshot
    #[arg(long = "snapshotter-label", value_name = "KEY=VALUE")]
    snapshotter_labels: Vec<String>,
    /// For which platform instead of this machine's
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Take the whole OCI spec from this file; the only argument is then the id
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The image argument is a folder: use it as root file system as it is
    #[arg(long)]
    rootfs: bool,
    /// Labels; they become annotations of the spec too. KEY alone means KEY=true
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,

    /// Which shim runs it: io.containerd.NAME.vN, or a path
    #[arg(long, value_name = "NAME", default_value = DEFAULT_RUNTIME, help_heading = "Runtime options")]
    runtime: String,
    /// A configuration file for runtimes other than the default one
    #[arg(long, value_name = "FILE", help_heading = "Runtime options")]
    runtime_config_path: Option<String>,
    /// An OCI runtime instead of the built-in one, such as runc or crun
    #[arg(long, value_name = "PATH", help_heading = "Runtime options")]
    runc_binary: Option<String>,
    /// Where that runtime keeps its state
    #[arg(long, value_name = "DIR", help_heading = "Runtime options")]
    runc_root: Option<String>,
    /// Have systemd make the cgroup; --cgroup names it, as in machine.slice:prefix:name
    #[arg(long, help_heading = "Runtime options")]
    runc_systemd_cgroup: bool,
    /// Enter the root by chroot, not pivot_root: for a root on a RAM disk
    #[arg(long, help_heading = "Runtime options")]
    no_pivot: bool,
    /// Where the process id is written
    #[arg(long, value_name = "FILE", help_heading = "Runtime options")]
    pub pid_file: Option<PathBuf>,

    /// What the container is like within.
    #[command(flatten)]
    pub spec: SpecFlags,

    /// What keeps it running.
    #[command(flatten)]
    pub policy: PolicyFlags,

    /// What it is made from: an image, or a folder with --rootfs (neither with --config)
    #[arg(value_name = "IMAGE|ROOTFS")]
    origin: Option<String>,
    /// Its id
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// The command and its arguments; the image's otherwise
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// What a container is made from.
#[derive(Debug, PartialEq, Eq)]
pub enum Origin {
    /// An image: its snapshot is the root file system.
    Image(ImageName),
    /// A folder: it is the root file system.
    Folder(PathBuf),
    /// A whole spec in a file.
    Spec(PathBuf),
}

/// What the arguments say.
#[derive(Debug, PartialEq, Eq)]
pub struct What {
    /// The container's name.
    pub id: ContainerId,
    /// What it is made from.
    pub origin: Origin,
    /// The command; empty means the image's.
    pub command: Vec<String>,
}

impl ContainerFlags {
    /// Reads the arguments.
    ///
    /// # Errors
    /// For one that is missing or malformed.
    pub fn what(&self) -> Outcome<What> {
        let missing = |what: &str| Failure::new(format!("{what} must be provided"));
        let first = self.origin.as_ref().filter(|word| !word.is_empty());
        let second = self.id.as_ref().filter(|word| !word.is_empty());
        if let Some(file) = &self.config {
            if self.id.is_some() {
                return Err(Failure::new("with spec config file, only container id should be provided"));
            }
            let id = parse(first.ok_or_else(|| missing("container id"))?)?;
            return Ok(What { id, origin: Origin::Spec(file.clone()), command: Vec::new() });
        }
        let origin = first.ok_or_else(|| missing("image ref"))?;
        let id = parse(second.ok_or_else(|| missing("container id"))?)?;
        let origin = match self.rootfs {
            true => Origin::Folder(std::path::absolute(origin).map_err(Failure::from)?),
            false => Origin::Image(parse(origin)?),
        };
        Ok(What { id, origin, command: self.command.clone() })
    }

    /// Makes the container.
    ///
    /// # Errors
    /// The daemon's refusal; then no snapshot is left.
    pub async fn create(&self, what: &What, plan: Plan<'_>, context: &Context, client: &Client) -> Outcome<Container> {
        self.spec.check()?;
        self.spec.load_profile()?;
        let runtime = self.runtime()?;
        let labels = labels::read(&self.labels);
        if !matches!(what.origin, Origin::Image(_)) {
            self.spec.maps.pass_over();
        }
        // Without an image there is no check but that of the flags.
        let policy = || self.policy.labels(&serde_json::Value::Null, plan);
        let container = |image: &str, labels: Labels, spec: &Spec| {
            Ok::<_, wharf_messages::Refusal>(Container {
                id: what.id.clone(),
                labels,
                image: image.to_owned(),
                runtime: runtime.clone(),
                spec: Some(spec::to_any(spec)?),
                snapshotter: None,
                snapshot_key: None,
                created_at: Timestamp::ZERO,
                updated_at: Timestamp::ZERO,
                extensions: BTreeMap::new(),
                sandbox: String::new(),
            })
        };
        let made = match &what.origin {
            Origin::Spec(file) => {
                let mut spec = spec::from_file(file)?;
                if !labels.is_empty() {
                    spec.annotations_mut().get_or_insert_default().extend(labels.clone());
                }
                container("", with(labels, policy()?), &spec)?
            }
            Origin::Folder(folder) => {
                let builder = self.builder(what, context, &labels, Some(folder.clone()), None)?;
                let users = if builder.needs_users() { Users::of_path(folder)? } else { Users::default() };
                container("", with(labels, policy()?), &builder.build(&users)?)?
            }
            Origin::Image(name) => {
                return self.create_from_image(what, name, plan, context, client, labels, container).await;
            }
        };
        Ok(client.call(CreateContainer { container: made }).await?)
    }

    #[allow(clippy::too_many_arguments, reason = "all that there is to a container")]
    async fn create_from_image(
        &self,
        what: &What,
        name: &ImageName,
        plan: Plan<'_>,
        context: &Context,
        client: &Client,
        labels: Labels,
        container: impl Fn(&str, Labels, &Spec) -> Answer<Container>,
    ) -> Outcome<Container> {
        let snapshotter = snapshotter(self.snapshotter.as_ref())?;
        let maps = self.spec.maps.maps()?;
        let builder = self.builder(what, context, &labels, None, maps)?;
        let image = match unpacked(client, name, self.platform.clone(), snapshotter.clone()).await {
            Ok(image) => image,
            Err(refusal) => {
                let get = || wharf_messages::image::GetImage { name: name.clone() };
                return Err(context.elsewhere(client, refusal, get).await);
            }
        };
        let config = ImageConfig::parse(&image.config_json)?;
        let policy = self.policy.labels(&config.healthcheck, plan)?;
        let labels = with(container_labels(labels, &image, &config), policy);
        let builder = builder.image(config);
        let finish = |users: &Users| {
            let mut container = container(name.as_str(), labels, &builder.clone().build(users)?)?;
            container.snapshotter.clone_from(&snapshotter);
            Ok(container)
        };
        let layers = SnapshotKey::new(image.chain_id.as_str())?;
        let mut prepare = PrepareSnapshot {
            snapshotter: snapshotter.clone(),
            key: SnapshotKey::new(what.id.as_str())?,
            parent: Some(layers),
            labels: labels::read(&self.snapshotter_labels),
        };
        let needs_users = builder.needs_users();
        let made = match maps {
            Some(maps) if !self.spec.maps.remap_labels => {
                // Nothing refers to what is made on the way.
                let leased = Leased::take(client).await?;
                let made = create_on_snapshot(&leased.client, Some(maps), prepare, needs_users, finish).await;
                leased.end().await;
                made
            }
            maps => {
                prepare.labels.extend(maps.map(|maps| maps.labels()).unwrap_or_default());
                create_on_snapshot(client, None, prepare, needs_users, finish).await
            }
        };
        Ok(made?)
    }

    fn builder(
        &self,
        what: &What,
        context: &Context,
        labels: &Labels,
        rootfs: Option<PathBuf>,
        maps: Option<Maps>,
    ) -> Outcome<SpecBuilder> {
        let mut options = self.spec.options(rootfs, what.command.clone())?;
        options.annotations.extend(labels.clone());
        options.uid_maps.extend(maps.map(|maps| maps.uids));
        options.gid_maps.extend(maps.map(|maps| maps.gids));
        Ok(SpecBuilder::new(&context.namespace, &what.id).options(options))
    }

    /// Which shim, and what it is told.
    fn runtime(&self) -> Outcome<Runtime> {
        let is_default = self.runtime == DEFAULT_RUNTIME;
        if !is_default && (self.runc_binary.is_some() || self.runc_systemd_cgroup) {
            return Err(Failure::new(format!(
                "specifying runc-binary and runc-systemd-cgroup is only supported for {DEFAULT_RUNTIME:?} runtime"
            )));
        }
        if self.runc_systemd_cgroup && self.spec.cgroup.as_deref().unwrap_or("").is_empty() {
            return Err(Failure::new(
                "option --runc-systemd-cgroup requires --cgroup to be set, e.g. \"machine.slice:foo:deadbeef\"",
            ));
        }
        let options = if is_default {
            Some(self.runc_options().to_any())
        } else {
            self.runtime_config_path.as_deref().filter(|path| !path.is_empty()).map(config_path)
        };
        Ok(Runtime { name: self.runtime.clone(), options })
    }

    fn runc_options(&self) -> RuncOptions {
        RuncOptions {
            no_pivot_root: self.no_pivot,
            binary_name: self.runc_binary.clone().unwrap_or_default(),
            root: self.runc_root.clone().unwrap_or_default(),
            systemd_cgroup: self.runc_systemd_cgroup,
            ..RuncOptions::default()
        }
    }

    /// What the shim is told for the task alone: who owns its standard streams. Nothing means what the container says.
    #[must_use]
    pub fn task_options(&self) -> Option<Any> {
        let (io_uid, io_gid) = self.spec.maps.io_owner();
        (self.runtime == DEFAULT_RUNTIME && (io_uid, io_gid) != (0, 0))
            .then(|| RuncOptions { io_uid, io_gid, ..self.runc_options() }.to_any())
    }
}

/// What the user's own labels say goes over what flags and image do.
fn with(labels: Labels, policy: Labels) -> Labels {
    let mut all = policy;
    all.extend(labels);
    all
}

/// The options of a runtime that reads a file.
///
/// # Spec
/// containerd `pkg/runtimeoptions/v1/api.proto`: field 2 is the path.
fn config_path(path: &str) -> Any {
    let mut value = Vec::new();
    put_bytes(&mut value, 2, path.as_bytes());
    Any::new("runtimeoptions.v1.Options", value)
}

/// The image's labels (its record's over its config's), then the caller's, and how the image wants to be stopped.
fn container_labels(asked: Labels, image: &ResolvedImage, config: &ImageConfig) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in config.labels.iter().chain(&image.image.labels) {
        if key.len() + value.len() > LABEL_MAX_BYTES {
            warn(format!("unable to add image label with key {key} to the container: it is too long"));
        } else {
            labels.insert(key.clone(), value.clone());
        }
    }
    labels.extend(asked);
    let stop_signal = if config.stop_signal.is_empty() { DEFAULT_STOP_SIGNAL } else { &config.stop_signal };
    labels.insert(STOP_SIGNAL_LABEL.to_owned(), stop_signal.to_owned());
    labels
}

/// Makes the snapshot, on layers with other owners if there are maps, and then the container; `finish` makes its record.
/// The snapshot comes first, since the users that the spec needs are in it.
async fn create_on_snapshot(
    client: &Client,
    maps: Option<Maps>,
    prepare: PrepareSnapshot,
    needs_users: bool,
    finish: impl FnOnce(&Users) -> Answer<Container>,
) -> Answer<Container> {
    let (snapshotter, key) = (prepare.snapshotter.clone(), prepare.key.clone());
    let mounts = match maps {
        Some(maps) => maps.prepare(client, prepare).await?,
        None => client.call(prepare).await?,
    };
    let created = async {
        let users = if needs_users { Users::of_mounts(&mounts)? } else { Users::default() };
        let mut container = finish(&users)?;
        container.snapshot_key = Some(key.clone());
        client.call(CreateContainer { container }).await
    };
    match created.await {
        Ok(container) => Ok(container),
        Err(refusal) => {
            remove_snapshot(client, snapshotter, key).await;
            Err(refusal)
        }
    }
}

async fn remove_snapshot(client: &Client, snapshotter: Option<SnapshotterName>, key: SnapshotKey) {
    if let Err(refusal) = client.call(RemoveSnapshot { snapshotter, key: key.clone() }).await {
        warn(format!("snapshot {key} is left over: {refusal}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ContainerFlags,
    }

    fn flags(line: &str) -> ContainerFlags {
        Line::try_parse_from(std::iter::once("create").chain(line.split_whitespace())).unwrap().flags
    }

    #[test]
    fn arguments_are_an_origin_an_id_and_a_command() {
        let what = flags("-- docker.io/library/busybox:latest web sh -c -x").what().unwrap();
        let image = ImageName::new("docker.io/library/busybox:latest").unwrap();
        assert_eq!((what.id.as_str(), what.origin), ("web", Origin::Image(image)));
        assert_eq!(what.command, ["sh", "-c", "-x"]);
        assert_eq!(flags("--rootfs /srv/root web").what().unwrap().origin, Origin::Folder("/srv/root".into()));
        assert_eq!(flags("--config spec.json web").what().unwrap().origin, Origin::Spec("spec.json".into()));
        for (line, complaint) in [
            ("", "image ref must be provided"),
            ("busybox", "container id must be provided"),
            ("--config spec.json", "container id must be provided"),
            ("--config spec.json web sh", "with spec config file, only container id should be provided"),
        ] {
            assert_eq!(flags(line).what().unwrap_err().text.as_deref(), Some(complaint));
        }
        assert!(flags("busybox a/b").what().is_err());
    }

    #[test]
    fn runtimes_get_their_own_options() {
        let runtime = |line| flags(line).runtime();
        let options = runtime("--runc-binary crun --no-pivot i x").unwrap().options.unwrap();
        assert_eq!((options.type_url.as_str(), &options.value[..2]), ("containerd.runc.v1.Options", &[8_u8, 1][..]));
        assert_eq!(runtime("--runtime io.containerd.kata.v2 i x").unwrap().options, None);
        let options = runtime("--runtime io.containerd.kata.v2 --runtime-config-path /a i x").unwrap().options.unwrap();
        assert_eq!(options, Any::new("runtimeoptions.v1.Options", *b"\x12\x02/a"));
        assert!(runtime("--runtime io.containerd.kata.v2 --runc-binary crun i x").is_err());
        assert!(runtime("--runc-systemd-cgroup i x").is_err());
        assert!(runtime("--runc-systemd-cgroup --cgroup machine.slice:a:b i x").is_ok());
    }
}
