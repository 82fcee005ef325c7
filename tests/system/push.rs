//! `images push`: to Debian's registry, by wharf and by the real `ctr`.

use std::{fs, os::unix::fs::PermissionsExt};
use wharf_tests::{
    Daemon, Registry,
    command::{self, Program},
    daemon::Settings,
    hostile::{Behaviour, HostileRegistry},
    images::{self, Layout, TAG},
    registry::{Demands, USER},
    wait,
};

/// A daemon that has an image under a name.
fn holding(layout: &Layout, name: &str) -> Daemon {
    let daemon = Daemon::start();
    let archive = images::docker_archive(layout, name);
    daemon.ok(["images", "import", "--no-unpack", archive.to_str().unwrap()]);
    daemon
}

/// What a registry has under a reference, as skopeo sees it.
fn digest(registry: &Registry, reference: &str, credentials: bool) -> String {
    let user = format!("{}:{}", USER.0, USER.1);
    let mut args = vec!["inspect", "--tls-verify=false", "--format", "{{.Digest}}"];
    if credentials {
        args.extend(["--creds", &user]);
    }
    let at = format!("docker://{reference}");
    args.push(&at);
    assert!(reference.starts_with(&registry.address().to_string()));
    command::tool("skopeo", args.as_slice()).trim().to_owned()
}

#[test]
fn an_image_goes_round_by_tls_and_password() {
    let registry = Registry::with(Demands { tls: true, password: true });
    let layout = images::umoci_layers();
    let local = "docker.io/library/layers:latest";
    let daemon = holding(&layout, local);
    let target = daemon.ok("images ls").row(local).unwrap()[2].clone();
    let reference = registry.reference("team/layers:v1");
    let (certificate, user) = (registry.certificate(), format!("{}:{}", USER.0, USER.1));
    let certificate = certificate.to_str().unwrap();
    let push = ["images", "push", "--user", &user, "--tlscacert", certificate, &reference, local];
    let output = daemon.ok(push);
    assert!(output.stdout.contains(&format!("manifest-{target}")) && output.stdout.contains("elapsed"), "{output}");
    assert_eq!(digest(&registry, &reference, true), target);
    // What is there is not sent again.
    let output = daemon.ok(push);
    assert!(!output.stdout.contains("done") && output.stdout.contains("exists"), "{output}");

    // Another repository: its blobs are mounted from the first.
    let other = registry.reference("team/other:v1");
    daemon.ok(["images", "push", "--user", &user, "--tlscacert", certificate, &other, local]);
    assert_eq!(digest(&registry, &other, true), target);
    let log = registry.log();
    let mounts = log.lines().filter(|l| l.contains("uploads/") && l.contains("from=team") && l.contains("\" 201 "));
    let layers = layout.layers(TAG).len();
    assert!(mounts.count() > layers, "config and layers are mounted:\n{log}");

    for wrong in [vec!["--user", "tester:wrong"], vec![]] {
        let args = ["images", "push", "--tlscacert", certificate].into_iter().chain(wrong);
        daemon
            .wharf(args.chain([reference.as_str(), local]).collect::<Vec<_>>().as_slice())
            .refused(&["unauthenticated"]);
    }
    assert!(!daemon.log().contains(USER.1), "the password is in the log");
    assert_eq!(daemon.ok("leases ls").table().len(), 1, "only the header");

    // Somebody else can pull and run it.
    let second = Daemon::start();
    second.ok(["images", "pull", "--user", &user, "--tlscacert", certificate, &other]);
    second.ok(["run", "--rm", &other, "a", "cat", "/srv/changed"]).prints("third");
}

