//! What a host must have for containers, looked at part by part, and what to do where something is missing.
//!
//! Everything is read from files below [`Host::root`], so that a test can make a host up.

mod host;
mod limits;
mod place;

use std::path::{Path, PathBuf};

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// Something works less well, or not at all that not everybody needs.
    Weak,
    /// Containers do not run, or what is stored is in danger.
    Bad,
}

/// What was looked at, and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What: `kernel`, `overlayfs`.
    pub part: &'static str,
    /// How grave it is.
    pub grade: Grade,
    /// How it is.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub advice: String,
}

impl Finding {
    fn fine(part: &'static str, found: impl Into<String>) -> Self {
        Self { part, grade: Grade::Fine, found: found.into(), advice: String::new() }
    }

    fn weak(part: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { part, grade: Grade::Weak, found: found.into(), advice: advice.into() }
    }

    fn bad(part: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { part, grade: Grade::Bad, found: found.into(), advice: advice.into() }
    }
}

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Host {
    /// `/`, or where a made-up host's files are.
    pub root: PathBuf,
    /// The daemon's durable state.
    pub wharf_root: PathBuf,
    /// The daemon's state that dies with a boot.
    pub wharf_state: PathBuf,
    /// Where programs are looked for, besides beside this one.
    pub path: String,
    /// Seconds since 1970, by the host's clock.
    pub now_seconds: u64,
}

impl Host {
    /// A file of the host's, without its last line's end; none if it cannot be read.
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.at(path)).ok().map(|text| text.trim_end().to_owned())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A line of `/proc/self/status`.
    fn status(&self, key: &str) -> Option<String> {
        let status = self.read("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    /// A program, looked for as a shell does.
    fn program(&self, name: &str) -> Option<PathBuf> {
        self.path.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
    }

    /// Looks at everything.
    #[must_use]
    pub fn examine(&self) -> Vec<Finding> {
        let mut findings = host::examine(self);
        findings.extend(limits::examine(self));
        findings.extend(place::examine(self));
        findings
    }
}

#[cfg(test)]
mod tests;
