//! What nothing keeps goes, and what something keeps stays: as with containerd, and explained.

use crate::fixture::{BUSYBOX, sleeper, with_busybox};
use std::{collections::BTreeSet, ffi::OsString};
use wharf_tests::{Containerd, Daemon, Output, eventually, images};

const LAYERS: &str = "docker.io/library/layers:3";

/// The first cells of a listing, without its header.
fn firsts(output: &Output) -> BTreeSet<String> {
    output.table().into_iter().skip(1).filter_map(|row| row.into_iter().next()).collect()
}

/// The real `ctr` at both daemons, which have to come to the same.
struct Pair {
    wharf: Daemon,
    containerd: Containerd,
}

impl Pair {
    fn start() -> Self {
        Self { wharf: Daemon::start(), containerd: Containerd::start() }
    }

    /// Has both do it; a path in it is each one's own.
    fn both(&self, args: &[&str]) {
        let own = |dir: &wharf_tests::TestDir| -> Vec<OsString> {
            args.iter().map(|arg| arg.replace("{dir}", dir.path().to_str().unwrap()).into()).collect()
        };
        let _ = self.wharf.ctr(own(self.wharf.dir())).ok();
        let _ = self.containerd.ctr(own(self.containerd.dir())).ok();
    }

    /// Waits until both have the same blobs and snapshots, and gives how many of each.
    fn agree(&self, when: &str) -> (usize, usize) {
        let look = |what: &str| {
            let plain = |output: Output, dir: &wharf_tests::TestDir| -> BTreeSet<String> {
                let path = dir.path().to_str().unwrap();
                firsts(&output).into_iter().map(|cell| cell.replace(path, "{dir}")).collect()
            };
            let ours = plain(self.wharf.ctr(what).ok(), self.wharf.dir());
            let theirs = plain(self.containerd.ctr(what).ok(), self.containerd.dir());
            (ours == theirs).then_some(ours.len()).ok_or((ours, theirs))
        };
        let mut last = None;
        let agreed = wharf_tests::wait::within(wharf_tests::wait::PATIENCE, || {
            let looked = (look("content ls"), look("snapshots ls"));
            match looked {
                (Ok(content), Ok(snapshots)) => Some((content, snapshots)),
                other => {
                    last = Some(other);
                    None
                }
            }
        });
        agreed.unwrap_or_else(|| panic!("{when}: (wharf, containerd): {last:#?}"))
    }
}

#[test]
fn what_goes_and_what_stays_is_as_with_containerd() {
    let pair = Pair::start();
    for (layout, name) in [(images::busybox(), BUSYBOX), (images::umoci_layers(), LAYERS)] {
        let archive = images::docker_archive(&layout, name);
        pair.both(&["images", "import", archive.to_str().unwrap()]);
    }
    let (all, snapshots) = pair.agree("imported");
    assert!(all >= 6 && snapshots >= 3, "{all} {snapshots}");
    // A mount has a lease that holds its snapshot, and so those below; nothing holds the content.
    let target = "{dir}/mounted";
    for dir in [pair.wharf.dir(), pair.containerd.dir()] {
        let _ = dir.folder("mounted");
    }
    pair.both(&["images", "mount", LAYERS, target]);
    pair.both(&["images", "rm", "--sync", LAYERS]);
    let (left, mounted) = pair.agree("without the name");
    assert_eq!((left, mounted), (3, snapshots + 1));
    pair.both(&["images", "unmount", target]);
    pair.both(&["leases", "rm", "--sync", target]);
    assert_eq!(pair.agree("without the lease"), (3, 1));
    // Labels hold layers; without them only what is unpacked is left.
    pair.both(&["content", "prune", "references"]);
    assert_eq!(pair.agree("without the labels"), (2, 1));
    // A container holds its snapshot, not its image.
    pair.both(&["containers", "create", BUSYBOX, "c", "true"]);
    pair.both(&["images", "rm", "--sync", BUSYBOX]);
    let (left, snapshots) = pair.agree("without any name");
    assert_eq!((left, snapshots), (0, 2));
    pair.both(&["containers", "rm", "c"]);
    assert_eq!(pair.agree("without anything"), (0, 0));
    eventually("the files are gone", || pair.wharf.files("content").is_empty().then_some(()));
    eventually("the folders are gone", || pair.wharf.files("snapshotters").is_empty().then_some(()));
}

