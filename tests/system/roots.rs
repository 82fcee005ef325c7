//! Roots as an operator looks after them: checked, mended, backed up, put back; and the host below them.

use crate::fixture::{BUSYBOX, sleeper, with_busybox};
use std::{fs, path::PathBuf};
use wharf_tests::{Daemon, Output, command::Program, paths};

/// `wharfd` with a word about a daemon's root.
fn wharfd(daemon: &Daemon, args: &[&str]) -> Output {
    let program = Program::new(paths::binary("wharfd"));
    program.env("WHARF_ROOT", daemon.root()).env("WHARF_STATE", daemon.state()).run(args)
}

/// Has a word with `wharfd` that must fail, for a reason with these words in it.
#[track_caller]
fn refused(daemon: &Daemon, args: &[&str], words: &[&str]) {
    let output = wharfd(daemon, args);
    assert!(output.code == 1 && output.stderr.starts_with("wharfd: "), "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
}

/// Has a word with `wharfd` that must succeed; answers what it says.
#[track_caller]
fn done(daemon: &Daemon, args: &[&str]) -> String {
    let output = wharfd(daemon, args);
    assert_eq!(output.code, 0, "{output}");
    output.stdout
}

/// The largest blob of a root: a layer.
fn layer(daemon: &Daemon) -> PathBuf {
    let blobs = fs::read_dir(daemon.root().join("content/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    blobs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_damaged_root_is_found_out_mended_and_works_again() {
    let mut daemon = with_busybox();
    daemon.ok(["run", "--rm", BUSYBOX, "once", "true"]);
    refused(&daemon, &["check"], &["in use", "stop it first"]);
    daemon.terminate();
    assert!(done(&daemon, &["check", "--deep"]).starts_with("looked at "));

    // A power cut took the bytes of a layer, and an unpacked one with them.
    let layer = layer(&daemon);
    let bytes = fs::read(&layer).unwrap();
    fs::remove_file(&layer).unwrap();
    fs::write(&layer, vec![0; bytes.len()]).unwrap();
    let snapshots = daemon.root().join("snapshotters/overlayfs/snapshots");
    for snapshot in fs::read_dir(&snapshots).unwrap() {
        fs::remove_dir_all(snapshot.unwrap().path()).unwrap();
    }
    let shallow = wharfd(&daemon, &["check"]);
    assert!(
        shallow.code != 0 && shallow.stdout.contains("is lost") && !shallow.stdout.contains("its bytes"),
        "{shallow}"
    );
    let deep = wharfd(&daemon, &["check", "--deep"]);
    assert!(deep.stdout.contains("its bytes are those of") && deep.stderr.contains("wharfd repair mends"), "{deep}");
    let mended = wharfd(&daemon, &["repair", "--deep"]);
    assert!(mended.stdout.contains("a pull fetches it again"), "{mended}");
    assert!(mended.stdout.contains("unpacked anew"), "{mended}");
    // The image came from an archive, and comes from there again.
    daemon.up();
    crate::fixture::import_busybox(&daemon);
    daemon.ok(["run", "--rm", BUSYBOX, "again", "true"]);
    daemon.terminate();
    done(&daemon, &["check", "--deep"]);
}

#[test]
fn a_backup_brings_back_what_a_lost_database_knew() {
    let mut daemon = with_busybox();
    sleeper(&daemon, "web");
    let file = daemon.dir().join("backup");
    let to = file.to_str().unwrap();
    daemon.ok(["backup", to]);
    daemon.wharf(["backup", to]).refused(&["is there already"]);
    let before = (daemon.ok("containers ls").stdout, daemon.ok("images ls").stdout, daemon.ok("tasks ls").stdout);
    refused(&daemon, &["restore", to], &["in use"]);
    daemon.kill();
    refused(&daemon, &["restore", to], &["has a database already", "--force"]);
    // The disk ate it.
    fs::write(daemon.root().join("wharf.redb"), b"nonsense").unwrap();
    refused(&daemon, &["check"], &["wharf.redb", "wharfd restore"]);
    refused(&daemon, &["restore", "--force", daemon.address().to_str().unwrap()], &[]);
    done(&daemon, &["restore", "--force", to]);
    daemon.up();
    // The container has been running all the time, and is found again.
    let after = (daemon.ok("containers ls").stdout, daemon.ok("images ls").stdout, daemon.ok("tasks ls").stdout);
    assert_eq!(before, after);
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn a_host_that_runs_containers_is_well_enough() {
    let daemon = Daemon::start();
    let output = daemon.wharf("doctor");
    for part in ["kernel", "overlayfs", "seccomp", "cgroups", "disk space", "clock", "wharf-shim", "daemon"] {
        assert!(output.stdout.lines().any(|line| line.starts_with(part)), "{part}: {output}");
    }
    assert_eq!((output.code, output.stdout.contains("FAILED")), (0, false), "{output}");
    // Every warning says what to do.
    let mut lines = output.stdout.lines();
    while let Some(line) = lines.next() {
        if line.contains("  warning  ") {
            assert!(lines.next().is_some_and(|next| next.contains("-> ")), "{line}");
        }
    }
    let nowhere = daemon.client().env("WHARF_ADDRESS", "/nonexistent.sock").run("doctor --root /proc/version");
    assert_eq!(nowhere.code, 1, "{nowhere}");
    assert!(
        nowhere.stdout.contains("is no folder") && nowhere.stderr.contains("keep containers from running"),
        "{nowhere}"
    );
}
