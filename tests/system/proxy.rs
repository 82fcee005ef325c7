//! Snapshotters over gRPC, both ways: another daemon's used by wharf, and wharf's used by Debian's containerd.

use crate::fixture::{BUSYBOX, import_busybox};
use wharf_tests::{
    Containerd, Daemon, Registry, containerd::Settings, eventually, images, leftovers::mounts_beneath, process,
};

/// A daemon that knows the overlayfs snapshotter of a containerd as `remote`.
fn using(containerd: &Containerd) -> Daemon {
    let address = containerd.address();
    Daemon::configured(&format!(
        "[proxy_plugins.remote]\ntype = \"snapshot\"\naddress = {address:?}\nremote_name = \"overlayfs\"\n"
    ))
}

/// The snapshots that a containerd has for a namespace, as rows of `ctr snapshots ls`.
fn snapshots_of(containerd: &Containerd, namespace: &str) -> Vec<Vec<String>> {
    containerd.ok(["--namespace", namespace, "snapshots", "ls"]).table().into_iter().skip(1).collect()
}

#[test]
fn wharf_uses_anothers_snapshots() {
    let mut containerd = Containerd::start();
    let mut daemon = using(&containerd);
    let plugins = daemon.ok("plugins ls").table();
    let row = plugins.iter().find(|row| row[1] == "remote").unwrap_or_else(|| panic!("{plugins:?}"));
    assert_eq!((row[0].as_str(), row.last().unwrap().as_str()), ("io.containerd.snapshotter.v1", "ok"));
    // Clients ask so before they pull.
    let ctr = wharf_tests::command::Program::new("ctr").env("CONTAINERD_ADDRESS", daemon.address());
    for id in ["overlayfs", "remote"] {
        let filter = format!("type==io.containerd.snapshotter.v1,id=={id}");
        let found = ctr.run(["plugins", "ls", "--detailed", &filter]).ok();
        let root = daemon.root().join("snapshotters").join(id);
        assert!(found.stdout.contains(root.to_str().unwrap()), "{found}");
        assert_eq!(found.stdout.matches("Type:").count(), 1, "{found}");
    }
    let archive = images::docker_archive(&images::umoci_layers(), "docker.io/library/layers:1");
    daemon.ok(["images", "import", "--snapshotter", "remote", archive.to_str().unwrap()]);
    let layers = snapshots_of(&containerd, daemon.namespace());
    assert!(layers.len() > 1 && layers.iter().all(|row| row.last().unwrap() == "Committed"), "{layers:?}");
    let image = "docker.io/library/layers:1";
    daemon.ok(["run", "--rm", "--snapshotter", "remote", image, "a", "echo", "hello"]).prints("hello");
    daemon.ok(["run", "-d", "--snapshotter", "remote", image, "web", "sleep", "1000"]);
    // Its files are the other daemon's.
    let mounted = std::fs::read_to_string(format!("/proc/{}/mountinfo", daemon.task_pid("web"))).unwrap();
    assert!(mounted.contains(containerd.dir().path().to_str().unwrap()), "{mounted}");
    daemon.ok(["snapshots", "--snapshotter", "remote", "info", "web"]);
    assert!(!daemon.ok(["snapshots", "--snapshotter", "remote", "usage", "web"]).stdout.is_empty());
    // Either may go and come back.
    containerd.kill();
    daemon.wharf(["run", "--snapshotter", "remote", image, "b", "true"]).refused(&["remote", "containerd.sock"]);
    daemon.ok("tasks exec --exec-id x web echo still here").prints("still here");
    containerd.up();
    daemon.kill();
    daemon.up();
    daemon.ok(["run", "--rm", "--snapshotter", "remote", image, "b", "echo", "again"]).prints("again");
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    let _ = daemon.wharf("containers rm b");
    daemon.expect_nothing_left();
    assert_eq!(snapshots_of(&containerd, daemon.namespace()).len(), layers.len(), "only layers are left");
    // What is removed here is removed there, the uppermost first.
    eventually("the layers to go", || {
        let names = daemon.ok("snapshots --snapshotter remote ls").table();
        names
            .iter()
            .skip(1)
            .for_each(|row| drop(daemon.wharf(["snapshots", "--snapshotter", "remote", "rm", &row[0]])));
        (names.len() == 1).then_some(())
    });
    assert_eq!(snapshots_of(&containerd, daemon.namespace()), Vec::<Vec<String>>::new());
}

