//! Tests of applying layers: real kernel, real files, archives made here and by GNU tar.

mod archive;
mod gnu;
mod hostile;
mod make;
mod random;
mod streams;
mod whiteouts;

use super::*;
use sha2::Digest as _;
use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};
use wharf_messages::RefusalKind;

/// A bind mount of a folder.
fn bind(folder: &Path) -> Vec<Mount> {
    vec![Mount {
        kind: "bind".to_owned(),
        source: folder.to_str().unwrap().to_owned(),
        target: String::new(),
        options: vec!["rw".to_owned(), "rbind".to_owned()],
    }]
}

/// An overlay of folders, nearest lower first.
fn overlay(upper: &Path, lowers: &[&Path]) -> Vec<Mount> {
    let work = upper.with_file_name("work");
    fs::create_dir_all(&work).unwrap();
    let lowers: Vec<_> = lowers.iter().map(|lower| lower.to_str().unwrap()).collect();
    vec![Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: vec![
            format!("workdir={}", work.display()),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}", lowers.join(":")),
        ],
    }]
}

fn apply_with(layer: &[u8], mounts: &[Mount], options: &ApplyOptions) -> Answer<Applied> {
    apply(&mut &*layer, Compression::Gzip, mounts, options, &|| false)
}

fn apply_to(layer: &[u8], folder: &Path) -> Answer<Applied> {
    apply_with(layer, &bind(folder), &ApplyOptions::default())
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(&sha2::Sha256::digest(bytes).into())
}

/// All of a file's extended attributes.
fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut names, mut value) = (vec![0; 65536], vec![0; 65536]);
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let size = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        (String::from_utf8(name.to_vec()).unwrap(), value[..size].to_vec())
    };
    names.map(read).collect()
}

/// Everything that can be seen of a tree, by path.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut first_names: BTreeMap<u64, String> = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    let mut paths = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                folders.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_encoded_bytes().escape_ascii().to_string();
        let content = if meta.is_file() {
            let bytes = fs::read(&path).unwrap();
            format!("{} {}", bytes.len(), sha256(&bytes))
        } else if meta.is_symlink() {
            format!("-> {:?}", fs::read_link(&path).unwrap())
        } else {
            format!("rdev {}", meta.rdev())
        };
        let link =
            if meta.is_dir() { String::new() } else { first_names.entry(meta.ino()).or_insert(name.clone()).clone() };
        let xattrs = xattrs(&path);
        let seen = format!(
            "{:o} {}:{} mtime {}.{:09} link {link} {xattrs:?} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
        );
        found.insert(name, seen);
    }
    found
}
