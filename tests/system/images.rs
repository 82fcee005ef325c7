//! Images once they are here: listed, named, mounted, removed.

use crate::fixture::{BUSYBOX, import_busybox, sleeper, with_busybox};
use std::fs;
use wharf_tests::{Containerd, Daemon, Output, images};

#[test]
fn listings_are_those_of_ctr() {
    let daemon = Daemon::start();
    let containerd = Containerd::start();
    let same = |what: &str| {
        let (ours, theirs): (Output, Output) = (daemon.ok(what), containerd.ok(what));
        assert_eq!(ours.table(), theirs.table(), "{what}\nwharf: {ours}\nctr: {theirs}");
    };
    let all = ["images ls", "images ls -q", "images check", "containers ls", "tasks ls", "snapshots ls", "leases ls"];
    for what in all {
        same(what);
    }
    for (layout, name) in [(images::busybox(), BUSYBOX), (images::umoci_layers(), "docker.io/library/layers:3")] {
        let archive = images::docker_archive(&layout, name);
        daemon.ok(["images", "import", archive.to_str().unwrap()]);
        containerd.ok(["images", "import", archive.to_str().unwrap()]);
    }
    for what in all {
        same(what);
    }
    let labelled = format!("images label {BUSYBOX} a=b");
    daemon.ok(&labelled).prints(&containerd.ok(&labelled).stdout);
    same("images ls");
    same("images ls name~=layers");
}

#[test]
fn names_are_given_and_taken() {
    let daemon = with_busybox();
    daemon.ok(["images", "tag", BUSYBOX, "other:name"]).prints("other:name");
    daemon.wharf(["images", "tag", BUSYBOX, "other:name"]).refused(&["image \"other:name\"", "already exists"]);
    daemon.ok(["images", "tag", "--force", BUSYBOX, "other:name"]);
    daemon.wharf(["images", "tag", "no:such", "x:y"]).refused(&["image \"no:such\"", "not found"]);
    daemon.ok("images ls -q").prints(&format!("{BUSYBOX}\nother:name"));
    daemon.ok(["images", "rm", BUSYBOX]).prints(BUSYBOX);
    // The other name still holds the content.
    daemon.ok(["run", "--rm", "other:name", "a", "echo", "hi"]).prints("hi");
    daemon.ok("images rm --sync other:name");
    daemon.ok("images ls -q").prints("");
    let missing = daemon.ok("images rm other:name");
    assert!(missing.stderr.contains("other:name: image not found"), "{missing}");
}

#[test]
fn a_container_outlives_its_images_name() {
    let daemon = with_busybox();
    sleeper(&daemon, "a");
    daemon.ok(["images", "rm", "--sync", BUSYBOX]);
    daemon.ok("tasks exec --exec-id x a echo works").prints("works");
    daemon.ok("tasks rm -f a");
    daemon.ok("tasks start -d a");
    daemon.until_task("a", "RUNNING");
}

