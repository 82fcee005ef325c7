//! Devices of the host within a container.

use super::{SpecOptions, default::made};
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use rustix::fs::{FileType, major, minor};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Refusal};

/// Folders below `/dev` that the container has its own of.
const OWN_FOLDERS: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// How deep folders of devices nest at most.
const DEPTH: u32 = 8;

/// Adds the devices that the options name, or every one.
pub(super) fn fill(linux: &mut Linux, options: &SpecOptions) -> Answer<()> {
    let mut devices = Vec::new();
    let mut rules = Vec::new();
    if options.privileged {
        walk(Path::new("/dev"), DEPTH, &mut devices)?;
    }
    for path in &options.devices {
        let before = devices.len();
        let metadata = fs::metadata(path).map_err(|error| Refusal::io(format!("device {}", path.display()), &error))?;
        if metadata.is_dir() {
            walk(path, DEPTH, &mut devices)?;
        } else {
            let found = device(path, &metadata)?
                .ok_or_else(|| Refusal::invalid(format!("device {}: not a device node", path.display())))?;
            devices.push(found);
        }
        for device in &devices[before..] {
            rules.push(rule(device)?);
        }
    }
    let resources = linux.resources_mut().get_or_insert_default();
    let known = resources.devices_mut().get_or_insert_default();
    if options.privileged {
        *known = vec![made(LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build())?];
    }
    known.extend(rules);
    linux.set_devices((!devices.is_empty()).then_some(devices));
    Ok(())
}

fn rule(device: &LinuxDevice) -> Answer<LinuxDeviceCgroup> {
    let builder = LinuxDeviceCgroupBuilder::default().allow(true).typ(device.typ()).access("rwm");
    made(builder.major(device.major()).minor(device.minor()).build())
}

/// Every device node below a folder, links passed over.
fn walk(folder: &Path, depth: u32, found: &mut Vec<LinuxDevice>) -> Answer<()> {
    let failed = |error: std::io::Error| Refusal::io(format!("devices in {}", folder.display()), &error);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    paths.sort_unstable();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        // A device that goes while it is looked at is not there.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth > 0 && !OWN_FOLDERS.contains(&name) {
                walk(&path, depth - 1, found)?;
            }
        } else if name != "console"
            && let Some(device) = device(&path, &metadata)?
        {
            found.push(device);
        }
    }
    Ok(())
}

fn device(path: &Path, metadata: &fs::Metadata) -> Answer<Option<LinuxDevice>> {
    let kind = match FileType::from_raw_mode(metadata.mode()) {
        FileType::BlockDevice => LinuxDeviceType::B,
        FileType::CharacterDevice => LinuxDeviceType::C,
        _ => return Ok(None),
    };
    let builder = LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(i64::from(major(metadata.rdev())))
        .minor(i64::from(minor(metadata.rdev())))
        .file_mode(metadata.mode() & 0o777)
        .uid(metadata.uid())
        .gid(metadata.gid());
    made(builder.build()).map(Some)
}
