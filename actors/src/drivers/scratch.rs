//! Folders for a moment, on the disk that dies with a boot.

use crate::names;
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Mount, Refusal};

/// What their names begin with.
const PREFIX: &str = "folder-";

/// A private folder that goes with its owner.
#[derive(Debug)]
pub struct ScratchFolder(PathBuf);

impl ScratchFolder {
    /// Makes one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(parent: &Path) -> Answer<Self> {
        let path = parent.join(format!("{PREFIX}{}", names::random()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| Refusal::io(format!("make {}", path.display()), &e))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// It as a mount, for what reads and writes those.
    #[must_use]
    pub fn mount(&self) -> Mount {
        Mount {
            kind: "bind".to_owned(),
            source: self.0.to_string_lossy().into_owned(),
            target: String::new(),
            options: vec!["rbind".to_owned(), "rw".to_owned()],
        }
    }

    /// As [`ScratchFolder::sweep`], where the folder need not be there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sweep_if_there(parent: &Path) -> Answer<()> {
        if parent.exists() { Self::sweep(parent) } else { Ok(()) }
    }

    /// Removes those of a killed daemon.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sweep(parent: &Path) -> Answer<()> {
        let doing = |e: &std::io::Error| Refusal::io(format!("sweep {}", parent.display()), e);
        for entry in fs::read_dir(parent).map_err(|e| doing(&e))? {
            let entry = entry.map_err(|e| doing(&e))?;
            if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                drop(Self(entry.path()));
            }
        }
        Ok(())
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            // Its owner may have given it away.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %self.0.display(), %error, "a folder for a moment stays");
            }
            _ => {}
        }
    }
}
