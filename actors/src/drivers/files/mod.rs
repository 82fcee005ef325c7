//! Trees of files that somebody else made: walked, copied and deleted without trusting their shape.
//!
//! A container may nest folders deeper than any path is long, and exchange a folder for a link at any moment. So
//! everything here goes from an open folder to a name in it, and no link is ever followed.

mod copy;
mod remove;
mod walk;

pub(crate) use copy::copy_tree;
pub(crate) use remove::{remove_tree, remove_tree_at};
pub(crate) use walk::{Found, join, open_beneath, sorted_names, walk};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, RawDir, Stat, openat},
    io::Errno,
    path::Arg,
};
use std::{ffi::CString, mem::MaybeUninit, path::Path};

/// The buffer for reading names.
const NAMES_BYTES: usize = 8 << 10;

/// The names in an open folder.
pub(crate) fn names(folder: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); NAMES_BYTES];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Opens a folder by its name in another.
pub(crate) fn open_folder(parent: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the root of a tree.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether it is a folder.
pub(crate) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether it is a whiteout of overlayfs.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether this process is root of a user namespace only: overlayfs keeps its records in other attributes then.
pub(crate) fn in_user_namespace() -> bool {
    // One line that maps all 32 bits of numbers to themselves is the initial namespace.
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}
