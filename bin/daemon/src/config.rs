//! The daemon's configuration: a TOML file, and what is said when nothing is.
//!
//! A key that is not known is an error that names it and its line: a misspelt limit must not silently be no limit.

use crate::frontends::native;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{ErrorKind, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use wharf_actors::{
    config::{RemoteSnapshotter, Retention, SystemConfig},
    drivers::registry::RegistryConfig,
    gc::GcConfig,
    restart::machine::Backoff,
};
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
    /// Snapshotters that are kept for other daemons, by the name under which their configuration knows this one.
    pub served_snapshotters: BTreeMap<SnapshotterName, Served>,
    /// Parts that other daemons have, by name.
    pub proxy_plugins: BTreeMap<SnapshotterName, ProxyPlugin>,
}

/// What keeps the snapshots of a snapshotter that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Served {
    /// In layers, by the kernel's overlay.
    Overlayfs,
    /// As full copies.
    Native,
}

/// A part that another daemon has, behind a socket that serves containerd's gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyPlugin {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ProxyKind,
    /// The socket.
    pub address: PathBuf,
    /// Its name there; none means the one it has here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_name: Option<String>,
}

/// What parts of other daemons can be used.
///
/// Content is not among them: blobs are files of this daemon, written, checked and counted before the row that names
/// them is committed, and read by several at once while they grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyKind {
    /// A snapshotter.
    Snapshot,
}

/// Figures for scrapers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where they are served, at `/v1/metrics`: `127.0.0.1:1338`, or the path of a socket; empty is nowhere.
    pub address: String,
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// At a TCP address.
    Tcp(SocketAddr),
    /// At a socket.
    Unix(PathBuf),
}

impl Metrics {
    /// The address, if there is one.
    ///
    /// # Errors
    /// `InvalidArgument` if it is none of the two.
    pub fn address(&self) -> Answer<Option<MetricsAddress>> {
        let text = self.address.strip_prefix("unix://").unwrap_or(&self.address);
        if text.is_empty() {
            Ok(None)
        } else if text.starts_with('/') && text.len() <= ADDRESS_MAX_BYTES {
            Ok(Some(MetricsAddress::Unix(text.into())))
        } else if let Ok(address) = text.parse() {
            Ok(Some(MetricsAddress::Tcp(address)))
        } else {
            let what = "is neither an IP address with a port nor the absolute path of a socket";
            Err(Refusal::invalid(format!("configuration: metrics.address {text:?} {what}")))
        }
    }
}

/// Whose the socket is: its mode is 0660, so its owner and its group may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Socket {
    /// Its owner; root may connect in any case.
    pub uid: u32,
    /// Its group, by name or number. Whoever is in it can become root on this machine.
    pub group: String,
}

/// What is logged, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// From which level on.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// Every call.
    Debug,
    /// What an operator may want to know.
    #[default]
    Info,
    /// What an operator should look at.
    Warn,
    /// What went wrong; containerd's `fatal` and `panic` are the same.
    #[serde(alias = "fatal", alias = "panic")]
    #[value(aliases = ["fatal", "panic"])]
    Error,
}

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// How images are fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// Folders of `HOST/hosts.toml` files; the first that knows a host wins.
    pub hosts_dirs: Vec<PathBuf>,
    /// Docker's file of credentials; none means `config.json` in `$DOCKER_CONFIG` or `~/.docker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_config: Option<PathBuf>,
    /// Blobs fetched at once by one pull.
    pub max_concurrent_downloads: u32,
}

/// How containers are run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// The shim of the default runtime; none means `wharf-shim` beside this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shim: Option<PathBuf>,
}

/// How tasks are started again that have a restart policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// The rest before the first restart; each further one in a row rests twice as long.
    pub backoff_first_ms: u64,
    /// The longest rest.
    pub backoff_max_ms: u64,
    /// A task that ran for so long ran well: the next restart is a first one again.
    pub good_run_ms: u64,
    /// How long a client that deletes a task or changes a policy has for what it wants to do next, before the policy is
    /// followed.
    pub client_grace_ms: u64,
}

