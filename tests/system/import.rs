//! `images import`: archives as `docker save` and OCI tools write them.

use crate::fixture::BUSYBOX;
use serde_json::json;
use wharf_tests::{
    Daemon,
    images::{self, Image, Layer, Layout, Packing, TAG, mode},
};

#[test]
fn docker_save_and_oci_layout() {
    let daemon = Daemon::start();
    let docker = images::docker_archive(&images::busybox(), BUSYBOX);
    let output = daemon.ok(["images", "import", docker.to_str().unwrap()]);
    assert!(output.stdout.starts_with(&format!("unpacking {BUSYBOX} (sha256:")), "{output}");
    assert!(output.stdout.ends_with("...done\n"), "{output}");

    let oci = images::oci_archive(&images::multi_platform());
    let output = daemon.ok(["images", "import", "--base-name", "example.com/platforms", oci.to_str().unwrap()]);
    assert!(output.stdout.contains(&format!("example.com/platforms:{TAG}")), "{output}");
    daemon.ok("run --rm example.com/platforms:latest a").prints(images::architecture());
    assert_eq!(daemon.ok("images ls -q").lines().count(), 2);

    // Without a base name the day is the name.
    let output = daemon.ok(["images", "import", oci.to_str().unwrap()]);
    assert!(output.stdout.contains("import-20"), "{output}");
    daemon.expect_nothing_left();
}

#[test]
fn standard_input_is_an_archive_too() {
    let daemon = Daemon::start();
    let archive = std::fs::read(images::docker_archive(&images::busybox(), BUSYBOX)).unwrap();
    let _ = daemon.client().run_with("images import -", &archive).ok();
    daemon.ok("images ls -q").prints(BUSYBOX);
}

#[test]
fn unpacking_can_wait() {
    let daemon = Daemon::start();
    let archive = images::docker_archive(&images::busybox(), BUSYBOX);
    daemon.ok(["images", "import", "--no-unpack", archive.to_str().unwrap()]);
    assert_eq!(daemon.ok("snapshots ls").table().len(), 1);
    // What `run` needs and is not unpacked, it unpacks.
    daemon.ok(["run", "--rm", BUSYBOX, "a", "echo", "hi"]).prints("hi");
}

#[test]
fn importing_again_changes_nothing() {
    let daemon = Daemon::start();
    let archive = images::docker_archive(&images::busybox(), BUSYBOX);
    daemon.ok(["images", "import", archive.to_str().unwrap()]);
    let look = || {
        // The archive's other files are content for a moment.
        daemon.ok("content prune");
        (daemon.ok("images ls").stdout, daemon.files("").len())
    };
    let before = look();
    daemon.ok(["images", "import", archive.to_str().unwrap()]);
    assert_eq!(look(), before);
}

#[test]
fn what_is_no_archive_is_refused() {
    let daemon = Daemon::start();
    let dir = daemon.dir();
    daemon.wharf("images import /no/such/file").refused(&["/no/such/file", "no such file"]);
    daemon.wharf("images import /etc/passwd").refused(&["archive"]);
    let empty = dir.file("empty.tar", []);
    daemon.wharf(["images", "import", empty.to_str().unwrap()]).refused(&["archive"]);

    let whole = std::fs::read(images::docker_archive(&images::busybox(), BUSYBOX)).unwrap();
    let cut = dir.file("cut.tar", &whole[..whole.len() / 2]);
    daemon.wharf(["images", "import", cut.to_str().unwrap()]).refused(&[]);

    // A manifest that names a layer which is not in the archive.
    let layout = Layout::create(&dir.folder("holes"));
    let _ = layout.add(TAG, &Image::new().layer(Layer::new().file("a", mode(0o644), "a"), Packing::Gzip));
    let layer = layout.layers(TAG).remove(0);
    std::fs::remove_file(layout.blob_path(&layer)).unwrap();
    let holes = dir.join("holes.tar");
    layout.archive(&holes);
    daemon.wharf(["images", "import", holes.to_str().unwrap()]).refused(&[&layer[7..19]]);

    // A blob that is not what its name says.
    let layout = Layout::create(&dir.folder("lies"));
    let _ = layout.add(TAG, &Image::new().layer(Layer::new().file("a", mode(0o644), "a"), Packing::Gzip));
    std::fs::write(layout.blob_path(&layout.layers(TAG)[0]), "something else").unwrap();
    let lies = dir.join("lies.tar");
    layout.archive(&lies);
    daemon.wharf(["images", "import", lies.to_str().unwrap()]).refused(&[]);

    daemon.ok("images ls -q").prints("");
    daemon.ok("snapshots ls").prints("KEY PARENT KIND");
    daemon.expect_nothing_left();
    // And the daemon takes the next good one.
    crate::fixture::import_busybox(&daemon);
}

#[test]
fn an_image_for_another_machine_says_so() {
    let daemon = Daemon::start();
    let layout = Layout::create(&daemon.dir().folder("layout"));
    let image = Image::new().platform("s390x", None).config("Cmd", json!(["/a"]));
    let _ = layout.add(TAG, &image.layer(Layer::new().file("a", mode(0o755), "a"), Packing::Gzip));
    let archive = daemon.dir().join("archive.tar");
    layout.archive(&archive);
    let output = daemon.wharf(["images", "import", "--base-name", "example.com/other", archive.to_str().unwrap()]);
    if output.code == 0 {
        // The kernel's refusal comes after the start, so it is the process's last word, as it is with runc.
        let output = daemon.wharf("run --rm example.com/other:latest a").exits(1);
        assert_eq!(output.stderr, "exec /a: exec format error\n");
    } else {
        output.refused(&["platform"]);
    }
    daemon.ok("containers ls -q").prints("");
}
