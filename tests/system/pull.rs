//! `images pull`: from Debian's registry, and from one that breaks off.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use wharf_tests::{
    Daemon, Registry,
    hostile::{Behaviour, HostileRegistry, Request},
    images::{self, Packing},
    registry::{Demands, USER},
};

#[test]
fn an_image_is_pulled_and_run() {
    let daemon = Daemon::start();
    let registry = Registry::start();
    let layout = images::umoci_layers();
    let reference = registry.push(&layout, "app/layers:latest");
    let output = daemon.ok(["images", "pull", "--plain-http", &reference]);
    for word in ["resolved", "elapsed", "total", "unpacking linux/amd64 sha256:", "done: "] {
        assert!(output.stdout.contains(word), "{word:?} is not in {output}");
    }
    for layer in layout.layers(images::TAG) {
        assert!(output.stdout.contains(&format!("layer-{layer}")), "{output}");
    }
    let row = daemon.ok("images ls").row(&reference).unwrap();
    assert_eq!(row[2], layout.digest(images::TAG));
    daemon.ok(["run", "--rm", &reference, "a", "cat", "/srv/changed"]).prints("third");
    daemon.ok(["run", "--rm", &reference, "a", "ls", "/srv"]).prints("changed");
    // Again: everything is here already.
    daemon.ok(["images", "pull", "--plain-http", &reference]);
    daemon.expect_nothing_left();
}

#[test]
fn a_digest_is_a_reference() {
    let daemon = Daemon::start();
    let registry = Registry::start();
    let layout = images::busybox();
    registry.push(&layout, "app/busybox:latest");
    let reference = registry.reference(&format!("app/busybox@{}", layout.digest(images::TAG)));
    daemon.ok(["images", "pull", "--plain-http", &reference]);
    daemon.ok(["run", "--rm", &reference, "a", "echo", "by digest"]).prints("by digest");
    let wrong = registry.reference(&format!("app/busybox@sha256:{}", "0".repeat(64)));
    daemon.wharf(["images", "pull", "--plain-http", &wrong]).refused(&["not found"]);
}

#[test]
fn loopback_is_plain_http_by_itself() {
    let daemon = Daemon::start();
    let registry = Registry::start();
    let reference = registry.push(&images::busybox(), "app/busybox:latest");
    daemon.ok(["images", "pull", &reference]);
}

#[test]
fn tls_and_a_password() {
    let daemon = Daemon::start();
    let registry = Registry::with(Demands { tls: true, password: true });
    let reference = registry.push(&images::multi_platform(), "app/platforms:latest");
    let certificate = registry.certificate();
    let certificate = certificate.to_str().unwrap();
    let user = format!("{}:{}", USER.0, USER.1);
    daemon.ok(["images", "pull", "--user", &user, "--tlscacert", certificate, &reference]);
    daemon.ok(["run", "--rm", &reference, "a"]).prints(images::architecture());

    daemon
        .wharf(["images", "pull", "--user", "tester:wrong", "--tlscacert", certificate, &reference])
        .refused(&["unauthenticated"]);
    daemon.wharf(["images", "pull", "--tlscacert", certificate, &reference]).refused(&["unauthenticated"]);
    // The same by the daemon's files.
    let hosts = registry.hosts_folder();
    daemon.ok(["images", "rm", "--sync", &reference]);
    daemon.ok(["images", "pull", "--user", &user, "--hosts-dir", hosts.to_str().unwrap(), &reference]);
    daemon.ok(["images", "rm", "--sync", &reference]);
    daemon.ok(["images", "pull", "--user", &user, "--skip-verify", &reference]);
    assert!(!daemon.log().contains(USER.1), "the password is in the log");
}

