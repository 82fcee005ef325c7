//! The target that this binary is named after.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use wharf_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env!("CARGO_BIN_NAME");
    *TARGETS.iter().find(|target| target.name == name).expect("the binaries are named as the targets are")
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
