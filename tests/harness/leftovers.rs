//! Finding and removing what a daemon may leave behind: processes, mounts, cgroups.

use crate::{cgroups, process};
use nix::mount::{MntFlags, umount2};
use std::{
    fmt, fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// What is there of a private folder and a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Processes that use the folder or sit in the namespace's cgroups, with their command lines.
    pub processes: Vec<(i32, String)>,
    /// Mounts beneath the folder, in the order they were made.
    pub mounts: Vec<PathBuf>,
    /// The namespace's cgroups, if a container's is beneath.
    pub cgroups: Vec<PathBuf>,
}

impl Leftovers {
    /// Looks.
    #[must_use]
    pub fn find(folder: &Path, namespace: &str) -> Self {
        let mut pids = process::using(folder);
        pids.extend(cgroups::processes(namespace));
        pids.sort_unstable();
        pids.dedup();
        let line = |pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " "))
        };
        Self {
            processes: pids.into_iter().map(line).collect(),
            mounts: mounts_beneath(folder),
            cgroups: cgroups::of(namespace).into_iter().flat_map(|top| containers_of(&top)).collect(),
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (pid, line) in &self.processes {
            writeln!(f, "process {pid}: {line}")?;
        }
        for mount in &self.mounts {
            writeln!(f, "mount {}", mount.display())?;
        }
        for cgroup in &self.cgroups {
            writeln!(f, "cgroup {}", cgroup.display())?;
        }
        Ok(())
    }
}

/// Ends every process, undoes every mount and removes every cgroup of a folder and a namespace.
///
/// # Errors
/// What would not go.
pub fn remove(folder: &Path, namespace: &str) -> Result<(), String> {
    cgroups::thaw(namespace);
    let found = Leftovers::find(folder, namespace);
    let pids: Vec<_> = found.processes.iter().map(|(pid, _)| *pid).collect();
    process::kill_all(&pids);
    let mut failed = unmount_beneath(folder);
    failed.extend(cgroups::remove(namespace).iter().map(|path| format!("cgroup {} stays", path.display())));
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// Undoes every mount beneath a folder, the last one first.
#[must_use]
pub fn unmount_beneath(folder: &Path) -> Vec<String> {
    let undo = |path: &PathBuf| {
        let undone = umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        undone.err().map(|errno| format!("mount {} stays: {errno}", path.display()))
    };
    mounts_beneath(folder).iter().rev().filter_map(undo).collect()
}

/// The mounts beneath a folder, in the order they were made.
#[must_use]
pub fn mounts_beneath(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap();
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(unescape).filter(|path| path.starts_with(folder) && path != folder).collect()
}

/// Who keeps a namespace of the kernel's (`net:[4026531840]`) alive: processes in it or with a handle of it, and mounts.
#[must_use]
pub fn holders_of(kernel_namespace: &str) -> Vec<String> {
    let is_it = |link: PathBuf| fs::read_link(&link).is_ok_and(|target| target.as_os_str() == kernel_namespace);
    let mut holders: Vec<_> = process::all()
        .into_iter()
        .flat_map(|pid| {
            let handles = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            handles.map(|handle| handle.path()).chain([format!("/proc/{pid}/ns/net").into()])
        })
        .filter(|link| is_it(link.clone()))
        .map(|link| link.display().to_string())
        .collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    holders.extend(mounts.lines().filter(|line| line.split(' ').nth(3) == Some(kernel_namespace)).map(str::to_owned));
    holders
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescape(escaped: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((byte, after)) = rest.split_first() {
        let octal = (*byte == b'\\').then(|| after.get(..3)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(value) => {
                plain.push(value);
                rest = &after[3..];
            }
            None => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(plain).into()
}

fn containers_of(top: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(top).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(br"/a\9"), PathBuf::from(r"/a\9"));
    }
}
