//! A folder that is a root: paths are resolved in it as if it were `/`, and nothing leads out.
//!
//! Two ways lead to a folder. The fast one is one `openat2` with `RESOLVE_IN_ROOT`. Where something is missing, the path
//! is walked component by component without ever following a link in the kernel: links are read and walked in turn, and
//! what is missing is made.

use super::{
    IMPLIED_XATTR,
    tar::{Entry, Time},
    target::{Target, Whiteouts},
};
use crate::drivers::{attributes, files};
use rustix::{
    fd::OwnedFd,
    fs::{
        AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, fgetxattr, fsetxattr, fstat,
        futimens, mkdirat, openat, openat2, readlinkat_raw, statat,
    },
    io::Errno,
};
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    rc::Rc,
};

/// How many links one path may go through, as the kernel's own limit.
const LINKS_MAX: u32 = 40;
/// How often a resolution is tried that others' renames disturbed.
const TRIES: u32 = 64;
/// The longest target of a link (the kernel's `PATH_MAX`).
const LINK_MAX_BYTES: usize = 4096;

/// By which overlayfs knows a folder that hides what is below: mounted by root, and in a user namespace.
pub(super) const OPAQUE_XATTRS: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    pub(super) ino: u64,
}

impl Folder {
    pub(super) fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, ino: stat.st_ino })
    }
}

/// The root, and what was found out below it.
pub(super) struct Tree {
    root: Rc<Folder>,
    pub(super) lowers: Vec<PathBuf>,
    pub(super) whiteouts: Whiteouts,
    pub(super) mark_implied: bool,
    /// The folder of the member before: archives list a folder's members one after the other.
    last: Option<(Vec<u8>, Rc<Folder>)>,
    /// Folders that were needed before, or instead of, being listed.
    implied: HashSet<u64>,
    /// Names that this layer has made, hashed with their folder's number: what a whiteout must not take away.
    made: HashSet<u64>,
    /// Folders, by number, in which or below which this layer has made something.
    holding: HashSet<u64>,
    hasher: RandomState,
    /// When folders were last changed, set at the end because filling them changes it. By number, so that a folder that
    /// was replaced meanwhile is left alone.
    times: HashMap<u64, (Vec<u8>, Timestamps)>,
}

