//! Mounts on the client's side: what a snapshot's mounts say, done in this process's mount namespace.
//!
//! Everything here blocks; from async code, call it by `spawn_blocking`.

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    thread::UnshareFlags,
};
use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd},
    path::{Component, Path, PathBuf},
    thread,
};
use wharf_messages::{Answer, Mount, Refusal};

/// The longest options that `mount(2)` takes: a page, with the zero at the end.
const OPTIONS_MAX_BYTES: usize = 4095;

/// The flags that options stand for, and whether they set or clear them.
const FLAGS: [(&str, MountFlags, bool); 26] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("mand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
    ("nomand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("lazytime", MountFlags::LAZYTIME, true),
    ("nolazytime", MountFlags::LAZYTIME, false),
    ("bind", MountFlags::BIND, true),
    ("rbind", MountFlags::BIND.union(MountFlags::REC), true),
    ("defaults", MountFlags::empty(), true),
];

/// How mounts spread, by the name of the option.
const PROPAGATIONS: [(&str, MountPropagationFlags); 4] = [
    ("private", MountPropagationFlags::PRIVATE),
    ("shared", MountPropagationFlags::SHARED),
    ("slave", MountPropagationFlags::DOWNSTREAM),
    ("unbindable", MountPropagationFlags::UNBINDABLE),
];

/// Mounts all of them, in order, at a place. When one fails, those before it are taken away again.
///
/// # Errors
/// `PermissionDenied`, `NotFound`, `InvalidArgument`, or what the kernel says, naming mount and place.
pub fn mount(mounts: &[Mount], target: &Path) -> Answer<()> {
    let mut done: Vec<PathBuf> = Vec::new();
    for mount in mounts {
        let place = place_of(mount, target)?;
        if let Err(refusal) = mount_one(mount, &place) {
            for place in done.iter().rev() {
                // The refusal is what the caller must hear of; a mount that stays is found at the same place.
                rustix::mount::unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).ok();
            }
            return Err(refusal);
        }
        done.push(place);
    }
    Ok(())
}

/// Unmounts everything that is mounted at a place, one above the other; nothing there is fine. `lazily` takes it out of
/// sight even while it is in use.
///
/// # Errors
/// `FailedPrecondition` while it is in use, `PermissionDenied`, or what the kernel says.
pub fn unmount(target: &Path, lazily: bool) -> Answer<()> {
    let flags = UnmountFlags::NOFOLLOW | if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    loop {
        match rustix::mount::unmount(target, flags) {
            Ok(()) => {}
            // Not a mount point (any more), or not there at all.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => {
                return Err(Refusal::failed_precondition(format!("unmount {}: it is in use", target.display())));
            }
            Err(error) => return Err(Refusal::io(format!("unmount {}", target.display()), &error.into())),
        }
    }
}

/// Mounts them where nobody else sees it, and lets `work` look at the root. The mounts live in a mount namespace of
/// their own that ends with the call, however it ends.
///
/// # Errors
/// As [`mount`], and those of `work`.
pub fn look_into<T: Send>(mounts: &[Mount], work: impl FnOnce(BorrowedFd<'_>) -> Answer<T> + Send) -> Answer<T> {
    apart(&mounts.iter().map(read_only).collect::<Vec<_>>(), work)
}

/// As [`look_into`], for `work` that changes what it finds.
///
/// # Errors
/// As [`mount`], and those of `work`.
pub fn change<T: Send>(mounts: &[Mount], work: impl FnOnce(BorrowedFd<'_>) -> Answer<T> + Send) -> Answer<T> {
    apart(mounts, work)
}

fn apart<T: Send>(mounts: &[Mount], work: impl FnOnce(BorrowedFd<'_>) -> Answer<T> + Send) -> Answer<T> {
    in_thread(|| {
        // SAFETY: this unshares the mount namespace and with it the file system attributes (folder, root, umask) of
        // this thread alone, which was made for this and ends here; no descriptor or memory is unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(|error| Refusal::io("make a mount namespace", &error.into()))?;
        let apart = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", apart)
            .map_err(|error| Refusal::io("make the mounts of a new namespace its own", &error.into()))?;
        // Hidden in this namespace only; it is there on every machine, and no layer lies below it.
        let place = Path::new("/proc");
        for one in mounts {
            mount_one(one, &place_of(one, place)?)?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, place, flags, Mode::empty())
            .map_err(|error| Refusal::io(format!("open {}", place.display()), &error.into()))?;
        let done = work(root.as_fd());
        drop(root);
        // The namespace would do it, but some time after this returns, and a layer is mounted once at a time.
        for one in mounts.iter().rev() {
            let place = place_of(one, place)?;
            rustix::mount::unmount(&place, UnmountFlags::NOFOLLOW)
                .map_err(|error| Refusal::io(format!("unmount {}", place.display()), &error.into()))?;
        }
        done
    })
}

/// The same without a way to change anything: an overlay without its upper folder, anything else read-only.
fn read_only(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    if mount.kind == "overlay" {
        let option = |name: &str| mount.options.iter().find_map(|o| o.strip_prefix(name)).map(str::to_owned);
        if let (Some(upper), Some(lower)) = (option("upperdir="), option("lowerdir=")) {
            mount.options.retain(|o| !["upperdir=", "lowerdir=", "workdir="].iter().any(|name| o.starts_with(name)));
            mount.options.push(format!("lowerdir={upper}:{lower}"));
        }
    }
    mount.options.retain(|option| option != "rw");
    mount.options.push("ro".to_owned());
    mount
}

/// Runs something on a thread of its own, whose folder and namespaces it may change.
fn in_thread<T: Send>(work: impl FnOnce() -> Answer<T> + Send) -> Answer<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| Refusal::io("start a thread", &error))?;
        thread.join().unwrap_or_else(|_| Err(Refusal::internal("a mount's thread panicked")))
    })
}

