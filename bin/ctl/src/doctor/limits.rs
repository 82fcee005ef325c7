//! What the kernel lets processes have.

use super::{Finding, Host};

/// A shim, its streams and its connection take a few open files a container: for a thousand containers.
const OPEN_FILES_MIN: u64 = 16_384;
/// Processes and threads of the whole machine: containers share them.
const PIDS_MIN: u64 = 32_768;

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    vec![open_files(host), pids(host), inotify(host)]
}

fn open_files(host: &Host) -> Finding {
    let limits = host.read("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    // Soft, then hard: the daemon raises the one to the other.
    let hard = line.split_whitespace().nth(1).unwrap_or("unknown");
    let count = if hard == "unlimited" { u64::MAX } else { hard.parse().unwrap_or(0) };
    if count >= OPEN_FILES_MIN {
        return Finding::fine("open files", format!("up to {hard}"));
    }
    let advice =
        format!("for a thousand containers {OPEN_FILES_MIN} are needed: LimitNOFILE= of the service, or ulimit -Hn");
    Finding::weak("open files", format!("up to {hard}"), advice)
}

fn pids(host: &Host) -> Finding {
    let number = |path| host.read(path).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let (pids, threads) = (number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max"));
    let found = format!("up to {pids} processes, {threads} threads");
    if pids.min(threads) >= PIDS_MIN {
        return Finding::fine("processes", found);
    }
    Finding::weak("processes", found, "sysctl -w kernel.pid_max=4194304 kernel.threads-max=100000")
}

fn inotify(host: &Host) -> Finding {
    let instances = host.read("/proc/sys/fs/inotify/max_user_instances").and_then(|text| text.parse::<u64>().ok());
    match instances {
        Some(count) if count >= 128 => Finding::fine("inotify", format!("{count} instances a user")),
        Some(count) => Finding::weak(
            "inotify",
            format!("{count} instances a user"),
            "programs in containers share them: sysctl -w fs.inotify.max_user_instances=1024",
        ),
        None => Finding::weak("inotify", "unknown", "the kernel does not say; programs that watch files may not work"),
    }
}