#[test]
fn dockers_files_tell_who_we_are() {
    let registry = Registry::with(Demands { tls: true, password: true });
    let reference = registry.push(&images::busybox(), "app/busybox:latest");
    let folder = wharf_tests::TestDir::new();
    let hosts = registry.hosts_folder();
    let helpers = folder.folder("bin");
    let helper = helpers.join("docker-credential-test");
    let said = format!(r#"{{"Username":"{}","Secret":"{}"}}"#, USER.0, USER.1);
    fs::write(
        &helper,
        format!("#!/bin/sh\nread server\necho \"$server\" >> {:?}\necho '{said}'\n", folder.join("asked")),
    )
    .unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", helpers.display(), std::env::var("PATH").unwrap());
    let address = registry.address();
    let encoded = command::tool("sh", ["-c", &format!("printf %s {}:{} | base64", USER.0, USER.1)]);
    for config in [
        format!(r#"{{"auths":{{"{address}":{{"auth":"{}"}}}}}}"#, encoded.trim()),
        format!(r#"{{"auths":{{"https://{address}/v2/":{{"username":"{}","password":"{}"}}}}}}"#, USER.0, USER.1),
        format!(r#"{{"credHelpers":{{"{address}":"test"}}}}"#),
        r#"{"credsStore":"test"}"#.to_owned(),
    ] {
        fs::write(folder.join("config.json"), &config).unwrap();
        let env =
            vec![("DOCKER_CONFIG".to_owned(), folder.path().display().to_string()), ("PATH".to_owned(), path.clone())];
        let config_toml = format!("[registry]\nhosts_dirs = [{hosts:?}]\n");
        let daemon = Daemon::with(Settings { config: Some(config_toml), env, ..Settings::default() });
        daemon.ok(["images", "pull", &reference]);
        let pushed = registry.reference("app/pushed:latest");
        daemon.ok(["images", "push", &pushed, &reference]);
        assert!(!daemon.log().contains(USER.1), "the password is in the log");
    }
    let asked = fs::read_to_string(folder.join("asked")).unwrap();
    assert!(asked.lines().count() >= 2 && asked.lines().all(|line| line == address.to_string()), "{asked}");
    // A file that nobody can read is told, not passed over.
    fs::write(folder.join("config.json"), "{").unwrap();
    let env = vec![("DOCKER_CONFIG".to_owned(), folder.path().display().to_string())];
    let daemon = Daemon::with(Settings { env, ..Settings::default() });
    daemon.wharf(["images", "pull", &reference]).refused(&["config.json"]);
}

#[test]
fn an_index_is_pushed_whole_or_for_one_platform() {
    let registry = Registry::start();
    let layout = images::multi_platform();
    let reference = registry.push(&layout, "app/platforms:latest");
    let daemon = Daemon::start();
    daemon.ok(["images", "pull", "--plain-http", "--platform", "linux/s390x", &reference]);
    let whole = registry.reference("copy/whole:latest");
    // Parts of it are not here; nothing is sent then.
    daemon.wharf(["images", "push", "--plain-http", &whole, &reference]).refused(&["not found", "sha256:"]);
    let one = registry.reference("copy/one:latest");
    daemon.ok(["images", "push", "--plain-http", "--platform", "linux/s390x", &one, &reference]);
    let inspected = Program::new("skopeo").run(["inspect", "--raw", "--tls-verify=false", &format!("docker://{one}")]);
    assert!(inspected.ok().stdout.contains("config"), "a manifest, no index");
    daemon
        .wharf(["images", "push", "--plain-http", "--platform", "linux/riscv64", &one, &reference])
        .refused(&["not found"]);

    daemon.ok(["images", "pull", "--plain-http", "--all-platforms", &reference]);
    daemon.ok(["images", "push", "--plain-http", &whole, &reference]);
    assert_eq!(digest(&registry, &whole, false), layout.digest(TAG));
    let manifest = layout.digest(TAG);
    let index = "application/vnd.oci.image.index.v1+json";
    let named = registry.reference("copy/named:latest");
    daemon.ok(["images", "push", "--plain-http", "--manifest", &manifest, "--manifest-type", index, &named]);
    assert_eq!(digest(&registry, &named, false), manifest);
    daemon.wharf(["images", "push", "--plain-http", &named, "docker.io/library/none:latest"]).refused(&["not found"]);
    let pinned = format!("{}@sha256:{}", registry.reference("copy/pinned"), "0".repeat(64));
    daemon.wharf(["images", "push", "--plain-http", &pinned, &reference]).refused(&["sha256:0000"]);
}

#[test]
fn the_real_ctr_pushes_by_the_content_service() {
    let registry = Registry::with(Demands { tls: true, password: true });
    let layout = images::umoci_layers();
    let local = "docker.io/library/layers:latest";
    let daemon = holding(&layout, local);
    let target = daemon.ok("images ls").row(local).unwrap()[2].clone();
    let reference = registry.reference("by/ctr:v1");
    let (hosts, user) = (registry.hosts_folder(), format!("{}:{}", USER.0, USER.1));
    let hosts = hosts.to_str().unwrap();
    let ctr = Program::new("ctr").env("CONTAINERD_ADDRESS", daemon.address());
    let ctr = ctr.env("CONTAINERD_NAMESPACE", daemon.namespace());
    let _ = ctr.run(["images", "push", "--user", &user, "--hosts-dir", hosts, &reference, local]).ok();
    assert_eq!(digest(&registry, &reference, true), target);
    let _ = ctr.run(["images", "pull", "--user", &user, "--hosts-dir", hosts, &reference]).ok();
    daemon.ok(["run", "--rm", &reference, "a", "cat", "/srv/changed"]).prints("third");
}

#[test]
fn refusals_of_a_push_are_told() {
    let layout = images::busybox();
    let local = "docker.io/library/busybox:latest";
    let daemon = holding(&layout, local);
    for (code, word) in [(401, "unauthenticated"), (403, "permission denied"), (400, "invalid argument")] {
        let registry = HostileRegistry::serve(&layout, move |_| Behaviour::status(code));
        daemon
            .wharf(["images", "push", "--plain-http", &registry.reference("app"), local])
            .refused(&[&code.to_string(), word]);
    }
    daemon.wharf(["images", "push", "--plain-http", "127.0.0.1:1/app:v1", local]).refused(&["connection refused"]);
    daemon.wharf(["images", "push", "app", local]).refused(&["registry host"]);
    assert_eq!(daemon.ok("leases ls").table().len(), 1, "only the header");
}

#[test]
fn a_push_ends_with_its_client() {
    let layout = images::busybox();
    let local = "docker.io/library/busybox:latest";
    let daemon = holding(&layout, local);
    // Whether a blob is there is never answered.
    let registry = HostileRegistry::serve(&layout, |request| match request.is_blob() {
        true => Behaviour::Silent,
        false => Behaviour::Proper,
    });
    let mut push = daemon.background(["images", "push", "--plain-http", &registry.reference("app"), local]);
    wait::eventually("a request", || registry.requests().iter().any(|r| r.is_blob()).then_some(()));
    push.signal(nix::sys::signal::Signal::SIGINT);
    assert_ne!(push.wait(), 0);
    daemon.until("leases ls", "the push has let go", |output| output.table().len() == 1);
}