impl Tree {
    /// Opens a target.
    pub(super) fn open(target: &Target) -> wharf_messages::Answer<Self> {
        let opened = openat(CWD, &target.folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .and_then(Folder::of)
            .map_err(|e| wharf_messages::Refusal::io(format!("open {}", target.folder.display()), &e.into()))?;
        Ok(Self {
            root: Rc::new(opened),
            lowers: target.lowers.clone(),
            whiteouts: target.whiteouts,
            mark_implied: target.mark_implied,
            last: None,
            implied: HashSet::new(),
            made: HashSet::new(),
            holding: HashSet::new(),
            hasher: RandomState::new(),
            times: HashMap::new(),
        })
    }

    /// The root.
    pub(super) fn root(&self) -> Rc<Folder> {
        Rc::clone(&self.root)
    }

    /// Opens a folder by its cleaned path, making what is missing.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<Rc<Folder>, Errno> {
        if path.is_empty() {
            return Ok(self.root());
        }
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(folder));
        }
        let folder = match self.find(path) {
            Ok(found) => Folder::of(found)?,
            // Missing, or a link to what is missing, or a whiteout where a folder has to be.
            Err(Errno::NOENT | Errno::NOTDIR) => self.make(path)?,
            Err(errno) => return Err(errno),
        };
        self.note_holding(&folder)?;
        Ok(self.remember(path, folder))
    }

    /// Opens a folder by its cleaned path.
    pub(super) fn existing(&self, path: &[u8]) -> Result<Rc<Folder>, Errno> {
        match &self.last {
            _ if path.is_empty() => Ok(self.root()),
            Some((last, folder)) if last == path => Ok(Rc::clone(folder)),
            _ => self.find(path).and_then(Folder::of).map(Rc::new),
        }
    }

    /// Keeps a folder for the members that follow.
    pub(super) fn remember(&mut self, path: &[u8], folder: Folder) -> Rc<Folder> {
        let folder = Rc::new(folder);
        self.last = Some((path.to_vec(), Rc::clone(&folder)));
        folder
    }

    /// Forgets folders by path: something that paths may have led through is gone.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    fn find(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            // The kernel gives up when a rename anywhere could have moved a `..` out of the root.
            match openat2(&self.root.fd, path, flags, Mode::empty(), within) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens what is really at a path without links.
    fn find_real(&self, names: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        let path = if names.is_empty() { b".".to_vec() } else { names.join(&b'/') };
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(&self.root.fd, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), within)
    }

    /// Walks a path, making the folders that are missing.
    fn make(&mut self, path: &[u8]) -> Result<Folder, Errno> {
        let components = |path: &[u8]| {
            let names = path.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b"."));
            names.map(<[u8]>::to_vec).rev().collect::<Vec<_>>()
        };
        let mut todo = components(path);
        let mut real: Vec<Vec<u8>> = Vec::new();
        let mut here = self.find_real(&real)?;
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                // At the root it stays there, as chroot has it.
                real.pop();
                here = self.find_real(&real)?;
                continue;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(&here, &name, flags, Mode::empty()) {
                Ok(next) => {
                    real.push(name);
                    here = next;
                }
                Err(Errno::NOENT) => {
                    real.push(name);
                    here = self.make_implied(&here, &real, false)?;
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let mut buffer = vec![0; LINK_MAX_BYTES];
                    match readlinkat_raw(&here, &name, &mut buffer[..]) {
                        Ok(length) => {
                            links += 1;
                            if links > LINKS_MAX {
                                return Err(Errno::LOOP);
                            }
                            let link = &buffer[..length];
                            if link.starts_with(b"/") {
                                real.clear();
                                here = self.find_real(&real)?;
                            }
                            todo.extend(components(link));
                        }
                        // The layer removed what was there, and now implies a folder of that name.
                        Err(Errno::INVAL) if self.is_whiteout(&here, &name)? => {
                            rustix::fs::unlinkat(&here, &name, AtFlags::empty())?;
                            real.push(name);
                            here = self.make_implied(&here, &real, true)?;
                        }
                        Err(Errno::INVAL) => return Err(Errno::NOTDIR),
                        Err(errno) => return Err(errno),
                    }
                }
                Err(errno) => return Err(errno),
            }
        }
        Folder::of(here)
    }

    /// Makes a folder that the layer does not list; it looks as in the nearest layer below that has it.
    fn make_implied(&mut self, parent: &OwnedFd, path: &[Vec<u8>], opaque: bool) -> Result<OwnedFd, Errno> {
        let name = path.last().ok_or(Errno::INVAL)?;
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        let made = openat(
            parent,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let folder = Folder::of(made)?;
        self.note_made(&Folder::of(parent.try_clone().map_err(|_| Errno::MFILE)?)?, name);
        self.implied.insert(folder.ino);
        // The mode above went through the umask.
        rustix::fs::fchmod(&folder.fd, Mode::from_raw_mode(0o755))?;
        if opaque {
            self.set_opaque(&folder)?;
        } else if let Some(below) = below(&self.lowers, path) {
            attributes::copy_between(&below, &folder.fd).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            let stat = fstat(&below)?;
            self.times.insert(folder.ino, (path.join(&b'/'), attributes::times_of(&stat)));
        }
        if self.mark_implied && !opaque {
            fsetxattr(&folder.fd, IMPLIED_XATTR, b"y", XattrFlags::empty())?;
        }
        Ok(folder.fd)
    }

    /// Notes that the layer lists a folder after all; answers whether it had been made before it was listed.
    pub(super) fn listed(&mut self, folder: &Folder) -> Result<(), Errno> {
        if self.implied.remove(&folder.ino) && self.mark_implied {
            match rustix::fs::fremovexattr(&folder.fd, IMPLIED_XATTR) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Whether the layer has made this name.
    pub(super) fn was_made(&self, folder: &Folder, name: &[u8]) -> bool {
        self.made.contains(&self.hasher.hash_one((folder.ino, name)))
    }

    /// Whether the layer has made something below a folder.
    pub(super) fn is_holding(&self, ino: u64) -> bool {
        self.holding.contains(&ino)
    }

    /// Notes that the layer makes something in a folder: it and all above it hold something then.
    pub(super) fn note_holding(&mut self, folder: &Folder) -> Result<(), Errno> {
        let (mut ino, mut above) = (folder.ino, None);
        while ino != self.root.ino && self.holding.insert(ino) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let next = Folder::of(openat(above.as_ref().unwrap_or(&folder.fd), "..", flags, Mode::empty())?)?;
            ino = next.ino;
            above = Some(next.fd);
        }
        Ok(())
    }

    /// Notes that the layer makes this name.
    pub(super) fn note_made(&mut self, folder: &Folder, name: &[u8]) {
        self.made.insert(self.hasher.hash_one((folder.ino, name)));
    }

    /// Whether a name is a whiteout of overlayfs.
    pub(super) fn is_whiteout(&self, folder: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
        if self.whiteouts == Whiteouts::Delete {
            return Ok(false);
        }
        match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(files::is_whiteout(&stat)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Hides what the layers below have in a folder.
    pub(super) fn set_opaque(&self, folder: &Folder) -> Result<(), Errno> {
        let Whiteouts::Overlay { userxattr } = self.whiteouts else { return Ok(()) };
        // What a path led to may be open for looking up names only.
        let open = openat(&folder.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        fsetxattr(&open, OPAQUE_XATTRS[usize::from(userxattr)], b"y", XattrFlags::empty())
    }

    /// Notes a listed folder's times.
    pub(super) fn note_times(&mut self, folder: &Folder, path: &[u8], entry: &Entry) {
        self.times.insert(folder.ino, (path.to_vec(), timestamps(entry)));
    }

    /// Sets what has to be set last.
    pub(super) fn finish(&mut self, root_listed: bool) -> Result<(), (Vec<u8>, Errno)> {
        for (ino, (path, times)) in std::mem::take(&mut self.times) {
            let result = if path.is_empty() {
                futimens(&self.root.fd, &times)
            } else {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                match openat2(&self.root.fd, &path, flags, Mode::empty(), within) {
                    Ok(fd) if fstat(&fd).is_ok_and(|stat| stat.st_ino == ino) => futimens(&fd, &times),
                    // Replaced or removed by a later member.
                    Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(errno) => Err(errno),
                }
            };
            result.map_err(|errno| (path, errno))?;
        }
        if self.mark_implied && !root_listed {
            fsetxattr(&self.root.fd, IMPLIED_XATTR, b"y", XattrFlags::empty()).map_err(|errno| (Vec::new(), errno))?;
        }
        Ok(())
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(&self.root.fd)
    }
}

/// Finds a folder in the layers below, as the kernel would merge them: the nearest that has it, unless something nearer
/// hides it.
pub(crate) fn below(lowers: &[PathBuf], path: &[Vec<u8>]) -> Option<OwnedFd> {
    for lower in lowers {
        match find_below(lower, path) {
            Below::Found(fd) => return Some(fd),
            Below::Hidden => return None,
            Below::Absent => {}
        }
    }
    None
}

/// Whether a folder hides what is below.
pub(crate) fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0; 8];
    OPAQUE_XATTRS.iter().any(|name| fgetxattr(folder, *name, &mut value[..]) == Ok(1) && value[0] == b'y')
}

enum Below {
    Found(OwnedFd),
    Absent,
    Hidden,
}

fn find_below(lower: &Path, path: &[Vec<u8>]) -> Below {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(mut here) = openat(CWD, lower, flags, Mode::empty()) else { return Below::Absent };
    let mut opaque = false;
    for name in path {
        match openat(&here, name, flags, Mode::empty()) {
            Ok(next) => here = next,
            Err(Errno::NOENT) => return if opaque { Below::Hidden } else { Below::Absent },
            // A whiteout, a link, a file.
            Err(_) => return Below::Hidden,
        }
        opaque |= is_opaque(&here);
    }
    Below::Found(here)
}

/// A member's times: as containerd, it was not read before it was changed.
pub(super) fn timestamps(entry: &Entry) -> Timestamps {
    let spec = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    Timestamps {
        last_access: spec(entry.atime.unwrap_or_default().max(entry.mtime)),
        last_modification: spec(entry.mtime),
    }
}
