//! Gets the kernel ready for a new container's processes to be moved into their cgroups.
//!
//! Whoever moves a process between cgroups takes a lock for writing that forks take for reading, and the first writer in a
//! while waits for a grace period of RCU, and with it all who make a cgroup: 8 ms of the 25 that a container took to be
//! created where this was measured. Writers that follow within the next grace period do not wait. So we are the first, as
//! soon as a container is in the making, and again when its shim starts: we move ourselves to where we are.
//!
//! # Source
//! Linux, `kernel/cgroup/cgroup.c` (`cgroup_attach_lock`) and `kernel/rcu/sync.c`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};
use tokio::task::spawn_blocking;

const CGROUPS: &str = "/sys/fs/cgroup";

static PREPARING: AtomicBool = AtomicBool::new(false);

/// Begins to; nobody needs to wait for it.
pub fn prepare() {
    // One is enough for all who start something now.
    if !PREPARING.swap(true, Ordering::Relaxed) {
        spawn_blocking(|| {
            if let Err(error) = move_to_where_we_are() {
                tracing::debug!(%error, "containers will wait for the cgroups' lock");
            }
            PREPARING.store(false, Ordering::Relaxed);
        });
    }
}

fn move_to_where_we_are() -> std::io::Result<()> {
    let listed = fs::read_to_string("/proc/self/cgroup")?;
    match listed.lines().find_map(|line| members(Path::new(CGROUPS), line)) {
        // 0 is who writes it.
        Some(members) => fs::write(members, "0"),
        None => Ok(()),
    }
}

/// The file of a cgroup's members, by a line of `/proc/<pid>/cgroup` (`cgroups(7)`); none for a hierarchy that is mounted
/// elsewhere. The lock is the same for all of them.
fn members(root: &Path, line: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let folder = root.join(controllers.trim_start_matches("name="));
    let members = folder.join(path.trim_start_matches('/')).join("cgroup.procs");
    members.exists().then_some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_file_is_found_in_either_version() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["cpu,cpuacct/a/b", "systemd", "system.slice/wharfd.service"] {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup.procs"), "").unwrap();
        }
        let found = |line| members(root.path(), line).map(|path| path.strip_prefix(root.path()).unwrap().to_owned());
        assert_eq!(found("4:cpu,cpuacct:/a/b"), Some("cpu,cpuacct/a/b/cgroup.procs".into()));
        assert_eq!(found("1:name=systemd:/"), Some("systemd/cgroup.procs".into()));
        assert_eq!(found("0::/system.slice/wharfd.service"), Some("system.slice/wharfd.service/cgroup.procs".into()));
        assert_eq!(found("0::/elsewhere"), None);
        assert_eq!(found("nonsense"), None);
    }
}
