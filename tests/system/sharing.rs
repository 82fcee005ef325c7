//! Whose blobs are whose: the two policies, as containerd has them, and what comes from where.

use wharf_tests::{Containerd, Daemon, Registry, TestDir, command::Program, containerd, eventually, images, unique};

const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// Has one namespace write a blob, and another claim it without having its bytes; tells whether that succeeds.
fn claimed(address: &std::path::Path) -> bool {
    let dir = TestDir::new();
    let other = dir.file("other", "abd");
    let sh = |line: &str| Program::new("sh").env("CONTAINERD_ADDRESS", address).run(["-c", line]);
    // Nothing refers to either blob, and the first collection comes soon after the start: what it met is done again.
    eventually("both blobs to be where they are said to be", || {
        let _ = sh("printf abc | ctr -n one content ingest mine").ok();
        // A client that is told that all is there already goes on behind it, for which its input has to be a file. What
        // it wrote where it was not told so stays under its reference, so that each attempt has another one.
        let theirs = format!("{} <{}", unique("theirs"), other.display());
        let claim = format!("ctr -n two content ingest --expected-size 3 --expected-digest {ABC} {theirs}");
        let claimed = sh(&claim).code == 0;
        let has = |name: &str| sh(&format!("ctr -n {name} content ls -q")).ok().stdout.contains(ABC);
        (has("one") && has("two") == claimed).then_some(claimed)
    })
}

#[test]
fn the_policies_are_those_of_containerd() {
    let isolated = "[plugins.\"io.containerd.metadata.v1.bolt\"]\ncontent_sharing_policy = \"isolated\"\n";
    for (theirs, ours, shares) in [("", "", true), (isolated, "[content]\nsharing_policy = \"isolated\"\n", false)] {
        let containerd =
            Containerd::with(containerd::Settings { config: theirs.to_owned(), ..containerd::Settings::default() });
        assert_eq!(claimed(&containerd.address()), shares, "containerd, {theirs:?}");
        assert_eq!(claimed(&Daemon::configured(ours).address()), shares, "wharfd, {ours:?}");
    }
}

#[test]
fn isolated_namespaces_fetch_for_themselves_unless_told_to_share() {
    let registry = Registry::start();
    let reference = registry.push(&images::umoci_layers(), "app/layers:latest");
    let fetched = || {
        let log = registry.log();
        log.lines().filter(|line| line.contains("\"GET /v2/app/layers/blobs/") && line.contains("\" 200 ")).count()
    };
    let daemon = Daemon::configured("[content]\nsharing_policy = \"isolated\"\n");
    let mut before = fetched();
    let mut pulls = |namespace: &str| {
        daemon.ok(["-n", namespace, "images", "pull", &reference]);
        daemon.ok(["-n", namespace, "run", "--rm", &reference, "a", "cat", "/srv/changed"]).prints("third");
        let now = fetched();
        std::mem::replace(&mut before, now) < now
    };
    assert!(pulls("one") && pulls("two"), "each its own");
    daemon.ok(["namespaces", "label", "one", "containerd.io/namespace.shareable=true"]);
    assert!(!pulls("three"), "what one has is everybody's now");
    daemon.ok(["namespaces", "label", "one", "containerd.io/namespace.shareable=false"]);
    assert!(pulls("four"), "and is not any more");
}

#[test]
fn where_a_blob_came_from_is_told_as_by_containerd() {
    let registry = Registry::start();
    let first = registry.push(&images::umoci_layers(), "b/layers:latest");
    let second = registry.push(&images::umoci_layers(), "a/layers:latest");
    let (containerd, daemon) = (Containerd::start(), Daemon::start());
    let mut told = Vec::new();
    for pull in [&first, &second] {
        containerd.ok(["images", "pull", "--plain-http", pull]);
        daemon.ok(["images", "pull", pull]);
        let sources = |listing: String| {
            let mut lines: Vec<_> = listing
                .lines()
                .skip(1)
                .map(|line| {
                    let labels = line.split_whitespace().last().unwrap_or_default();
                    // A value with commas in it is written without quotes: what follows up to the next key is its own.
                    let from = labels.find("containerd.io/distribution.source.").map_or("", |at| &labels[at..]);
                    let value = from.split(",containerd.io/").next().unwrap_or_default();
                    format!("{} {value}", line.split_whitespace().next().unwrap_or_default())
                })
                .collect();
            lines.sort();
            lines
        };
        let (theirs, ours) = (sources(containerd.ok("content ls").stdout), sources(daemon.ok("content ls").stdout));
        assert_eq!(ours, theirs);
        told.extend(ours);
    }
    assert!(told.iter().any(|line| line.ends_with("distribution.source.127.0.0.1=a/layers,b/layers")), "{told:#?}");
    // And the real client on wharfd mounts from there.
    let other = registry.reference("a/mounted:1");
    let _ = daemon.real_ctr(["images", "push", "--plain-http", &other, &second]).ok();
    let log = registry.log();
    assert!(log.lines().any(|line| line.contains("from=a/layers HTTP") && line.contains("\" 201 ")), "{log}");
}
