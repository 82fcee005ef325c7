//! What is fuzzed: every reader of bytes that strangers wrote, as a function of those bytes. Each fails by a panic.
//!
//! `tests/bounded.rs` runs them over the seeds and some mutations in every test run; `libfuzzer/` lets libFuzzer search
//! (`make fuzz`). An input that made one fail becomes a seed, named after what was wrong.

#![allow(clippy::unwrap_used, reason = "a target fails by a panic, whatever it is that was not true")]

mod documents;
mod layers;
mod mutate;
mod words;

pub use mutate::Mutator;
use std::{fs, path::PathBuf};

/// A reader under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, that of its folder of seeds.
    pub name: &'static str,
    /// Reads an input and holds what comes out against what must be true of it.
    pub run: fn(&[u8]),
    /// Words that inputs are made of, for mutations that chance would not find.
    pub words: &'static [&'static str],
}

impl Target {
    /// The committed inputs, by name.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(self.name);
        let mut seeds: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| {
                let path = entry.unwrap().path();
                (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
            })
            .collect();
        seeds.sort();
        seeds
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "frames", run: words::frames, words: &["images.get", "content.write", "events.watch"] },
    Target { name: "filters", run: words::filters, words: &["==", "!=", "~=", "labels.", ",", "\"", "/", "|", "\\x"] },
    Target { name: "references", run: words::references, words: &["docker.io/", "library/", ":", "@sha256:", "[::1]"] },
    Target { name: "manifest", run: documents::manifest, words: documents::WORDS },
    Target { name: "config", run: documents::config, words: documents::WORDS },
    Target { name: "layer", run: layers::layer, words: &["ustar", "../", "/", ".wh.", ".wh..wh..opq", "path=", "\0"] },
    Target { name: "archive", run: layers::archive, words: &["manifest.json", "index.json", "blobs/sha256/", "../"] },
    Target { name: "hosts", run: documents::hosts, words: &["[host.\"", "server", "capabilities", "ca", "\n", "="] },
    Target { name: "docker-config", run: documents::docker_config, words: &["auths", "auth", "credHelpers", "{", "}"] },
    Target {
        name: "challenge",
        run: documents::challenge,
        words: &["Bearer ", "realm=", "\"", ",", "scope=", "Basic"],
    },
];
