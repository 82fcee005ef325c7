//! Writing an archive's members into a tree.

use super::{
    ApplyLimits,
    tar::{Entry, Kind, Reader},
    tree::{Folder, Tree, timestamps},
    whiteout::{Meaning, is_aufs_record, meaning},
};
use crate::drivers::{attributes, files};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr, ftruncate,
        futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
    },
    io::{Errno, pwrite},
};
use std::{io::BufRead, rc::Rc};
use wharf_messages::{Answer, Refusal};

/// An extraction under way.
pub(super) struct Extraction<'a> {
    tree: Tree,
    limits: &'a ApplyLimits,
    /// The folders of which there are members to write; all if there are none.
    only: &'a [String],
    cancelled: &'a dyn Fn() -> bool,
    entries: u64,
    total_bytes: u64,
    /// Whether the archive says how the root looks.
    root_listed: bool,
    /// Attributes that the file system cannot hold.
    unsupported: u64,
}

impl<'a> Extraction<'a> {
    pub(super) fn new(
        tree: Tree,
        limits: &'a ApplyLimits,
        only: &'a [String],
        cancelled: &'a dyn Fn() -> bool,
    ) -> Self {
        Self { tree, limits, only, cancelled, entries: 0, total_bytes: 0, root_listed: false, unsupported: 0 }
    }

    /// Writes all members.
    pub(super) fn all<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Answer<()> {
        loop {
            self.check_cancelled()?;
            let number = self.entries + 1;
            let Some(entry) = reader.next().map_err(|r| r.context(format!("member {number}")))? else { return Ok(()) };
            self.entries = number;
            self.member(&entry, reader)
                .map_err(|refusal| refusal.context(format!("member {number}, {}", super::tar::shown(&entry.path))))?;
        }
    }

    /// Sets what has to be set last; answers how many members there were.
    pub(super) fn finish(mut self, sync: bool) -> Answer<u64> {
        if self.unsupported > 0 {
            tracing::warn!(
                count = self.unsupported,
                "the file system does not hold some extended attributes of a layer"
            );
        }
        self.tree.finish(self.root_listed).map_err(|(path, errno)| {
            Refusal::io(format!("set the times of {}", super::tar::shown(&path)), &errno.into())
        })?;
        if sync {
            self.tree.sync().map_err(|errno| Refusal::io("sync the layer's files", &errno.into()))?;
        }
        Ok(self.entries)
    }

    fn check_cancelled(&self) -> Answer<()> {
        if (self.cancelled)() { Err(Refusal::canceled("apply layer")) } else { Ok(()) }
    }

