//! The kernel: its version, what it was built with, and what it lets this user do.

use super::{Finding, Host};

/// The oldest kernel that has all that is used without asking: openat2 and pidfds (5.6), overlayfs's own volatile and
/// metacopy rules are not needed.
const KERNEL_MIN: (u32, u32) = (5, 6);
/// What a container's processes are kept apart by.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
/// Controllers without which limits are not held.
const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "devices", "freezer"];
/// The same on the unified hierarchy, where devices are BPF's and freezing is the kernel's own.
const CONTROLLERS_V2: [&str; 3] = ["cpu", "memory", "pids"];
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    vec![
        user(host),
        kernel(host),
        overlayfs(host),
        namespaces(host),
        user_namespaces(host),
        seccomp(host),
        cgroups(host),
        resource_capability(host),
        modules(host),
        clock(host),
    ]
}

fn capabilities(host: &Host) -> u64 {
    host.status("CapEff").and_then(|hex| u64::from_str_radix(&hex, 16).ok()).unwrap_or(0)
}

fn user(host: &Host) -> Finding {
    let uid = host.status("Uid").and_then(|ids| ids.split_whitespace().nth(1).map(str::to_owned));
    let admin = capabilities(host) & (1 << CAP_SYS_ADMIN) != 0;
    match (uid.as_deref(), admin) {
        (Some("0"), true) => Finding::fine("user", "root, with CAP_SYS_ADMIN"),
        (Some("0"), false) => Finding::bad(
            "user",
            "root without CAP_SYS_ADMIN",
            "the daemon mounts and makes namespaces: run it outside of a container, or in a privileged one",
        ),
        (uid, _) => Finding::bad(
            "user",
            format!("user {}", uid.unwrap_or("unknown")),
            "the daemon runs as root; run this as root too, to see what it would see",
        ),
    }
}

fn kernel(host: &Host) -> Finding {
    let Some(release) = host.read("/proc/sys/kernel/osrelease") else {
        return Finding::bad("kernel", "unknown: /proc cannot be read", "mount proc on /proc");
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        return Finding::fine("kernel", release);
    }
    let (major, minor) = KERNEL_MIN;
    Finding::bad("kernel", release, format!("layers are unpacked by openat2: at least Linux {major}.{minor} is needed"))
}

fn overlayfs(host: &Host) -> Finding {
    let known = host.read("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        return Finding::fine("overlayfs", "known to the kernel");
    }
    let advice = "modprobe overlay, or set snapshotter = \"native\" in the configuration, which copies whole trees";
    Finding::bad("overlayfs", "not known to the kernel", advice)
}

fn namespaces(host: &Host) -> Finding {
    let missing: Vec<_> =
        NAMESPACES.iter().filter(|name| !host.at(&format!("/proc/self/ns/{name}")).is_symlink()).copied().collect();
    if missing.is_empty() {
        return Finding::fine("namespaces", NAMESPACES.join(" "));
    }
    let advice = "the kernel was built without them: containers that ask for them do not start";
    Finding::bad("namespaces", format!("without {}", missing.join(" ")), advice)
}

fn user_namespaces(host: &Host) -> Finding {
    let max = host.read("/proc/sys/user/max_user_namespaces").and_then(|max| max.parse::<u64>().ok());
    match max {
        Some(max) if max > 0 => Finding::fine("user namespaces", format!("up to {max}")),
        _ => Finding::weak(
            "user namespaces",
            "none allowed",
            "only containers with mapped users need them: sysctl -w user.max_user_namespaces=15000",
        ),
    }
}

fn seccomp(host: &Host) -> Finding {
    match host.read("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Finding::fine("seccomp", "filters can be set")
        }
        _ => Finding::bad(
            "seccomp",
            "the kernel has no filters (CONFIG_SECCOMP_FILTER)",
            "containers with a seccomp profile are refused; run those without --seccomp, or another kernel",
        ),
    }
}

fn cgroups(host: &Host) -> Finding {
    if let Some(controllers) = host.read("/sys/fs/cgroup/cgroup.controllers") {
        let there: Vec<_> = controllers.split_whitespace().collect();
        let missing: Vec<_> = CONTROLLERS_V2.iter().filter(|name| !there.contains(name)).copied().collect();
        if missing.is_empty() {
            return Finding::fine("cgroups", format!("v2: {controllers}"));
        }
        let advice = "limits on these are not held: boot without cgroup_disable=, or delegate them to this cgroup";
        return Finding::weak("cgroups", format!("v2 without {}", missing.join(" ")), advice);
    }
    let mounts = host.read("/proc/self/mounts").unwrap_or_default();
    let mut there = Vec::new();
    let mut hybrid = false;
    for mount in mounts.lines() {
        let fields: Vec<_> = mount.split(' ').collect();
        match fields.get(2) {
            Some(&"cgroup") => there.extend(fields.get(3).into_iter().flat_map(|options| options.split(','))),
            Some(&"cgroup2") => hybrid = true,
            _ => {}
        }
    }
    if there.is_empty() {
        let advice = "mount -t cgroup2 none /sys/fs/cgroup, or start systemd or cgroupfs-mount";
        return Finding::bad("cgroups", "none mounted", advice);
    }
    let mode = if hybrid { "v1, with an empty v2 beside it" } else { "v1" };
    let missing: Vec<_> = CONTROLLERS.iter().filter(|name| !there.contains(name)).copied().collect();
    if missing.is_empty() {
        return Finding::fine("cgroups", format!("{mode}: {}", CONTROLLERS.join(" ")));
    }
    let advice = "limits on these are not held, and without devices and freezer neither are the others: mount them";
    Finding::bad("cgroups", format!("{mode}, without {}", missing.join(" ")), advice)
}

fn resource_capability(host: &Host) -> Finding {
    if capabilities(host) & (1 << CAP_SYS_RESOURCE) != 0 {
        return Finding::fine("CAP_SYS_RESOURCE", "held");
    }
    Finding::weak(
        "CAP_SYS_RESOURCE",
        "not held",
        "limits cannot be raised and oom_score_adj not lowered: containers that ask for that do not start",
    )
}

fn modules(host: &Host) -> Finding {
    let modules = host.read("/sys/kernel/security/lsm").unwrap_or_default();
    let apparmor = host.read("/sys/module/apparmor/parameters/enabled").is_some_and(|enabled| enabled == "Y");
    let selinux = host.at("/sys/fs/selinux/enforce").exists();
    if apparmor || selinux {
        return Finding::fine("security module", if apparmor { "AppArmor" } else { "SELinux" });
    }
    let found = if modules.is_empty() { "none".to_owned() } else { format!("none of use here ({modules})") };
    Finding::weak("security module", found, "containers are confined without one; those with a profile are refused")
}

/// A clock before this program was written is none: certificates are not valid yet, and expiries are wrong.
const WRITTEN_SECONDS: u64 = 1_790_000_000;

fn clock(host: &Host) -> Finding {
    let advice = "set it (timedatectl set-ntp true): certificates, expiries and restarts go by it";
    if host.now_seconds < WRITTEN_SECONDS {
        return Finding::bad("clock", "before this program was written", advice);
    }
    let written = std::fs::metadata(host.wharf_root.join("wharf.redb")).and_then(|found| found.modified());
    let ahead = written.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |at| at.as_secs());
    if ahead > host.now_seconds + 60 {
        let found = format!("{} s before the daemon's last write", ahead - host.now_seconds);
        return Finding::weak("clock", found, format!("it was set back; {advice}"));
    }
    Finding::fine("clock", "plausible")
}
