//! The daemon or the shim dies at a point of its work, whichever that is: whoever uses it tries again, and in the end
//! everything is done, once, and nothing is left behind.
//!
//! CI takes a sample of the points; `make crash` takes them all (`WHARF_SWEEP=1`).

use crate::{events, fixture::BUSYBOX, supervision::with_failpoints};
use std::{collections::BTreeMap, fs, path::Path, time::Duration};
use wharf_tests::{Daemon, Registry, daemon::Settings, images, wait};

/// How often a step is tried.
const TRIES: u32 = 6;

/// Has a command done, however often it takes; the daemon is started again when it has died, and nothing goes wrong twice.
fn again(daemon: &mut Daemon, args: &[&str], undo: &[&[&str]], done: &[&str]) {
    let mut last = None;
    for _ in 0..TRIES {
        let output = daemon.wharf(args);
        if output.code == 0 || (last.is_some() && done.iter().any(|words| output.stderr.contains(words))) {
            daemon.revive();
            return;
        }
        last = Some(output.to_string());
        daemon.spare();
        daemon.revive();
        for undo in undo {
            // There may be nothing to undo.
            let _ = daemon.wharf(*undo);
            daemon.revive();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not done in {TRIES} tries: {}\n{}", last.unwrap_or_default(), daemon.log());
}

/// Pulled, unpacked, run, entered, removed.
fn live(daemon: &mut Daemon, image: &str) {
    let pull = ["images", "pull", "--plain-http", image];
    again(daemon, &pull, &[], &[]);
    let undo: &[&[&str]] = &[&["tasks", "rm", "-f", "web"], &["containers", "rm", "web"]];
    again(daemon, &["run", "-d", image, "web", "sleep", "1000"], undo, &[]);
    let undo: &[&[&str]] = &[&["tasks", "rm", "-f", "--exec-id", "x", "web"]];
    again(daemon, &["tasks", "exec", "--exec-id", "x", "web", "true"], undo, &["not running", "stopped", "is gone"]);
    again(daemon, &["tasks", "rm", "-f", "web"], &[], &["not found"]);
    again(daemon, &["containers", "rm", "web"], &[], &["not found"]);
    again(daemon, &["images", "rm", "--sync", image], &[], &["not found"]);
    again(daemon, &["content", "prune"], &[], &[]);
}

fn files_below(path: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Fails unless nothing is left, and the log is in order.
fn check(daemon: &mut Daemon, rule: &str) {
    // Whatever a shim's death left is found by the next start at the latest.
    daemon.revive();
    daemon.terminate();
    daemon.up();
    for list in ["containers ls", "tasks ls", "images ls -q", "leases ls", "content active"] {
        let rows = daemon.ok(list).table();
        let rows =
            rows.into_iter().filter(|row| !row.first().is_some_and(|cell| cell.chars().all(|c| !c.is_lowercase())));
        assert_eq!(rows.collect::<Vec<_>>(), Vec::<Vec<String>>::new(), "{rule}: {list}");
    }
    wait::within(Duration::from_secs(20), || {
        let blobs = daemon.files("content").into_iter().filter(|path| !path.ends_with("lock")).count();
        let folders = files_below(&daemon.root().join("snapshotters/overlayfs/snapshots")).len();
        (blobs + folders == 0).then_some(())
    })
    .unwrap_or_else(|| {
        panic!(
            "{rule}: left\n{:?}\n{:?}\n{}",
            daemon.files("content"),
            files_below(&daemon.root().join("snapshotters/overlayfs/snapshots")),
            daemon.log()
        )
    });
    events::log(daemon);
    daemon.expect_nothing_left();
}

/// The points of a life, and how often each is passed.
fn points(image: &str) -> BTreeMap<String, usize> {
    let trace = std::env::temp_dir().join(wait::unique("wharf-trace"));
    let env = vec![("WHARF_FAILPOINTS_TRACE".to_owned(), trace.display().to_string())];
    let mut daemon = Daemon::with(Settings { env, ..Settings::default() });
    live(&mut daemon, image);
    check(&mut daemon, "no point");
    let mut passes = BTreeMap::new();
    for line in fs::read_to_string(&trace).unwrap().lines() {
        *passes.entry(line.to_owned()).or_default() += 1;
    }
    fs::remove_file(&trace).unwrap();
    assert!(passes.len() > 40, "{passes:?}");
    passes
}

/// What is tried in CI: one of each kind.
const SAMPLE: &[&str] = &[
    "store/synced=abort,skip=9,times=1",
    "store/sync=abort,skip=25,times=1",
    "unpack/layer=abort,times=1",
    "task/made=abort,times=1",
    "task/StartTask/resumed=abort,times=1",
    "shim/start/forked=abort,times=1",
    "shim/create/made=abort,times=1",
    "task/DeleteTask/resumed=abort,times=1",
    "container/deleted=abort,times=1",
];

#[test]
fn sweep_of_crashes_loses_nothing_and_leaves_nothing() {
    let registry = Registry::start();
    let image = registry.push(&images::umoci_layers(), "crash");
    let rules: Vec<String> = if std::env::var_os("WHARF_SWEEP").is_some() {
        let passes = points(&image);
        let every = |point: &str, count: usize| match point {
            // Each sync of the store; of the rest the first and the last pass.
            "store/sync" | "store/synced" => (0..count).collect(),
            _ if count == 1 => vec![0],
            _ => vec![0, count - 1],
        };
        let rules = passes.iter().flat_map(|(point, count)| {
            every(point, *count).into_iter().map(move |skip| format!("{point}=abort,skip={skip},times=1"))
        });
        let frozen = passes.keys().filter(|point| point.starts_with("shim/") && point.split('/').count() == 3);
        rules.chain(frozen.map(|point| format!("{point}=freeze,times=1"))).collect()
    } else {
        SAMPLE.iter().map(|rule| (*rule).to_owned()).collect()
    };
    let mut failed = Vec::new();
    for rule in &rules {
        let died = std::panic::catch_unwind(|| {
            let (mut daemon, file) = with_failpoints();
            daemon.ok(["images", "rm", "--sync", BUSYBOX]);
            fs::write(&file, rule).unwrap();
            daemon.on_revival(&file);
            live(&mut daemon, &image);
            fs::write(&file, "").unwrap();
            check(&mut daemon, rule);
            fs::remove_file(&file).unwrap();
        });
        if died.is_err() {
            failed.push(rule.as_str());
        }
    }
    println!("{} crashes", rules.len());
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), rules.len(), failed.join("\n"));
}