/// The log of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// How many are kept.
    pub max: u64,
    /// How many bytes of them, as they are stored.
    pub max_bytes: u64,
    /// For how long, in seconds; 0 is for ever.
    pub max_age_seconds: u64,
}

/// When garbage is collected. The keys are those of containerd's scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// The share of time that collecting may take, from 0 to 0.5.
    pub pause_threshold: f64,
    /// After so many deletions it is not waited for the pause to end; 0 means that it always is.
    pub deletion_threshold: u64,
    /// After so many changes it is looked for garbage even if nothing was deleted; 0 means never.
    pub mutation_threshold: u64,
    /// How long to wait after a reason for a collection, for more of them.
    pub schedule_delay_ms: u64,
    /// How long after the start to collect what is left from before; 0 means not for that reason.
    pub startup_delay_ms: u64,
}

/// Bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at a time.
    pub connections_max: usize,
    /// Calls in flight on one connection.
    pub calls_per_connection_max: usize,
    /// Open files that are asked of the kernel; fewer are a warning.
    pub open_files: u64,
    /// The length of an unpacked layer, holes counted; a larger one is refused.
    pub layer_max_bytes: u64,
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
            served_snapshotters: BTreeMap::new(),
            proxy_plugins: BTreeMap::new(),
        }
    }
}

impl Default for Socket {
    fn default() -> Self {
        Self { uid: 0, group: "0".to_owned() }
    }
}

impl Default for Registry {
    fn default() -> Self {
        let own = PathBuf::from("/etc/wharf/certs.d");
        // What is configured for containerd and Docker holds here too.
        let hosts_dirs = [vec![own], RegistryConfig::default().hosts_dirs].concat();
        Self { hosts_dirs, docker_config: None, max_concurrent_downloads: 3 }
    }
}

impl Default for Restart {
    fn default() -> Self {
        let Backoff { first, max, good_run, grace } = Backoff::DEFAULT;
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            backoff_first_ms: ms(first),
            backoff_max_ms: ms(max),
            good_run_ms: ms(good_run),
            client_grace_ms: ms(grace),
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        let Retention { events_max, bytes_max, age_max } = SystemConfig::RETENTION;
        Self { max: events_max, max_bytes: bytes_max, max_age_seconds: age_max.map_or(0, |age| age.as_secs()) }
    }
}

