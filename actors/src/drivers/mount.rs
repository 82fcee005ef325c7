//! Mounting: `mount(8)`'s options as containerd's clients write them, given to the kernel.

mod table;

pub use table::{MountPoint, mount_points};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use rustix::{
    fd::AsFd,
    fs::{CWD, StatVfsMountFlags, statvfs},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use wharf_messages::{Answer, Mount, Refusal};

/// Longer option strings than this do not fit the page that mount(2) copies.
const OPTIONS_MAX_BYTES: usize = 4000;
/// How often a busy mount is tried to be taken down before it is only detached, and how long to wait in between: who
/// has just closed a file, or ended, is gone by then.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// What the folders of temporary mounts are called.
const TEMPORARY_PREFIX: &str = "mount-";

/// Mounts all on one place, in order, each on top of the one before. On an error those that were mounted are taken down.
///
/// # Errors
/// What the kernel says, with type, source and target; `NotImplemented` for options that need more than the kernel.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Answer<()> {
    let mut done: Vec<PathBuf> = Vec::new();
    for each in mounts {
        // A mount may name its place below the target; it must not lead out of it.
        let below = each.target.trim_start_matches('/');
        let place = if below.is_empty() { Ok(target.to_owned()) } else { super::beneath(target, Path::new(below)) };
        let mounted = place.and_then(|place| mount_one(each, &place).map(|()| place));
        match mounted {
            Ok(place) => done.push(place),
            Err(refusal) => {
                for place in done.iter().rev() {
                    if let Err(left) = unmount(place) {
                        tracing::warn!(place = %place.display(), %left, "a mount before the one that failed stays");
                    }
                }
                return Err(refusal);
            }
        }
    }
    Ok(())
}

/// Takes the topmost mount down; if it stays busy, it goes as soon as its last user is gone. Fine if nothing is mounted.
///
/// # Errors
/// What the kernel says.
pub fn unmount(target: &Path) -> Answer<()> {
    take_down(target).map(|_| ())
}

/// Takes down everything that is mounted on a place and below it.
///
/// # Errors
/// What the kernel says; what could be taken down is.
pub fn unmount_all(target: &Path) -> Answer<()> {
    let doing = |e: &io::Error| Refusal::io(format!("unmount {}", target.display()), e);
    let target = match target.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| doing(&e))?,
    };
    let mut points = mount_points().map_err(|e| doing(&e))?;
    points.retain(|point| point.path.starts_with(&target));
    let mut first = Ok(());
    // Later mounts are on top of, or below, earlier ones.
    for point in points.iter().rev() {
        first = first.and(unmount(&point.path));
    }
    first
}

/// Takes the topmost mount down; answers whether there was one.
fn take_down(target: &Path) -> Answer<bool> {
    let refuse = |errno: Errno| Refusal::io(format!("unmount {}", target.display()), &errno.into());
    for _ in 0..BUSY_TRIES {
        match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return Ok(true),
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(false),
            Err(Errno::EBUSY) => std::thread::sleep(BUSY_PAUSE),
            Err(errno) => return Err(refuse(errno)),
        }
    }
    match umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
        Ok(()) => Ok(true),
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(refuse(errno)),
    }
}

/// A mount that is taken down when it is dropped.
#[derive(Debug)]
pub struct TempMount {
    folder: PathBuf,
}

impl TempMount {
    /// Mounts on a fresh folder below `parent`.
    ///
    /// # Errors
    /// What the disk and the kernel say; nothing is left then.
    pub fn new(mounts: &[Mount], parent: &Path) -> Answer<Self> {
        let folder = parent.join(format!("{TEMPORARY_PREFIX}{}", crate::names::random()));
        let doing = |e: &io::Error| Refusal::io(format!("make {}", folder.display()), e);
        std::fs::create_dir_all(parent).map_err(|e| doing(&e))?;
        // What is mounted may hold programs with setuid: only root gets at it.
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&folder)
            .map_err(|e| doing(&e))?;
        let this = Self { folder };
        mount_all(mounts, &this.folder)?;
        Ok(this)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Takes down what a killed daemon has left below `parent`.
    ///
    /// # Errors
    /// What the disk and the kernel say.
    pub fn sweep(parent: &Path) -> Answer<()> {
        let doing = |e: &io::Error| Refusal::io(format!("sweep {}", parent.display()), e);
        let entries = match std::fs::read_dir(parent) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| doing(&e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| doing(&e))?;
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
                drop(Self { folder: entry.path() });
            }
        }
        Ok(())
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        loop {
            match take_down(&self.folder) {
                Ok(true) => {}
                Ok(false) => break,
                Err(refusal) => return tracing::warn!(%refusal, "a temporary mount stays"),
            }
        }
        if let Err(error) = std::fs::remove_dir(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "a temporary mount's folder stays");
        }
    }
}

