//! Where things are.

use std::path::{Path, PathBuf};

/// The workspace's folder.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where images that take time to make are kept between runs.
#[must_use]
pub fn cache() -> PathBuf {
    workspace().join(".cache")
}

/// One of the workspace's binaries: from `WHARF_BIN_DIR`, or beside the running test.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let folder = match std::env::var_os("WHARF_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // .../target/debug/deps/system-0123: the binaries are two up.
        None => std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_path_buf(),
    };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not built: run the tests by `make test`, or build it first", path.display());
    path
}
