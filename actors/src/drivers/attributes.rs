//! Owner, mode, extended attributes and times of one file given to another.

use rustix::{
    fd::{AsFd, AsRawFd},
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, flistxattr,
        fremovexattr, lgetxattr, llistxattr, lsetxattr, utimensat,
    },
    io::Errno,
};
use std::{ffi::CString, io, path::Path};

/// The kernel's own limit for the list of a file's attribute names and for a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX_BYTES: usize = 64 << 10;

/// Whether an attribute is overlayfs's or wharf's own record about a layer, which no layer may bring and no copy takes
/// along.
pub fn is_private(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay.", b"trusted.wharf."].iter().any(|prefix| name.starts_with(prefix))
}

/// Makes `to` look as `from` does, links not followed.
///
/// # Errors
/// What the kernel says.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let stat = rustix::fs::statat(CWD, from, AtFlags::SYMLINK_NOFOLLOW)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    // After the owner: a change of owner clears setuid and file capabilities.
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        chmodat(CWD, to, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    copy_xattrs(from, to)?;
    utimensat(CWD, to, &times_of(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// The same between open files and folders.
///
/// # Errors
/// What the kernel says.
pub fn copy_between(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    // The trailing dot leads through the link in /proc to the folder itself.
    let path = |fd: &dyn AsRawFd| format!("/proc/self/fd/{}/.", fd.as_raw_fd());
    let (from, to) = (path(&from.as_fd()), path(&to.as_fd()));
    copy(Path::new(&from), Path::new(&to)).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// A file's times, to be given to another.
#[must_use]
pub fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos.cast_signed() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Removes the attributes of an open file that are not among `kept`.
///
/// # Errors
/// What the kernel says.
pub fn keep_only(file: impl AsFd, kept: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Errno> {
    let mut names = vec![0; XATTR_MAX_BYTES];
    let length = match flistxattr(&file, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(()),
        other => other?,
    };
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if is_private(name) || name.starts_with(b"security.selinux") || kept.iter().any(|(kept, _)| kept == name) {
            continue;
        }
        match fremovexattr(&file, name) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The attributes of a file, links not followed, without those that describe a layer.
///
/// # Errors
/// What the kernel says.
pub fn xattrs(path: &Path) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let mut names = vec![0u8; XATTR_MAX_BYTES];
    let length = match llistxattr(path, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    let mut value = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty() && !is_private(name)) {
        let name = CString::new(name).map_err(io::Error::other)?;
        value.resize(XATTR_MAX_BYTES, 0);
        match lgetxattr(path, &name, &mut value[..]) {
            Ok(size) => found.push((name, value[..size].to_vec())),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(found)
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    for (name, value) in xattrs(from)? {
        match lsetxattr(to, &name, &value, XattrFlags::empty()) {
            // The target's file system has no such attributes; the files are still right without them.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                return Err(io::Error::new(error.kind(), format!("attribute {name:?} of {}: {error}", to.display())));
            }
        }
    }
    Ok(())
}
