//! Every fuzz target over its seeds, and for some seconds over mutations of them: always the same ones, as far as the
//! time goes. `WHARF_FUZZ_SECONDS` makes it longer; `make fuzz` searches for real.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    env,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};
use wharf_fuzz::{Mutator, TARGETS, Target};

const SECONDS: u64 = 2;
/// What an input may take, on a machine that has better things to do.
const SLOW: Duration = Duration::from_secs(5);

fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = target.seeds();
    for (seed, bytes) in &seeds {
        run(target, &format!("seed {seed}"), bytes);
    }
    let seconds = env::var("WHARF_FUZZ_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut mutator = Mutator::new(seeds.iter().map(|(_, bytes)| bytes.as_slice()).collect(), target.words, 1);
    let mut count = 0_u64;
    while Instant::now() < end {
        count += 1;
        run(target, &format!("mutation {count}"), &mutator.input());
    }
    println!("{name}: {} seeds, {count} mutations", seeds.len());
}

fn run(target: &Target, what: &str, bytes: &[u8]) {
    let begun = Instant::now();
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    if outcome.is_ok() && begun.elapsed() < SLOW {
        return;
    }
    let kept = env::temp_dir().join(format!("wharf-fuzz-{}", target.name));
    std::fs::write(&kept, bytes).unwrap();
    panic!("{} fails on {what}, kept in {}: {}", target.name, kept.display(), bytes.escape_ascii());
}

macro_rules! targets {
    ($($test:ident: $name:literal;)*) => {
        $(#[test]
        fn $test() {
            fuzz($name);
        })*

        #[test]
        fn every_target_is_run() {
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$($name),*]);
        }
    };
}

targets! {
    frames: "frames";
    filters: "filters";
    references: "references";
    manifests: "manifest";
    configs: "config";
    layers: "layer";
    archives: "archive";
    hosts: "hosts";
    docker_configs: "docker-config";
    challenges: "challenge";
}
