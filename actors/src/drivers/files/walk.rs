//! Walking trees of any depth with a handful of open files.

use super::{is_folder, names};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat, openat2, statat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    io,
};

/// The longest path that one call takes (the kernel's `PATH_MAX`, its NUL counted).
const PATH_MAX_BYTES: usize = 4096;

/// One file of a tree.
pub(crate) struct Found<'a> {
    /// The folder that has it, and that folder's path below the root.
    pub(crate) folder: &'a OwnedFd,
    pub(crate) folder_path: &'a [u8],
    pub(crate) name: &'a CStr,
    pub(crate) stat: Stat,
}

impl Found<'_> {
    /// Its path below the root.
    pub(crate) fn path(&self) -> Vec<u8> {
        join(self.folder_path, self.name.to_bytes())
    }
}

/// A path and a name in it.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// Visits everything below a root, a folder before what is in it, names in order. The root itself is not visited.
///
/// # Errors
/// What the kernel and `visit` say. What disappears while it is looked at is left out.
pub(crate) fn walk(root: &OwnedFd, mut visit: impl FnMut(&Found<'_>) -> io::Result<()>) -> io::Result<()> {
    // Paths instead of open folders: how deep the tree is, somebody else decides.
    let mut folders = vec![Vec::new()];
    while let Some(path) = folders.pop() {
        let folder = match open_beneath(root, &path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            other => other?,
        };
        let mut inner = Vec::new();
        for name in sorted_names(&folder)? {
            let stat = match statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            visit(&Found { folder: &folder, folder_path: &path, name: &name, stat })?;
            if is_folder(&stat) {
                inner.push(join(&path, name.to_bytes()));
            }
        }
        folders.extend(inner.into_iter().rev());
    }
    Ok(())
}

/// The names in a folder, in order.
pub(crate) fn sorted_names(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = names(folder)?;
    names.sort_unstable();
    Ok(names)
}

/// Opens what is at a path below a root, however long it is. No link is followed.
///
/// # Errors
/// What the kernel says: `ELOOP` for a link on the way.
pub(crate) fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let open = |from: &OwnedFd, path: &[u8], flags| {
        let path = if path.is_empty() { b"." } else { path };
        openat2(from, path, flags | OFlags::CLOEXEC, Mode::empty(), within)
    };
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    while rest.len() >= PATH_MAX_BYTES {
        // A component is at most 255 bytes, so there is a slash.
        let slash = rest[..PATH_MAX_BYTES - 1].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
        at = Some(open(at.as_ref().unwrap_or(root), &rest[..slash], OFlags::PATH | OFlags::DIRECTORY)?);
        rest = &rest[slash + 1..];
    }
    open(at.as_ref().unwrap_or(root), rest, flags)
}

#[cfg(test)]
mod tests {
    use super::super::{copy_tree, open_root, remove_tree};
    use super::*;
    use rustix::fs::mkdirat;

    #[test]
    fn a_tree_deeper_than_any_path_is_walked_and_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (top, copy) = (dir.path().join("top"), dir.path().join("copy"));
        std::fs::create_dir(&top).unwrap();
        let name = "n".repeat(100);
        let mut here = open_root(&top).unwrap();
        for _ in 0..100 {
            mkdirat(&here, &name, Mode::from_raw_mode(0o700)).unwrap();
            here = super::super::open_folder(&here, &name).unwrap();
        }
        rustix::fs::symlinkat("/", &here, "link").unwrap();
        let count = |path| {
            let mut found = 0;
            walk(&open_root(path).unwrap(), |each| {
                assert!(is_folder(&each.stat) || each.name.to_bytes() == b"link");
                found += 1;
                Ok(())
            })
            .unwrap();
            found
        };
        assert_eq!(count(&top), 101);
        copy_tree(&top, &copy).unwrap();
        assert_eq!(count(&copy), 101);
        remove_tree(&top).unwrap();
        remove_tree(&copy).unwrap();
    }
}
