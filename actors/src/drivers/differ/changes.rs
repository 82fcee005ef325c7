//! What changed between two places.
//!
//! Two ways find out. If the upper place is an overlay over just the lower one, its upper folder holds the changes and
//! nothing else. Otherwise both trees are walked side by side.

use super::{
    target::Overlay,
    tree::{below, is_opaque},
};
use crate::drivers::{
    attributes,
    files::{self, is_folder, is_whiteout, join, open_beneath, open_folder, open_root, sorted_names},
    mount::TempMount,
};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, readlinkat, statat},
    io::Errno,
};
use std::{
    cmp::Ordering,
    collections::BTreeMap,
    ffi::{CStr, CString, OsStr},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Mount, Refusal};

/// One change, found in an order in which a folder comes before what is in it.
pub(super) enum Change<'a> {
    /// It was added or is different now; a folder also if only something in it is.
    Set(Seen<'a>),
    /// It is as it was; told because another name of the same file may be new.
    Same(Seen<'a>),
    /// It is gone.
    Gone {
        /// Its path.
        path: &'a [u8],
    },
    /// What the lower place has in this folder is gone.
    Opaque {
        /// The folder's path.
        path: &'a [u8],
    },
}

/// A file in the upper place.
pub(super) struct Seen<'a> {
    pub(super) folder: &'a OwnedFd,
    pub(super) name: &'a CStr,
    /// Its path below the root.
    pub(super) path: &'a [u8],
    pub(super) stat: Stat,
}

/// Takes changes.
pub(super) type Take<'t> = dyn FnMut(Change<'_>) -> Answer<()> + 't;

/// Finds the changes that lead from `lower` to `upper`.
///
/// # Errors
/// `InvalidArgument` for mounts that are none, what mounting and the kernel say, and what `take` says.
pub(super) fn find(lower: &[Mount], upper: &[Mount], scratch: &Path, take: &mut Take<'_>) -> Answer<()> {
    if let Some((folder, lowers)) = upper_folder(lower, upper) {
        let root = open_root(&folder).map_err(|e| Refusal::io(format!("open {}", folder.display()), &e.into()))?;
        return recorded(&root, &lowers, take);
    }
    let (lower, upper) = (Place::open(lower, scratch)?, Place::open(upper, scratch)?);
    compared(lower.root.as_ref(), upper.root.as_ref(), take)
}

/// The upper folder of an overlay that stands on just what `lower` shows, and the folders below it.
fn upper_folder(lower: &[Mount], upper: &[Mount]) -> Option<(PathBuf, Vec<PathBuf>)> {
    let [upper] = upper else { return None };
    if upper.kind != "overlay" || !upper.target.is_empty() || kernel_moves_files() {
        return None;
    }
    let overlay = Overlay::of(upper)?;
    let lowers = match lower {
        [mount] if mount.kind == "overlay" => {
            let overlay = Overlay::of(mount)?;
            overlay.upper.into_iter().chain(overlay.lowers).collect()
        }
        [mount] if is_bind(mount) => vec![PathBuf::from(&mount.source)],
        _ => return None,
    };
    (overlay.lowers == lowers).then_some((overlay.upper?, lowers))
}

/// Whether overlays of this kernel may keep renamed folders and files without their bytes in the upper folder, by default.
fn kernel_moves_files() -> bool {
    ["redirect_dir", "metacopy"].iter().any(|parameter| {
        std::fs::read(format!("/sys/module/overlay/parameters/{parameter}")).is_ok_and(|value| value.starts_with(b"Y"))
    })
}

fn is_bind(mount: &Mount) -> bool {
    mount.target.is_empty() && (mount.kind == "bind" || mount.options.iter().any(|o| o == "bind" || o == "rbind"))
}

/// A place that is looked at; empty if there are no mounts.
struct Place {
    root: Option<OwnedFd>,
    // Dropped after the root was closed.
    _mount: Option<TempMount>,
}

