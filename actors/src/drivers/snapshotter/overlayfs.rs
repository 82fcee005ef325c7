//! Snapshots as the kernel's overlay layers them: each holds only what it changes.

use super::{Placement, Prepared, Snapshotter, folders::Folders, late, mapped::Maps};
use crate::drivers::{attributes, files};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};
use wharf_messages::{
    Answer, Mount, Refusal,
    snapshot::{SnapshotKind, Usage},
};

/// The backend.
pub struct Overlayfs {
    folders: Folders,
    /// Options every mount gets.
    options: Vec<String>,
    /// Whether folders can be marked as [`late`] needs it.
    late_parent: bool,
}

impl Overlayfs {
    /// Opens a root folder.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(root: &Path) -> Answer<Self> {
        let folders = Folders::open(root)?;
        let mut options = Vec::new();
        // Where the kernel indexes inodes by default, a lower layer shared by many mounts would be refused (EBUSY).
        if Path::new("/sys/module/overlay/parameters/index").exists() {
            options.push("index=off".to_owned());
        }
        let late_parent = !files::in_user_namespace();
        if !late_parent {
            // Only the initial namespace's root may write trusted attributes.
            options.push("userxattr".to_owned());
        }
        Ok(Self { folders, options, late_parent })
    }

    fn path(&self, id: u64, part: &str) -> String {
        self.folders.of(id).join(part).to_string_lossy().into_owned()
    }

    fn overlay(&self, own: Vec<String>) -> Mount {
        Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: self.options.iter().cloned().chain(own).collect(),
        }
    }

    /// The options of a writable overlay whose own folders are below `folder`.
    fn writable(&self, folder: &Path, ancestors: &[u64]) -> Vec<String> {
        let lower = ancestors.iter().map(|id| self.path(*id, "fs")).collect::<Vec<_>>().join(":");
        vec![
            format!("workdir={}", folder.join("work").display()),
            format!("upperdir={}", folder.join("fs").display()),
            format!("lowerdir={lower}"),
        ]
    }

    /// Gives all that a snapshot which is being made in `folder` will show to whom the maps say.
    fn give_all(&self, maps: &Maps, folder: &Path, ancestors: &[u64]) -> io::Result<()> {
        let place = folder.join("mapped");
        fs::DirBuilder::new().mode(0o700).create(&place)?;
        maps.give_through(&[self.overlay(self.writable(folder, ancestors))], &place)?;
        fs::remove_dir(&place)
    }
}

impl Snapshotter for Overlayfs {
    fn name(&self) -> &str {
        "overlayfs"
    }

    fn prepare(&self, place: &Placement<'_>) -> Answer<Prepared> {
        let parent = place.ancestors.first().map(|id| self.folders.fs(*id));
        let maps = Maps::of(place.labels)?.filter(|_| place.kind == SnapshotKind::Active);
        self.folders.make(place.id, |folder| {
            let fs = folder.join("fs");
            fs::DirBuilder::new().mode(0o755).create(&fs)?;
            if place.kind == SnapshotKind::Active {
                fs::DirBuilder::new().mode(0o711).create(folder.join("work"))?;
            }
            match parent {
                // The upper's root is the merged root: it must look as the parent's does.
                Some(parent) => attributes::copy(&parent, &fs)?,
                // The mode above went through the umask.
                None => fs::set_permissions(&fs, fs::Permissions::from_mode(0o755))?,
            }
            match maps {
                Some(maps) if place.ancestors.is_empty() => maps.give(&fs),
                Some(maps) => self.give_all(&maps, folder, place.ancestors),
                None => Ok(()),
            }
        })?;
        Ok(Prepared::New)
    }

    fn mounts(&self, place: &Placement<'_>) -> Answer<Vec<Mount>> {
        let lower = || place.ancestors.iter().map(|id| self.path(*id, "fs")).collect::<Vec<_>>().join(":");
        let bind = |id: u64, access: &str| Mount {
            kind: "bind".to_owned(),
            source: self.path(id, "fs"),
            target: String::new(),
            options: vec![access.to_owned(), "rbind".to_owned()],
        };
        let mount = match (place.kind, place.ancestors) {
            (SnapshotKind::Committed, _) => {
                return Err(Refusal::failed_precondition(format!(
                    "snapshot {} is committed and has no mounts",
                    place.id
                )));
            }
            // Nothing to lay over: the folder itself.
            (SnapshotKind::Active, []) => bind(place.id, "rw"),
            (SnapshotKind::View, []) => bind(place.id, "ro"),
            (SnapshotKind::View, [parent]) => bind(*parent, "ro"),
            (SnapshotKind::View, _) => self.overlay(vec![format!("lowerdir={}", lower())]),
            (SnapshotKind::Active, _) => self.overlay(self.writable(&self.folders.of(place.id), place.ancestors)),
        };
        Ok(vec![mount])
    }

    fn commit(&self, place: &Placement<'_>) -> Answer<Usage> {
        let lowers: Vec<PathBuf> = place.ancestors.iter().map(|id| self.folders.fs(*id)).collect();
        let usage = self.folders.measure(place.id, |root, found| late::settle(root, found, &lowers))?;
        self.folders.sync(place.id)?;
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

    fn late_parent(&self) -> bool {
        self.late_parent
    }

    fn awaits_parent(&self, mounts: &[Mount]) -> bool {
        let [mount] = mounts else { return false };
        let writable = mount.kind == "bind" && mount.options.iter().any(|o| o == "rw");
        self.late_parent && writable && self.folders.id_of(Path::new(&mount.source)).is_some()
    }
}

/// Whether overlay mounts work on the file system of `root`, by trying.
///
/// # Errors
/// `FailedPrecondition` that says why not.
pub fn check(root: &Path) -> Answer<()> {
    let attempt = || -> io::Result<()> {
        let folder = root.join(format!("check-{}", crate::names::random()));
        let made = || -> io::Result<()> {
            for part in ["lower", "upper", "work", "merged"] {
                fs::create_dir_all(folder.join(part))?;
            }
            let path = |part: &str| folder.join(part).to_string_lossy().into_owned();
            let mount = Mount {
                kind: "overlay".to_owned(),
                source: "overlay".to_owned(),
                target: String::new(),
                options: vec![
                    format!("lowerdir={}", path("lower")),
                    format!("upperdir={}", path("upper")),
                    format!("workdir={}", path("work")),
                ],
            };
            let merged = folder.join("merged");
            crate::drivers::mount::mount_all(&[mount], &merged).map_err(|r| io::Error::other(r.to_string()))?;
            crate::drivers::mount::unmount(&merged).map_err(|r| io::Error::other(r.to_string()))
        };
        let tried = made();
        files::remove_tree(&folder)?;
        tried
    };
    attempt().map_err(|e| Refusal::failed_precondition(format!("overlayfs does not work on {}: {e}", root.display())))
}
