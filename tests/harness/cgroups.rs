//! The cgroups of one namespace, in every hierarchy that is mounted.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folders of a namespace: `/sys/fs/cgroup/*/NAMESPACE` on v1 and hybrid, `/sys/fs/cgroup/NAMESPACE` on v2.
#[must_use]
pub fn of(namespace: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    // cpu and cpuacct are links to the same hierarchy: only real folders count.
    let real = hierarchies.filter(|path| path.is_dir() && !path.is_symlink());
    real.chain([root.to_path_buf()]).map(|path| path.join(namespace)).filter(|path| path.is_dir()).collect()
}

/// The processes in a namespace's cgroups.
#[must_use]
pub fn processes(namespace: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for top in of(namespace) {
        for folder in descending(&top) {
            // A cgroup may go away while it is looked at.
            let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(listed.lines().map(|line| line.parse::<i32>().unwrap()));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Thaws a namespace's cgroups, so that what is in them can die.
pub fn thaw(namespace: &str) {
    for folder in of(namespace).iter().flat_map(|top| descending(top)) {
        for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let path = folder.join(file);
            if path.exists() {
                // It may go away between the look and the write; what is left then is seen by the caller.
                let _ = fs::write(path, word);
            }
        }
    }
}

/// Removes a namespace's cgroups; gives those that would not go.
#[must_use]
pub fn remove(namespace: &str) -> Vec<PathBuf> {
    for folder in of(namespace).iter().flat_map(|top| descending(top)) {
        // Whatever is left is returned below.
        let _ = fs::remove_dir(folder);
    }
    of(namespace)
}

/// A folder and all folders beneath it, the deepest first.
fn descending(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // Folders may go away meanwhile.
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(descending(&entry.path()));
        }
    }
    found.push(top.to_path_buf());
    found
}

/// Whether the machine has the unified hierarchy alone.
#[must_use]
pub fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