impl Place {
    fn open(mounts: &[Mount], scratch: &Path) -> Answer<Self> {
        let (path, mount) = match mounts {
            [] => return Ok(Self { root: None, _mount: None }),
            [mount] if is_bind(mount) => (PathBuf::from(&mount.source), None),
            mounts => {
                let mount = TempMount::new(&read_only(mounts), scratch)?;
                (mount.path().to_owned(), Some(mount))
            }
        };
        let root = open_root(&path).map_err(|e| Refusal::io(format!("open {}", path.display()), &e.into()))?;
        Ok(Self { root: Some(root), _mount: mount })
    }
}

/// The same without writing: an upper folder that is in use elsewhere becomes the first of those below.
fn read_only(mounts: &[Mount]) -> Vec<Mount> {
    let mut mounts = mounts.to_vec();
    for mount in &mut mounts {
        if let Some(Overlay { upper: Some(upper), lowers }) =
            (mount.kind == "overlay").then(|| Overlay::of(mount)).flatten()
        {
            let written = ["upperdir=", "workdir=", "lowerdir="];
            mount.options.retain(|option| !written.iter().any(|key| option.starts_with(key)));
            let lowers: Vec<_> = std::iter::once(&upper).chain(&lowers).map(|path| path.to_string_lossy()).collect();
            mount.options.push(format!("lowerdir={}", lowers.join(":")));
        }
        mount.options.retain(|option| option != "rw");
        mount.options.push("ro".to_owned());
    }
    mounts
}

fn io_refusal(path: &[u8], error: impl Into<io::Error>) -> Refusal {
    Refusal::io(format!("look at {}", super::tar::shown(path)), &error.into())
}

/// Walks an overlay's upper folder.
fn recorded(root: &OwnedFd, lowers: &[PathBuf], take: &mut Take<'_>) -> Answer<()> {
    let mut answer = Ok(());
    let walked = files::walk(root, |found| {
        let path = found.path();
        let told = if is_whiteout(&found.stat) {
            take(Change::Gone { path: &path })
        } else {
            take(Change::Set(Seen { folder: found.folder, name: found.name, path: &path, stat: found.stat })).and_then(
                |()| {
                    if is_folder(&found.stat) && hides(found.folder, found.name, &path, lowers)? {
                        return take(Change::Opaque { path: &path });
                    }
                    Ok(())
                },
            )
        };
        told.map_err(|refusal| {
            answer = Err(refusal);
            io::ErrorKind::Other.into()
        })
    });
    answer?;
    walked.map_err(|e| io_refusal(b"", e))
}

/// Whether a folder hides something: the kernel marks new folders too.
fn hides(folder: &OwnedFd, name: &CStr, path: &[u8], lowers: &[PathBuf]) -> Answer<bool> {
    let open = open_folder(folder, name).map_err(|e| io_refusal(path, e))?;
    let mut value = [0; 1];
    if rustix::fs::fgetxattr(&open, "trusted.overlay.redirect", &mut value[..]) != Err(Errno::NODATA) {
        return Err(Refusal::failed_precondition(format!(
            "{} was renamed by the overlay itself (redirect_dir)",
            super::tar::shown(path)
        )));
    }
    let names: Vec<Vec<u8>> = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
    Ok(is_opaque(&open) && below(lowers, &names).is_some())
}

