//! Snapshots as full copies: works on every file system, takes more time and space.

use super::{Placement, Prepared, Snapshotter, folders::Folders, mapped::Maps};
use crate::drivers::files::copy_tree;
use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
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
    fn name(&self) -> &str {
        "native"
    }

    fn prepare(&self, place: &Placement<'_>) -> Answer<Prepared> {
        let parent = place.ancestors.first().map(|id| self.folders.fs(*id));
        let maps = Maps::of(place.labels)?.filter(|_| place.kind == SnapshotKind::Active);
        self.folders.make(place.id, |folder| {
            let fs = folder.join("fs");
            match (place.kind, parent) {
                (SnapshotKind::Active, Some(parent)) => copy_tree(&parent, &fs)?,
                // A view shows its parent itself.
                _ => {
                    fs::DirBuilder::new().mode(0o755).create(&fs)?;
                    fs::set_permissions(&fs, fs::Permissions::from_mode(0o755))?;
                }
            }
            maps.map_or(Ok(()), |maps| maps.give(&fs))
        })?;
        Ok(Prepared::New)
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
}