    fn member<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Answer<()> {
        self.check_limits(entry)?;
        let path = clean(&entry.path, self.limits)?;
        if is_aufs_record(&path) || !self.is_wanted(&path) {
            return Ok(());
        }
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(Refusal::invalid("the root can only be a folder"));
            }
            self.root_listed = true;
            let root = self.tree.root();
            return self.finish_folder(&root, &path, entry);
        }
        let (parent, name) = split(&path);
        let folder = self.tree.folder(parent).map_err(|errno| match errno {
            Errno::NOTDIR | Errno::LOOP => Refusal::invalid(format!(
                "{} is no folder ({})",
                super::tar::shown(parent),
                std::io::Error::from(errno)
            )),
            errno => Refusal::io(format!("make {}", super::tar::shown(parent)), &errno.into()),
        })?;
        match meaning(name) {
            Meaning::Itself => {}
            Meaning::Opaque => return self.tree.opaque(&folder).map_err(|e| io("hide the folder below", e)),
            Meaning::Gone(gone) => {
                let owner = (entry.uid, entry.gid);
                return self.tree.gone(&folder, gone, owner).map_err(|e| io("remove", e));
            }
            Meaning::Malformed => return Err(Refusal::invalid("whiteout of no name")),
        }
        self.write(entry, &path, &folder, name, reader)?;
        self.tree.note_made(&folder, name);
        Ok(())
    }

    fn is_wanted(&self, path: &[u8]) -> bool {
        let (folder, _) = split(path);
        self.only.is_empty() || (!folder.is_empty() && self.only.iter().any(|only| only.as_bytes() == folder))
    }

    fn check_limits(&mut self, entry: &Entry) -> Answer<()> {
        let limits = self.limits;
        let over = |what: &str, limit: u64| {
            Err(Refusal::resource_exhausted(format!("layer over the limit of {limit} {what}")))
        };
        if self.entries > limits.entries {
            return over("members", limits.entries);
        }
        if entry.size_bytes > limits.file_bytes {
            return over("bytes in one file", limits.file_bytes);
        }
        self.total_bytes = self.total_bytes.saturating_add(entry.size_bytes);
        if self.total_bytes > limits.total_bytes {
            return over("bytes", limits.total_bytes);
        }
        let xattr_bytes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if xattr_bytes > limits.xattr_bytes {
            return over("bytes of extended attributes in one member", limits.xattr_bytes as u64);
        }
        Ok(())
    }

    fn write<R: BufRead>(
        &mut self,
        entry: &Entry,
        path: &[u8],
        folder: &Rc<Folder>,
        name: &[u8],
        reader: &mut Reader<R>,
    ) -> Answer<()> {
        match entry.kind {
            Kind::File => self.file(entry, folder, name, reader),
            Kind::Directory => self.folder(entry, path, folder, name),
            Kind::HardLink => self.hard_link(entry, folder, name),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(Refusal::invalid("symbolic link to nothing"));
                }
                make(&mut self.tree, folder, name, || symlinkat(&entry.link[..], &folder.fd, name))?;
                self.finish_node(entry, folder, name)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = makedev(entry.device.0, entry.device.1);
                let mode = Mode::from_raw_mode(0o600);
                make(&mut self.tree, folder, name, || mknodat(&folder.fd, name, kind, mode, device))?;
                self.finish_node(entry, folder, name)
            }
        }
    }

    fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        folder: &Rc<Folder>,
        name: &[u8],
        reader: &mut Reader<R>,
    ) -> Answer<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = make(&mut self.tree, folder, name, || openat(&folder.fd, name, flags, Mode::from_raw_mode(0o600)))?;
        let mut end = 0;
        reader.data(|offset, mut piece| {
            self.check_cancelled()?;
            end = offset + piece.len() as u64;
            let mut offset = offset;
            while !piece.is_empty() {
                match pwrite(&file, piece, offset) {
                    Ok(0) => return Err(Refusal::internal("the kernel writes nothing")),
                    Ok(written) => {
                        piece = &piece[written..];
                        offset += written as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(io("write", errno)),
                }
            }
            Ok(())
        })?;
        // A hole at the end has no bytes to make it.
        if end < entry.size_bytes {
            ftruncate(&file, entry.size_bytes).map_err(|e| io("set the length", e))?;
        }
        self.finish_open(entry, &file)?;
        futimens(&file, &timestamps(entry)).map_err(|e| io("set the times", e))
    }

    fn folder(&mut self, entry: &Entry, path: &[u8], parent: &Rc<Folder>, name: &[u8]) -> Answer<()> {
        let mode = Mode::from_raw_mode(0o700);
        let (mut hide, mut fresh) = (false, true);
        match mkdirat(&parent.fd, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| io("look at", e))?;
                fresh = !files::is_folder(&stat);
                if fresh {
                    // Removed by this layer and made anew: what is below must stay hidden.
                    hide = self.tree.is_whiteout(&parent.fd, name).map_err(|e| io("look at", e))?;
                    displace(&mut self.tree, parent, name).map_err(|e| io("replace", e))?;
                    mkdirat(&parent.fd, name, mode).map_err(|e| io("make", e))?;
                }
            }
            Err(errno) => return Err(io("make", errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&parent.fd, name, flags, Mode::empty()).and_then(Folder::of).map_err(|e| io("open", e))?;
        if hide {
            self.tree.set_opaque(&made).map_err(|e| io("hide the folder below", e))?;
        }
        if !fresh {
            attributes::keep_only(&made.fd, &entry.xattrs).map_err(|e| io("remove an extended attribute", e))?;
        }
        self.tree.note_holding(&made).map_err(|e| io("open", e))?;
        let made = self.tree.remember(path, made);
        self.finish_folder(&made, path, entry)
    }

    fn finish_folder(&mut self, folder: &Folder, path: &[u8], entry: &Entry) -> Answer<()> {
        self.tree.listed(folder).map_err(|e| io("unmark", e))?;
        self.finish_open(entry, &folder.fd)?;
        self.tree.note_times(folder, path, entry);
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, folder: &Rc<Folder>, name: &[u8]) -> Answer<()> {
        let target = clean(&entry.link, self.limits).map_err(|r| r.context("hard link"))?;
        let (parent, link) = split(&target);
        let missing = || Refusal::invalid(format!("hard link to {}, which is not there", super::tar::shown(&target)));
        if link.is_empty() {
            return Err(Refusal::invalid("hard link to the root"));
        }
        let from = self.tree.existing(parent).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => missing(),
            errno => io("find the hard link's target", errno),
        })?;
        // A link is linked itself, not followed.
        let linked = make(&mut self.tree, folder, name, || linkat(&from.fd, link, &folder.fd, name, AtFlags::empty()));
        linked.map_err(|refusal| if refusal.is(wharf_messages::RefusalKind::NotFound) { missing() } else { refusal })
    }

    /// Gives an open file or folder its owner, mode and attributes, in the order in which one does not undo the other.
    fn finish_open(&mut self, entry: &Entry, file: &OwnedFd) -> Answer<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchown(file, Some(uid), Some(gid)).map_err(|e| io("set the owner", e))?;
        fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(|e| io("set the mode", e))?;
        self.xattrs(entry, |name, value| fsetxattr(file, name, value, XattrFlags::empty()))
    }

    /// The same, and the times, for what cannot be opened: a link, a device, a pipe.
    fn finish_node(&mut self, entry: &Entry, folder: &Folder, name: &[u8]) -> Answer<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(&folder.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| io("set the owner", e))?;
        if entry.kind != Kind::Symlink {
            // Just made by us, and no link.
            let mode = Mode::from_raw_mode(entry.mode);
            chmodat(&folder.fd, name, mode, AtFlags::empty()).map_err(|e| io("set the mode", e))?;
        }
        if !entry.xattrs.is_empty() {
            // There is no call for this that takes a folder and a name; the folder's own entry in /proc is as good.
            let mut path = format!("/proc/self/fd/{}/", folder.fd.as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            self.xattrs(entry, |name, value| lsetxattr(&path[..], name, value, XattrFlags::empty()))?;
        }
        utimensat(&folder.fd, name, &timestamps(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| io("set the times", e))
    }

    fn xattrs(&mut self, entry: &Entry, set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>) -> Answer<()> {
        for (name, value) in &entry.xattrs {
            if attributes::is_private(name) {
                continue;
            }
            match set(name, value) {
                Ok(()) => {}
                // As containerd: the file system or the kind of file cannot have it.
                Err(Errno::NOTSUP) => self.unsupported += 1,
                Err(Errno::PERM) if name.starts_with(b"user.") => self.unsupported += 1,
                Err(errno) => return Err(io(&format!("set attribute {}", super::tar::shown(name)), errno)),
            }
        }
        Ok(())
    }
}