/// Walks two trees side by side.
fn compared(lower: Option<&OwnedFd>, upper: Option<&OwnedFd>, take: &mut Take<'_>) -> Answer<()> {
    // Paths of folders, and whether both trees have them.
    let mut folders: Vec<(Vec<u8>, bool)> = vec![(Vec::new(), true)];
    while let Some((path, in_both)) = folders.pop() {
        let open = |root: Option<&OwnedFd>, wanted: bool| match root {
            Some(root) if wanted => open_beneath(root, &path, OFlags::RDONLY | OFlags::DIRECTORY).map(Some),
            _ => Ok(None),
        };
        let (lower, upper) = (open(lower, in_both), open(upper, true));
        let (lower, upper) = (lower.map_err(|e| io_refusal(&path, e))?, upper.map_err(|e| io_refusal(&path, e))?);
        let names = |folder: &Option<OwnedFd>| match folder {
            Some(folder) => sorted_names(folder).map_err(|e| io_refusal(&path, e)),
            None => Ok(Vec::new()),
        };
        let mut inner = Vec::new();
        for (before, after) in merge(names(&lower)?, names(&upper)?) {
            let stat = |folder: &Option<OwnedFd>, name: &Option<CString>| match (folder, name) {
                (Some(folder), Some(name)) => statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map(Some),
                _ => Ok(None),
            };
            let Some(name) = after.as_ref().or(before.as_ref()) else { continue };
            let here = join(&path, name.to_bytes());
            let before = stat(&lower, &before).map_err(|e| io_refusal(&here, e))?;
            let after = match stat(&upper, &after) {
                // Gone since the names were read.
                Err(Errno::NOENT) => None,
                other => other.map_err(|e| io_refusal(&here, e))?,
            };
            let (Some(stat), Some(folder)) = (after, &upper) else {
                take(Change::Gone { path: &here })?;
                continue;
            };
            let both = before.is_some_and(|before| is_folder(&before)) && is_folder(&stat);
            let seen = Seen { folder, name, path: &here, stat };
            let same = match (&before, &lower) {
                (Some(before), Some(lower)) => {
                    is_same((lower, before), (folder, &stat), name).map_err(|e| io_refusal(&here, e))?
                }
                _ => false,
            };
            take(if same { Change::Same(seen) } else { Change::Set(seen) })?;
            if is_folder(&stat) {
                inner.push((here, both));
            }
        }
        folders.extend(inner.into_iter().rev());
    }
    Ok(())
}

/// Pairs up two ordered lists of names.
fn merge(lower: Vec<CString>, upper: Vec<CString>) -> Vec<(Option<CString>, Option<CString>)> {
    let (mut lower, mut upper) = (lower.into_iter().peekable(), upper.into_iter().peekable());
    let mut pairs = Vec::new();
    loop {
        let order = match (lower.peek(), upper.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(lower), Some(upper)) => lower.cmp(upper),
        };
        pairs.push((
            if order == Ordering::Greater { None } else { lower.next() },
            if order == Ordering::Less { None } else { upper.next() },
        ));
    }
}

/// Whether a file is as it was. As containerd: the same size and time mean the same bytes, unless the time was cut to
/// seconds.
fn is_same(lower: (&OwnedFd, &Stat), upper: (&OwnedFd, &Stat), name: &CStr) -> io::Result<bool> {
    let looks = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev, stat.st_mtime, stat.st_mtime_nsec);
    if looks(lower.1) != looks(upper.1) {
        return Ok(false);
    }
    let kind = FileType::from_raw_mode(upper.1.st_mode);
    if kind != FileType::Directory && lower.1.st_size != upper.1.st_size {
        return Ok(false);
    }
    if xattrs(lower.0, name)? != xattrs(upper.0, name)? {
        return Ok(false);
    }
    match kind {
        FileType::Symlink => Ok(readlinkat(lower.0, name, Vec::new())? == readlinkat(upper.0, name, Vec::new())?),
        FileType::RegularFile if upper.1.st_mtime_nsec == 0 => same_bytes(lower.0, upper.0, name),
        _ => Ok(true),
    }
}

/// The attributes of a file that layers carry.
pub(super) fn xattrs(folder: &OwnedFd, name: &CStr) -> io::Result<BTreeMap<CString, Vec<u8>>> {
    let path = Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(OsStr::from_bytes(name.to_bytes()));
    let all = attributes::xattrs(&path)?;
    // The others belong to the machine: labels of its security modules, records of its file systems.
    let carried = |name: &CString| {
        let name = name.to_bytes();
        name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
    };
    Ok(all.into_iter().filter(|(name, _)| carried(name)).collect())
}

fn same_bytes(lower: &OwnedFd, upper: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let (mut lower, mut upper) = (open_file(lower, name)?, open_file(upper, name)?);
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let size = lower.read(&mut left)?;
        if size == 0 {
            return Ok(upper.read(&mut right[..1])? == 0);
        }
        match upper.read_exact(&mut right[..size]) {
            Ok(()) if left[..size] == right[..size] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Opens a regular file for reading; what took its place meanwhile cannot make it wait.
pub(super) fn open_file(folder: &OwnedFd, name: &CStr) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::empty())?.into())
}
