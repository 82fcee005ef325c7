//! The daemon or the shim dies at a point of its work, whichever that is, and is started again: in the end everything is
//! done, once, and nothing is left behind.
//!
//! CI takes a sample of the points; `make crash` takes them all.

use crate::events;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, panic,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use wharf_tests::{Daemon, Failpoints, Output, Registry, daemon::Settings, images, leftovers, wait};

/// How often a step is tried.
const TRIES: u32 = 6;

/// Has a command done, however often it takes; the daemon is started again whenever it has died. After a failure comes
/// `undo`, as a person would clean up; and what is refused then in the words of `done` is done.
fn again(daemon: &mut Daemon, args: &[&str], undo: &[&[&str]], done: &[&str]) -> Output {
    let mut last = None;
    for _ in 0..TRIES {
        let output = daemon.wharf_reviving(args);
        if output.code == 0 || (last.is_some() && done.iter().any(|words| output.stderr.contains(words))) {
            return output;
        }
        last = Some(output.to_string());
        for undo in undo {
            // There may be nothing to undo.
            let _ = daemon.wharf_reviving(*undo);
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("not done in {TRIES} tries: {}", last.unwrap_or_default());
}

/// Pulled, unpacked, run, entered, removed, collected; answers the network namespace of the container.
fn live(daemon: &mut Daemon, image: &str) -> Option<String> {
    again(daemon, &["images", "pull", "--plain-http", image], &[], &[]);
    let undo: &[&[&str]] = &[&["tasks", "rm", "-f", "web"], &["containers", "rm", "web"]];
    again(daemon, &["run", "-d", image, "web", "sleep", "1000"], undo, &[]);
    let tasks = again(daemon, &["tasks", "ls"], &[], &[]);
    // None if its shim has died since, and the container with it.
    let network = tasks.row("web").and_then(|row| fs::read_link(format!("/proc/{}/ns/net", row[1])).ok());
    let undo: &[&[&str]] = &[&["tasks", "rm", "-f", "--exec-id", "x", "web"]];
    again(daemon, &["tasks", "exec", "--exec-id", "x", "web", "true"], undo, &["not running", "stopped", "is gone"]);
    again(daemon, &["tasks", "rm", "-f", "web"], &[], &["not found"]);
    again(daemon, &["containers", "rm", "web"], &[], &["not found"]);
    again(daemon, &["images", "rm", "--sync", image], &[], &["not found"]);
    again(daemon, &["content", "prune"], &[], &[]);
    network.map(|network| network.display().to_string())
}

/// What is in the folders of blobs, ingests and snapshots.
fn stored(daemon: &Daemon) -> Vec<PathBuf> {
    let folders = ["content/blobs/sha256", "content/ingest", "snapshotters/overlayfs/snapshots"];
    let entries = |folder: &str| fs::read_dir(daemon.root().join(folder)).into_iter().flatten().flatten();
    folders.iter().flat_map(|folder| entries(folder).map(|entry| entry.path())).collect()
}

/// Fails unless nothing is left, and the log is in order.
fn check(daemon: &mut Daemon, network: Option<&str>) {
    // Whatever a death left is found by the next start at the latest.
    daemon.terminate();
    daemon.up();
    for list in ["containers ls -q", "tasks ls -q", "images ls -q", "leases ls -q", "snapshots ls"] {
        let rows = daemon.ok(list).table().into_iter().filter(|row| row.first().is_some_and(|cell| cell != "KEY"));
        assert_eq!(rows.collect::<Vec<_>>(), Vec::<Vec<String>>::new(), "{list}");
    }
    // Nobody holds a reference that a pull wrote to.
    assert_eq!(daemon.ok("content active").table().len(), 1, "a header alone");
    let gone = wait::within(Duration::from_secs(20), || stored(daemon).is_empty().then_some(()));
    assert!(gone.is_some(), "left:\n{:#?}", stored(daemon));
    if let Some(network) = network {
        assert_ne!(network, fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap(), "a container has its own");
        let gone = wait::within(Duration::from_secs(5), || leftovers::holders_of(network).is_empty().then_some(()));
        assert!(gone.is_some(), "{network} is held by {:?}", leftovers::holders_of(network));
    }
    events::log(daemon);
    daemon.expect_nothing_left();
}

/// Whether a rule is of a point that the daemon's parts pass when they start.
fn is_of_start(rule: &str) -> bool {
    rule.contains("/start/") && !rule.starts_with("shim/")
}

/// Lives under a rule; answers whether anything has died of it.
fn survive(rule: &str, image: &str) -> bool {
    let (mut daemon, points) = Failpoints::start();
    points.set(rule);
    if is_of_start(rule) {
        daemon.kill();
    }
    let network = live(&mut daemon, image);
    // Before it is looked at: it is to be as it is without any rule.
    points.clear();
    daemon.revive();
    check(&mut daemon, network.as_deref());
    points.hit()
}

/// Lives under each rule, some at once; answers which failed, and which were never hit.
fn sweep(rules: &[String], image: &str) -> (Vec<String>, Vec<String>) {
    let (next, failed, unhit) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        // Much of it is waiting.
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(rule) = rules.get(next.fetch_add(1, Ordering::SeqCst)) {
                    match panic::catch_unwind(|| survive(rule, image)) {
                        Ok(true) => {}
                        Ok(false) => unhit.lock().unwrap().push(rule.clone()),
                        Err(_) => failed.lock().unwrap().push(rule.clone()),
                    }
                }
            });
        }
    });
    (failed.into_inner().unwrap(), unhit.into_inner().unwrap())
}

