//! The folders of a container's devices, with the modes that runc gives them.
//!
//! libcontainer makes `/dev/net` and the like without a umask, so that everybody in the container could write to them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;

/// What libcontainer makes them with, and what they should have.
const MADE: u32 = 0o777;
const WANTED: Mode = Mode::from_raw_mode(0o755);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    devices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
struct Device {
    path: PathBuf,
}

/// Takes from everybody but their owner the right to write to the folders that were made for devices.
///
/// # Errors
/// Whatever the file system answers.
pub fn tidy(bundle: &Path, init_pid: i32) -> io::Result<()> {
    let spec: Spec = serde_json::from_reader(io::BufReader::new(File::open(bundle.join("config.json"))?))?;
    let folders = folders(spec.linux.devices.iter().map(|device| device.path.as_path()));
    if folders.is_empty() {
        return Ok(());
    }
    let root = File::open(format!("/proc/{init_pid}/root"))?;
    let whole = rustix::fs::fstat(&root)?.st_dev;
    for folder in folders {
        let folder = open_below(&root, &folder)?;
        let found = rustix::fs::fstat(&folder)?;
        // On a mount of its own everything was made just now. An image's own folders are as the image has them.
        if found.st_dev != whole && found.st_mode & 0o7777 == MADE {
            rustix::fs::fchmod(&folder, WANTED)?;
        }
    }
    Ok(())
}

/// The folders between `/dev` and devices, each once.
fn folders<'a>(devices: impl Iterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
    let dev = Path::new("/dev");
    let between =
        |device: &'a Path| device.ancestors().skip(1).filter(move |above| above.starts_with(dev) && *above != dev);
    devices.flat_map(between).map(Path::to_owned).collect()
}

/// Opens a folder of the container: what is a link in there leads nowhere else.
fn open_below(root: impl AsFd, folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(root, folder, flags, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_those_below_dev_that_hold_devices() {
        let devices = ["/dev/null", "/dev/net/tun", "/dev/cpu/0/msr", "/dev/cpu/1/msr", "/other/x"];
        let found = folders(devices.iter().map(Path::new));
        assert_eq!(found, ["/dev/cpu", "/dev/cpu/0", "/dev/cpu/1", "/dev/net"].map(PathBuf::from).into());
    }
}
