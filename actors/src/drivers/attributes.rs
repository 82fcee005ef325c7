//! Owner, mode, extended attributes and times of one file given to another.

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// The kernel's own limit for the list of a file's attribute names and for a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX_BYTES: usize = 64 << 10;

/// Makes `to` look as `from` does, links not followed. What overlayfs itself keeps in attributes is left out.
///
/// # Errors
/// What the kernel says.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    // After the owner: a change of owner clears setuid and file capabilities.
    if !meta.is_symlink() {
        fs::set_permissions(to, meta.permissions())?;
    }
    copy_xattrs(from, to)?;
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0u8; XATTR_MAX_BYTES];
    let length = match rustix::fs::llistxattr(from, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        other => other?,
    };
    let mut value = vec![0u8; XATTR_MAX_BYTES];
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let name = CString::new(name).map_err(io::Error::other)?;
        let size = rustix::fs::lgetxattr(from, &name, &mut value[..])?;
        match rustix::fs::lsetxattr(to, &name, &value[..size], XattrFlags::empty()) {
            // The target's file system has no such attributes; the files are still right without them.
            Err(rustix::io::Errno::NOTSUP) => {}
            other => other.map_err(|e| {
                io::Error::new(
                    io::Error::from(e).kind(),
                    format!("attribute {name:?} of {:?}: {e}", to.as_os_str().as_bytes()),
                )
            })?,
        }
    }
    Ok(())
}