#[test]
fn everything_goes_by_itself() {
    let daemon = with_busybox();
    daemon.until("content ls", "the archive's other files are gone", |output| output.table().len() == 4);
    daemon.ok(["run", "--rm", BUSYBOX, "a", "true"]);
    daemon.ok(["images", "rm", BUSYBOX]);
    eventually("the files are gone", || daemon.files("content").is_empty().then_some(()));
    eventually("the folders are gone", || daemon.files("snapshotters").is_empty().then_some(()));
    assert_eq!((daemon.ok("content ls").table().len(), daemon.ok("snapshots ls").table().len()), (1, 1));
}

#[test]
fn pruning_tells_what_it_does() {
    let daemon = with_busybox();
    daemon.until("content ls", "the archive's other files are gone", |output| output.table().len() == 4);
    sleeper(&daemon, "web");
    let input = vec![b'x'; 3 << 20];
    let _ = daemon.client().run_with("content ingest loose", &input).ok();
    let loose = images::digest(&input);
    let told = daemon.ok("content prune --dry-run");
    assert_eq!(told.header(), "NAMESPACE KIND NAME SIZE KEPT WHY");
    let row = |name: &str| {
        let found = told.table().into_iter().find(|row| row.get(2).is_some_and(|cell| cell == name));
        found.unwrap_or_else(|| panic!("{name}: {told}"))
    };
    assert_eq!(row(&loose)[3..], ["3.146MB", "no", "nothing", "refers", "to", "it"]);
    assert_eq!(row(BUSYBOX)[4..], ["yes", "for", "its", "own", "sake"]);
    assert_eq!(row("overlayfs/web")[4..6], ["yes", "container"]);
    assert!(told.stdout.ends_with("would reclaim 3.0 MiB\n"), "{told}");
    daemon.ok(["content", "get", &loose]);
    daemon.ok("content prune").prints("deleted 1 blob; reclaimed 3.0 MiB");
    daemon.wharf(["content", "get", &loose]).refused(&["not found"]);
    daemon.ok("content prune").prints("deleted nothing; reclaimed 0.0 B");
    // An image that a container was made from is used.
    daemon.ok(["images", "tag", BUSYBOX, "other:name"]);
    daemon.ok("images prune");
    daemon.ok("images prune --all").prints("other:name\ndeleted nothing; reclaimed 0.0 B");
    daemon.ok("images ls -q").prints(BUSYBOX);
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    let pruned = daemon.ok("images prune -a");
    assert!(pruned.stdout.starts_with(BUSYBOX) && pruned.stdout.contains("3 blobs"), "{pruned}");
    assert!(daemon.files("content").is_empty());
}

#[test]
fn a_client_that_is_cut_short_leaves_nothing() {
    let mut daemon = with_busybox();
    daemon.until("content ls", "the archive's other files are gone", |output| output.table().len() == 4);
    let before = daemon.files("content").len();
    // Files that no row speaks of: as after a power cut in the wrong moment.
    let root = daemon.root();
    daemon.kill();
    let stray = "0123456789abcdef0123456789abcdef";
    std::fs::write(root.join(format!("content/blobs/sha256/{}", stray.repeat(2))), "stray").unwrap();
    std::fs::create_dir(root.join("content/ingest").join(stray)).unwrap();
    std::fs::write(root.join("content/ingest").join(stray).join("data"), "stray").unwrap();
    std::fs::create_dir_all(root.join("snapshotters/overlayfs/snapshots/4711/fs/etc")).unwrap();
    std::fs::create_dir_all(root.join("snapshotters/native/new/4712")).unwrap();
    daemon.up();
    eventually("stray files are gone", || (daemon.files("content").len() == before).then_some(()));
    eventually("stray folders are gone", || {
        let there = ["overlayfs/snapshots/4711", "native/new/4712"];
        let gone = there.iter().all(|path| !root.join("snapshotters").join(path).exists());
        let trash = std::fs::read_dir(root.join("snapshotters/overlayfs/trash")).unwrap().count();
        (gone && trash == 0 && !root.join("content/ingest").join(stray).exists()).then_some(())
    });
}
