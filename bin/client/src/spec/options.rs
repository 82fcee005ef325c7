//! What a caller can want of a container, and how it is written on a command line.

use super::default::made;
use oci_spec::runtime::{LinuxNamespaceType, Mount, MountBuilder, PosixRlimitType};
use std::{collections::BTreeMap, path::PathBuf};
use wharf_messages::{Answer, Refusal};

/// What the caller wants of a container, beside what the image says. The default wants nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SpecOptions {
    /// The command; none means the image's entrypoint and command. It replaces both, as in `ctr`.
    pub args: Vec<String>,
    /// `KEY=VALUE`, over the image's; entries without `=` are passed over, as in `ctr`.
    pub env: Vec<String>,
    /// Files of such lines; `env` is over them.
    pub env_files: Vec<PathBuf>,
    /// The folder to start in.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
    /// The host name within.
    pub hostname: Option<String>,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// A prepared root file system instead of a snapshot.
    pub rootfs: Option<PathBuf>,
    /// Whether the root file system cannot be written.
    pub read_only: bool,
    /// How mounts below the root propagate: `private`, `rslave` and so on.
    pub rootfs_propagation: Option<String>,
    /// More mounts.
    pub mounts: Vec<SpecMount>,
    /// Use the host's network, its host names and its resolver.
    pub host_network: bool,
    /// All that this process may do, every device, nothing hidden.
    pub privileged: bool,
    /// Whether processes may gain privileges by running setuid programs.
    pub new_privileges: bool,
    /// Capabilities beside the default ones, with their `CAP_` prefix; `ALL` means all that this process has.
    pub cap_add: Vec<String>,
    /// Capabilities taken away, likewise.
    pub cap_drop: Vec<String>,
    /// Which system calls are let through.
    pub seccomp: Seccomp,
    /// The name of a loaded AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// NVIDIA's devices, by number.
    pub gpus: Vec<i64>,
    /// Devices of the host: a path, or a folder of them.
    pub devices: Vec<PathBuf>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Limits instead of the default ones of the same kind.
    pub rlimits: Vec<Rlimit>,
    /// Namespaces to join instead of new ones.
    pub namespaces: Vec<JoinNamespace>,
    /// Another cgroup; the empty one means none.
    pub cgroup: Option<String>,
    /// User ids within and without; any map makes a user namespace.
    pub uid_maps: Vec<IdMap>,
    /// Group ids within and without.
    pub gid_maps: Vec<IdMap>,
    /// Most memory.
    pub memory_limit_bytes: Option<u64>,
    /// Most processes.
    pub pids_limit: Option<i64>,
    /// Most processors' worth of time; not together with quota and period.
    pub cpus: Option<f64>,
    /// Most time a period; negative means no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period.
    pub cpu_period_us: Option<u64>,
    /// Weight against others.
    pub cpu_shares: Option<u64>,
    /// On which processors: `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// From which memory nodes.
    pub cpuset_mems: Option<String>,
    /// The class of Intel's resource director.
    pub rdt_class: Option<String>,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// The default list, which depends on the capabilities.
    Default,
    /// What this file says: a seccomp section of an OCI spec as JSON.
    Profile(PathBuf),
}

/// A mount within the container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecMount {
    /// Its type.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where.
    pub destination: String,
    /// `fstab`-style options.
    pub options: Vec<String>,
}

