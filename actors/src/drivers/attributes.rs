//! Owner, mode, extended attributes and times of one file given to another.

use rustix::{
    fd::AsFd,
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod,
        fchown, fgetxattr, flistxattr, flistxattr_query, fremovexattr, fsetxattr, fstat, futimens, lgetxattr,
        llistxattr, llistxattr_query, lsetxattr, utimensat,
    },
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    io,
    path::Path,
};

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
    give(xattrs(from)?, |name, value| lsetxattr(to, name, value, XattrFlags::empty()))?;
    utimensat(CWD, to, &times_of(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// The same between open files and folders.
///
/// # Errors
/// What the kernel says.
pub fn copy_between(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let stat = fstat(&from)?;
    fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let found =
        read(flistxattr_query(&from), |names| flistxattr(&from, names), |name, value| fgetxattr(&from, name, value))?;
    give(found, |name, value| fsetxattr(&to, name, value, XattrFlags::empty()))?;
    futimens(&to, &times_of(&stat))?;
    Ok(())
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
    read(llistxattr_query(path), |names| llistxattr(path, names), |name, value| lgetxattr(path, name, value))
}

fn read(
    length: Result<usize, Errno>,
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Vec<(CString, Vec<u8>)>> {
    // Nearly every file has none: one call, and no memory.
    match length {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = vec![0; XATTR_MAX_BYTES];
    let length = list(&mut names)?;
    let mut found = Vec::new();
    let mut value = vec![0; XATTR_MAX_BYTES];
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty() && !is_private(name)) {
        let name = CString::new(name).map_err(io::Error::other)?;
        match get(&name, &mut value) {
            Ok(size) => found.push((name, value[..size].to_vec())),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(found)
}

fn give(found: Vec<(CString, Vec<u8>)>, set: impl Fn(&CStr, &[u8]) -> Result<(), Errno>) -> io::Result<()> {
    for (name, value) in found {
        match set(&name, &value) {
            // The target's file system has no such attributes; the files are still right without them.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                return Err(io::Error::new(error.kind(), format!("attribute {name:?}: {error}")));
            }
        }
    }
    Ok(())
}