/// Where a mount goes: at the place, or below it where the mount says.
fn place_of(mount: &Mount, target: &Path) -> Answer<PathBuf> {
    let below = Path::new(&mount.target);
    if below.components().any(|part| part == Component::ParentDir) {
        return Err(Refusal::invalid(format!("mount target {:?} leaves the place it belongs to", mount.target)));
    }
    Ok(below
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .fold(target.to_owned(), |path, part| path.join(part)))
}

fn mount_one(mount: &Mount, place: &Path) -> Answer<()> {
    let asked = Asked::of(mount);
    let data = asked.data.join(",");
    if data.len() <= OPTIONS_MAX_BYTES {
        return asked.mount(mount, place, &data);
    }
    // Many layers: paths relative to the folder that all share are shorter. The folder is changed on another thread.
    let long = || {
        Refusal::invalid(format!(
            "mount {}: its options take {} bytes, the kernel takes {OPTIONS_MAX_BYTES}",
            mount.kind,
            data.len()
        ))
    };
    let (folder, data) =
        relative_layers(&asked.data).filter(|(_, data)| data.len() <= OPTIONS_MAX_BYTES).ok_or_else(long)?;
    let place = std::path::absolute(place).map_err(|error| Refusal::io(format!("{}", place.display()), &error))?;
    in_thread(|| {
        // SAFETY: only this thread's folder, root and umask are unshared, and the thread ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
            .map_err(|error| Refusal::io("leave the shared working folder", &error.into()))?;
        rustix::process::chdir(&folder)
            .map_err(|error| Refusal::io(format!("enter {}", folder.display()), &error.into()))?;
        asked.mount(mount, &place, &data)
    })
}

/// The lower layers' common folder, and the options with the layers relative to it.
fn relative_layers(options: &[&str]) -> Option<(PathBuf, String)> {
    let lower = options.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
    let mut layers = lower.split(':');
    let mut folder = Path::new(layers.next()?).parent()?;
    for layer in layers {
        while !Path::new(layer).starts_with(folder) {
            folder = folder.parent()?;
        }
    }
    let relative = |layer| Path::new(layer).strip_prefix(folder).ok()?.to_str();
    let layers = lower.split(':').map(relative).collect::<Option<Vec<_>>>()?.join(":");
    let options = options.iter().map(|option| {
        if option.starts_with("lowerdir=") { format!("lowerdir={layers}") } else { (*option).to_owned() }
    });
    Some((folder.to_owned(), options.collect::<Vec<_>>().join(",")))
}

/// A mount's options, sorted by what takes them.
struct Asked<'a> {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    data: Vec<&'a str>,
}

impl<'a> Asked<'a> {
    fn of(mount: &'a Mount) -> Self {
        let mut asked = Self { flags: MountFlags::empty(), propagation: None, data: Vec::new() };
        for option in &mount.options {
            let (name, recursive) = match option.strip_prefix('r') {
                Some(rest) if PROPAGATIONS.iter().any(|(name, _)| *name == rest) => (rest, true),
                _ => (option.as_str(), false),
            };
            if let Some((_, flags)) = PROPAGATIONS.iter().find(|(known, _)| *known == name) {
                let recursive = if recursive { MountPropagationFlags::REC } else { MountPropagationFlags::empty() };
                asked.propagation = Some(*flags | recursive);
            } else if let Some((_, flags, set)) = FLAGS.iter().find(|(known, ..)| known == option) {
                asked.flags.set(*flags, *set);
            } else {
                asked.data.push(option);
            }
        }
        asked
    }

    fn mount(&self, mount: &Mount, place: &Path, data: &str) -> Answer<()> {
        let failed = |error: Errno| Refusal::io(format!("mount {} at {}", mount.kind, place.display()), &error.into());
        let bind = self.flags.contains(MountFlags::BIND);
        let data = CString::new(data).map_err(|_| Refusal::invalid("mount options with a zero byte in them"))?;
        let kind = if bind { "" } else { mount.kind.as_str() };
        rustix::mount::mount(&mount.source, place, kind, self.flags, data.as_c_str()).map_err(failed)?;
        let rest = self.rest(bind, place);
        if rest.is_err() {
            // Half of a mount is none; the first error is the one to tell.
            rustix::mount::unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).ok();
        }
        rest.map_err(failed)
    }

    /// What the kernel takes only in further calls.
    fn rest(&self, bind: bool, place: &Path) -> Result<(), Errno> {
        let of_bind = self.flags.difference(MountFlags::BIND | MountFlags::REC);
        if bind && !of_bind.is_empty() {
            rustix::mount::mount_remount(place, of_bind | MountFlags::BIND, "")?;
        }
        match self.propagation {
            Some(propagation) => rustix::mount::mount_change(place, propagation),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