impl SpecMount {
    /// Parses `type=bind,src=/a,dst=/b,options=rbind:ro`.
    ///
    /// # Errors
    /// `InvalidArgument` that names the part.
    pub fn parse(text: &str) -> Answer<Self> {
        let mut mount = Self::default();
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| Refusal::invalid(format!("mount {text:?}: {part:?} must be KEY=VALUE")))?;
            match key {
                "type" => mount.kind = value.to_owned(),
                "source" | "src" => mount.source = value.to_owned(),
                "destination" | "dst" => mount.destination = value.to_owned(),
                "options" => mount.options = value.split(':').map(str::to_owned).collect(),
                _ => return Err(Refusal::invalid(format!("mount option {key:?} not supported"))),
            }
        }
        Ok(mount)
    }

    pub(super) fn to_oci(&self) -> Answer<Mount> {
        if !self.destination.starts_with('/') {
            return Err(Refusal::invalid(format!("mount destination {:?} must be absolute", self.destination)));
        }
        let mut builder = MountBuilder::default().destination(&self.destination);
        for (text, set) in [
            (&self.kind, MountBuilder::typ as fn(_, String) -> _),
            (&self.source, |builder, source| MountBuilder::source(builder, source)),
        ] {
            if !text.is_empty() {
                builder = set(builder, text.clone());
            }
        }
        if !self.options.is_empty() {
            builder = builder.options(self.options.clone());
        }
        made(builder.build())
    }
}

/// A namespace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinNamespace {
    /// Which kind.
    pub kind: LinuxNamespaceType,
    /// Its path, `/proc/PID/ns/KIND` or a bound one.
    pub path: PathBuf,
}

impl JoinNamespace {
    /// Parses `KIND:PATH`.
    ///
    /// # Errors
    /// `InvalidArgument` for another form or an unknown kind.
    pub fn parse(text: &str) -> Answer<Self> {
        let (kind, path) = text.split_once(':').ok_or_else(|| {
            Refusal::invalid("joining a Linux namespace using --with-ns requires the format 'nstype:path'")
        })?;
        let kind = match kind {
            "pid" | "network" | "mount" | "ipc" | "uts" | "user" | "cgroup" | "time" => {
                LinuxNamespaceType::try_from(kind).ok()
            }
            _ => None,
        };
        let kind = kind.ok_or_else(|| {
            Refusal::invalid(format!("the Linux namespace type specified in --with-ns is not valid: {text}"))
        })?;
        Ok(Self { kind, path: path.into() })
    }
}

/// A range of ids within and the ids they are without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// The first id within.
    pub container_id: u32,
    /// The id it is without.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

impl IdMap {
    /// Parses `CONTAINER:HOST:LENGTH`; numbers may be hexadecimal (`0x`), octal (`0`) or binary (`0b`), as in `ctr`.
    ///
    /// # Errors
    /// `InvalidArgument` for another form.
    pub fn parse(text: &str) -> Answer<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let [container_id, host_id, size] = parts[..] else {
            return Err(Refusal::invalid("user namespace mappings require the format `container-id:host-id:size`"));
        };
        let number = |what: &str, text: &str| {
            let bad = || Refusal::invalid(format!("invalid {what} for user namespace remapping: {text:?}"));
            id(text).ok_or_else(bad)
        };
        let map = Self {
            container_id: number("container id", container_id)?,
            host_id: number("host id", host_id)?,
            size: number("size", size)?,
        };
        if map.size == 0 { Err(Refusal::invalid(format!("id map {text:?} maps nothing"))) } else { Ok(map) }
    }
}

/// A number as Go's `ParseUint` reads it when the base is the text's to say.
fn id(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // Rust takes a sign, Go does not.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

/// A limit of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Of what.
    pub kind: PosixRlimitType,
    /// Where it is now.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

impl Rlimit {
    /// Parses `nofile=1024[:2048]`; one number is both.
    ///
    /// # Errors
    /// `InvalidArgument` for another form, an unknown limit, or a soft limit above the hard one.
    pub fn parse(text: &str) -> Answer<Self> {
        let bad = |why: &str| Refusal::invalid(format!("rlimit {text:?}: {why}"));
        let (name, values) = text.split_once('=').ok_or_else(|| bad("must be NAME=SOFT[:HARD]"))?;
        let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
        let kind = serde_json::from_value(kind.into()).map_err(|_| bad("no such limit"))?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let number = |text: &str| match text {
            "-1" | "unlimited" => Ok(u64::MAX),
            digits => digits.parse().map_err(|_| bad("must be numbers")),
        };
        let limit = Self { kind, soft: number(soft)?, hard: number(hard)? };
        if limit.soft > limit.hard { Err(bad("the soft limit is above the hard one")) } else { Ok(limit) }
    }
}
