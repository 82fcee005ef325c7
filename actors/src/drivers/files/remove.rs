//! Deleting trees.

use super::{NAMES_BYTES, open_folder as open};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
};
use std::{io, mem::MaybeUninit, path::Path};

/// How deep a removal goes before it moves what is deeper up.
const DEPTH_MAX: usize = 32;

/// Deletes a tree; fine if it is not there. Links are deleted, not followed.
///
/// # Errors
/// What the kernel says.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let Some(name) = path.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    remove_tree_at(&parent, name.as_encoded_bytes()).map_err(Into::into)
}

/// Deletes a folder with all that is in it.
///
/// A container can nest folders deeper than any process has files or stack for. So what is too deep is moved up into the
/// folder that is being deleted, whose names do not matter any more.
pub(crate) fn remove_tree_at(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let top = open(parent, name)?;
    let mut moved = 0u64;
    loop {
        let before = moved;
        clear(&top, &top, 0, &mut moved)?;
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // What was moved up while the folder was read. If it is not that, somebody still makes files there.
            Err(Errno::NOTEMPTY) if moved > before => {}
            other => return other,
        }
    }
}

fn clear(folder: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> Result<(), Errno> {
    rustix::fs::seek(folder, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); NAMES_BYTES];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Directory => true,
            // Some file systems do not say.
            FileType::Unknown => match unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) => continue,
                Err(Errno::ISDIR) => true,
                Err(errno) => return Err(errno),
            },
            _ => false,
        };
        if !is_folder {
            unlinkat(folder, name, AtFlags::empty())?;
        } else if depth < DEPTH_MAX {
            let inner = open(folder, name)?;
            clear(&inner, top, depth + 1, moved)?;
            unlinkat(folder, name, AtFlags::REMOVEDIR)?;
        } else {
            lift(folder, name, top, moved)?;
        }
    }
    Ok(())
}

/// Moves a folder to the top under a name that is free.
fn lift(folder: &OwnedFd, name: &std::ffi::CStr, top: &OwnedFd, moved: &mut u64) -> Result<(), Errno> {
    loop {
        let free = format!(".deep-{moved}");
        *moved += 1;
        match renameat_with(folder, name, top, free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let mut here = openat(CWD, &top, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..5000 {
            mkdirat(&here, "d", Mode::from_raw_mode(0o700)).unwrap();
            mkdirat(&here, ".deep-0", Mode::from_raw_mode(0o700)).unwrap();
            here = openat(&here, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(here);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (top, kept) = (dir.path().join("top"), dir.path().join("kept"));
        std::fs::create_dir(&top).unwrap();
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&kept, top.join("link")).unwrap();
        remove_tree(&top).unwrap();
        assert!(kept.join("file").exists());
    }
}