/// The points of a life, and how often each is passed.
fn points(image: &str) -> BTreeMap<String, usize> {
    let trace = std::env::temp_dir().join(wait::unique("wharf-trace"));
    let env = vec![("WHARF_FAILPOINTS_TRACE".to_owned(), trace.display().to_string())];
    let mut daemon = Daemon::with(Settings { env, ..Settings::default() });
    let network = live(&mut daemon, image);
    // A life ends here: what is passed by a daemon that stops is passed under no rule.
    let passed = fs::read_to_string(&trace).unwrap();
    check(&mut daemon, network.as_deref());
    fs::remove_file(&trace).unwrap();
    let mut passes = BTreeMap::new();
    for line in passed.lines() {
        *passes.entry(line.to_owned()).or_default() += 1;
    }
    assert!(passes.len() > 40, "{passes:?}");
    passes
}

/// What is tried in CI: one of each kind. Each of them has to be hit.
const SAMPLE: &[&str] = &[
    "store/synced=abort,skip=9,once",
    "store/sync=abort,skip=25,once",
    "unpack/layer=abort,once",
    "task/made=abort,once",
    "task/StartTask/resumed=abort,once",
    "shim/start/forked=abort,once",
    "shim/create/made=abort,once",
    "shim/exit/record=abort,once",
    "task/DeleteTask/resumed=abort,once",
    "container/deleted=abort,once",
];

/// Where a shim stops for ever instead: in its start, in its work and at its end. The limits of the daemon's calls end that,
/// the longest after two minutes.
const FROZEN: &[&str] = &["shim/start/noted", "shim/serve", "shim/create/made", "shim/exit/record"];

#[test]
fn a_sample_of_crashes_loses_nothing_and_leaves_nothing() {
    let registry = Registry::start();
    let image = registry.push(&images::umoci_layers(), "crash:1");
    let rules: Vec<_> = SAMPLE.iter().map(|rule| (*rule).to_owned()).collect();
    let (failed, unhit) = sweep(&rules, &image);
    assert_eq!((failed, unhit), (Vec::new(), Vec::new()), "failed, and never hit");
}

#[test]
#[ignore = "long: make crash"]
fn every_crash_loses_nothing_and_leaves_nothing() {
    let registry = Registry::start();
    let image = registry.push(&images::umoci_layers(), "crash:1");
    let passes = points(&image);
    let every = |point: &str, count: usize| match point {
        // Each sync of the store; of the rest the first and the last pass.
        "store/sync" | "store/synced" => (0..count).collect(),
        _ => BTreeSet::from([0, count - 1]),
    };
    let rules = passes.iter().flat_map(|(point, count)| {
        every(point, *count).into_iter().map(move |skip| format!("{point}=abort,skip={skip},once"))
    });
    let rules: Vec<_> = FROZEN.iter().map(|point| format!("{point}=freeze,once")).chain(rules).collect();
    let (failed, unhit) = sweep(&rules, &image);
    // A later pass may be another process's, or not come.
    let (first, later): (Vec<_>, Vec<_>) = unhit.into_iter().partition(|rule| rule.contains("skip=0"));
    println!("{} crashes; {} points were passed less often than before", rules.len() - later.len(), later.len());
    assert_eq!((failed, first), (Vec::new(), Vec::new()), "failed, and never hit");
}