/// The flags of an option, or none if it is data for the file system.
fn flag(option: &str) -> Option<(bool, MsFlags)> {
    Some(match option {
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "suid" => (false, MsFlags::MS_NOSUID),
        "nodev" => (true, MsFlags::MS_NODEV),
        "dev" => (false, MsFlags::MS_NODEV),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "atime" => (false, MsFlags::MS_NOATIME),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "bind" => (true, MsFlags::MS_BIND),
        "rbind" => (true, MsFlags::from_bits_retain(MsFlags::MS_BIND.bits() | MsFlags::MS_REC.bits())),
        "private" => (true, MsFlags::MS_PRIVATE),
        "rprivate" => (true, MsFlags::from_bits_retain(MsFlags::MS_PRIVATE.bits() | MsFlags::MS_REC.bits())),
        "shared" => (true, MsFlags::MS_SHARED),
        "rshared" => (true, MsFlags::from_bits_retain(MsFlags::MS_SHARED.bits() | MsFlags::MS_REC.bits())),
        "slave" => (true, MsFlags::MS_SLAVE),
        "rslave" => (true, MsFlags::from_bits_retain(MsFlags::MS_SLAVE.bits() | MsFlags::MS_REC.bits())),
        "unbindable" => (true, MsFlags::MS_UNBINDABLE),
        "runbindable" => (true, MsFlags::from_bits_retain(MsFlags::MS_UNBINDABLE.bits() | MsFlags::MS_REC.bits())),
        "defaults" => (false, MsFlags::empty()),
        _ => return None,
    })
}

fn propagation() -> MsFlags {
    MsFlags::MS_PRIVATE | MsFlags::MS_SHARED | MsFlags::MS_SLAVE | MsFlags::MS_UNBINDABLE
}

fn mount_one(each: &Mount, target: &Path) -> Answer<()> {
    let doing = || format!("mount {} {:?} on {}", each.kind, each.source, target.display());
    let refuse = |errno: Errno| Refusal::io(doing(), &errno.into());
    let mut flags = MsFlags::empty();
    let mut data: Vec<&str> = Vec::new();
    for option in &each.options {
        match flag(option) {
            Some((true, set)) => flags |= set,
            Some((false, clear)) => flags -= clear,
            None if option == "loop" || option.starts_with("uidmap=") || option.starts_with("gidmap=") => {
                return Err(Refusal::not_implemented(format!("{}: option {option:?}", doing())));
            }
            None => data.push(option),
        }
    }
    let spread = flags & (propagation() | MsFlags::MS_REC);
    let spreads = flags.intersects(propagation());
    flags -= propagation();
    if flags.contains(MsFlags::MS_BIND) || each.kind == "bind" {
        let how = MsFlags::MS_BIND | (flags & MsFlags::MS_REC);
        mount(Some(each.source.as_str()), target, None::<&str>, how, None::<&str>).map_err(refuse)?;
        // A bind takes no other flag at first; a second call sets them on the new mount alone.
        let rest = flags - MsFlags::MS_BIND - MsFlags::MS_REC;
        if !rest.is_empty() {
            let how = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | rest | inherited(target);
            if let Err(errno) = mount(None::<&str>, target, None::<&str>, how, None::<&str>) {
                unmount(target)?;
                return Err(refuse(errno));
            }
        }
    } else if each.kind == "overlay" {
        mount_overlay(each, &data, flags, target).map_err(|e| Refusal::io(doing(), &e))?;
    } else {
        mount_plain(each, &data.join(","), flags, target).map_err(|e| Refusal::io(doing(), &e))?;
    }
    if spreads && let Err(errno) = mount(None::<&str>, target, None::<&str>, spread, None::<&str>) {
        unmount(target)?;
        return Err(refuse(errno));
    }
    Ok(())
}