#[test]
fn layers_that_the_remote_has_already_are_not_unpacked_again() {
    let containerd = Containerd::start();
    let registry = Registry::start();
    let reference = registry.push(&images::umoci_layers(), "app/layers:1");
    containerd.ok(["images", "pull", "--plain-http", &reference]);
    let daemon = using(&containerd);
    let there = snapshots_of(&containerd, containerd.namespace());
    // In the same namespace, for snapshots are a namespace's own.
    let within = |args: &[&str]| daemon.wharf([&["--namespace", containerd.namespace()], args].concat().as_slice());
    let _ = within(&["images", "pull", "--plain-http", "--snapshotter", "remote", &reference]).ok();
    assert_eq!(snapshots_of(&containerd, containerd.namespace()), there, "nothing was made");
    let here = within(&["snapshots", "--snapshotter", "remote", "ls"]).ok().table();
    let names = |rows: &[Vec<String>]| {
        let mut names: Vec<_> = rows.iter().map(|row| (row[0].clone(), row.last().unwrap().clone())).collect();
        names.sort();
        names
    };
    assert_eq!(names(&here[1..]), names(&there), "each has the name that the chain gives it");
    // What was taken up is the image's, and is mounted as such.
    let target = daemon.dir().folder("mounted");
    let _ = within(&["images", "mount", "--snapshotter", "remote", &reference, target.to_str().unwrap()]).ok();
    assert!(target.join("bin/busybox").exists());
    let _ = within(&["images", "unmount", "--rm", "--snapshotter", "remote", target.to_str().unwrap()]).ok();
}

#[test]
fn containerd_uses_wharfs_snapshots() {
    let mut daemon = Daemon::configured("[served_snapshotters]\nwharf = \"overlayfs\"\n");
    let proxy = format!("[proxy_plugins.wharf]\ntype = \"snapshot\"\naddress = {:?}\n", daemon.address());
    let mut containerd = Containerd::with(Settings { config: proxy, ..Settings::default() });
    let archive = images::docker_archive(&images::umoci_layers(), BUSYBOX);
    containerd.ok(["images", "import", "--snapshotter", "wharf", archive.to_str().unwrap()]);
    containerd.ok(["run", "--rm", "--snapshotter", "wharf", BUSYBOX, "a", "echo", "hello"]).prints("hello");
    containerd.ok(["run", "-d", "--snapshotter", "wharf", BUSYBOX, "web", "sh", "-c", "echo x >/new; sleep 1000"]);
    let pid: i32 = containerd.ok("tasks ls").row("web").unwrap()[1].parse().unwrap();
    let mounted = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert!(mounted.contains(daemon.root().join("snapshotters/wharf").to_str().unwrap()), "{mounted}");
    assert!(containerd.ok("snapshots --snapshotter wharf usage web").stdout.contains("web"));
    // Both see them: here as rows of the namespace that has the snapshotter's name.
    let ours = |daemon: &Daemon| daemon.ok("--namespace wharf snapshots --snapshotter wharf ls").table();
    let kinds = |rows: &[Vec<String>], kind: &str| rows.iter().filter(|row| row.last().unwrap() == kind).count();
    let rows = ours(&daemon);
    let layers = kinds(&rows, "Committed");
    assert!(layers > 1 && kinds(&rows, "Active") == 1, "{rows:?}");
    // Nothing of wharf's refers to them, and yet they are in use.
    let explained = daemon.ok("--namespace wharf content explain");
    assert!(explained.stdout.contains("web") && !explained.stdout.contains("unreferenced"), "{explained}");
    import_busybox(&daemon);
    daemon.wharf(["run", "--rm", "--snapshotter", "wharf", BUSYBOX, "a", "true"]).refused(&["wharf", "another daemon"]);
    // Either may be killed and come back.
    daemon.kill();
    assert!(process::alive(pid));
    daemon.up();
    containerd.kill();
    containerd.up();
    assert_eq!(ours(&daemon), rows);
    containerd.ok("tasks exec --exec-id x web cat /new").prints("x");
    containerd.ok("tasks rm -f web");
    containerd.ok("containers rm web");
    // containerd forgets at once and collects later, without any namespace in its calls.
    containerd.ok(["images", "rm", "--sync", BUSYBOX]);
    eventually("containerd's collection", || (ours(&daemon).len() == 1).then_some(()));
    assert_eq!(mounts_beneath(daemon.dir().path()), Vec::<std::path::PathBuf>::new());
}
