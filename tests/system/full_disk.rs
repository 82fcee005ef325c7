//! A disk that somebody fills to the last byte: what frees space works, what runs goes on, and what failed is told.

use crate::fixture::{BUSYBOX, UNTIL_TERM, import_busybox, sleeper};
use std::{
    fs,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use wharf_tests::{
    Daemon, Registry,
    daemon::Settings,
    eventually,
    images::{self, Packing},
    process,
};

/// Root, state and everything else on a small tmpfs, with an image in it.
fn small(size: &str) -> Daemon {
    let daemon = Daemon::with(Settings { size: Some(size.to_owned()), ..Settings::default() });
    import_busybox(&daemon);
    daemon
}

/// Somebody else's file, which takes every byte there is, and each that becomes free, until it is dropped.
struct Hog {
    path: std::path::PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Hog {
    fn on(daemon: &Daemon) -> Self {
        let path = daemon.dir().join("hog");
        let mut file = fs::File::create(&path).unwrap();
        let mut fill = move || while file.write(&[7; 4096]).is_ok_and(|written| written > 0) {};
        fill();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                fill();
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { path, stop, thread: Some(thread) }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(thread::JoinHandle::join);
        fs::remove_file(&self.path).unwrap();
        joined.unwrap().unwrap();
    }
}

/// Filled once and no further: what becomes free stays free.
fn filled(daemon: &Daemon) -> std::path::PathBuf {
    let path = daemon.dir().join("filler");
    let mut file = fs::File::create(&path).unwrap();
    let full = std::io::copy(&mut std::io::repeat(7), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    path
}

#[test]
fn deleting_stopping_and_pruning_work_on_a_full_disk() {
    let mut daemon = small("48m");
    let archive = images::docker_archive(&images::umoci_layers(), "docker.io/library/layers:3");
    daemon.ok(["images", "import", archive.to_str().unwrap()]);
    sleeper(&daemon, "web");
    sleeper(&daemon, "db");
    daemon.ok(["containers", "create", BUSYBOX, "idle", "true"]);
    for n in 0..20 {
        daemon.ok(["images", "tag", BUSYBOX, &format!("tag:{n}")]);
    }
    let hog = Hog::on(&daemon);
    // What is new is refused, and it is said why.
    daemon.wharf(["run", "--rm", BUSYBOX, "new", "true"]).refused(&["no space"]);
    // What was collected just now may still have room for some names.
    let mut names = 0;
    eventually("the reserve is in use", || {
        names += 1;
        let tagged = daemon.wharf(["images", "tag", BUSYBOX, &format!("another:{names}")]);
        tagged.stderr.contains("no space left in").then_some(())
    });
    // What runs goes on, and what frees space works.
    assert!(process::alive(daemon.task_pid("web")));
    daemon.ok("tasks kill -s 9 db");
    daemon.until_task("db", "STOPPED");
    let removed = daemon.ok("tasks rm db");
    assert!(removed.stderr.contains("137"), "{removed}");
    daemon.ok("containers rm db idle");
    for n in 0..10 {
        daemon.ok(["images", "rm", &format!("tag:{n}")]);
    }
    // A daemon that starts on a full disk finds everything, and goes on in the same way.
    daemon.kill();
    daemon.up();
    assert_eq!(daemon.until_task("web", "RUNNING")[0], "web");
    let blobs = daemon.files("content").len();
    daemon.ok("images rm --sync docker.io/library/layers:3");
    assert!(daemon.files("content").len() < blobs, "its files are gone");
    for n in 10..20 {
        daemon.ok(["images", "rm", "--sync", &format!("tag:{n}")]);
    }
    daemon.ok("content prune");
    daemon.terminate();
    daemon.up();
    // What was freed may have made the reserve whole first: new names take it up again.
    let mut more = 0;
    eventually("the reserve is in use again", || {
        more += 1;
        let tagged = daemon.wharf(["images", "tag", BUSYBOX, &format!("more:{more}")]);
        tagged.stderr.contains("no space left in").then_some(())
    });
    drop(hog);
    // With room again it works as before, by itself.
    daemon.ok(["images", "tag", BUSYBOX, "another:1"]);
    daemon.ok("tasks exec --exec-id x web echo works").prints("works");
    daemon.ok(["run", "--rm", BUSYBOX, "b", "echo", "too"]).prints("too");
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    crate::events::log(&daemon);
    daemon.expect_nothing_left();
}

#[test]
fn what_is_deleted_makes_room_for_what_is_new() {
    let daemon = small("48m");
    let large = images::oci_archive(&images::large(1, 8, Packing::Gzip));
    daemon.ok(["images", "import", "--base-name", "example.com/large", large.to_str().unwrap()]);
    let name = daemon.ok("images ls -q name~=large").stdout.trim().to_owned();
    let filler = filled(&daemon);
    daemon.wharf(["run", "--rm", BUSYBOX, "a", "true"]).refused(&["no space"]);
    daemon.ok(["images", "rm", "--sync", &name]);
    daemon.ok(["run", "--rm", BUSYBOX, "a", "echo", "works"]).prints("works");
    fs::remove_file(filler).unwrap();
    daemon.expect_nothing_left();
}

#[test]
fn an_exit_on_a_full_disk_is_recorded() {
    let mut daemon = small("32m");
    let log = daemon.dir().join("web.log");
    let uri = format!("file://{}", log.display());
    daemon.ok(["run", "-d", "--log-uri", &uri, BUSYBOX, "web", "sh", "-c", UNTIL_TERM]);
    sleeper(&daemon, "other");
    eventually("the trap", || fs::read_to_string(&log).unwrap().contains("ready").then_some(()));
    let (pid, other) = (daemon.task_pid("web"), daemon.task_pid("other"));
    let hog = Hog::on(&daemon);
    daemon.ok("tasks kill web");
    daemon.until_task("web", "STOPPED");
    // One that ends while no daemon is there, with its shim: only the record tells of it.
    daemon.kill();
    let shim = process::parent(other).unwrap();
    process::kill_all(&[other]);
    eventually("its record", || {
        let bundle = daemon.state().join("io.containerd.runtime.v2.task").join(daemon.namespace()).join("other");
        fs::read_to_string(bundle.join("exits/init.json")).ok().filter(|text| text.contains("137"))
    });
    process::kill_all(&[shim]);
    daemon.up();
    daemon.until_task("other", "STOPPED");
    drop(hog);
    let exits: Vec<_> = crate::events::log(&daemon).into_iter().filter(|event| event.topic == "/tasks/exit").collect();
    let of = |id: &str| {
        let mut found = exits.iter().filter(|exit| exit.payload["container_id"] == id);
        (found.next().unwrap().payload["exit_status"].clone(), found.count())
    };
    assert_eq!((of("web"), of("other")), ((3.into(), 0), (137.into(), 0)), "{pid}: {exits:?}");
    for id in ["web", "other"] {
        let _ = daemon.wharf(["tasks", "rm", id]);
    }
    daemon.ok("containers rm web other");
    daemon.expect_nothing_left();
}

#[test]
fn a_pull_that_meets_a_full_disk_says_so_and_gives_its_space_back() {
    let daemon = small("48m");
    let registry = Registry::start();
    let reference = registry.push(&images::large(1, 64, Packing::Gzip), "app/large:latest");
    sleeper(&daemon, "web");
    daemon.wharf(["images", "pull", "--plain-http", &reference]).refused(&["no space"]);
    let hog = Hog::on(&daemon);
    daemon.wharf(["images", "pull", "--plain-http", &reference]).refused(&["no space"]);
    drop(hog);
    assert!(daemon.ok("images ls -q").stdout.trim() == BUSYBOX);
    assert_eq!(daemon.ok("snapshots ls").table().len(), 3, "its layers are gone");
    assert_eq!(daemon.ok("content active").table().len(), 1, "what came of its blobs is gone");
    daemon.ok("tasks exec --exec-id x web echo works").prints("works");
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}
