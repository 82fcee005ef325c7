//! This program's own file in a form that a container cannot write to.
//!
//! A process that enters a container runs this program there for a moment, and the container can reach its file by
//! `/proc/<pid>/exe` (CVE-2019-5736). So it does not run the file itself, but the same file seen through a read-only
//! overlay that is mounted nowhere: no copy, no memory, gone when the last process that runs it ends. Where the kernel
//! refuses that, a sealed copy in memory does it.
//!
//! It is always the file that this very process was started from: a shim outlives upgrades of its package.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use wharf_messages::{Answer, Refusal};

/// What the kernel takes of a parameter of a new mount.
const PARAMETER_BYTES_MAX: usize = 255;
/// No copy of this program is larger.
const COPY_BYTES_MAX: u64 = 256 << 20;

/// Opens the program for an execution by `/proc/self/fd`. `beside` is any other folder.
///
/// # Errors
/// Internal, if neither way works.
pub fn open(beside: &Path) -> Answer<OwnedFd> {
    match overlay(beside) {
        Ok(program) => Ok(program),
        Err(error) => {
            crate::debug!("the program runs from a sealed copy, because an overlay of it is refused: {error}");
            copy().map_err(|error| Refusal::io("make a sealed copy of the runtime", &error))
        }
    }
}

fn overlay(beside: &Path) -> io::Result<OwnedFd> {
    let path = fs::read_link("/proc/self/exe")?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let layers = [escape(folder)?, escape(beside)?].join(&b':');
    if layers.len() > PARAMETER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "lowerdir", OsStr::from_bytes(&layers))?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    let program = rustix::fs::openat(&mount, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // The path may lead to a newer version by now.
    let (ours, found) = (fs::metadata("/proc/self/exe")?, rustix::fs::fstat(&program)?);
    let there = fs::metadata(&path)?;
    if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) || u64::try_from(found.st_size) != Ok(ours.len()) {
        return Err(io::ErrorKind::StaleNetworkFileHandle.into());
    }
    Ok(program)
}

/// A layer's name: colons separate layers, and backslashes escape.
fn escape(folder: &Path) -> io::Result<Vec<u8>> {
    let folder: PathBuf = fs::canonicalize(folder)?;
    let mut escaped = Vec::new();
    for byte in folder.as_os_str().as_bytes() {
        if matches!(byte, b':' | b'\\' | b',') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    Ok(escaped)
}

fn copy() -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("wharf-shim", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(memory);
    let length = io::copy(&mut File::open("/proc/self/exe")?.take(COPY_BYTES_MAX), &mut copy)?;
    copy.flush()?;
    if length == COPY_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    rustix::fs::fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn is_closed_to_writers(program: &OwnedFd) {
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        let length = |path: &str| fs::metadata(path).unwrap().len();
        assert_eq!(length(&path), length("/proc/self/exe"));
        let opened = fs::OpenOptions::new().write(true).open(&path);
        let written = opened.and_then(|mut file| file.write_all(b"evil"));
        assert!(written.is_err());
    }

    #[test]
    fn the_program_cannot_be_written_by_way_of_the_overlay() {
        // Only root can mount.
        if rustix::process::geteuid().is_root() {
            is_closed_to_writers(&overlay(&std::env::temp_dir()).unwrap());
        }
    }

    #[test]
    fn the_program_cannot_be_written_by_way_of_the_copy() {
        is_closed_to_writers(&copy().unwrap());
    }
}
