//! What the actor system is told when it starts. Files, flags and environment are the daemon's affair.

use crate::{drivers::registry::RegistryConfig, gc::GcConfig, restart::machine::Backoff};
use std::{collections::BTreeMap, path::PathBuf};

/// A snapshotter that another daemon has.
#[derive(Debug, Clone)]
pub struct RemoteSnapshotter {
    /// The socket behind which it is.
    pub address: PathBuf,
    /// Its name there.
    pub remote_name: String,
}

/// The configuration of the actor system.
#[derive(Debug, Clone)]
pub struct SystemConfig {
    /// What the daemon was built from, as version control names it; empty if that was not said.
    pub revision: &'static str,
    /// Where the durable state is.
    pub root: PathBuf,
    /// Where the state that dies with a boot is.
    pub state: PathBuf,
    /// How many events the log keeps; older ones are forgotten.
    pub events_max: u64,
    /// When garbage is collected.
    pub gc: GcConfig,
    /// The daemon's socket, for shims that want to tell it something.
    pub address: PathBuf,
    /// Where shims put their sockets; kept short, for a socket's path has 107 bytes.
    pub shim_sockets: PathBuf,
    /// wharf's own shim, which serves the default runtime.
    pub shim: PathBuf,
    /// The daemon's own program, for shims that publish events by running it.
    pub publish_binary: PathBuf,
    /// Whether shims log in detail.
    pub shim_debug: bool,
    /// The snapshotter of those who name none.
    pub snapshotter: String,
    /// Snapshotters that are kept for other daemons: name, and which kind of ours it is.
    pub served_snapshotters: BTreeMap<String, String>,
    /// Snapshotters of other daemons: by the name it has here.
    pub remote_snapshotters: BTreeMap<String, RemoteSnapshotter>,
    /// Where registries' hosts and credentials are, and how long they may take.
    pub registry: RegistryConfig,
    /// Blobs fetched at once for one pull.
    pub max_concurrent_downloads: u32,
    /// The length of an unpacked layer, holes counted; a larger one is refused.
    pub layer_max_bytes: u64,
    /// How long tasks rest before they are started again.
    pub restart: Backoff,
}

impl SystemConfig {
    /// How many events the log keeps unless told otherwise: some weeks of a busy machine, some 100 MB at the most.
    pub const EVENTS_MAX: u64 = 200_000;

    /// The length of an unpacked layer unless told otherwise: far beyond what honest ones have.
    pub const LAYER_MAX_BYTES: u64 = 1 << 40;

    /// The configuration for these folders, and otherwise as it comes.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        let state = state.into();
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("wharfd"));
        Self {
            revision: "",
            root: root.into(),
            events_max: Self::EVENTS_MAX,
            gc: GcConfig::default(),
            address: state.join("wharf.sock"),
            shim_sockets: state.join("s"),
            shim: program.with_file_name("wharf-shim"),
            publish_binary: program,
            shim_debug: false,
            snapshotter: "overlayfs".to_owned(),
            served_snapshotters: BTreeMap::new(),
            remote_snapshotters: BTreeMap::new(),
            registry: RegistryConfig::default(),
            max_concurrent_downloads: 3,
            layer_max_bytes: Self::LAYER_MAX_BYTES,
            restart: Backoff::DEFAULT,
            state,
        }
    }
}