#[test]
fn an_image_is_mounted_and_unmounted() {
    let daemon = with_busybox();
    let target = daemon.dir().folder("mounted");
    let target = target.to_str().unwrap();
    let output = daemon.ok(["images", "mount", BUSYBOX, target]);
    let lines: Vec<_> = output.lines().collect();
    assert!(lines[0].starts_with("sha256:"), "the chain id: {output}");
    assert_eq!(lines[1..], [target], "{output}");
    assert!(fs::read_to_string(format!("{target}/etc/passwd")).unwrap().starts_with("root:"));
    let read_only = fs::write(format!("{target}/new"), "").unwrap_err();
    assert_eq!(read_only.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    daemon.ok(["images", "unmount", "--rm", target]).prints(target);
    assert_eq!(fs::read_dir(target).unwrap().count(), 0);
    assert!(!daemon.ok("snapshots ls").stdout.contains(target), "--rm removes the snapshot too");

    daemon.ok(["images", "mount", "--rw", BUSYBOX, target]);
    fs::write(format!("{target}/new"), "written").unwrap();
    daemon.ok(["images", "unmount", target]);
    assert!(daemon.ok("snapshots ls").stdout.contains(target), "without --rm the snapshot stays");
    daemon.ok(["snapshots", "rm", target]);
    daemon.ok(["run", "--rm", BUSYBOX, "a", "ls", "-d", "/etc"]).prints("/etc");
    daemon.wharf(["images", "mount", "no:such", target]).refused(&["no:such", "not found"]);
    daemon.wharf(["images", "mount", BUSYBOX, "/no/such/folder"]).refused(&["/no/such/folder"]);
    assert!(!daemon.ok("snapshots ls").stdout.contains("/no/such"), "a failed mount leaves no snapshot");
    daemon.expect_nothing_left();
}

#[test]
fn the_native_snapshotter_runs_containers_too() {
    let daemon = Daemon::start();
    let archive = images::docker_archive(&images::umoci_layers(), "docker.io/library/layers:latest");
    daemon.ok(["images", "import", "--snapshotter", "native", archive.to_str().unwrap()]);
    let image = "docker.io/library/layers:latest";
    let script = "cat /srv/changed; ls /srv; grep -c overlay /proc/mounts";
    let output = daemon.wharf(["run", "--rm", "--snapshotter", "native", image, "a", "sh", "-c", script]).exits(1);
    assert_eq!(output.stdout, "thirdchanged\n0\n", "{output}");
    // The other snapshotter has nothing of it yet; it is unpacked there when first used, or the client says how.
    let other = daemon.wharf(["run", "--rm", "--snapshotter", "overlayfs", image, "b", "cat", "/srv/changed"]);
    assert!(other.code == 0 && other.stdout == "third" || other.stderr.contains("unpack"), "{other}");
    daemon.wharf(["run", "--rm", "--snapshotter", "zoo", image, "c", "true"]).refused(&["zoo"]);
    daemon.expect_nothing_left();
}

#[test]
fn an_image_is_exported_and_comes_back() {
    let daemon = with_busybox();
    let containerd = Containerd::start();
    let file = daemon.dir().join("out.tar");
    daemon.ok(["images", "export", file.to_str().unwrap(), BUSYBOX]);
    containerd.ok(["images", "import", file.to_str().unwrap()]);
    containerd.ok(["run", "--rm", BUSYBOX, "a", "echo", "exported"]).prints("exported");
    let before = daemon.ok("images ls").table();
    daemon.ok(["images", "rm", "--sync", BUSYBOX]);
    daemon.ok(["images", "import", file.to_str().unwrap()]);
    assert_eq!(daemon.ok("images ls").table(), before);
    // The same bytes each time.
    let again = daemon.dir().join("again.tar");
    daemon.ok(["images", "export", again.to_str().unwrap(), BUSYBOX]);
    assert_eq!(fs::read(file).unwrap(), fs::read(again).unwrap());
    import_busybox(&daemon);
}

#[test]
fn content_is_listed_read_and_written() {
    let daemon = with_busybox();
    // The archive's other files were content for a moment.
    let rows =
        daemon.until("content ls", "manifest, config and layer are left", |list| list.table().len() == 4).table();
    assert_eq!(rows[0], ["DIGEST", "SIZE", "AGE", "LABELS"]);
    let digest = daemon.ok("images ls").row(BUSYBOX).unwrap()[2].clone();
    let manifest = daemon.ok(["content", "get", &digest]).stdout;
    assert_eq!(images::digest(manifest.as_bytes()), digest);
    let stored = daemon.client().run_with("content ingest some-ref", b"bytes of mine").ok();
    assert!(stored.stderr.is_empty(), "{stored}");
    let mine = images::digest(b"bytes of mine");
    daemon.ok(["content", "get", &mine]).prints("bytes of mine");
    let wrong = ["content", "ingest", "--expected-digest", &digest.replace("sha256:", "sha256:0")[..71], "ref2"];
    daemon.client().run_with(wrong, b"other bytes").refused(&["digest"]);
    daemon.ok(["content", "rm", &mine]).prints(&mine);
    daemon.wharf(["content", "get", &mine]).refused(&[&mine, "not found"]);
    assert_eq!(daemon.ok("content active").header(), "REF SIZE AGE");
}
