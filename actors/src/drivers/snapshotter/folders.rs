//! The folders that all backends keep: made whole, moved away whole, measured.

use crate::drivers::files::{Found, is_folder, open_root, remove_tree, walk};
use rustix::{
    fd::OwnedFd,
    fs::{Stat, fstat, syncfs},
};
use std::{
    collections::HashSet,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Refusal, snapshot::Usage};

/// A backend's root folder.
pub(super) struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Opens a root, making it if it is not there.
    pub(super) fn open(root: &Path) -> Answer<Self> {
        // Mounts are done by other processes too, in folders of their own.
        let root = std::path::absolute(root).map_err(|e| Refusal::io(format!("find {}", root.display()), &e))?;
        // Mount options are one string: a path in it cannot hold what separates them.
        if root.as_os_str().as_bytes().iter().any(|b| matches!(b, b':' | b',' | b'\\' | b'\n')) {
            let root = root.display();
            return Err(Refusal::invalid(format!("{root}: the root must be without colon, comma and backslash")));
        }
        let this = Self { root };
        for folder in ["snapshots", "new", "trash"] {
            let path = this.root.join(folder);
            // Containers' own files are below; only root looks in.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|e| Refusal::io(format!("make {}", path.display()), &e))?;
        }
        Ok(this)
    }

    /// The number of the snapshot whose files are at this path.
    pub(super) fn id_of(&self, fs: &Path) -> Option<u64> {
        let inner = fs.strip_prefix(self.root.join("snapshots")).ok()?;
        let id = inner.to_str()?.strip_suffix("/fs")?.parse().ok()?;
        (self.fs(id) == fs).then_some(id)
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
            wharf_failpoints::try_failpoint!("snapshot/place");
            fs::rename(&fresh, &place)?;
            wharf_failpoints::failpoint!("snapshot/placed");
            Ok(())
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
        wharf_failpoints::try_failpoint!("snapshot/trash");
        // A number is used once, but a folder may have been swept and its number used again after a crash.
        let name = format!("{id}-{}", crate::names::random());
        match fs::rename(path, self.root.join("trash").join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Deletes what is in the trash; what cannot be deleted does not keep the rest.
    pub(super) fn empty_trash(&self) -> Answer<()> {
        let trash = self.root.join("trash");
        let doing = |e: &io::Error| Refusal::io(format!("empty {}", trash.display()), e);
        let mut first = Ok(());
        for entry in fs::read_dir(&trash).map_err(|e| doing(&e))? {
            let path = entry.map_err(|e| doing(&e))?.path();
            wharf_failpoints::failpoint!("snapshot/delete");
            let removed = remove_tree(&path);
            first = first.and(removed.map_err(|e| Refusal::io(format!("delete {}", path.display()), &e)));
        }
        first
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
        self.measure(id, |_, _| Ok(true))
    }

    /// Measures a snapshot's own files while `keep` looks at each and says whether it counts; it gets the root's too, and
    /// may change or delete what it gets.
    pub(super) fn measure(
        &self,
        id: u64,
        mut keep: impl FnMut(&OwnedFd, Option<&Found<'_>>) -> io::Result<bool>,
    ) -> Answer<Usage> {
        let doing = |e: io::Error| Refusal::io(format!("measure snapshot {id}"), &e);
        let root = open_root(&self.fs(id)).map_err(|e| doing(e.into()))?;
        let mut usage = Usage::default();
        let mut links = HashSet::new();
        let mut add = |stat: &Stat| {
            if stat.st_nlink > 1 && !is_folder(stat) && !links.insert(stat.st_ino) {
                return;
            }
            usage.inodes += 1;
            // Counts 512 bytes, whatever the file system's own block is.
            usage.size_bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        };
        let mut measured = || -> io::Result<()> {
            keep(&root, None)?;
            add(&fstat(&root)?);
            walk(&root, |found| {
                if keep(&root, Some(found))? {
                    add(&found.stat);
                }
                Ok(())
            })
        };
        measured().map_err(doing)?;
        Ok(usage)
    }

    /// Waits until a snapshot's files are on the disk.
    pub(super) fn sync(&self, id: u64) -> Answer<()> {
        let synced = open_root(&self.fs(id)).and_then(syncfs);
        synced.map_err(|e| Refusal::io(format!("sync snapshot {id}"), &e.into()))
    }
}
