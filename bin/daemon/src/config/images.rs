//! `[registry]`, `[served_snapshotters]` and `[proxy_plugins]`: where images come from, and who keeps their layers.

use super::refuse;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};
use wharf_actors::{
    config::{RemoteSnapshotter, SystemConfig},
    drivers::registry::RegistryConfig,
};
use wharf_messages::{Answer, SnapshotterName};

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

impl Default for Registry {
    fn default() -> Self {
        let own = PathBuf::from("/etc/wharf/certs.d");
        // What is configured for containerd and Docker holds here too.
        let hosts_dirs = [vec![own], RegistryConfig::default().hosts_dirs].concat();
        Self { hosts_dirs, docker_config: None, max_concurrent_downloads: 3 }
    }
}

impl Registry {
    pub(super) fn check(&self) -> Answer<()> {
        if !(1..=64).contains(&self.max_concurrent_downloads) {
            return Err(refuse("registry.max_concurrent_downloads must be from 1 to 64"));
        }
        Ok(())
    }

    pub(super) fn tell(&self, system: &mut SystemConfig) {
        system.max_concurrent_downloads = self.max_concurrent_downloads;
        system.registry.hosts_dirs = self.hosts_dirs.clone();
        if let Some(path) = &self.docker_config {
            system.registry.docker_config = Some(path.clone());
        }
    }
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

/// Snapshotters that are served, by name.
pub type ServedSnapshotters = BTreeMap<SnapshotterName, Served>;
/// Parts of other daemons, by name.
pub type ProxyPlugins = BTreeMap<SnapshotterName, ProxyPlugin>;

pub(super) fn check_snapshotters(served: &ServedSnapshotters, proxies: &ProxyPlugins) -> Answer<()> {
    let served = served.keys().map(|name| ("served_snapshotters", name));
    let mut names: BTreeSet<&str> = BTreeSet::from(["overlayfs", "native"]);
    for (key, name) in served.chain(proxies.keys().map(|name| ("proxy_plugins", name))) {
        if !names.insert(name.as_str()) {
            return Err(refuse(format_args!("{key}.{name}: there is a snapshotter of that name")));
        }
    }
    for (name, plugin) in proxies {
        if !plugin.address.is_absolute() {
            let address = plugin.address.display();
            return Err(refuse(format_args!("proxy_plugins.{name}.address \"{address}\" must be an absolute path")));
        }
    }
    Ok(())
}

pub(super) fn tell_snapshotters(served: &ServedSnapshotters, proxies: &ProxyPlugins, system: &mut SystemConfig) {
    for (name, kind) in served {
        let kind = match kind {
            Served::Overlayfs => "overlayfs",
            Served::Native => "native",
        };
        system.served_snapshotters.insert(name.to_string(), kind.to_owned());
    }
    for (name, ProxyPlugin { kind: ProxyKind::Snapshot, address, remote_name }) in proxies {
        let remote_name = remote_name.clone().unwrap_or_else(|| name.to_string());
        let remote = RemoteSnapshotter { address: address.clone(), remote_name };
        system.remote_snapshotters.insert(name.to_string(), remote);
    }
}