/// What a bind mount has from its source; a remount that does not say it again would drop it.
fn inherited(target: &Path) -> MsFlags {
    let Ok(stat) = statvfs(target) else { return MsFlags::empty() };
    [
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
    ]
    .into_iter()
    .filter(|(has, _)| stat.f_flag.contains(*has))
    .fold(MsFlags::empty(), |all, (_, flag)| all | flag)
}

fn mount_plain(each: &Mount, data: &str, flags: MsFlags, target: &Path) -> io::Result<()> {
    let data = (!data.is_empty()).then_some(data);
    mount(Some(each.source.as_str()), target, Some(each.kind.as_str()), flags, data).map_err(Into::into)
}

/// Mounts an overlay of any number of layers: by one string if it fits; by a shorter one, from the folder that all
/// layers share; else layer by layer.
fn mount_overlay(each: &Mount, data: &[&str], flags: MsFlags, target: &Path) -> io::Result<()> {
    let joined = data.join(",");
    if joined.len() <= OPTIONS_MAX_BYTES {
        return mount_plain(each, &joined, flags, target);
    }
    let Some((shared, shorter)) = shortened(data) else { return mount_by_parts(each, data, flags, target) };
    let target = std::path::absolute(target)?;
    // The working folder belongs to the process, so this needs a thread that has one of its own.
    let work = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        std::env::set_current_dir(shared)?;
        let joined = shorter.join(",");
        if joined.len() <= OPTIONS_MAX_BYTES {
            return mount_plain(each, &joined, flags, &target);
        }
        let shorter: Vec<&str> = shorter.iter().map(String::as_str).collect();
        mount_by_parts(each, &shorter, flags, &target)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

/// Takes the folder that all lower layers share out of their paths.
fn shortened<'a>(data: &[&'a str]) -> Option<(&'a str, Vec<String>)> {
    let layers = data.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
    if layers.contains('\\') || layers.contains("::") {
        return None;
    }
    let layers: Vec<&str> = layers.split(':').collect();
    let mut shared = *layers.first()?;
    for layer in &layers {
        while !layer.strip_prefix(shared).is_some_and(|rest| rest.starts_with('/')) {
            shared = &shared[..shared.rfind('/')?];
        }
    }
    if shared.is_empty() {
        return None;
    }
    let relative: Vec<&str> = layers.iter().map(|layer| &layer[shared.len() + 1..]).collect();
    let shorter = data.iter().map(|option| match option.strip_prefix("lowerdir=") {
        Some(_) => format!("lowerdir={}", relative.join(":")),
        None => (*option).to_owned(),
    });
    Some((shared, shorter.collect()))
}

