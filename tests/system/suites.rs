//! containerd's own test suites for content stores and snapshotters, from Debian's package of its client library, by
//! gRPC against wharf.

use std::{process::Command, time::Duration};
use wharf_tests::{Daemon, command, daemon::Settings, go};

const LIMIT: Duration = Duration::from_secs(200);

/// They write blobs that nothing keeps, and expect them a moment later.
const NO_COLLECTION: &str = "[gc]\nstartup_delay_ms = 0\nmutation_threshold = 0\nschedule_delay_ms = 3600000\n";

#[test]
fn containerds_suites_pass() {
    let suites = go::suites();
    let daemon = Daemon::with(Settings { config: Some(NO_COLLECTION.to_owned()), ..Settings::default() });
    let mut command = Command::new(suites);
    command
        .args(["-test.v", "-test.root"])
        .env("CONTAINERD_ADDRESS", daemon.address())
        .current_dir(daemon.dir().path());
    command.env("TMPDIR", daemon.dir().folder("tmp"));
    let output = command::run(command, b"", LIMIT).ok();
    let count = |word: &str| output.lines().filter(|line| line.trim_start().starts_with(word)).count();
    // 13 of content with their parent, 2 of sharing, and 21 of each snapshotter.
    assert!(count("--- PASS") >= 50 && count("--- FAIL") == 0, "{output}");
    // What containerd itself skips.
    assert!(count("--- SKIP") <= 2, "{output}");
}
