//! The rules by which a daemon and its shims fail (`tests/failpoints`), in a file that they read whenever it changes.

use crate::{Daemon, daemon::Settings, wait};
use std::{fs, path::PathBuf};

/// The file. Gone when dropped.
#[derive(Debug)]
pub struct Failpoints {
    path: PathBuf,
}

impl Failpoints {
    /// Starts a daemon under no rules yet.
    #[must_use]
    pub fn start() -> (Daemon, Self) {
        let points = Self { path: std::env::temp_dir().join(wait::unique("wharf-failpoints")) };
        points.clear();
        let env = [
            ("WHARF_FAILPOINTS", format!("@{}", points.path.display())),
            // Its panics are meant, and to name where each was would have it hold all its debug information.
            ("RUST_BACKTRACE", "0".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        (Daemon::with(Settings { env, ..Settings::default() }), points)
    }

    /// From now on these rules hold.
    pub fn set(&self, rules: &str) {
        fs::write(&self.path, rules).unwrap();
    }

    /// From now on nothing fails.
    pub fn clear(&self) {
        self.set("");
    }

    /// Whether a rule with `once` has been hit, by whichever process.
    #[must_use]
    pub fn hit(&self) -> bool {
        self.hit_path().exists()
    }

    fn hit_path(&self) -> PathBuf {
        self.path.with_added_extension("hit")
    }
}

impl Drop for Failpoints {
    fn drop(&mut self) {
        for path in [self.hit_path(), self.path.clone()] {
            // The one is not always there, and an error here must not hide the test's own.
            let _ = fs::remove_file(path);
        }
    }
}
