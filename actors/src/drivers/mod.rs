//! Ports to the world and what stands behind them: only code below this module touches kernel, network and processes.

pub mod attributes;
pub mod mount;
pub mod registry;
pub mod shim;
pub mod snapshotter;

use std::path::{Path, PathBuf};
use wharf_messages::{Answer, Refusal};

/// A path below a folder, with links in it resolved as if the folder were the root.
///
/// # Errors
/// `NotFound` and what else the kernel says; a path never leads out.
pub(crate) fn beneath(root: &Path, path: &Path) -> Answer<PathBuf> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
    let doing = || format!("find {} in {}", path.display(), root.display());
    let refuse = |e: rustix::io::Errno| Refusal::io(doing(), &e.into());
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(refuse)?;
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&folder, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags).map_err(refuse)?;
    let real = std::os::fd::AsRawFd::as_raw_fd(&found);
    std::fs::read_link(format!("/proc/self/fd/{real}")).map_err(|e| Refusal::io(doing(), &e))
}
