//! Members that say what is gone.

use super::{
    extract::displace,
    target::Whiteouts,
    tree::{Folder, Tree},
};
use crate::drivers::files;
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, mknodat, openat, statat},
    io::Errno,
};

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
        self.set_opaque(folder)?;
        self.prune(&reopen(folder)?)
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
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
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
                let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
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

fn open(folder: &Folder, name: &[u8]) -> Result<Folder, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Folder::of(openat(&folder.fd, name, flags, Mode::empty())?)
}

/// The same folder, open for reading its names.
fn reopen(folder: &Folder) -> Result<Folder, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Folder::of(openat(&folder.fd, ".", flags, Mode::empty())?)
}
