//! Flags of `run` for which the client works itself, where that is disturbed: by others, by an earlier death, by failure.

use crate::fixture::{BUSYBOX, with_busybox};
use std::thread;
use wharf_tests::{Daemon, Output, command::Program, paths};

const MAPS: [&str; 4] = ["--uidmap", "0:5000:70000", "--gidmap", "0:6000:70000"];

fn mapped(daemon: &Daemon, id: &str) -> Output {
    daemon
        .wharf([&["run", "--rm"], &MAPS[..], &[BUSYBOX, id, "stat", "-c", "%u-%g", "/", "/bin/sh"]].concat().as_slice())
}

/// The layers, and what was made of them for the maps.
fn layers(daemon: &Daemon) -> (String, String) {
    let listed = daemon.ok("snapshots ls");
    let layers = listed.lines().find(|line| line.starts_with("sha256:")).unwrap();
    let layers = layers.split(' ').next().unwrap().to_owned();
    let mapped = format!("{layers}-5000-6000");
    (layers, mapped)
}

#[test]
fn many_at_once_share_the_layers_of_a_user_namespace() {
    let daemon = with_busybox();
    thread::scope(|scope| {
        for id in ["a", "b", "c", "d", "e", "f"] {
            let daemon = &daemon;
            scope.spawn(move || mapped(daemon, id).ok().prints("0-0\n0-0"));
        }
    });
    let left = daemon.ok("snapshots ls");
    assert!(!left.stdout.contains("-remap"), "{left}");
    daemon.ok("leases ls -q").prints("");
    daemon.expect_nothing_left();
}

#[test]
fn what_a_dead_client_has_begun_is_no_hindrance() {
    let daemon = with_busybox();
    let (layers, name) = layers(&daemon);
    let begun = format!("{name}-remap");
    daemon.ok(["snapshots", "prepare", &begun, &layers]);
    mapped(&daemon, "a").ok().prints("0-0\n0-0");
    let left = daemon.ok("snapshots ls");
    assert_eq!(left.stdout.matches("-remap").count(), 1, "{left}");
    daemon.ok(["snapshots", "rm", &begun]);
    daemon.expect_nothing_left();
}

#[test]
fn a_map_that_moves_files_beyond_all_users_leaves_nothing() {
    let daemon = with_busybox();
    let maps = ["--uidmap", "0:4294967295:1", "--gidmap", "0:0:1"];
    let args = [&["run", "--rm"], &maps[..], &[BUSYBOX, "a", "true"]].concat();
    daemon.wharf(args.as_slice()).refused(&["shifted by 4294967295"]);
    assert!(!daemon.ok("snapshots ls").stdout.contains("4294967295"));
    daemon.ok("leases ls -q").prints("");
    daemon.ok("containers ls -q").prints("");
    daemon.expect_nothing_left();
}

/// Runs the client with a network of its own, and CNI configured by `configuration`.
fn networked(daemon: &Daemon, configuration: &str, args: &[&str]) -> Output {
    let folder = daemon.dir().folder("net.d");
    let _ = daemon.dir().file("net.d/net.conflist", configuration);
    let script = "
        for each in etc var/lib; do
            mkdir -p $0/over/$each/upper $0/over/$each/work
            mount -t overlay -o lowerdir=/$each,upperdir=$0/over/$each/upper,workdir=$0/over/$each/work overlay /$each
        done
        mkdir -p /etc/cni && mount -t tmpfs tmpfs /etc/cni && ln -s $0 /etc/cni/net.d && exec \"$@\"";
    let client = paths::binary("wharf");
    let (folder, client) = (folder.to_str().unwrap(), client.to_str().unwrap());
    let before = ["--net", "--mount", "--propagation", "private", "sh", "-ec", script, folder, client];
    let program = Program::new("unshare").env("WHARF_ADDRESS", daemon.address());
    program.env("WHARF_NAMESPACE", daemon.namespace()).run([&before[..], args].concat().as_slice())
}

#[test]
fn a_network_that_fails_leaves_no_container_and_no_address() {
    let daemon = with_busybox();
    let ipam = daemon.dir().folder("ipam");
    // The first plugin takes an address, the second one is not there.
    let configuration = |second: &str| {
        let ipam = ipam.display();
        let ipam = format!(r#"{{"type":"host-local","dataDir":"{ipam}","subnet":"10.88.9.0/24"}}"#);
        format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"ptp","ipam":{ipam}}}{second}]}}"#)
    };
    let addresses = || {
        let files = std::fs::read_dir(ipam.join("n")).into_iter().flatten();
        files.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("10.")).count()
    };
    let run = ["run", "--rm", "--cni", BUSYBOX, "a", "ip", "-o", "-4", "addr", "show", "eth0"];
    networked(&daemon, &configuration(r#",{"type":"no-such-plugin"}"#), &run).refused(&[
        "no-such-plugin",
        "(add)",
        "in path [/opt/cni/bin /usr/lib/cni]",
    ]);
    daemon.ok("containers ls -q").prints("");
    daemon.ok("tasks ls -q").prints("");
    assert_eq!(addresses(), 0);
    daemon.expect_nothing_left();
    // One that is there and refuses leaves no address.
    let refuses = r#",{"type":"tuning","sysctl":{"net.no.such.setting":"1"}}"#;
    networked(&daemon, &configuration(refuses), &run).refused(&["plugin type=\"tuning\" failed (add)"]);
    assert_eq!(addresses(), 0);
    daemon.ok("containers ls -q").prints("");
    // And the next one is connected.
    let output = networked(&daemon, &configuration(""), &run).ok();
    assert!(output.stdout.contains("10.88.9."), "{output}");
    assert_eq!(addresses(), 0);
    // Not started, though made: it has no network any more.
    let run = ["run", "--rm", "--cni", BUSYBOX, "a", "/no/such/program"];
    assert_ne!(networked(&daemon, &configuration(""), &run).code, 0);
    assert_eq!(addresses(), 0);
    daemon.ok("tasks ls -q").prints("");
    daemon.expect_nothing_left();
}
