//! The daemon's own places, and the programs it runs.

use super::{Finding, Grade, Host};
use rustix::fs::{StatVfs, statfs, statvfs};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Below this, pulls fail and the daemon may not be able to write its log.
const SPACE_BAD_BYTES: u64 = 256 << 20;
/// Below this, an ordinary image may not fit.
const SPACE_WEAK_BYTES: u64 = 2 << 30;
/// Below this share of inodes, unpacking fails with space left.
const INODES_WEAK: u64 = 20_000;
/// File systems that overlayfs does not take as the place of its upper layers, by `statfs`'s magic numbers.
///
/// # Spec
/// `linux/magic.h`.
const NO_UPPER: [(u64, &str); 4] =
    [(0x794c_7630, "overlayfs"), (0x6969, "NFS"), (0x6573_5546, "FUSE"), (0x0102_1997, "9p")];

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let mut findings = vec![space(host), upper(host)];
    findings.push(folder("root folder", &host.wharf_root));
    findings.push(folder("state folder", &host.wharf_state));
    findings.extend([
        program(host, "wharf-shim", Grade::Bad, "it holds every container: install it beside wharfd"),
        program(
            host,
            "runc",
            Grade::Weak,
            "only containers with --runc-binary, and checkpoints, need one: apt install runc",
        ),
        program(host, "criu", Grade::Weak, "only checkpoint and restore need it: apt install criu"),
    ]);
    findings
}

/// The folder, or the nearest one above it that is there.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn space(host: &Host) -> Finding {
    let place = nearest(&host.wharf_root);
    let StatVfs { f_bavail, f_frsize, f_favail, f_files, .. } = match statvfs(&place) {
        Ok(found) => found,
        Err(error) => {
            return Finding::bad(
                "disk space",
                format!("{}: {error}", place.display()),
                "the root folder must be readable",
            );
        }
    };
    let free_bytes = f_bavail.saturating_mul(f_frsize);
    let found = format!("{} MiB free at {}", free_bytes >> 20, place.display());
    let advice = "make room: wharf content prune references, wharf images rm, or move the root to a larger disk";
    match free_bytes {
        free if free < SPACE_BAD_BYTES => Finding::bad("disk space", found, advice),
        free if free < SPACE_WEAK_BYTES => Finding::weak("disk space", found, advice),
        // Some file systems have no fixed number of them.
        _ if f_files > 0 && f_favail < INODES_WEAK => {
            Finding::weak("disk space", format!("{found}, but only {f_favail} inodes"), advice)
        }
        _ => Finding::fine("disk space", found),
    }
}

fn upper(host: &Host) -> Finding {
    let place = nearest(&host.wharf_root);
    let Ok(found) = statfs(&place) else {
        return Finding::bad(
            "file system",
            format!("{}: unknown", place.display()),
            "the root folder must be readable",
        );
    };
    let magic = u64::try_from(found.f_type).unwrap_or_default();
    match NO_UPPER.iter().find(|(known, _)| *known == magic) {
        Some((_, name)) => Finding::bad(
            "file system",
            format!("{} is on {name}", place.display()),
            "overlayfs cannot write there: put the root on ext4, xfs, btrfs or tmpfs, or set snapshotter = \"native\"",
        ),
        None => Finding::fine("file system", format!("{} can hold overlayfs's layers", place.display())),
    }
}

fn folder(part: &'static str, path: &Path) -> Finding {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Finding::fine(part, format!("{} will be made", path.display()));
    };
    let shown = format!("{}, mode {:04o}, owner {}", path.display(), found.mode() & 0o7777, found.uid());
    if !found.is_dir() {
        return Finding::bad(part, format!("{} is no folder", path.display()), "remove it, or name another one");
    }
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        let path = path.display();
        let advice =
            format!("whoever can write there is root on this machine: chown root:root {path}; chmod 0711 {path}");
        return Finding::bad(part, shown, advice);
    }
    Finding::fine(part, shown)
}

fn program(host: &Host, name: &'static str, missing: Grade, advice: &str) -> Finding {
    match host.program(name) {
        Some(path) => Finding::fine(name, path.display().to_string()),
        None if missing == Grade::Bad => Finding::bad(name, "not found", advice),
        None => Finding::weak(name, "not found", advice),
    }
}
