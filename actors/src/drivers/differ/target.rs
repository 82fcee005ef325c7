//! Where a layer goes: the writable folder behind mounts, and what lies below it.

use std::path::{Path, PathBuf};
use wharf_messages::{Answer, Mount, Refusal};

/// How "this is gone" is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whiteouts {
    /// By deleting.
    Delete,
    /// As overlayfs reads it; the attribute names begin with `user.` where the mount says `userxattr`.
    Overlay { userxattr: bool },
}

/// A folder to write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The folder.
    pub(super) folder: PathBuf,
    /// The layers below, nearest first.
    pub(super) lowers: Vec<PathBuf>,
    /// How deletions are written.
    pub(super) whiteouts: Whiteouts,
    /// Whether folders that the layer implies are marked.
    pub(super) mark_implied: bool,
}

impl Target {
    /// A folder that shows everything: mounted, or whole.
    pub(super) fn folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), lowers: Vec::new(), whiteouts: Whiteouts::Delete, mark_implied: false }
    }

    /// The folder behind a single overlay or bind mount; none if it has to be mounted.
    ///
    /// # Errors
    /// `InvalidArgument` for mounts that cannot be written to.
    pub(super) fn direct(mounts: &[Mount], late_parent: bool) -> Answer<Option<Self>> {
        let [mount] = mounts else {
            return if mounts.is_empty() { Err(Refusal::invalid("no mounts to apply a layer to")) } else { Ok(None) };
        };
        if !mount.target.is_empty() {
            return Ok(None);
        }
        let has = |option: &str| mount.options.iter().any(|o| o == option);
        if has("ro") {
            return Err(Refusal::invalid(format!(
                "{:?} is mounted read-only: a layer cannot be applied",
                mount.source
            )));
        }
        match mount.kind.as_str() {
            "overlay" => {
                let Some(overlay) = Overlay::of(mount) else { return Ok(None) };
                let Some(upper) = overlay.upper else {
                    return Err(Refusal::invalid("overlay without an upper folder: a layer cannot be applied"));
                };
                Ok(Some(Self {
                    folder: upper,
                    lowers: overlay.lowers,
                    whiteouts: Whiteouts::Overlay { userxattr: has("userxattr") },
                    mark_implied: false,
                }))
            }
            kind if kind == "bind" || has("bind") || has("rbind") => {
                let mut target = Self::folder(Path::new(&mount.source));
                if late_parent {
                    target.whiteouts = Whiteouts::Overlay { userxattr: false };
                    target.mark_implied = true;
                }
                Ok(Some(target))
            }
            _ => Ok(None),
        }
    }
}

/// The folders of an overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overlay {
    pub(super) upper: Option<PathBuf>,
    /// Nearest first.
    pub(super) lowers: Vec<PathBuf>,
}

impl Overlay {
    /// Reads a mount's options; none if they are of a form that only the kernel should read.
    pub(super) fn of(mount: &Mount) -> Option<Self> {
        let value = |key: &str| mount.options.iter().find_map(|o| o.strip_prefix(key)?.strip_prefix('='));
        let lowers = value("lowerdir")?;
        // Escapes, data-only layers, and renames that the upper folder alone does not show.
        let plain = |text: &str| !text.contains('\\') && !text.contains("::");
        let shifts = ["redirect_dir=on", "metacopy=on"];
        if !plain(lowers) || mount.options.iter().any(|o| shifts.contains(&o.as_str()) || o.starts_with("lowerdir+")) {
            return None;
        }
        let upper = value("upperdir");
        if upper.is_some_and(|upper| !plain(upper)) {
            return None;
        }
        Some(Self { upper: upper.map(PathBuf::from), lowers: lowers.split(':').map(PathBuf::from).collect() })
    }
}