#[test]
fn a_mirror_is_asked_first_and_the_server_if_it_fails() {
    let daemon = Daemon::start();
    let layout = images::busybox();
    let (mirror, server) = (HostileRegistry::serve(&layout, |_| Behaviour::Proper), Registry::start());
    let reference = server.push(&layout, "app/busybox:latest");
    let folder = daemon.dir().folder(format!("hosts/{}", server.address()));
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        server.address(),
        mirror.address()
    );
    fs::write(folder.join("hosts.toml"), hosts).unwrap();
    let hosts = daemon.dir().join("hosts");
    let pull = ["images", "pull", "--hosts-dir", hosts.to_str().unwrap(), &reference];
    daemon.ok(pull);
    let asked = mirror.requests();
    assert!(asked.iter().any(Request::is_blob), "the mirror was not asked: {asked:?}");
    let named = format!("ns={}", server.address()).replace(':', "%3A");
    assert!(asked.iter().all(|request| request.path.replace(':', "%3A").contains(&named)), "{asked:?}");

    daemon.ok(["images", "rm", "--sync", &reference]);
    let broken = HostileRegistry::serve(&layout, |_| Behaviour::status(404));
    let hosts = fs::read_to_string(folder.join("hosts.toml")).unwrap();
    let hosts = hosts.replace(&mirror.address().to_string(), &broken.address().to_string());
    fs::write(folder.join("hosts.toml"), hosts).unwrap();
    daemon.ok(pull);
    assert!(!broken.requests().is_empty());
}

