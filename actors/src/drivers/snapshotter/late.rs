//! What a snapshot still needs that was filled before it had a parent.
//!
//! A layer is applied to it as if something were below: whiteouts are written, and folders that the layer only implies
//! are marked. The commit knows what is below, and gives those folders their looks. If nothing is, whiteouts go.

use crate::drivers::{
    attributes,
    differ::{IMPLIED_XATTR, below, hide_root, is_opaque},
    files::{Found, is_folder, is_whiteout, open_folder, open_root},
};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, fremovexattr, fstat, futimens, unlinkat},
    io::Errno,
};
use std::{io, path::PathBuf};

/// Settles one file of a snapshot, or its root; answers whether it stays. `lowers` are nearest first.
///
/// # Errors
/// What the kernel says.
pub(super) fn settle(root: &OwnedFd, found: Option<&Found<'_>>, lowers: &[PathBuf]) -> io::Result<bool> {
    let Some(found) = found else {
        if let Some(parent) = lowers.first() {
            if is_opaque(root) {
                hide_root(root, lowers, false)?;
            }
            if was_marked(root)? {
                attributes::copy_between(open_root(parent)?, root)?;
            }
        } else {
            was_marked(root)?;
        }
        return Ok(true);
    };
    if is_folder(&found.stat) {
        let folder = open_folder(found.folder, found.name)?;
        if was_marked(&folder)? {
            let path = found.path();
            let names: Vec<Vec<u8>> = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
            if let Some(below) = below(lowers, &names) {
                attributes::copy_between(&below, &folder)?;
            }
        }
    } else if lowers.is_empty() && is_whiteout(&found.stat) {
        let times = attributes::times_of(&fstat(found.folder)?);
        unlinkat(found.folder, found.name, AtFlags::empty())?;
        futimens(found.folder, &times)?;
        return Ok(false);
    }
    Ok(true)
}

/// Whether a folder was marked; it is not any more.
fn was_marked(folder: &OwnedFd) -> io::Result<bool> {
    match fremovexattr(folder, IMPLIED_XATTR) {
        Ok(()) => Ok(true),
        // In a user namespace nothing is marked, and some file systems have no such attributes at all.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::drivers::{
        differ::{ApplyOptions, apply},
        mount::TempMount,
        snapshotter::{Overlayfs, Placement, Snapshotter},
    };
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        path::Path,
    };
    use wharf_messages::{descriptor::media_type::Compression, snapshot::SnapshotKind};

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A layer of these members: folders end with a slash and get a mode of their own, the rest are empty files.
    fn layer(members: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in members {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(if name.ends_with('/') {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            header.set_mode(0o711);
            header.set_uid(7);
            header.set_mtime(1_000_000_000);
            header.set_size(0);
            builder.append_data(&mut header, name, &b""[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn place(id: u64, ancestors: &[u64]) -> Placement<'_> {
        Placement::new(id, SnapshotKind::Active, ancestors)
    }

    /// Applies layers before any has a parent, commits them from the lowest up, and looks at what the topmost shows.
    fn unpacked(layers: &[&[&str]], look: impl FnOnce(&Path, &Path)) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let backend = Overlayfs::open(&root).unwrap();
        let ids: Vec<u64> = (1..=layers.len() as u64).collect();
        for (id, members) in ids.iter().zip(layers).rev() {
            backend.prepare(&place(*id, &[])).unwrap();
            let mounts = backend.mounts(&place(*id, &[])).unwrap();
            assert!(backend.awaits_parent(&mounts));
            let options = ApplyOptions { late_parent: true, ..ApplyOptions::default() };
            apply(&mut &*layer(members), Compression::None, &mounts, &options, &|| false).unwrap();
        }
        let mut ancestors: Vec<u64> = Vec::new();
        for id in &ids {
            backend.commit(&place(*id, &ancestors)).unwrap();
            // Once more does no harm: the row may not have followed.
            backend.commit(&place(*id, &ancestors)).unwrap();
            ancestors.insert(0, *id);
        }
        let view = Placement::new(99, SnapshotKind::View, &ancestors);
        backend.prepare(&view).unwrap();
        let mounts = backend.mounts(&view).unwrap();
        assert!(!backend.awaits_parent(&mounts));
        let mount = TempMount::new(&mounts, dir.path()).unwrap();
        look(mount.path(), &root.join("snapshots"));
    }

    #[test]
    fn implied_folders_look_as_in_the_parent_that_came_late() {
        let layers: [&[&str]; 3] =
            [&["./", "etc/", "etc/deep/", "etc/a"], &["etc/deep/b", "new/c"], &["etc/deep/d", ".wh.new", "etc/.wh.a"]];
        unpacked(&layers, |root, _| {
            assert_eq!(names(root), ["etc"]);
            assert_eq!(names(&root.join("etc")), ["deep"]);
            assert_eq!(names(&root.join("etc/deep")), ["b", "d"]);
            for folder in ["", "etc", "etc/deep"] {
                let meta = fs::metadata(root.join(folder)).unwrap();
                assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.mtime()), (0o711, 7, 1_000_000_000));
            }
        });
    }

    #[test]
    fn over_nothing_whiteouts_are_nothing() {
        unpacked(&[&["etc/.wh.a", "etc/b", ".wh.gone"]], |root, snapshots| {
            assert_eq!(names(root), ["etc"]);
            assert_eq!(names(&root.join("etc")), ["b"]);
            let etc = snapshots.join("1/fs/etc");
            let mut list = [0; 256];
            assert_eq!(rustix::fs::llistxattr(&etc, &mut list[..]), Ok(0), "no marks are left");
        });
    }

    #[test]
    fn an_opaque_root_hides_the_parent_that_came_late() {
        unpacked(&[&["etc/", "etc/a", "b"], &[".wh..wh..opq", "etc/c"]], |root, _| {
            assert_eq!(names(root), ["etc"]);
            assert_eq!(names(&root.join("etc")), ["c"]);
        });
    }
}