/// Makes a name; what was there before is replaced.
fn make<T>(tree: &mut Tree, folder: &Folder, name: &[u8], make: impl Fn() -> Result<T, Errno>) -> Answer<T> {
    match make() {
        Err(Errno::EXIST) => {
            displace(tree, folder, name).map_err(|e| io("replace", e))?;
            make().map_err(|e| io("make", e))
        }
        other => other.map_err(|e| io("make", e)),
    }
}

/// Removes whatever has a name.
pub(super) fn displace(tree: &mut Tree, folder: &Folder, name: &[u8]) -> Result<(), Errno> {
    tree.forget();
    match unlinkat(&folder.fd, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => files::remove_tree_at(&folder.fd, name),
        other => other,
    }
}

/// A member's path without what does not matter: `usr/bin/x`, empty for the root.
///
/// # Errors
/// `InvalidArgument` for one that leads out of the root or holds a NUL, `ResourceExhausted` beyond the limits.
fn clean(path: &[u8], limits: &ApplyLimits) -> Answer<Vec<u8>> {
    if path.len() > limits.path_bytes {
        return Err(Refusal::resource_exhausted(format!("path over the limit of {} bytes", limits.path_bytes)));
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                if names.pop().is_none() {
                    return Err(Refusal::invalid(format!("{} leads out of the layer", super::tar::shown(path))));
                }
            }
            name if name.contains(&0) => return Err(Refusal::invalid("path with a NUL")),
            name => names.push(name),
        }
    }
    if names.len() > limits.path_depth {
        return Err(Refusal::resource_exhausted(format!("path over the limit of {} components", limits.path_depth)));
    }
    Ok(names.join(&b'/'))
}

/// A cleaned path's folder and last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn io(doing: &str, errno: Errno) -> Refusal {
    Refusal::io(doing, &errno.into())
}
