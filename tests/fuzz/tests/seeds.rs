//! Every fuzz target over its seeds. `make fuzz` searches for more.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::BTreeSet,
    fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
};
use wharf_fuzz::TARGETS;

#[test]
fn no_seed_makes_its_target_fail() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (seed, bytes) in seeds {
            if panic::catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_err() {
                failed.push(format!("{}/{seed}", target.name));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn each_target_has_its_seeds_words_and_binary() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let targets: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    for folder in ["seeds", "words", "fuzz_targets"] {
        let names = fs::read_dir(here.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let names: BTreeSet<_> = names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(names, targets, "{folder}");
    }
}
