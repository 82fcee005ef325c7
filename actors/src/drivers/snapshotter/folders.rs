//! The folders that all backends keep: made whole, moved away whole, measured.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Refusal, snapshot::Usage};

use crate::drivers::files::remove_tree;

/// A backend's root folder.
pub(super) struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Opens a root, making it if it is not there.
    pub(super) fn open(root: &Path) -> Answer<Self> {
        let this = Self { root: root.to_owned() };
        for folder in ["snapshots", "new", "trash"] {
            let path = root.join(folder);
            // Containers' own files are below; only root looks in.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|e| Refusal::io(format!("make {}", path.display()), &e))?;
        }
        Ok(this)
    }

    /// The folder of a snapshot.
    pub(super) fn of(&self, id: u64) -> PathBuf {
        self.root.join("snapshots").join(id.to_string())
    }

    /// The files of a snapshot.
    pub(super) fn fs(&self, id: u64) -> PathBuf {
        self.of(id).join("fs")
    }

    /// Makes a snapshot's folder: `fill` gets a fresh one, which then moves into place.
    pub(super) fn make(&self, id: u64, fill: impl FnOnce(&Path) -> io::Result<()>) -> Answer<()> {
        let doing = || format!("make the folder of snapshot {id}");
        let place = self.of(id);
        if place.exists() {
            return Err(Refusal::already_exists(doing()));
        }
        let fresh = self.root.join("new").join(id.to_string());
        let made = || -> io::Result<()> {
            // Left by a crash: it was never anybody's.
            remove_tree(&fresh)?;
            fs::DirBuilder::new().mode(0o700).create(&fresh)?;
            fill(&fresh)?;
            fs::rename(&fresh, &place)
        };
        made().map_err(|e| {
            if let Err(left) = remove_tree(&fresh) {
                tracing::warn!(path = %fresh.display(), error = %left, "a half-made snapshot could not be removed");
            }
            Refusal::io(doing(), &e)
        })
    }

    /// Moves a snapshot's folder into the trash.
    pub(super) fn remove(&self, id: u64) -> Answer<()> {
        self.trash(&self.of(id), id).map_err(|e| Refusal::io(format!("remove the folder of snapshot {id}"), &e))
    }

    fn trash(&self, path: &Path, id: u64) -> io::Result<()> {
        // A number is used once, but a folder may have been swept and its number used again after a crash.
        let name = format!("{id}-{}", crate::names::random());
        match fs::rename(path, self.root.join("trash").join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Deletes what is in the trash.
    pub(super) fn empty_trash(&self) -> Answer<()> {
        let trash = self.root.join("trash");
        let doing = || format!("empty {}", trash.display());
        for entry in fs::read_dir(&trash).map_err(|e| Refusal::io(doing(), &e))? {
            let path = entry.map_err(|e| Refusal::io(doing(), &e))?.path();
            remove_tree(&path).map_err(|e| Refusal::io(format!("delete {}", path.display()), &e))?;
        }
        Ok(())
    }

    /// Moves unknown folders and half-made ones into the trash.
    pub(super) fn sweep(&self, known: &dyn Fn(u64) -> bool) -> Answer<Vec<u64>> {
        let mut swept = Vec::new();
        for folder in ["new", "snapshots"] {
            let folder = self.root.join(folder);
            let doing = |e: &io::Error| Refusal::io(format!("sweep {}", folder.display()), e);
            for entry in fs::read_dir(&folder).map_err(|e| doing(&e))? {
                let entry = entry.map_err(|e| doing(&e))?;
                // What is no number is not ours to judge.
                let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                if !known(id) {
                    self.trash(&entry.path(), id).map_err(|e| doing(&e))?;
                    swept.push(id);
                }
            }
        }
        Ok(swept)
    }

    /// Measures a snapshot's own files: disk space and inodes, hard links once.
    pub(super) fn usage(&self, id: u64) -> Answer<Usage> {
        let fs = self.fs(id);
        let mut usage = Usage::default();
        let mut links = HashSet::new();
        measure(&fs, &mut usage, &mut links).map_err(|e| Refusal::io(format!("measure snapshot {id}"), &e))?;
        Ok(usage)
    }
}

fn measure(folder: &Path, usage: &mut Usage, links: &mut HashSet<u64>) -> io::Result<()> {
    let mut add = |meta: &fs::Metadata| {
        if meta.nlink() > 1 && !meta.is_dir() && !links.insert(meta.ino()) {
            return;
        }
        usage.inodes += 1;
        // st_blocks counts 512 bytes, whatever the file system's own block is.
        usage.size_bytes += meta.blocks() * 512;
    };
    add(&fs::symlink_metadata(folder)?);
    // A list instead of recursion: how deep a tree is, an image decides.
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            add(&meta);
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Writes everything of the file system that holds `path` to the disk.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    rustix::fs::syncfs(&file).map_err(Into::into)
}
