//! Members that say what is gone.

use super::{
    extract::displace,
    target::Whiteouts,
    tree::{Folder, OPAQUE_XATTRS, Tree},
};
use crate::drivers::files;
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chownat, fsetxattr, mknodat, openat, statat},
    io::Errno,
};
use std::path::PathBuf;

/// What a name means to those who read layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// Itself.
    Itself,
    /// Everything that the layers below have in this folder is gone.
    Opaque,
    /// This name is gone.
    Gone(&'a [u8]),
    /// No name can be gone by this.
    Malformed,
}

/// What the last component of a member's path means.
pub(super) fn meaning(name: &[u8]) -> Meaning<'_> {
    match name.strip_prefix(b".wh.") {
        None => Meaning::Itself,
        Some(b".wh..opq") => Meaning::Opaque,
        Some(b"" | b"." | b"..") => Meaning::Malformed,
        Some(gone) => Meaning::Gone(gone),
    }
}

/// Whether a path is one of AUFS's own records, which containerd skips too.
pub(super) fn is_aufs_record(path: &[u8]) -> bool {
    path.starts_with(b".wh..wh.") && path != b".wh..wh..opq"
}

impl Tree {
    /// Hides what the layers below have in a folder, and removes what was in it before this layer.
    pub(super) fn opaque(&mut self, folder: &Folder) -> Result<(), Errno> {
        let root = self.root();
        match self.whiteouts {
            // The kernel merges roots whatever they say: each name below is hidden on its own.
            Whiteouts::Overlay { userxattr } if folder.ino == root.ino => {
                self.prune(&reopen(folder)?)?;
                hide_root(&root.fd, &self.lowers, userxattr)?;
                if self.mark_implied { self.set_opaque(folder) } else { Ok(()) }
            }
            _ => {
                self.set_opaque(folder)?;
                self.prune(&reopen(folder)?)
            }
        }
    }

    /// Removes a name, or writes down that it is gone. What this layer itself has made of that name stays: whiteouts speak
    /// of the layers below.
    pub(super) fn gone(&mut self, folder: &Folder, name: &[u8], owner: (u32, u32)) -> Result<(), Errno> {
        let there = match statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        if let Some(stat) = there {
            let is_folder = files::is_folder(&stat);
            if is_folder && (self.was_made(folder, name) || self.is_holding(stat.st_ino)) {
                return self.opaque(&open(folder, name)?);
            }
            if self.was_made(folder, name) {
                return Ok(());
            }
        }
        match displace(self, folder, name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if self.whiteouts == Whiteouts::Delete {
            return Ok(());
        }
        mknodat(&folder.fd, name, FileType::CharacterDevice, Mode::empty(), 0)?;
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        chownat(&folder.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Removes everything in a folder that this layer has not made.
    fn prune(&mut self, folder: &Folder) -> Result<(), Errno> {
        // Folders are kept as a list: how deep they go, an image decides.
        let mut folders = vec![reopen(folder)?];
        while let Some(folder) = folders.pop() {
            for name in files::names(&folder.fd)? {
                let name = name.to_bytes();
                let stat = statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_folder = files::is_folder(&stat);
                let made = self.was_made(&folder, name);
                if is_folder && (made || self.is_holding(stat.st_ino)) {
                    folders.push(open(&folder, name)?);
                } else if !made {
                    displace(self, &folder, name)?;
                }
            }
        }
        Ok(())
    }
}

/// Hides all that the layers below have at their root, except what `root` has itself.
pub(crate) fn hide_root(root: &OwnedFd, lowers: &[PathBuf], userxattr: bool) -> Result<(), Errno> {
    for lower in lowers {
        let lower = files::open_root(lower)?;
        for name in files::names(&lower)? {
            let below = statat(&lower, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            match statat(root, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(above) if files::is_folder(&above) && files::is_folder(&below) => {
                    let folder = files::open_folder(root, &name)?;
                    fsetxattr(&folder, OPAQUE_XATTRS[usize::from(userxattr)], b"y", XattrFlags::empty())?;
                }
                Err(Errno::NOENT) if !files::is_whiteout(&below) => {
                    mknodat(root, &name, FileType::CharacterDevice, Mode::empty(), 0)?;
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

fn open(folder: &Folder, name: &[u8]) -> Result<Folder, Errno> {
    Folder::of(files::open_folder(&folder.fd, name)?)
}

/// The same folder, open for reading its names.
fn reopen(folder: &Folder) -> Result<Folder, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Folder::of(openat(&folder.fd, ".", flags, Mode::empty())?)
}