impl Default for Gc {
    fn default() -> Self {
        let GcConfig { pause_threshold, deletion_threshold, mutation_threshold, schedule_delay, startup_delay } =
            GcConfig::default();
        let millis = |delay: Duration| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self {
            pause_threshold,
            deletion_threshold,
            mutation_threshold,
            schedule_delay_ms: millis(schedule_delay),
            startup_delay_ms: millis(startup_delay),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        // A shim, its FIFOs and its events take a few files a container; a connection takes one.
        Self {
            connections_max: 4096,
            calls_per_connection_max: native::CALLS_MAX,
            open_files: 1 << 20,
            layer_max_bytes: SystemConfig::LAYER_MAX_BYTES,
        }
    }
}

fn default_snapshotter() -> SnapshotterName {
    #[expect(clippy::unwrap_used, reason = "a constant that a test reads too")]
    SnapshotterName::new("overlayfs").unwrap()
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
        let bad = |what: String| Err(Refusal::invalid(format!("configuration: {what}")));
        if self.version != VERSION {
            return bad(format!("version {} is not known, this wharfd reads version {VERSION}", self.version));
        }
        let others = [("registry.docker_config", &self.registry.docker_config), ("runtime.shim", &self.runtime.shim)];
        let others = others.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?)));
        let folders = self.registry.hosts_dirs.iter().map(|path| ("registry.hosts_dirs", path));
        let own = [("root", &self.root), ("state", &self.state), ("address", &self.address)];
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
        if !(1..=64).contains(&self.registry.max_concurrent_downloads) {
            return bad("registry.max_concurrent_downloads must be from 1 to 64".to_owned());
        }
        if self.limits.connections_max == 0 || self.limits.calls_per_connection_max == 0 {
            return bad("limits.connections_max and limits.calls_per_connection_max must be above 0".to_owned());
        }
        if self.restart.backoff_first_ms == 0 || self.restart.backoff_max_ms < self.restart.backoff_first_ms {
            return bad("restart.backoff_first_ms must be above 0 and not above restart.backoff_max_ms".to_owned());
        }
        self.metrics.address()?;
        if self.events.max == 0 || self.events.max_bytes == 0 {
            return bad("events.max and events.max_bytes must be above 0".to_owned());
        }
        if !(0.0..=0.5).contains(&self.gc.pause_threshold) {
            return bad("gc.pause_threshold must be from 0 to 0.5".to_owned());
        }
        let served = self.served_snapshotters.keys().map(|name| ("served_snapshotters", name));
        let mut names: BTreeSet<&str> = BTreeSet::from(["overlayfs", "native"]);
        for (key, name) in served.chain(self.proxy_plugins.keys().map(|name| ("proxy_plugins", name))) {
            if !names.insert(name.as_str()) {
                return bad(format!("{key}.{name}: there is a snapshotter of that name"));
            }
        }
        for (name, plugin) in &self.proxy_plugins {
            if !plugin.address.is_absolute() {
                let address = plugin.address.display();
                return bad(format!("proxy_plugins.{name}.address \"{address}\" must be an absolute path"));
            }
        }
        Ok(())
    }

    /// The socket's group by number.
    ///
    /// # Errors
    /// `NotFound` for a name that the system does not know.
    pub fn socket_gid(&self) -> Answer<u32> {
        let group = &self.socket.group;
        if let Ok(gid) = group.parse() {
            return Ok(gid);
        }
        match nix::unistd::Group::from_name(group) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) => Err(Refusal::not_found(format!("configuration: socket.group {group:?}"))),
            Err(error) => Err(Refusal::io(format!("configuration: socket.group {group:?}"), &error.into())),
        }
    }

    /// What the actor system is told.
    #[must_use]
    pub fn system(&self) -> SystemConfig {
        let mut system = SystemConfig::new(&self.root, &self.state);
        system.revision = option_env!("WHARF_REVISION").unwrap_or_default();
        system.address = self.address.clone();
        system.snapshotter = self.snapshotter.to_string();
        let Events { max, max_bytes, max_age_seconds } = self.events;
        let age_max = (max_age_seconds > 0).then(|| Duration::from_secs(max_age_seconds));
        system.retention = Retention { events_max: max, bytes_max: max_bytes, age_max };
        system.gc = GcConfig {
            pause_threshold: self.gc.pause_threshold,
            deletion_threshold: self.gc.deletion_threshold,
            mutation_threshold: self.gc.mutation_threshold,
            schedule_delay: Duration::from_millis(self.gc.schedule_delay_ms),
            startup_delay: Duration::from_millis(self.gc.startup_delay_ms),
        };
        system.layer_max_bytes = self.limits.layer_max_bytes;
        system.restart = Backoff {
            first: Duration::from_millis(self.restart.backoff_first_ms),
            max: Duration::from_millis(self.restart.backoff_max_ms),
            good_run: Duration::from_millis(self.restart.good_run_ms),
            grace: Duration::from_millis(self.restart.client_grace_ms),
        };
        system.max_concurrent_downloads = self.registry.max_concurrent_downloads;
        system.registry.hosts_dirs = self.registry.hosts_dirs.clone();
        if let Some(path) = &self.registry.docker_config {
            system.registry.docker_config = Some(path.clone());
        }
        if let Some(shim) = &self.runtime.shim {
            system.shim = shim.clone();
        }
        for (name, kind) in &self.served_snapshotters {
            let kind = match kind {
                Served::Overlayfs => "overlayfs",
                Served::Native => "native",
            };
            system.served_snapshotters.insert(name.to_string(), kind.to_owned());
        }
        for (name, ProxyPlugin { kind: ProxyKind::Snapshot, address, remote_name }) in &self.proxy_plugins {
            let remote_name = remote_name.clone().unwrap_or_else(|| name.to_string());
            let remote = RemoteSnapshotter { address: address.clone(), remote_name };
            system.remote_snapshotters.insert(name.to_string(), remote);
        }
        system.shim_debug = matches!(self.log.level, LogLevel::Debug | LogLevel::Trace);
        system
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_read_back_as_it_is_written() {
        let config = Config::default();
        config.check().unwrap();
        assert_eq!(Config::parse(&config.to_toml().unwrap()).unwrap(), config);
        assert_eq!(Config::parse("").unwrap(), config);
    }

    #[test]
    fn what_is_said_goes_over_the_default() {
        let config = Config::parse(
            "version = 1\nroot = \"/r\"\nsnapshotter = \"native\"\n[log]\nlevel = \"fatal\"\nformat = \"json\"\n\
             [socket]\ngroup = \"root\"\n[registry]\nmax_concurrent_downloads = 7\n",
        )
        .unwrap();
        assert_eq!((config.root.as_path(), config.state.as_path()), (Path::new("/r"), Path::new("/run/wharf")));
        assert_eq!((config.log.level, config.log.format), (LogLevel::Error, LogFormat::Json));
        assert_eq!((config.socket_gid().unwrap(), config.snapshotter.as_str()), (0, "native"));
        assert_eq!((config.registry.max_concurrent_downloads, config.system().retention.events_max), (7, 200_000));
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_named_with_their_line() {
        for (text, line, word) in [
            ("version = 1\nrot = \"/r\"\n", 2, "`rot`"),
            ("\n\n[limits]\nconnection_max = 1\n", 4, "`connection_max`"),
            ("[nope]\nx = 1\n", 1, "`nope`"),
            ("root = 7\n", 1, "7"),
            ("# x\n[log]\nlevel = \"loud\"\n", 3, "`loud`"),
            ("snapshotter = \"../x\"\n", 1, "../x"),
            ("[proxy_plugins.c]\ntype = \"content\"\naddress = \"/c.sock\"\n", 2, "`content`"),
            ("[served_snapshotters]\nw = \"btrfs\"\n", 2, "`btrfs`"),
            ("root = \n", 1, ""),
            ("root = \"a\"\nroot = \"b\"\n", 2, "duplicate"),
        ] {
            let refusal = Config::parse(text).unwrap_err();
            assert!(refusal.detail.starts_with(&format!("line {line}: ")), "{text:?}: {refusal}");
            assert!(refusal.detail.contains(word), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (text, word) in [
            ("version = 2", "version 2"),
            ("root = \"relative\"", "absolute"),
            ("[runtime]\nshim = \"wharf-shim\"", "runtime.shim"),
            ("root = \"/x\"\nstate = \"/x\"", "same folder"),
            (&format!("address = \"/{}\"", "x".repeat(107)), "longer"),
            ("[registry]\nmax_concurrent_downloads = 65", "from 1 to 64"),
            ("[limits]\nconnections_max = 0", "above 0"),
            ("[gc]\npause_threshold = 0.6", "from 0 to 0.5"),
            ("[restart]\nbackoff_first_ms = 0", "backoff_first_ms"),
            ("[restart]\nbackoff_max_ms = 10", "backoff_max_ms"),
            ("[served_snapshotters]\nnative = \"overlayfs\"", "served_snapshotters.native"),
            ("[proxy_plugins.s]\ntype = \"snapshot\"\naddress = \"s.sock\"", "proxy_plugins.s.address"),
            (
                "[served_snapshotters]\ns = \"native\"\n[proxy_plugins.s]\ntype = \"snapshot\"\naddress = \"/s\"",
                "proxy_plugins.s",
            ),
            ("[metrics]\naddress = \"localhost\"", "metrics.address"),
        ] {
            let refusal = Config::parse(text).unwrap().check().unwrap_err();
            assert!(refusal.detail.contains(word), "{refusal}");
        }
        let nobody = Config::parse("[socket]\ngroup = \"no such group\"").unwrap();
        assert!(nobody.socket_gid().unwrap_err().detail.contains("no such group"));
    }

    #[test]
    fn a_named_file_must_be_there_and_the_usual_one_need_not() {
        let refusal = Config::load(Some(Path::new("/nonexistent/config.toml"))).unwrap_err();
        assert!(refusal.detail.contains("/nonexistent/config.toml"), "{refusal}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "rot = 1").unwrap();
        let refusal = Config::load(Some(&path)).unwrap_err();
        assert!(refusal.detail.contains("c.toml: line 1: "), "{refusal}");
    }
}