/// Mounts with options of any length.
///
/// # Spec
/// fsopen(2), fsconfig(2); overlayfs takes its layers one by one as `lowerdir+` since Linux 6.8.
fn mount_by_parts(each: &Mount, data: &[&str], flags: MsFlags, target: &Path) -> io::Result<()> {
    let context = fsopen(each.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", each.source.as_str())?;
    for option in data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                for layer in layers.split(':') {
                    fsconfig_set_string(context.as_fd(), "lowerdir+", layer)?;
                }
            }
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value)?,
            None => fsconfig_set_flag(context.as_fd(), *option)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in [
        (MsFlags::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MsFlags::MS_NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        (MsFlags::MS_STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    ] {
        if flags.contains(flag) {
            attributes |= attribute;
        }
    }
    let made = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(made.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &Path, options: &[&str]) -> Mount {
        Mount {
            kind: "bind".to_owned(),
            source: source.to_string_lossy().into_owned(),
            target: String::new(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        }
    }

    #[test]
    fn a_read_only_bind_is_read_only_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let parent = tempfile::tempdir().unwrap();
        let mount = TempMount::new(&[bind(dir.path(), &["rbind", "ro"])], parent.path()).unwrap();
        assert_eq!(std::fs::read(mount.path().join("file")).unwrap(), b"x");
        assert_eq!(std::fs::write(mount.path().join("new"), "").unwrap_err().raw_os_error(), Some(30));
        drop(mount);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_failed_mount_takes_down_those_before_it() {
        let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let missing = bind(Path::new("/no/such/place"), &["rbind"]);
        let refusal = mount_all(&[bind(dir.path(), &["rbind"]), missing], target.path()).unwrap_err();
        assert!(refusal.detail.contains("/no/such/place"), "{refusal}");
        assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
    }

    fn overlay(layers: impl Iterator<Item = PathBuf>) -> Mount {
        let layers: Vec<_> = layers.map(|layer| layer.to_str().unwrap().to_owned()).collect();
        Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![format!("lowerdir={}", layers.join(":"))],
        }
    }

    /// Mounts so many layers whose paths are all in one folder, or not.
    fn layers_mount(count: usize, name: &str, shared: bool) {
        let (dir, other) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap());
        let layers = (0..count).map(|n| {
            let folder = if !shared && n == 0 { &other } else { &dir };
            let layer = folder.path().join(format!("{name}{n}"));
            std::fs::create_dir(&layer).unwrap();
            std::fs::write(layer.join(format!("file{n}")), "").unwrap();
            layer
        });
        let mount = TempMount::new(&[overlay(layers)], other.path()).unwrap();
        assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), count);
    }

    #[test]
    fn more_layers_than_fit_a_page_mount() {
        layers_mount(130, &"l".repeat(10), true);
        layers_mount(130, &"l".repeat(60), true);
        layers_mount(130, &"l".repeat(60), false);
    }

    #[test]
    fn what_layers_share_is_left_out() {
        let short = |data: &str| {
            shortened(&["index=off", data]).map(|(shared, options)| (shared.to_owned(), options[1].clone()))
        };
        let some = |shared: &str, option: &str| Some((shared.to_owned(), option.to_owned()));
        assert_eq!(short("lowerdir=/a/b/1/fs:/a/b/12/fs"), some("/a/b", "lowerdir=1/fs:12/fs"));
        assert_eq!(short("lowerdir=/a/b/1:/a/b/12"), some("/a/b", "lowerdir=1:12"));
        assert_eq!(short("lowerdir=/a/b:/a/b/c"), some("/a", "lowerdir=b:b/c"));
        assert_eq!(short("lowerdir=/a:/b"), None);
        assert_eq!(short("lowerdir=a:b"), None);
        assert_eq!(short("upperdir=/a"), None);
    }

    #[test]
    fn a_read_only_bind_keeps_what_its_source_forbids() {
        let dir = tempfile::tempdir().unwrap();
        let source = TempMount::new(&[bind(dir.path(), &["rbind", "nosuid", "noexec"])], dir.path()).unwrap();
        let target = TempMount::new(&[bind(source.path(), &["rbind", "ro"])], dir.path()).unwrap();
        let flags = statvfs(target.path()).unwrap().f_flag;
        let all = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC;
        assert!(flags.contains(all), "{flags:?}");
    }

    #[test]
    fn all_mounts_on_and_below_a_place_go() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir_all(source.join("below")).unwrap();
        let target = dir.path().join("target \t x");
        std::fs::create_dir(&target).unwrap();
        let inner = Mount { target: "/below".to_owned(), ..bind(&source, &["bind"]) };
        mount_all(&[bind(&source, &["rbind"]), bind(&source, &["rbind", "ro"]), inner], &target).unwrap();
        let mounted = || mount_points().unwrap().iter().filter(|point| point.path.starts_with(&target)).count();
        assert_eq!(mounted(), 3);
        unmount_all(&target).unwrap();
        assert_eq!(mounted(), 0);
        unmount_all(&target).unwrap();
        unmount_all(&dir.path().join("missing")).unwrap();
    }

    #[test]
    fn a_busy_mount_goes_when_its_user_does_and_a_killed_daemons_are_swept() {
        let (dir, parent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let mount = TempMount::new(&[bind(dir.path(), &["rbind"])], parent.path()).unwrap();
        let open = std::fs::File::open(mount.path().join("file")).unwrap();
        // As a kill would leave it.
        std::mem::forget(mount);
        TempMount::sweep(parent.path()).unwrap();
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        drop(open);
        assert!(dir.path().join("file").exists());
        TempMount::sweep(&parent.path().join("missing")).unwrap();
    }

    #[test]
    fn a_mount_below_its_target_does_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink("/", target.join("out")).unwrap();
        for place in ["../source", "out/etc", "missing"] {
            let mount = Mount { target: place.to_owned(), ..bind(&source, &["bind"]) };
            assert!(mount_all(&[mount], &target).unwrap_err().is(wharf_messages::RefusalKind::NotFound));
        }
    }

    #[test]
    fn what_is_not_done_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = mount_all(&[bind(dir.path(), &["loop"])], dir.path()).unwrap_err();
        assert!(refusal.is(wharf_messages::RefusalKind::NotImplemented), "{refusal}");
    }
}
