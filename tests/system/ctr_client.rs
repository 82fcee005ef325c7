//! Commands of `ctr` that our client does in a way of its own: checkpoints, shims, installed programs, profiles.

use crate::fixture::{BUSYBOX, with_busybox};
use std::fs;
use wharf_tests::{Daemon, Registry, daemon::Settings, images};

#[test]
fn what_a_container_has_written_is_kept_and_restored() {
    let daemon = with_busybox();
    daemon.ok(["run", "-d", BUSYBOX, "a", "sh", "-c", "echo kept > /file; exec sleep 1000"]);
    daemon.until(["tasks", "exec", "--exec-id", "x", "a", "cat", "/file"], "the file", |output| output.code == 0);
    daemon.ctr(["c", "checkpoint", "--rw", "--image", "a", "example.com/point:1"]).ok().prints("");
    assert_eq!(daemon.ok("tasks ls").row("a").unwrap()[2], "RUNNING", "it goes on");
    daemon.wharf(["c", "checkpoint", "a", "example.com/point:1"]).refused(&["example.com/point:1", "already exists"]);
    daemon.ok(["c", "checkpoint", "a", "example.com/bare:1"]);
    daemon.wharf(["c", "checkpoint", "nothing", "example.com/x:1"]).refused(&["nothing", "not found"]);
    assert_eq!(daemon.ok("leases ls").table().len(), 1, "only the header");
    daemon.ok("tasks rm -f a");
    daemon.ok("c rm a");

    daemon.ctr(["c", "restore", "--rw", "b", "example.com/point:1"]).ok().prints("");
    daemon.until("tasks ls", "b runs", |output| output.row("b").is_some_and(|row| row[2] == "RUNNING"));
    daemon.ok(["tasks", "exec", "--exec-id", "x", "b", "cat", "/file"]).prints("kept");
    let info: serde_json::Value = serde_json::from_str(&daemon.ok("c info b").stdout).unwrap();
    assert_eq!((&info["Image"], &info["SnapshotKey"]), (&BUSYBOX.into(), &"b".into()));
    daemon.ok("tasks rm -f b");
    daemon.ok("c rm b");
    // Without it the container begins where its image does, and writes the file itself.
    daemon.wharf(["c", "restore", "--rw", "c", "example.com/bare:1"]).refused(&["media type not found"]);
    daemon.wharf(["c", "restore", "--live", "c", "example.com/point:1"]).refused(&["checkpoint not found", "--task"]);
    daemon.wharf(["c", "restore", "c", BUSYBOX]).refused(&["not found in index"]);
    assert_eq!(daemon.ok("snapshots ls").table().iter().filter(|row| row[0] == "c").count(), 0);
    assert!(daemon.ok("c ls -q").stdout.is_empty());
    daemon.ok(["c", "restore", "c", "example.com/bare:1"]);
    daemon.ok("tasks rm -f c");
    daemon.ok("c rm c");
}

#[test]
fn a_checkpoint_goes_to_another_host_by_way_of_a_registry() {
    let (registry, daemon) = (Registry::start(), with_busybox());
    daemon.ok(["run", "-d", BUSYBOX, "a", "sh", "-c", "echo kept > /file; exec sleep 1000"]);
    daemon.until(["tasks", "exec", "--exec-id", "x", "a", "cat", "/file"], "the file", |output| output.code == 0);
    let reference = registry.reference("points/a:1");
    daemon.ok(["c", "checkpoint", "--rw", "a", &reference]);
    daemon.ok(["images", "push", &reference]);
    let other = with_busybox();
    other.ok(["c", "restore", "--rw", "b", &reference]);
    other.ok(["tasks", "exec", "--exec-id", "x", "b", "cat", "/file"]).prints("kept");
    other.ok("tasks rm -f b");
    daemon.ok("tasks rm -f a");
}

