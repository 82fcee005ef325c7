//! What the actor system is told when it starts. Files, flags and environment are the daemon's affair.

use crate::{content::Sharing, drivers::registry::RegistryConfig, gc::GcConfig, restart::machine::Backoff};
use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};
use wharf_messages::Answer;
pub use wharf_store::Retention;

/// Changes what is logged: takes a level, or none to leave it, and answers what is logged from then on. The log is the
/// process's, so whoever started it says how.
#[derive(Clone)]
pub struct LogControl(pub Arc<ChangeLog>);

/// See [`LogControl`].
pub type ChangeLog = dyn Fn(&str) -> Answer<String> + Send + Sync;

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
    }
}

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
    /// What the log keeps; older events are forgotten.
    pub retention: Retention,
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
    /// How what is logged is changed, if it can be.
    pub log_control: Option<LogControl>,
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
    /// Whether namespaces have the blobs that others have.
    pub content_sharing: Sharing,
    /// Where programs that are installed from images go: its `bin` is searched for programs, its `lib` for libraries.
    pub opt: PathBuf,
}

impl SystemConfig {
    /// What the log keeps unless told otherwise: some weeks of a busy machine, and no more than that of the disk.
    pub const RETENTION: Retention = Retention { events_max: 200_000, bytes_max: 256 << 20, age_max: None };

    /// The length of an unpacked layer unless told otherwise: far beyond what honest ones have.
    pub const LAYER_MAX_BYTES: u64 = 1 << 40;

    /// Where programs that are installed from images go unless told otherwise.
    pub const OPT: &str = "/opt/wharf";

    /// The configuration for these folders, and otherwise as it comes.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        let state = state.into();
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("wharfd"));
        Self {
            revision: "",
            root: root.into(),
            retention: Self::RETENTION,
            gc: GcConfig::default(),
            address: state.join("wharf.sock"),
            shim_sockets: state.join("s"),
            shim: program.with_file_name("wharf-shim"),
            publish_binary: program,
            log_control: None,
            shim_debug: false,
            snapshotter: "overlayfs".to_owned(),
            served_snapshotters: BTreeMap::new(),
            remote_snapshotters: BTreeMap::new(),
            registry: RegistryConfig::default(),
            max_concurrent_downloads: 3,
            layer_max_bytes: Self::LAYER_MAX_BYTES,
            restart: Backoff::DEFAULT,
            content_sharing: Sharing::default(),
            opt: Self::OPT.into(),
            state,
        }
    }
}
