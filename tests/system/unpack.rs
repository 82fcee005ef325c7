//! What is unpacked is what containerd unpacks, entry by entry.

use nix::libc;
use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};
use wharf_tests::{
    Containerd, Daemon, Registry,
    images::{self, Layout, Packing},
};

/// All that can be told of a tree: a line a path.
fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    // Inode numbers differ; which names share one does not.
    let mut first_names = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let content = if kind.is_file() {
            images::digest(&fs::read(&path).unwrap())
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if kind.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            entries.sort();
            open.extend(entries.into_iter().rev());
            String::new()
        } else {
            assert!(kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket());
            format!("device {}", meta.rdev())
        };
        let same = first_names.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
        let owner = (meta.uid(), meta.gid());
        let time = if kind.is_dir() { 0 } else { meta.mtime() };
        let line =
            format!("{:o} {owner:?} {} {time} {content} {:?} same as {same}", meta.mode(), meta.size(), xattrs(&path));
        lines.insert(name, line);
    }
    lines
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0_u8; 4096];
    // SAFETY: both pointers are to buffers that live through the call, and the length is the buffer's.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(length).unwrap_or(0));
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let key = CString::new(name).unwrap();
        let mut value = vec![0_u8; 4096];
        // SAFETY: as above.
        let length = unsafe { libc::lgetxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(length).unwrap());
        (String::from_utf8_lossy(name).into_owned(), value)
    };
    names.map(value).collect()
}

fn same_as_containerd(layout: &Layout, name: &str) {
    let (registry, daemon, containerd) = (Registry::start(), Daemon::start(), Containerd::start());
    let reference = registry.push(layout, name);
    let (ours, theirs) = (daemon.dir().folder("mounted"), containerd.dir().folder("mounted"));
    daemon.ok(["images", "pull", "--plain-http", &reference]);
    daemon.ok(["images", "mount", &reference, ours.to_str().unwrap()]);
    containerd.ok(["images", "pull", "--plain-http", &reference]);
    containerd.ok(["images", "mount", &reference, theirs.to_str().unwrap()]);
    let (ours, theirs) = (describe(&ours), describe(&theirs));
    let differing: Vec<_> = ours
        .keys()
        .chain(theirs.keys())
        .filter(|path| ours.get(*path) != theirs.get(*path))
        .map(|path| format!("{path}\n  wharf      {:?}\n  containerd {:?}", ours.get(path), theirs.get(path)))
        .take(20)
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    // The chain of snapshots has the same names, so that one could take the other's.
    let names = |table: Vec<Vec<String>>| -> Vec<String> {
        table.into_iter().map(|row| row[0].clone()).filter(|key| key.starts_with("sha256:")).collect()
    };
    assert_eq!(names(daemon.ok("snapshots ls").table()), names(containerd.ok("snapshots ls").table()));
}

#[test]
fn every_kind_of_entry_in_gzip() {
    same_as_containerd(&images::every_entry(Packing::Gzip), "every/gzip:latest");
}

#[test]
fn every_kind_of_entry_in_zstd() {
    same_as_containerd(&images::every_entry(Packing::Zstd), "every/zstd:latest");
}

#[test]
fn every_kind_of_entry_unpacked() {
    same_as_containerd(&images::every_entry(Packing::Plain), "every/plain:latest");
}

#[test]
fn layers_of_umoci() {
    same_as_containerd(&images::umoci_layers(), "umoci/layers:latest");
}

#[test]
fn a_debian_root() {
    same_as_containerd(&images::debian(), "debian/bookworm:latest");
}

#[test]
fn a_debian_root_runs() {
    let daemon = Daemon::start();
    let archive = images::docker_archive(&images::debian(), "docker.io/library/debian:bookworm");
    daemon.ok(["images", "import", archive.to_str().unwrap()]);
    let image = "docker.io/library/debian:bookworm";
    daemon.ok(["run", "--rm", image, "a", "cat", "/etc/hostname"]);
    daemon
        .ok(["run", "--rm", image, "a", "bash", "-c", ". /etc/os-release; echo $VERSION_CODENAME"])
        .prints("bookworm");
    // setuid works inside, if new privileges are allowed.
    let script = ["--allow-new-privs", "--user", "nobody", image, "b", "sh", "-c", "stat -c %a /usr/bin/passwd"];
    daemon.ok([&["run", "--rm"][..], &script[..]].concat().as_slice()).prints("4755");
    daemon.expect_nothing_left();
}
