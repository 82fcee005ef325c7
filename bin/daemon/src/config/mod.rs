//! The daemon's configuration: a TOML file, and what is said when nothing is.
//!
//! A key that is not known is an error that names it and its line: a misspelt limit must not silently be no limit. Each
//! section is checked, and told to the actor system, where it is declared.

mod images;
mod keeping;
mod log;
mod metrics;
mod serving;
mod tasks;

pub use images::{ProxyPlugins, Registry, ServedSnapshotters};
pub use keeping::{Content, Events, Gc};
pub use log::{Log, LogFormat, LogLevel};
pub use metrics::{Metrics, MetricsAddress};
pub use serving::{Limits, Socket};
pub use tasks::{Opt, Restart, Runtime};

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    time::Duration,
};
use wharf_actors::config::SystemConfig;
use wharf_messages::{Answer, Refusal, SnapshotterName};

/// Where the file is looked for unless it is named.
pub const DEFAULT_PATH: &str = "/etc/wharf/config.toml";
/// The version of the file's format.
const VERSION: u32 = 1;
/// The largest file that is read.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// The longest path that a socket's address holds, with its zero.
const ADDRESS_MAX_BYTES: usize = 107;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The format's version.
    pub version: u32,
    /// Folder of the durable state.
    pub root: PathBuf,
    /// Folder of the state that dies with a boot.
    pub state: PathBuf,
    /// The socket.
    pub address: PathBuf,
    /// The snapshotter that is used when neither call nor namespace names one.
    pub snapshotter: SnapshotterName,
    /// Whose the socket is.
    pub socket: Socket,
    /// What is logged, and how.
    pub log: Log,
    /// How images are fetched.
    pub registry: Registry,
    /// How containers are run.
    pub runtime: Runtime,
    /// How tasks are started again.
    pub restart: Restart,
    /// The log of events.
    pub events: Events,
    /// Garbage collection.
    pub gc: Gc,
    /// Figures for scrapers.
    pub metrics: Metrics,
    /// Bounds.
    pub limits: Limits,
    /// Blobs.
    pub content: Content,
    /// Programs that are installed from images.
    pub opt: Opt,
    /// Snapshotters that are kept for other daemons, by the name under which their configuration knows this one.
    pub served_snapshotters: ServedSnapshotters,
    /// Parts that other daemons have, by name.
    pub proxy_plugins: ProxyPlugins,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: VERSION,
            root: "/var/lib/wharf".into(),
            state: "/run/wharf".into(),
            address: "/run/wharf/wharf.sock".into(),
            snapshotter: default_snapshotter(),
            socket: Socket::default(),
            log: Log::default(),
            registry: Registry::default(),
            runtime: Runtime::default(),
            restart: Restart::default(),
            events: Events::default(),
            gc: Gc::default(),
            metrics: Metrics::default(),
            limits: Limits::default(),
            content: Content::default(),
            opt: Opt::default(),
            served_snapshotters: ServedSnapshotters::new(),
            proxy_plugins: ProxyPlugins::new(),
        }
    }
}

fn default_snapshotter() -> SnapshotterName {
    #[expect(clippy::unwrap_used, reason = "a constant that a test reads too")]
    SnapshotterName::new("overlayfs").unwrap()
}

/// A configuration that cannot work.
fn refuse(what: impl fmt::Display) -> Refusal {
    Refusal::invalid(format!("configuration: {what}"))
}

/// As keys that end in `_ms` say it.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Config {
    /// Reads the file at a path, or the usual one if it is there.
    ///
    /// # Errors
    /// `NotFound` for a file that was named; `InvalidArgument` with file, line and key.
    pub fn load(named: Option<&Path>) -> Answer<Self> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        let failed = |error: std::io::Error| Refusal::io(format!("configuration file {}", path.display()), &error);
        let file = match File::open(path) {
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened.map_err(failed)?,
        };
        let mut text = String::new();
        file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > FILE_MAX_BYTES {
            return Err(Refusal::invalid(format!(
                "configuration file {} is larger than {FILE_MAX_BYTES} bytes",
                path.display()
            )));
        }
        Self::parse(&text).map_err(|refusal| refusal.context(format!("configuration file {}", path.display())))
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// `InvalidArgument` with line and key.
    pub fn parse(text: &str) -> Answer<Self> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Refusal::invalid(format!("line {line}: {}", error.message().trim_end()))
        })
    }

    /// As the file would say it.
    ///
    /// # Errors
    /// `Internal` for a path that is not UTF-8, which TOML has no way to say.
    pub fn to_toml(&self) -> Answer<String> {
        toml::to_string(self).map_err(|error| Refusal::internal(format!("write the configuration as TOML: {error}")))
    }

    /// Checks what no type says.
    ///
    /// # Errors
    /// `InvalidArgument` that names the key and the bound.
    pub fn check(&self) -> Answer<()> {
        let bad = |what: String| Err(refuse(what));
        if self.version != VERSION {
            return bad(format!("version {} is not known, this wharfd reads version {VERSION}", self.version));
        }
        let others = [("registry.docker_config", &self.registry.docker_config), ("runtime.shim", &self.runtime.shim)];
        let others = others.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?)));
        let folders = self.registry.hosts_dirs.iter().map(|path| ("registry.hosts_dirs", path));
        let own =
            [("root", &self.root), ("state", &self.state), ("address", &self.address), ("opt.path", &self.opt.path)];
        for (key, path) in own.into_iter().chain(others).chain(folders) {
            if !path.is_absolute() {
                return bad(format!("{key} {:?} must be an absolute path", path.display()));
            }
        }
        if self.root == self.state {
            return bad(format!("root and state must not be the same folder, {}", self.root.display()));
        }
        if self.address.as_os_str().len() > ADDRESS_MAX_BYTES {
            return bad(format!("address {} is longer than {ADDRESS_MAX_BYTES} bytes", self.address.display()));
        }
        self.limits.check()?;
        self.registry.check()?;
        self.restart.check()?;
        self.metrics.address()?;
        self.events.check()?;
        self.gc.check()?;
        images::check_snapshotters(&self.served_snapshotters, &self.proxy_plugins)
    }

    /// What the actor system is told.
    #[must_use]
    pub fn system(&self) -> SystemConfig {
        let mut system = SystemConfig::new(&self.root, &self.state);
        system.revision = option_env!("WHARF_REVISION").unwrap_or_default();
        system.address = self.address.clone();
        system.snapshotter = self.snapshotter.to_string();
        system.layer_max_bytes = self.limits.layer_max_bytes;
        system.shim_debug = matches!(self.log.level, LogLevel::Debug | LogLevel::Trace);
        self.registry.tell(&mut system);
        self.runtime.tell(&mut system);
        self.restart.tell(&mut system);
        self.events.tell(&mut system);
        self.gc.tell(&mut system);
        self.content.tell(&mut system);
        self.opt.tell(&mut system);
        images::tell_snapshotters(&self.served_snapshotters, &self.proxy_plugins, &mut system);
        system
    }
}

#[cfg(test)]
mod tests;
