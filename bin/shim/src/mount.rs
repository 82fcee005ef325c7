//! The mounts of a container's root, which the daemon names and the shim makes and undoes.

use std::ffi::{CStr, CString};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount};
use wharf_messages::{Answer, Mount, Refusal};

/// What the kernel takes of a mount's data: a page, with its terminator.
const DATA_BYTES_MAX: usize = 4095;

/// A mount's options, sorted into what the kernel takes apart and what the file system takes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    flags: MountFlagsBits,
    propagation: Option<u32>,
    recursive_bind: bool,
    bind: bool,
    data: Vec<String>,
}

type MountFlagsBits = u32;

/// What an option sets in the flags, and whether it clears it instead.
const FLAGS: [(&str, MountFlags, bool); 21] = [
    ("async", MountFlags::SYNCHRONOUS, true),
    ("atime", MountFlags::NOATIME, true),
    ("dev", MountFlags::NODEV, true),
    ("diratime", MountFlags::NODIRATIME, true),
    ("dirsync", MountFlags::DIRSYNC, false),
    ("exec", MountFlags::NOEXEC, true),
    ("mand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
    ("noatime", MountFlags::NOATIME, false),
    ("nodev", MountFlags::NODEV, false),
    ("nodiratime", MountFlags::NODIRATIME, false),
    ("noexec", MountFlags::NOEXEC, false),
    ("nomand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
    ("norelatime", MountFlags::RELATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, true),
    ("nosuid", MountFlags::NOSUID, false),
    ("relatime", MountFlags::RELATIME, false),
    ("ro", MountFlags::RDONLY, false),
    ("rw", MountFlags::RDONLY, true),
    ("strictatime", MountFlags::STRICTATIME, false),
    ("suid", MountFlags::NOSUID, true),
    ("sync", MountFlags::SYNCHRONOUS, false),
];

const PROPAGATION: [(&str, MountPropagationFlags, bool); 8] = [
    ("private", MountPropagationFlags::PRIVATE, false),
    ("rprivate", MountPropagationFlags::PRIVATE, true),
    ("rshared", MountPropagationFlags::SHARED, true),
    ("rslave", MountPropagationFlags::DOWNSTREAM, true),
    ("runbindable", MountPropagationFlags::UNBINDABLE, true),
    ("shared", MountPropagationFlags::SHARED, false),
    ("slave", MountPropagationFlags::DOWNSTREAM, false),
    ("unbindable", MountPropagationFlags::UNBINDABLE, false),
];

impl Options {
    fn parse(options: &[String]) -> Answer<Self> {
        let mut parsed = Self::default();
        for option in options {
            match option.as_str() {
                "defaults" | "" => {}
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive_bind) = (true, true),
                "loop" => return Err(Refusal::not_implemented("mounting an image file by way of a loop device")),
                other => {
                    if let Some((_, flag, clear)) = FLAGS.iter().find(|(name, ..)| *name == other) {
                        parsed.flags = if *clear { parsed.flags & !flag.bits() } else { parsed.flags | flag.bits() };
                    } else if let Some((_, flag, all)) = PROPAGATION.iter().find(|(name, ..)| *name == other) {
                        let recursive = if *all { MountPropagationFlags::REC.bits() } else { 0 };
                        parsed.propagation = Some(flag.bits() | recursive);
                    } else {
                        parsed.data.push(other.to_owned());
                    }
                }
            }
        }
        Ok(parsed)
    }

    fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags)
    }
}

/// Mounts a container's root, all of it or nothing.
///
/// # Errors
/// Whatever the kernel answers, naming the mount.
pub fn mount_all(mounts: &[Mount], root: &Path) -> Answer<()> {
    for (done, mount) in mounts.iter().enumerate() {
        if let Err(refusal) = mount_one(mount, root) {
            if let Err(undo) = unmount_all(root, done) {
                crate::warning!("a half-made root stays mounted: {undo}");
            }
            return Err(refusal.context(format!("mount rootfs of type {} on {}", mount.kind, root.display())));
        }
    }
    Ok(())
}

/// Undoes as many mounts as were made on a root, and more if others are on top of them.
///
/// # Errors
/// Whatever the kernel answers, but that nothing is mounted there.
pub fn unmount_all(root: &Path, count: usize) -> Answer<()> {
    for _ in 0..count {
        let flags = UnmountFlags::NOFOLLOW;
        let done = match unmount(root, flags) {
            // Somebody still has a file open or a mount below: it goes from sight now, and for good with them.
            Err(Errno::BUSY) => unmount(root, flags | UnmountFlags::DETACH),
            other => other,
        };
        match done {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(Refusal::io(format!("unmount {}", root.display()), &error.into())),
        }
    }
    Ok(())
}

