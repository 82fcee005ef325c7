//! Private folders on a tmpfs of their own.

use crate::{leftovers, process, wait};
use nix::mount::{MsFlags, mount};
use std::{
    fs,
    path::{Path, PathBuf},
};

const PREFIX: &str = "wharf-test-";

/// A private folder: a tmpfs, so that nothing in it waits for a disk and all of it goes at once.
#[derive(Debug)]
pub struct TestDir(PathBuf);

impl TestDir {
    /// Makes one; its size is only bounded by memory.
    #[must_use]
    pub fn new() -> Self {
        Self::with_size("75%")
    }

    /// Makes one of a size, as tmpfs's `size=` takes it.
    ///
    /// # Panics
    /// Without root, whom the whole of these tests needs.
    #[must_use]
    pub fn with_size(size: &str) -> Self {
        sweep();
        // Short, because a Unix socket's path has to fit into 108 bytes.
        let path = Path::new("/tmp").join(wait::unique(PREFIX.trim_end_matches('-')));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(format!("mode=0755,size={size}").as_str()))
            .unwrap_or_else(|errno| panic!("mount a tmpfs on {}: {errno}: not root?", path.display()));
        Self(path)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a folder in it, with parents.
    #[must_use]
    pub fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Writes a file in it.
    #[must_use]
    pub fn file(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Default for TestDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if let Err(problem) = remove(&self.0) {
            report(&format!("{}: {problem}", self.0.display()));
        }
    }
}

/// Tells of a failed clean-up: by a panic, or on stderr if a panic is under way.
pub(crate) fn report(problem: &str) {
    if std::thread::panicking() {
        eprintln!("{problem}");
    } else {
        panic!("{problem}");
    }
}

fn remove(path: &Path) -> Result<(), String> {
    let mut problems = leftovers::unmount_beneath(path);
    if let Err(errno) = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH) {
        problems.push(format!("umount: {errno}"));
    }
    if let Err(error) = fs::remove_dir(path) {
        problems.push(format!("rmdir: {error}"));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// Removes the folders of test processes that were killed before they could.
fn sweep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for entry in fs::read_dir("/tmp").unwrap().flatten() {
            let name = entry.file_name();
            let Some(owner) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok())
            else {
                continue;
            };
            if process::alive(owner) {
                continue;
            }
            let path = entry.path();
            // The daemon's namespace is kept in the folder for this.
            let namespace = fs::read_to_string(path.join("namespace")).unwrap_or_else(|_| wait::unique("none"));
            let ended = leftovers::remove(&path, &namespace);
            // Another test process may be sweeping too: only what is still there is worth a word.
            let removed = remove(&path);
            if path.exists() {
                eprintln!("left by process {owner}: {}: {ended:?} {removed:?}", path.display());
            }
        }
    });
}
