//! Mounting: `mount(8)`'s options as containerd's clients write them, given to the kernel.

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use rustix::{
    fd::AsFd,
    fs::CWD,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};
use std::{io, path::Path};
use wharf_messages::{Answer, Mount, Refusal};

/// Longer option strings than this do not fit the page that mount(2) copies; the newer calls take them one by one.
const OPTIONS_MAX_BYTES: usize = 4000;

/// Mounts all on one place, in order, each on top of the one before. On an error those that were mounted are taken down.
///
/// # Errors
/// What the kernel says, with type, source and target.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Answer<()> {
    for (done, each) in mounts.iter().enumerate() {
        // A mount may name its place below the target; it must not lead out of it.
        let below = each.target.trim_start_matches('/');
        let place =
            if below.is_empty() { target.to_owned() } else { crate::drivers::beneath(target, Path::new(below))? };
        if let Err(refusal) = mount_one(each, &place) {
            for _ in 0..done {
                if let Err(left) = unmount(target) {
                    tracing::warn!(target = %target.display(), %left, "a mount before the one that failed stays");
                }
            }
            return Err(refusal);
        }
    }
    Ok(())
}

/// Takes the topmost mount down; if it is busy, as soon as its last user is gone. Fine if nothing is mounted.
///
/// # Errors
/// What the kernel says.
pub fn unmount(target: &Path) -> Answer<()> {
    let refuse = |errno: Errno| Refusal::io(format!("unmount {}", target.display()), &errno.into());
    match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(Errno::EBUSY) => umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH).map_err(refuse),
        Err(errno) => Err(refuse(errno)),
    }
}

/// A mount that is taken down when it is dropped.
pub struct TempMount {
    folder: std::path::PathBuf,
}

impl TempMount {
    /// Mounts on a fresh folder below `parent`.
    ///
    /// # Errors
    /// What the disk and the kernel say; nothing is left then.
    pub fn new(mounts: &[Mount], parent: &Path) -> Answer<Self> {
        let folder = parent.join(format!("mount-{}", crate::names::random()));
        std::fs::create_dir_all(&folder).map_err(|e| Refusal::io(format!("make {}", folder.display()), &e))?;
        let this = Self { folder };
        mount_all(mounts, &this.folder)?;
        Ok(this)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        if let Err(refusal) = unmount(&self.folder) {
            tracing::warn!(%refusal, "a temporary mount stays");
        } else if let Err(error) = std::fs::remove_dir(&self.folder) {
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
            None => data.push(option),
        }
    }
    let spread = flags & (propagation() | MsFlags::MS_REC);
    let spreads = flags.intersects(propagation());
    flags -= propagation();
    let bind = flags.contains(MsFlags::MS_BIND) || each.kind == "bind";
    if bind {
        let how = MsFlags::MS_BIND | (flags & MsFlags::MS_REC);
        mount(Some(each.source.as_str()), target, None::<&str>, how, None::<&str>).map_err(refuse)?;
        // A bind takes no other flag at first; a second call sets them on the new mount alone.
        let rest = flags - MsFlags::MS_BIND - MsFlags::MS_REC;
        if !rest.is_empty() {
            let how = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | rest;
            if let Err(errno) = mount(None::<&str>, target, None::<&str>, how, None::<&str>) {
                unmount(target)?;
                return Err(refuse(errno));
            }
        }
    } else {
        let joined = data.join(",");
        if joined.len() <= OPTIONS_MAX_BYTES {
            let data = (!joined.is_empty()).then_some(joined.as_str());
            mount(Some(each.source.as_str()), target, Some(each.kind.as_str()), flags, data).map_err(refuse)?;
        } else {
            mount_by_parts(each, &data, flags, target).map_err(|e| Refusal::io(doing(), &e))?;
        }
    }
    if spreads {
        mount(None::<&str>, target, None::<&str>, spread, None::<&str>).map_err(refuse)?;
    }
    Ok(())
}

/// Mounts with options of any length.
///
/// # Spec
/// fsopen(2), fsconfig(2); overlayfs takes its layers one by one as `lowerdir+` since Linux 6.5.
fn mount_by_parts(each: &Mount, data: &[&str], flags: MsFlags, target: &Path) -> io::Result<()> {
    let context = fsopen(each.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", each.source.as_str())?;
    for option in data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) if each.kind == "overlay" => {
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

    #[test]
    fn more_layers_than_fit_a_page_mount() {
        let dir = tempfile::tempdir().unwrap();
        let long = "l".repeat(60);
        let layers: Vec<_> = (0..130)
            .map(|n| {
                let layer = dir.path().join(format!("{long}{n}"));
                std::fs::create_dir(&layer).unwrap();
                std::fs::write(layer.join(format!("file{n}")), "").unwrap();
                layer.to_string_lossy().into_owned()
            })
            .collect();
        let overlay = Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![format!("lowerdir={}", layers.join(":"))],
        };
        let mount = TempMount::new(&[overlay], dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 130);
    }
}
