//! The owners in a root file system, shifted for a user namespace: what is root's within is the mapped root's without.

use crate::mount;
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chmodat, chownat, fchown, fstat, openat2,
        statat,
    },
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd},
};
use wharf_messages::{Answer, Mount, Refusal};

/// The bits that a change of owner takes away, although here the program stays its owner's.
const SET_ID_BITS: u32 = 0o6000;

/// Adds to the owner and the group of each file of the root file system that these mounts make. Set-id bits stay; file
/// capabilities do not, since they are the outer root's. Blocks for as long as all files take to be copied up.
///
/// # Errors
/// `InvalidArgument` if a sum is no id; what mounting and the kernel refuse. Some files are shifted then.
///
/// # Spec
/// containerd `WithRemappedSnapshot`; there a file of two names is shifted twice.
pub fn shift(mounts: &[Mount], uids: u32, gids: u32) -> Answer<()> {
    mount::change(mounts, |root| Shift { uids, gids, linked: HashMap::new() }.tree(root))
}

struct Shift {
    uids: u32,
    gids: u32,
    /// Of files with more names than one, by device and inode: the owners they have when they are done.
    linked: HashMap<(u64, u64), (u32, u32)>,
}

impl Shift {
    fn tree(&mut self, root: BorrowedFd<'_>) -> Answer<()> {
        let refuse = |path: &CStr| {
            let path = format!("/{}", path.to_string_lossy());
            move |errno: Errno| Refusal::io(format!("shift the owner of {path}"), &errno.into())
        };
        let open = |path: &CStr| {
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat2(root, path, flags, Mode::empty(), within).map_err(refuse(path))
        };
        let top = open(c".")?;
        let stat = fstat(&top).map_err(refuse(c""))?;
        let (uid, gid) = self.shifted(&stat)?;
        fchown(&top, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(refuse(c""))?;
        // Paths instead of open folders: how deep the tree is, somebody else decided.
        let mut folders = vec![c".".to_owned()];
        while let Some(path) = folders.pop() {
            let folder = open(&path)?;
            for entry in Dir::read_from(&folder).map_err(refuse(&path))? {
                let entry = entry.map_err(refuse(&path))?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let inner = CString::new([path.to_bytes(), b"/", name.to_bytes()].concat())
                    .map_err(|_| Refusal::internal("a name with a zero byte in it"))?;
                let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refuse(&inner))?;
                self.file(folder.as_fd(), name, &stat)?.map_err(refuse(&inner))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    folders.push(inner);
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, folder: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Answer<Result<(), Errno>> {
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let inode = (stat.st_dev, stat.st_ino);
        // An overlay parts the names of a file that it copies up, and may show the same number for both still: it is
        // done only if its owners say so.
        if !is_folder && stat.st_nlink > 1 && self.linked.get(&inode) == Some(&(stat.st_uid, stat.st_gid)) {
            return Ok(Ok(()));
        }
        let (uid, gid) = self.shifted(stat)?;
        if !is_folder && stat.st_nlink > 1 {
            self.linked.insert(inode, (uid, gid));
        }
        let owned =
            chownat(folder, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW);
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(match owned {
            Ok(()) if is_file && stat.st_mode & SET_ID_BITS != 0 => {
                chmodat(folder, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())
            }
            other => other,
        })
    }

    fn shifted(&self, stat: &Stat) -> Answer<(u32, u32)> {
        let sum = |id: u32, by: u32| {
            // The last number means "none" to the kernel.
            let sum = id.checked_add(by).filter(|sum| *sum != u32::MAX);
            sum.ok_or_else(|| Refusal::invalid(format!("a file of user or group {id} shifted by {by} is nobody's")))
        };
        Ok((sum(stat.st_uid, self.uids)?, sum(stat.st_gid, self.gids)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
        path::Path,
    };

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::write(root.join("etc/deep/user"), "").unwrap();
        chown(root.join("etc/deep/user"), Some(7), Some(8)).unwrap();
        fs::write(root.join("su"), "").unwrap();
        fs::set_permissions(root.join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(root.join("su"), root.join("su2")).unwrap();
        symlink("/etc/hostname", root.join("link")).unwrap();
        chown(root, Some(0), Some(3)).unwrap();
    }

    fn check(root: &Path) {
        let owner = |path: &str| {
            let of = root.join(path).symlink_metadata().unwrap();
            (of.uid(), of.gid())
        };
        assert_eq!(owner(""), (1000, 2003));
        for path in ["etc", "etc/deep", "su", "su2", "link"] {
            assert_eq!(owner(path), (1000, 2000), "{path}");
        }
        assert_eq!(owner("etc/deep/user"), (1007, 2008));
        for name in ["su", "su2"] {
            assert_eq!(root.join(name).metadata().unwrap().mode() & 0o7777, 0o4755, "{name}");
        }
    }

    #[test]
    fn every_file_is_shifted_once_and_no_link_is_followed() {
        let outside = Path::new("/etc/hostname").metadata().map(|of| of.uid()).ok();
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path());
        let options = vec!["rbind".to_owned(), "rw".to_owned()];
        let source = dir.path().display().to_string();
        shift(&[Mount { kind: "bind".into(), source, options, ..Mount::default() }], 1000, 2000).unwrap();
        check(dir.path());
        assert_eq!(Path::new("/etc/hostname").metadata().map(|of| of.uid()).ok(), outside);
    }

    #[test]
    fn an_overlays_lower_layers_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["lower", "upper", "work"] {
            fs::create_dir(path(name)).unwrap();
        }
        tree(&path("lower"));
        chown(path("upper"), Some(0), Some(3)).unwrap();
        let option = |key: &str, name: &str| format!("{key}={}", path(name).display());
        let options = vec![
            "index=off".to_owned(),
            option("lowerdir", "lower"),
            option("upperdir", "upper"),
            option("workdir", "work"),
        ];
        let overlay = Mount { kind: "overlay".into(), source: "overlay".into(), options, ..Mount::default() };
        shift(&[overlay], 1000, 2000).unwrap();
        check(&path("upper"));
        assert_eq!(path("lower/etc").metadata().unwrap().uid(), 0);
    }

    #[test]
    fn ids_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(5), Some(0)).unwrap();
        let source = dir.path().display().to_string();
        let bind = Mount { kind: "bind".into(), source, options: vec!["bind".to_owned()], ..Mount::default() };
        for by in [u32::MAX - 5, u32::MAX] {
            assert!(shift(std::slice::from_ref(&bind), by, 0).is_err());
        }
    }
}
