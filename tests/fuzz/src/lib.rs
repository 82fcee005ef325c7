//! What is fuzzed: every reader of bytes that strangers wrote, as a function of those bytes. Each fails by a panic.
//!
//! `tests/seeds.rs` runs them over their seeds; `make fuzz` lets libFuzzer search, which starts from the seeds
//! and from words that chance would not find. An input that made one fail becomes a seed, named after what was wrong.

#![allow(clippy::unwrap_used, reason = "a target fails by a panic, whatever it is that was not true")]

pub mod documents;
pub mod layers;
pub mod words;

use std::{fs, path::PathBuf};

/// A reader under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, that of its folder of seeds, of its file of words, and of its binary.
    pub name: &'static str,
    /// Reads an input and holds what comes out against what must be true of it.
    pub run: fn(&[u8]),
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
    Target { name: "frames", run: words::frames },
    Target { name: "filters", run: words::filters },
    Target { name: "references", run: words::references },
    Target { name: "shim", run: words::shim },
    Target { name: "spec", run: documents::runtime_spec },
    Target { name: "manifest", run: documents::manifest },
    Target { name: "config", run: documents::config },
    Target { name: "hosts", run: documents::hosts },
    Target { name: "docker-config", run: documents::docker_config },
    Target { name: "challenge", run: documents::challenge },
    Target { name: "layer", run: layers::layer },
    Target { name: "archive", run: layers::archive },
];