#[test]
fn a_token_is_fetched_when_asked_for() {
    let daemon = Daemon::start();
    let layout = images::busybox();
    let registry = HostileRegistry::serve(&layout, |request| {
        let host = request.header("host").unwrap().to_owned();
        if request.path.starts_with("/token") {
            let right = request.path.contains("service=test") && request.path.contains("scope=repository%3Aapp");
            return if right {
                Behaviour::Status(200, vec![], r#"{"token":"t0ken"}"#.into())
            } else {
                Behaviour::status(400)
            };
        }
        if request.header("authorization") == Some("Bearer t0ken") {
            return Behaviour::Proper;
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="test",scope="repository:app:pull""#);
        Behaviour::Status(401, vec![("WWW-Authenticate".into(), challenge)], "{}".into())
    });
    daemon.ok(["images", "pull", "--plain-http", &registry.reference("app")]);
    let tokens = registry.requests().iter().filter(|request| request.path.starts_with("/token")).count();
    assert_eq!(tokens, 1, "a token is kept for its scope");
}

#[test]
fn other_platforms_are_left_or_taken_as_asked() {
    let registry = Registry::start();
    let layout = images::multi_platform();
    let reference = registry.push(&layout, "app/platforms:latest");
    // An index, and a manifest, config and layer for each platform.
    for (flags, blobs) in [(vec![], 4), (vec!["--all-platforms"], 10), (vec!["--platform", "linux/s390x"], 4)] {
        let daemon = Daemon::start();
        let mut args = vec!["images", "pull", "--plain-http"];
        args.extend(&flags);
        args.push(&reference);
        daemon.ok(args.as_slice());
        assert_eq!(daemon.ok("content ls -q").lines().count(), blobs, "{flags:?}");
        let row = daemon.ok("images ls").row(&reference).unwrap();
        let expected = if flags.contains(&"linux/s390x") { "linux/s390x" } else { "linux/amd64" };
        assert!(row[row.len() - 2].contains(expected), "{row:?}");
    }
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let daemon = Daemon::start();
    let layout = images::every_entry(Packing::Gzip);
    let layer = layout.layers(images::TAG).remove(0);
    let size = fs::metadata(layout.blob_path(&layer)).unwrap().len();
    let first = usize::try_from(size / 2).unwrap();
    let cut = layer.clone();
    let registry = HostileRegistry::serve(&layout, move |request| {
        if request.is_blob_of(&cut) && request.repetition == 0 { Behaviour::Cut(first) } else { Behaviour::Proper }
    });
    daemon.ok(["images", "pull", "--plain-http", &registry.reference("app")]);
    let asked: Vec<_> = registry.requests().into_iter().filter(|request| request.is_blob_of(&layer)).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    let range = asked[1].header("range").unwrap_or_default();
    assert!(range.starts_with("bytes=") && range != "bytes=0-", "the rest is asked for: {asked:?}");
    daemon.ok(["run", "--rm", &registry.reference("app"), "a", "sh", "-c", "true"]);
}

#[test]
fn a_server_without_ranges_is_read_again() {
    let daemon = Daemon::start();
    let layout = images::every_entry(Packing::Gzip);
    let layer = layout.layers(images::TAG).remove(0);
    let registry = HostileRegistry::serve(&layout, move |request| match request.repetition {
        0 if request.is_blob_of(&layer) => Behaviour::Cut(1000),
        _ if request.is_blob() => Behaviour::WithoutRange,
        _ => Behaviour::Proper,
    });
    daemon.ok(["images", "pull", "--plain-http", &registry.reference("app")]);
}

#[test]
fn a_busy_registry_is_asked_again() {
    let daemon = Daemon::start();
    let registry = HostileRegistry::serve(&images::busybox(), |request| match request.repetition {
        0 if request.is_manifest() => Behaviour::status(503),
        0 if request.is_blob() => Behaviour::status(429),
        _ => Behaviour::Proper,
    });
    daemon.ok(["images", "pull", "--plain-http", &registry.reference("app")]);
}

#[test]
fn a_blob_is_fetched_once_however_many_ask() {
    let daemon = Daemon::start();
    let layout = images::busybox();
    let layer = layout.layers(images::TAG).remove(0);
    let asked = Arc::new(AtomicUsize::new(0));
    let (stalled, counted) = (layer.clone(), asked.clone());
    let registry = HostileRegistry::serve(&layout, move |request| {
        if request.is_manifest() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        if request.is_blob_of(&stalled) { Behaviour::Stall(100) } else { Behaviour::Proper }
    });
    let pulls: Vec<_> = ["one", "two", "three"]
        .map(|name| daemon.background(["images", "pull", "--plain-http", &registry.reference(name)]))
        .into();
    // All three know what they want before the layer comes.
    wharf_tests::eventually("three resolved manifests", || (asked.load(Ordering::Relaxed) >= 3).then_some(()));
    wharf_tests::eventually("the layer's request", || {
        registry.requests().iter().any(|r| r.is_blob_of(&layer)).then_some(())
    });
    registry.release();
    for mut pull in pulls {
        assert_eq!(pull.wait(), 0, "{}", pull.text());
    }
    let fetched = registry.requests().iter().filter(|request| request.is_blob_of(&layer)).count();
    assert_eq!(fetched, 1, "{:?}", registry.requests());
    assert_eq!(daemon.ok("images ls -q").lines().count(), 3);
}

#[test]
fn a_pull_ends_with_its_client_and_is_taken_up_again() {
    let daemon = Daemon::start();
    let layout = images::every_entry(Packing::Plain);
    let layer = layout.layers(images::TAG).remove(0);
    let stalled = layer.clone();
    let registry = HostileRegistry::serve(&layout, move |request| {
        if request.is_blob_of(&stalled) && request.repetition == 0 {
            Behaviour::Stall(1_500_000)
        } else {
            Behaviour::Proper
        }
    });
    let reference = registry.reference("app");
    let mut pull = daemon.background(["images", "pull", "--plain-http", &reference]);
    let ingest = format!("layer-{layer}");
    daemon.until("content active", "half of the layer is here", |output| {
        output.row(&ingest).is_some_and(|row| !row[1].starts_with('0'))
    });
    pull.signal(nix::sys::signal::Signal::SIGINT);
    assert_ne!(pull.wait(), 0);
    daemon.ok("images ls -q").prints("");
    // The first answer stays stalled: what comes now is asked for anew.
    daemon.ok(["images", "pull", "--plain-http", &reference]);
    let asked: Vec<_> = registry.requests().into_iter().filter(|request| request.is_blob_of(&layer)).collect();
    assert!(asked.last().unwrap().header("range").is_some(), "what was here is not fetched again: {asked:?}");
    assert_eq!(daemon.ok("content active").table().len(), 1, "only the header");
}

#[test]
fn progress_on_a_terminal_is_drawn_in_place() {
    let daemon = Daemon::start();
    let registry = Registry::start();
    let reference = registry.push(&images::busybox(), "app/busybox:latest");
    let mut terminal = daemon.terminal(["images", "pull", "--plain-http", &reference]);
    assert_eq!(terminal.exit_code(), 0, "{}", terminal.screen());
    terminal.expect("done: ");
    assert!(terminal.screen().contains("+++"), "bars are drawn: {}", terminal.screen());
}
