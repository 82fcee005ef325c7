//! containerd's default spec, before anything is merged into it.
//!
//! # Spec
//! API reference, section 3 "Default OCI spec"; what `ctr oci spec` prints.

use oci_spec::{
    OciSpecError,
    runtime::{
        Capability, Linux, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
        LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount,
        MountBuilder, PosixRlimitType, Process, RootBuilder, Spec, User,
    },
};
use std::path::PathBuf;
use wharf_messages::{Answer, Refusal};

/// The version of the specification that is claimed: high enough for all that is used, low enough for old runtimes.
const OCI_VERSION: &str = "1.0.2";

/// What a container may do unless told otherwise.
pub(super) const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Destination, type, source, options.
const MOUNTS: [(&str, &str, &str, &[&str]); 7] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
];

/// Nothing can be read there; containerd 1.6's list and what later versions added.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const NAMESPACES: [LinuxNamespaceType; 5] = [
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
];

/// Major and minor numbers of the character devices that may be used: null, zero, full, tty, random, urandom, console,
/// pts (all), ptmx.
const DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(8)),
    (1, Some(7)),
    (5, Some(0)),
    (1, Some(5)),
    (1, Some(9)),
    (5, Some(1)),
    (136, None),
    (5, Some(2)),
];

/// What building a part of the spec answers, as a refusal: only a missing field can make it fail, and none is missing.
pub(super) fn made<T>(result: Result<T, OciSpecError>) -> Answer<T> {
    result.map_err(|error| Refusal::internal(format!("build the OCI spec: {error}")))
}

/// The whole default spec.
pub(super) fn spec(cgroups_path: &str) -> Answer<Spec> {
    let mut process = Process::default();
    process
        .set_terminal(None)
        .set_user(User::default())
        .set_args(None)
        .set_env(None)
        .set_cwd(PathBuf::from("/"))
        .set_no_new_privileges(Some(true))
        .set_capabilities(Some(capability_sets(&CAPABILITIES)?))
        .set_rlimits(Some(super::rlimits(&[super::Rlimit {
            kind: PosixRlimitType::RlimitNofile,
            soft: 1024,
            hard: 1024,
        }])?));

    let mut linux = Linux::default();
    linux
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_sysctl(None)
        .set_devices(None)
        .set_seccomp(None)
        .set_rootfs_propagation(None)
        .set_resources(Some(made(LinuxResourcesBuilder::default().devices(device_rules()?).build())?))
        .set_cgroups_path(Some(PathBuf::from(cgroups_path)))
        .set_namespaces(Some(NAMESPACES.into_iter().map(namespace).collect::<Answer<_>>()?))
        .set_masked_paths(Some(MASKED.map(str::to_owned).into()))
        .set_readonly_paths(Some(READ_ONLY.map(str::to_owned).into()));

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_process(Some(process))
        .set_root(Some(made(RootBuilder::default().path("rootfs").readonly(false).build())?))
        .set_hostname(None)
        .set_mounts(Some(MOUNTS.into_iter().map(mount).collect::<Answer<_>>()?))
        .set_annotations(None)
        .set_linux(Some(linux));
    Ok(spec)
}

/// The three sets that containerd fills; inheritable and ambient ones stay empty.
pub(super) fn capability_sets(capabilities: &[Capability]) -> Answer<LinuxCapabilities> {
    let set = || capabilities.iter().copied().collect::<std::collections::HashSet<_>>();
    let mut sets = made(LinuxCapabilitiesBuilder::default().bounding(set()).effective(set()).permitted(set()).build())?;
    sets.set_inheritable(None).set_ambient(None);
    Ok(sets)
}

fn namespace(kind: LinuxNamespaceType) -> Answer<LinuxNamespace> {
    made(LinuxNamespaceBuilder::default().typ(kind).build())
}

fn mount((destination, kind, source, options): (&str, &str, &str, &[&str])) -> Answer<Mount> {
    let options = options.iter().map(ToString::to_string).collect::<Vec<_>>();
    made(MountBuilder::default().destination(destination).typ(kind).source(source).options(options).build())
}

/// Deny all, then allow those that every container has.
fn device_rules() -> Answer<Vec<LinuxDeviceCgroup>> {
    let deny = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm");
    let mut rules = vec![made(deny.build())?];
    for (major, minor) in DEVICES {
        let mut rule =
            LinuxDeviceCgroupBuilder::default().allow(true).typ(LinuxDeviceType::C).major(major).access("rwm");
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rules.push(made(rule.build())?);
    }
    Ok(rules)
}
