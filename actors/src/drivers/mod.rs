//! Ports to the world and what stands behind them: only code below this module touches kernel, network and processes.

pub mod attributes;
pub mod differ;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod files;
pub mod mount;
pub mod registry;
pub mod remote;
pub mod scratch;
pub mod shim;
pub mod snapshotter;

use crate::{
    config::SystemConfig, content::ContentDeps, image::flights::Flights, journal::Journal, snapshots::Snapshotters,
};
use std::{
    fmt,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use wharf_messages::{Answer, Mount, Refusal};
use wharf_store::Store;

/// Everything that stands behind the actors, made once.
pub struct Drivers {
    /// Starts shims and finds them.
    pub shims: Arc<dyn shim::ShimLauncher>,
    /// Keeps file systems in layers.
    pub snapshotters: Snapshotters,
    /// Talks to registries.
    pub registries: Arc<dyn registry::Registries>,
    /// Content, and who writes it.
    pub content: ContentDeps,
    /// Downloads that are under way.
    pub flights: Flights,
    /// This process.
    pub pid: u32,
    /// This boot: what a row of another one says of processes is no longer so.
    pub boot_id: String,
    /// How layers are applied, and where what cannot be written to or read from directly is mounted.
    pub apply: differ::ApplyOptions,
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drivers({:?})", self.snapshotters)
    }
}

impl Drivers {
    /// Opens the real ones.
    ///
    /// # Errors
    /// What the disk says; `FailedPrecondition` for a default snapshotter that does not work here.
    pub fn open(config: &SystemConfig, store: &Store, journal: &Journal) -> Answer<Self> {
        let folder = |name: &str| config.root.join("snapshotters").join(name);
        let open = |kind: &str, root: &Path| -> Answer<Box<dyn snapshotter::Snapshotter>> {
            match kind {
                "overlayfs" => Ok(Box::new(snapshotter::Overlayfs::open(root)?)),
                "native" => Ok(Box::new(snapshotter::Native::open(root)?)),
                other => Err(Refusal::invalid(format!("snapshotter {other:?}: overlayfs and native can be served"))),
            }
        };
        let mut backends: Vec<Arc<dyn snapshotter::Snapshotter>> = Vec::new();
        for kind in ["overlayfs", "native"] {
            backends.push(open(kind, &folder(kind))?.into());
        }
        for (name, kind) in &config.served_snapshotters {
            backends.push(Arc::new(snapshotter::Served::new(name, open(kind, &folder(name))?)));
        }
        for (name, config) in &config.remote_snapshotters {
            let remote = remote::Remote::new(&config.address, tokio::runtime::Handle::current());
            backends.push(Arc::new(snapshotter::Proxy::open(name, remote, &config.remote_name, &folder(name))?));
        }
        scratch::ScratchFolder::sweep_if_there(&config.opt)?;
        let path = shim::search_path(&config.opt.join("bin"), "PATH");
        let beside = config.publish_binary.parent();
        let shims = shim::ProcessShims::new(shim::ShimSettings {
            state: config.state.clone(),
            address: config.address.to_string_lossy().into_owned(),
            socket_dir: config.shim_sockets.to_string_lossy().into_owned(),
            publish_binary: config.publish_binary.to_string_lossy().into_owned(),
            debug: config.shim_debug,
            env: [
                ("PATH", path.clone()),
                ("LD_LIBRARY_PATH", shim::search_path(&config.opt.join("lib"), "LD_LIBRARY_PATH")),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .to_vec(),
            binaries: shim::ShimBinaries::new(config.shim.clone(), beside, &path),
        });
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|e| Refusal::io("read this boot's id", &e))?;
        Ok(Self {
            shims: Arc::new(shims),
            snapshotters: Snapshotters::new(backends, &config.snapshotter, store)?,
            registries: Arc::new(registry::HttpRegistries::new(config.registry.clone())),
            content: ContentDeps::new(store.clone(), journal.clone(), config.content_sharing),
            flights: Flights::default(),
            pid: std::process::id(),
            boot_id: boot_id.trim().to_owned(),
            apply: Self::open_scratch(config)?,
        })
    }

    /// Makes the folder for what is needed for a moment, mounts of the differ above all, and takes down what a crash left
    /// in it.
    pub(crate) fn open_scratch(config: &SystemConfig) -> Answer<differ::ApplyOptions> {
        let scratch = config.state.join("scratch");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&scratch)
            .map_err(|e| Refusal::io(format!("make {}", scratch.display()), &e))?;
        mount::TempMount::sweep(&scratch)?;
        scratch::ScratchFolder::sweep(&scratch)?;
        let limits = differ::ApplyLimits { total_bytes: config.layer_max_bytes, ..Default::default() };
        Ok(differ::ApplyOptions { limits, scratch: Some(scratch), ..Default::default() })
    }

    /// How a layer is applied to what these mounts show.
    #[must_use]
    pub fn apply_options(&self, mounts: &[Mount], sync: bool) -> differ::ApplyOptions {
        let late_parent = self.snapshotters.backends().any(|backend| backend.awaits_parent(mounts));
        differ::ApplyOptions { late_parent, sync, ..self.apply.clone() }
    }
}

/// A path below a folder, with links in it resolved as if the folder were the root.
///
/// # Errors
/// `NotFound` and what else the kernel says; a path never leads out.
pub(crate) fn beneath(root: &Path, path: &Path) -> Answer<PathBuf> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
    let doing = || format!("find {} in {}", path.display(), root.display());
    let refuse = |e: rustix::io::Errno| Refusal::io(doing(), &e.into());
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(refuse)?;
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&folder, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags).map_err(refuse)?;
    let real = std::os::fd::AsRawFd::as_raw_fd(&found);
    std::fs::read_link(format!("/proc/self/fd/{real}")).map_err(|e| Refusal::io(doing(), &e))
}
