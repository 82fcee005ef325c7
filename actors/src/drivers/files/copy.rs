//! Copying trees with all that their files are.

use super::{
    open_beneath, open_root,
    walk::{Found, join, walk},
};
use crate::drivers::attributes;
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, linkat, mkdirat,
        mknodat, openat, readlinkat, seek, symlinkat,
    },
    io::Errno,
};
use std::{collections::HashMap, ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

/// Copies a tree: owners, modes, attributes, times, links, devices, holes. Blocks are shared where the file system can.
///
/// # Errors
/// What the kernel says, with the path.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    mkdirat(CWD, to, Mode::from_raw_mode(0o700))?;
    let (source, target) = (open_root(from)?, open_root(to)?);
    // The first name of each file that has more than one.
    let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
    // Folders get their looks last, from the deepest up: filling them changes their times.
    let mut folders = vec![Vec::new()];
    // The folder in the copy that is being filled.
    let mut filling: Option<(Vec<u8>, OwnedFd)> = None;
    let walked = walk(&source, |found| {
        if filling.as_ref().is_none_or(|(path, _)| path != found.folder_path) {
            let folder = open_beneath(&target, found.folder_path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            filling = Some((found.folder_path.to_vec(), folder));
        }
        let Some((_, folder)) = &filling else { return Ok(()) };
        let path = join(found.folder_path, found.name.to_bytes());
        let copied = copy_one(found, folder, &target, &mut links);
        copied.map_err(|e| io::Error::new(e.kind(), format!("copy {:?}: {e}", String::from_utf8_lossy(&path))))?;
        if super::is_folder(&found.stat) {
            folders.push(path);
        }
        Ok(())
    });
    walked?;
    for path in folders.iter().rev() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        attributes::copy_between(open_beneath(&source, path, flags)?, open_beneath(&target, path, flags)?)?;
    }
    Ok(())
}

fn copy_one(
    found: &Found<'_>,
    folder: &OwnedFd,
    target: &OwnedFd,
    links: &mut HashMap<u64, Vec<u8>>,
) -> io::Result<()> {
    let name = found.name;
    let kind = FileType::from_raw_mode(found.stat.st_mode);
    if kind != FileType::Directory && found.stat.st_nlink > 1 {
        if let Some(first) = links.get(&found.stat.st_ino) {
            let slash = first.iter().rposition(|b| *b == b'/');
            let (above, first) = slash.map_or((&b""[..], &first[..]), |slash| (&first[..slash], &first[slash + 1..]));
            let above = open_beneath(target, above, OFlags::PATH | OFlags::DIRECTORY)?;
            return linkat(&above, first, folder, name, AtFlags::empty()).map_err(Into::into);
        }
        links.insert(found.stat.st_ino, found.path());
    }
    match kind {
        FileType::Directory => return mkdirat(folder, name, Mode::from_raw_mode(0o700)).map_err(Into::into),
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let from = openat(found.folder, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = openat(folder, name, flags, Mode::from_raw_mode(0o600))?;
            copy_bytes(&from, &to, u64::try_from(found.stat.st_size).unwrap_or_default())?;
            return attributes::copy_between(&from, &to);
        }
        FileType::Symlink => symlinkat(&readlinkat(found.folder, name, Vec::new())?, folder, name)?,
        _ => mknodat(folder, name, kind, Mode::from_raw_mode(0o600), found.stat.st_rdev)?,
    }
    // What cannot be opened: by its name in the folder's own entry in /proc.
    let path = |folder: &OwnedFd| {
        Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(OsStr::from_bytes(name.to_bytes()))
    };
    attributes::copy(&path(found.folder), &path(folder))
}

/// Copies what a file holds; its holes stay holes.
fn copy_bytes(from: &OwnedFd, to: &OwnedFd, length: u64) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    ftruncate(to, length)?;
    let mut end = 0;
    while end < length {
        let start = match seek(from, SeekFrom::Data(end)) {
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            other => other?,
        };
        end = seek(from, SeekFrom::Hole(start))?.min(length);
        let (mut input, mut output) = (start, start);
        while input < end {
            let size = usize::try_from(end - input).unwrap_or(usize::MAX);
            match copy_file_range(from, Some(&mut input), to, Some(&mut output), size) {
                // It was made shorter meanwhile; the copy has a hole there.
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}
