//! Snapshots as full copies: works on every file system, takes more time and space.

use super::{
    Placement, Snapshotter,
    folders::{self, Folders},
};
use crate::drivers::attributes;
use rustix::fs::{FileType, Mode};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use wharf_messages::{
    Answer, Mount, Refusal,
    snapshot::{SnapshotKind, Usage},
};

/// The backend.
pub struct Native {
    folders: Folders,
}

impl Native {
    /// Opens a root folder.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(root: &Path) -> Answer<Self> {
        Ok(Self { folders: Folders::open(root)? })
    }
}

impl Snapshotter for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn prepare(&self, place: &Placement<'_>) -> Answer<()> {
        let parent = place.ancestors.first().map(|id| self.folders.fs(*id));
        self.folders.make(place.id, |folder| {
            let fs = folder.join("fs");
            match (place.kind, parent) {
                (SnapshotKind::Active, Some(parent)) => copy_tree(&parent, &fs),
                // A view shows its parent itself.
                _ => {
                    fs::DirBuilder::new().mode(0o755).create(&fs)?;
                    fs::set_permissions(&fs, fs::Permissions::from_mode(0o755))
                }
            }
        })
    }

    fn mounts(&self, place: &Placement<'_>) -> Answer<Vec<Mount>> {
        let (id, access) = match (place.kind, place.ancestors) {
            (SnapshotKind::Committed, _) => {
                return Err(Refusal::failed_precondition(format!(
                    "snapshot {} is committed and has no mounts",
                    place.id
                )));
            }
            (SnapshotKind::Active, _) => (place.id, "rw"),
            (SnapshotKind::View, [parent, ..]) => (*parent, "ro"),
            (SnapshotKind::View, []) => (place.id, "ro"),
        };
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: self.folders.fs(id).to_string_lossy().into_owned(),
            target: String::new(),
            options: vec!["rbind".to_owned(), access.to_owned()],
        }])
    }

    fn commit(&self, place: &Placement<'_>) -> Answer<Usage> {
        let usage = self.folders.usage(place.id)?;
        let fs = self.folders.fs(place.id);
        folders::sync(&fs).map_err(|e| Refusal::io(format!("sync snapshot {}", place.id), &e))?;
        Ok(usage)
    }

    fn usage(&self, id: u64) -> Answer<Usage> {
        self.folders.usage(id)
    }

    fn remove(&self, id: u64) -> Answer<()> {
        self.folders.remove(id)
    }

    fn empty_trash(&self) -> Answer<()> {
        self.folders.empty_trash()
    }

    fn sweep(&self, known: &dyn Fn(u64) -> bool) -> Answer<Vec<u64>> {
        self.folders.sweep(known)
    }
}

/// Copies a tree with all that its files are: owners, modes, attributes, times, links, devices, holes.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut links: HashMap<u64, PathBuf> = HashMap::new();
    // Folders get their times last, from the deepest up: filling them changes them.
    let mut done: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut folders = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = folders.pop() {
        fs::DirBuilder::new().mode(0o700).create(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let meta = entry.metadata()?;
            if meta.is_dir() {
                folders.push((source, target));
                continue;
            }
            if meta.nlink() > 1 {
                if let Some(first) = links.get(&meta.ino()) {
                    fs::hard_link(first, &target)?;
                    continue;
                }
                links.insert(meta.ino(), target.clone());
            }
            copy_file(&source, &target, &meta)?;
            attributes::copy(&source, &target)?;
        }
        done.push((from, to));
    }
    for (from, to) in done.iter().rev() {
        attributes::copy(from, to)?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    let kind = meta.file_type();
    let node = |kind: FileType, device: u64| {
        rustix::fs::mknodat(rustix::fs::CWD, to, kind, Mode::from_raw_mode(0o600), device).map_err(io::Error::from)
    };
    if kind.is_file() {
        // The kernel shares blocks where the file system can, and keeps holes.
        fs::copy(from, to).map(|_| ())
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)
    } else if kind.is_char_device() {
        node(FileType::CharacterDevice, meta.rdev())
    } else if kind.is_block_device() {
        node(FileType::BlockDevice, meta.rdev())
    } else if kind.is_fifo() {
        node(FileType::Fifo, 0)
    } else {
        node(FileType::Socket, 0)
    }
}
