//! What the shim itself reads of a container's `config.json`. The runtime reads the whole of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wharf_messages::{Answer, Refusal};

use crate::cgroup::devices::Rule;

/// No configuration is longer. containerd's grow to some tens of kilobytes.
const BYTES_MAX: u64 = 16 << 20;

/// The annotations by which containers share a shim, the stronger first.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The part of an OCI runtime specification that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    annotations: BTreeMap<String, String>,
    process: Process,
    linux: Linux,
    hooks: Option<Hooks>,
}

/// The process of a [`Spec`], or one that is executed later.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct Process {
    #[serde(rename = "consoleSize")]
    console_size: Option<ConsoleSize>,
    user: User,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
struct ConsoleSize {
    height: u32,
    width: u32,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
struct User {
    uid: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
    resources: Resources,
    #[serde(rename = "uidMappings")]
    uid_mappings: Vec<Mapping>,
    #[serde(rename = "cgroupsPath")]
    cgroups_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    devices: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Debug, Deserialize)]
struct Mapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
    size: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Hooks {
    poststart: Vec<serde::de::IgnoredAny>,
    poststop: Vec<serde::de::IgnoredAny>,
}

impl Spec {
    /// Reads the bundle's `config.json`.
    ///
    /// # Errors
    /// Not found or invalid argument, naming the file.
    pub fn read(bundle: &Path) -> Answer<Self> {
        let path = bundle.join("config.json");
        let doing = || format!("read {}", path.display());
        let file = File::open(&path).map_err(|error| Refusal::io(doing(), &error))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| Refusal::io(doing(), &error))?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(Refusal::invalid(format!("{}: longer than {BYTES_MAX} bytes", doing())));
        }
        serde_json::from_slice(&bytes).map_err(|error| Refusal::invalid(format!("{}: {error}", doing())))
    }

    /// The name of the shim that serves this container: that of its group, or its own.
    #[must_use]
    pub fn group<'a>(&'a self, id: &'a str) -> &'a str {
        GROUPS.iter().find_map(|key| self.annotations.get(*key)).map_or(id, String::as_str)
    }

    /// The process that it starts with.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Which devices it may open.
    #[must_use]
    pub fn device_rules(&self) -> &[Rule] {
        &self.linux.resources.devices
    }

    /// Where its cgroups are to be, if it says so.
    #[must_use]
    pub fn cgroups_path(&self) -> Option<&Path> {
        self.linux.cgroups_path.as_deref()
    }

    /// Checks that the namespaces are there which it shares with others.
    ///
    /// # Errors
    /// Unknown, in runc's words, for the first that is not.
    pub fn check_namespaces(&self) -> Answer<()> {
        for namespace in self.linux.namespaces.iter().filter(|namespace| !namespace.path.is_empty()) {
            if let Err(error) = std::fs::symlink_metadata(&namespace.path) {
                let why = Refusal::io(format!("lstat {}", namespace.path), &error).detail;
                let kind = &namespace.kind;
                return Err(Refusal::unknown(format!("OCI runtime create failed: {kind} namespace path: {why}")));
            }
        }
        Ok(())
    }

    /// Whether its processes live in a pid namespace of its own, so that all of them end with its init.
    #[must_use]
    pub fn has_own_pid_namespace(&self) -> bool {
        self.linux.namespaces.iter().any(|ns| ns.kind == "pid" && ns.path.is_empty())
    }

    /// Whether hooks are to run after the start.
    #[must_use]
    pub fn has_poststart_hooks(&self) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| !hooks.poststart.is_empty())
    }

    /// Whether hooks are to run after the end.
    #[must_use]
    pub fn has_poststop_hooks(&self) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| !hooks.poststop.is_empty())
    }

    /// Which user of this machine a user of the container is.
    #[must_use]
    pub fn host_uid(&self, uid: u32) -> u32 {
        let mappings = &self.linux.uid_mappings;
        let mapped = mappings.iter().find_map(|m| {
            let offset = uid.checked_sub(m.container_id).filter(|offset| *offset < m.size)?;
            m.host_id.checked_add(offset)
        });
        mapped.unwrap_or(uid)
    }
}

impl Process {
    /// Reads a process's JSON.
    ///
    /// # Errors
    /// Invalid argument.
    pub fn parse(json: &[u8]) -> Answer<Self> {
        serde_json::from_slice(json).map_err(|error| Refusal::unknown(format!("process specification: {error}")))
    }

    /// The terminal's size to begin with: width and height, if one was asked for.
    #[must_use]
    pub fn console_size(&self) -> Option<(u16, u16)> {
        let size = self.console_size?;
        let fit = |n| u16::try_from(n).unwrap_or(u16::MAX);
        (size.width > 0 && size.height > 0).then(|| (fit(size.width), fit(size.height)))
    }

    /// The user, as the container numbers users.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.user.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn containers_are_grouped_as_containerd_groups_them() {
        assert_eq!(spec("{}").group("web"), "web");
        let pod = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
        assert_eq!(spec(pod).group("web"), "pod");
        let both = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(spec(both).group("web"), "g");
    }

    #[test]
    fn a_pid_namespace_is_its_own_only_without_a_path() {
        assert!(!spec("{}").has_own_pid_namespace());
        assert!(spec(r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#).has_own_pid_namespace());
        let joined = r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#;
        assert!(!spec(joined).has_own_pid_namespace());
    }

    #[test]
    fn users_are_mapped() {
        let mapped = spec(r#"{"linux":{"uidMappings":[{"containerID":0,"hostID":100000,"size":10}]}}"#);
        assert_eq!((mapped.host_uid(0), mapped.host_uid(9), mapped.host_uid(10)), (100_000, 100_009, 10));
        assert_eq!(spec("{}").host_uid(1000), 1000);
    }

    #[test]
    fn a_console_has_a_size_or_none() {
        let size = |json: &str| Process::parse(json.as_bytes()).unwrap().console_size();
        assert_eq!(size("{}"), None);
        assert_eq!(size(r#"{"consoleSize":{"height":0,"width":80}}"#), None);
        assert_eq!(size(r#"{"consoleSize":{"height":24,"width":80}}"#), Some((80, 24)));
    }
}