fn mount_one(wanted: &Mount, root: &Path) -> Answer<()> {
    let options = Options::parse(&wanted.options)?;
    let target = target(&wanted.target, root)?;
    let refuse = |error: Errno| Refusal::io(format!("mount {}", wanted.source), &error.into());
    if options.bind {
        let bind = |recursive| if recursive { MountFlags::BIND | MountFlags::REC } else { MountFlags::BIND };
        let how = bind(options.recursive_bind);
        mount(wanted.source.as_str(), &target, c"", how, None::<&CStr>).map_err(refuse)?;
        if options.flags != 0 {
            mount_remount(&target, MountFlags::BIND | options.flags(), c"").map_err(refuse)?;
        }
    } else {
        let (data, folder) = data(&options.data)?;
        let here = folder
            .map(|folder| Here::change_to(&folder))
            .transpose()
            .map_err(|error| Refusal::io("change to the layers' folder", &error))?;
        let made = mount(wanted.source.as_str(), &target, wanted.kind.as_str(), options.flags(), Some(data.as_c_str()));
        drop(here);
        made.map_err(refuse)?;
    }
    if let Some(bits) = options.propagation {
        mount_change(&target, MountPropagationFlags::from_bits_retain(bits)).map_err(refuse)?;
    }
    Ok(())
}

/// Where a mount goes: the root, or a place below it that the daemon names.
fn target(named: &str, root: &Path) -> Answer<PathBuf> {
    let named = Path::new(named.trim_start_matches('/'));
    let plain = named.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain { Ok(root.join(named)) } else { Err(Refusal::invalid(format!("mount target {}", named.display()))) }
}

/// The file system's options as one string. An overlay of many layers names the same folder many times; if that
/// exceeds what the kernel takes, the names are given relative to the folder that is returned with them.
fn data(options: &[String]) -> Answer<(CString, Option<PathBuf>)> {
    let whole = options.join(",");
    if whole.len() <= DATA_BYTES_MAX {
        return terminated(whole).map(|data| (data, None));
    }
    let too_long = || Refusal::invalid(format!("the mount's options have {} bytes", whole.len()));
    let layers = options.iter().find_map(|option| option.strip_prefix("lowerdir=")).ok_or_else(too_long)?;
    let folder = common_folder(layers.split(':')).ok_or_else(too_long)?;
    let prefix = format!("{}/", folder.display());
    let relative: Vec<&str> = layers.split(':').filter_map(|layer| layer.strip_prefix(&prefix)).collect();
    let shortened: Vec<String> =
        options
            .iter()
            .map(|option| {
                if option.starts_with("lowerdir=") {
                    format!("lowerdir={}", relative.join(":"))
                } else {
                    option.clone()
                }
            })
            .collect();
    let shortened = shortened.join(",");
    if shortened.len() > DATA_BYTES_MAX {
        return Err(too_long());
    }
    terminated(shortened).map(|data| (data, Some(folder)))
}

fn terminated(text: String) -> Answer<CString> {
    CString::new(text).map_err(|_| Refusal::invalid("a mount's options contain a zero byte"))
}

/// The deepest folder that all the layers are below.
fn common_folder<'a>(mut layers: impl Iterator<Item = &'a str>) -> Option<PathBuf> {
    let first = Path::new(layers.next()?).parent()?.to_owned();
    layers
        .try_fold(first, |common, layer| {
            let folder = common
                .ancestors()
                .find(|folder| Path::new(layer).starts_with(folder) && Path::new(layer) != *folder)?;
            Some(folder.to_owned())
        })
        .filter(|folder| folder.is_absolute() && folder != Path::new("/"))
}

/// The working folder, for as long as another one is needed.
struct Here(std::os::fd::OwnedFd);

impl Here {
    fn change_to(folder: &Path) -> io::Result<Self> {
        let here = rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::process::chdir(folder)?;
        Ok(Self(here))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Err(error) = rustix::process::fchdir(&self.0) {
            crate::warning!("the way back to the working folder is lost: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|o| (*o).to_owned()).collect()
    }

    #[test]
    fn options_are_sorted() {
        let parsed = Options::parse(&options(&["rbind", "ro", "nosuid", "suid", "rslave", "lowerdir=/a"])).unwrap();
        assert!(parsed.bind && parsed.recursive_bind);
        assert_eq!(parsed.flags(), MountFlags::RDONLY);
        assert_eq!(parsed.propagation, Some((MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).bits()));
        assert_eq!(parsed.data, ["lowerdir=/a"]);
        assert!(Options::parse(&options(&["loop"])).is_err());
    }

    #[test]
    fn many_layers_are_named_from_their_folder() {
        let layers: Vec<String> = (0..400).map(|n| format!("/var/lib/x/snapshots/{n}/fs")).collect();
        let given = [format!("lowerdir={}", layers.join(":")), "upperdir=/var/lib/x/u".to_owned()];
        let (data, folder) = data(&given).unwrap();
        assert_eq!(folder.as_deref(), Some(Path::new("/var/lib/x/snapshots")));
        assert!(data.to_str().unwrap().starts_with("lowerdir=0/fs:1/fs:"));
        assert!(data.to_str().unwrap().ends_with(",upperdir=/var/lib/x/u"));
    }

    #[test]
    fn what_is_too_long_is_refused() {
        assert!(data(&["x".repeat(DATA_BYTES_MAX + 1)]).is_err());
        let unrelated = [format!("lowerdir=/a/{}:/b/{}", "x".repeat(3000), "y".repeat(3000))];
        assert!(data(&unrelated).is_err());
    }

    #[test]
    fn targets_stay_below_the_root() {
        assert_eq!(target("", Path::new("/r")).unwrap(), Path::new("/r/"));
        assert_eq!(target("/a/b", Path::new("/r")).unwrap(), Path::new("/r/a/b"));
        assert!(target("../x", Path::new("/r")).is_err());
    }
}