#[test]
fn a_checkpoint_that_cannot_be_leaves_the_task_as_it_was() {
    let daemon = with_busybox();
    daemon.ok(["run", "-d", BUSYBOX, "a", "sleep", "1000"]);
    daemon.ok(["run", "-d", "--runc-binary", "runc", BUSYBOX, "b", "sleep", "1000"]);
    // The embedded runtime has none, and criu does not run here.
    for (id, word) in [("a", "checkpoint"), ("b", "criu")] {
        daemon.wharf(["tasks", "checkpoint", id]).refused(&[word]);
        daemon.wharf(["c", "checkpoint", "--task", id, "example.com/point:1"]).refused(&[word]);
        assert_eq!(daemon.ok("tasks ls").row(id).unwrap()[2], "RUNNING");
    }
    daemon.wharf("tasks checkpoint nothing").refused(&["nothing", "not found"]);
    assert_eq!(daemon.ok("images ls -q").lines().count(), 1);
    assert_eq!(daemon.ok("leases ls").table().len(), 1, "only the header");
    daemon.ok("tasks rm -f a b");
}

#[test]
fn a_shims_calls_are_made_by_hand() {
    let daemon = with_busybox();
    daemon.ok(["run", "-d", BUSYBOX, "a", "sleep", "1000"]);
    let pid = daemon.ok("tasks ls").row("a").unwrap()[1].clone();
    let state = daemon.ctr("shim --id a state").ok();
    let state: serde_json::Value = serde_json::from_str(&state.stdout).unwrap();
    assert_eq!((state["pid"].to_string(), &state["status"], &state["id"]), (pid, &2.into(), &"a".into()));
    let bundle = state["bundle"].as_str().unwrap();
    assert!(fs::exists(format!("{bundle}/config.json")).unwrap(), "{bundle}");

    let dir = wharf_tests::TestDir::new();
    let spec =
        r#"{"args":["sh","-c","echo $WHO in $(pwd); exit 3"],"cwd":"/","user":{"uid":0,"gid":0},"env":["PATH=/bin"]}"#;
    let (spec, out) = (dir.file("process.json", spec), dir.join("out"));
    let log = format!("file://{}", out.display());
    let exec = ["shim", "--id", "a", "exec", "--spec", spec.to_str().unwrap(), "-e", "WHO=me", "--cwd", "/tmp"];
    let started = daemon.ctr([&exec[..], &["--stdout", &log, "x"]].concat().as_slice()).ok();
    assert!(started.stdout.starts_with("exec running with pid "), "{started}");
    daemon.until("tasks ps a", "the process has ended", |output| output.table().len() == 2);
    assert_eq!(fs::read_to_string(&out).unwrap(), "me in /tmp\n");
    daemon.ctr("shim --id a delete x").ok().prints("container deleted and returned exit status 3");
    daemon.ctr("shim --id a delete x").refused(&["not found"]);
    daemon.ctr("shim --id nothing state").refused(&["nothing", "not found"]);
    daemon.ctr("shim state").refused(&["container id must be specified"]);
    daemon.ctr("shim --id a start").refused(&["a"]);
    daemon.ok("tasks rm -f a");
}

#[test]
fn installed_programs_are_found_by_the_daemon() {
    let dir = wharf_tests::TestDir::new();
    let opt = dir.join("opt");
    let config = format!("[opt]\npath = {opt:?}\n");
    let daemon = Daemon::with(Settings { config: Some(config), ..Settings::default() });
    let archive = images::docker_archive(&images::busybox(), BUSYBOX);
    daemon.ok(["images", "import", archive.to_str().unwrap()]);
    assert!(daemon.ok(["plugins", "ls", "-d", "id==opt"]).stdout.contains(opt.to_str().unwrap()));
    daemon.ok(["install", BUSYBOX]);
    assert!(opt.join("bin/busybox").is_file() && !opt.join("lib").exists());
    daemon.wharf(["install", BUSYBOX]).refused(&["cannot replace bin/", opt.to_str().unwrap(), "already exists"]);
    daemon.ok(["install", "--replace", BUSYBOX]);
    let left: Vec<_> = fs::read_dir(&opt).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["bin"], "nothing is left beside it");
    // A runtime that was installed is found by its name.
    fs::copy("/usr/sbin/runc", opt.join("bin/myrunc")).unwrap();
    daemon.ok(["run", "--rm", "--runc-binary", "myrunc", BUSYBOX, "a", "echo", "found"]).prints("found");
    daemon.wharf("install example.com/nothing:1").refused(&["example.com/nothing:1", "not found"]);
}

#[test]
fn there_are_no_profiles_of_go() {
    let daemon = Daemon::start();
    daemon.ctr("pprof goroutines").refused(&["no go program", "supervision tree"]);
    daemon.ctr("pprof -d /x.sock profile -s 2s").refused(&["/x.sock", "perf record"]);
}
