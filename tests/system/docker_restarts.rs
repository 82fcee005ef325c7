//! Debian's dockerd on wharf, and what happens when either daemon goes.

use crate::docker::{COUNTING, STATUS, goes_on, start};
use std::{fs, process::Stdio};
use wharf_tests::{TestDir, eventually, go, process, process::Guarded};

#[test]
fn docker_keeps_its_containers_when_wharfd_is_killed() {
    let (mut daemon, mut docker) = start();
    let events = fs::File::create(docker.dir().join("events")).unwrap();
    let mut watching = docker.command([
        "events",
        "--filter",
        "event=die",
        "--format",
        "{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}",
    ]);
    let _watching = Guarded::new(watching.stdout(events).stdin(Stdio::null()).spawn().unwrap());
    for (name, options) in [("stays", ""), ("ends", ""), ("later", ""), ("other", ""), ("again", "--restart always")] {
        docker.start(name, options, COUNTING);
        goes_on(&docker, name);
    }
    let mut attached = docker.terminal(["exec", "-it", "stays", "sh"]);
    attached.send("echo 4$((1+1))\n");
    attached.expect("42");
    let pid = docker.pid("stays");
    daemon.kill();
    goes_on(&docker, "stays");
    // Whoever is attached does not notice either.
    attached.send("echo 5$((1+1))\n");
    attached.expect("52");
    for name in ["ends", "again"] {
        process::terminate(docker.pid(name));
    }
    daemon.up();
    // Ended while nobody was there, and told all the same.
    docker.until("ends", STATUS, "exited 3");
    docker.until("again", "{{.RestartCount}} {{.State.Status}}", "1 running");
    assert_eq!(docker.inspect("stays", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
    docker.ok("exec stays echo here").prints("here");
    attached.send("exit 6\n");
    assert_eq!(attached.exit_code(), 6, "{}", attached.screen());
    docker.ok("stop later");
    docker.until("later", STATUS, "exited 3");
    docker.ok("run --rm busybox echo new").prints("new");
    let told = || fs::read_to_string(docker.dir().join("events")).unwrap();
    for died in ["ends 3", "again 3", "later 3"] {
        eventually(&format!("the event {died:?}"), || told().contains(died).then_some(()));
    }
    assert_eq!(told().matches("ends 3").count(), 1, "{}", told());

    // The other way round: dockerd goes, by force and in good order, and one container meanwhile.
    let (restarted, over) = (docker.pid("again"), docker.pid("other"));
    docker.kill();
    process::terminate(restarted);
    process::terminate(over);
    docker.up();
    docker.until("other", STATUS, "exited 3");
    docker.until("again", STATUS, "running 0");
    assert_eq!(docker.pid("stays"), pid);
    goes_on(&docker, "stays");
    docker.ok("exec stays echo here").prints("here");
    docker.terminate();
    assert!(process::alive(pid));
    docker.up();
    goes_on(&docker, "stays");
    docker.ok("stop stays");
    assert_eq!(docker.inspect("stays", STATUS), "exited 3");
    docker.ok("rm -f stays ends later other again");
    docker.expect_nothing_left_on(&daemon);
}

#[test]
fn docker_keeps_its_plugins_when_wharfd_is_told_to_stop() {
    let (mut daemon, docker) = start();
    let plugin = TestDir::new();
    let _ = plugin.folder("rootfs/run/docker/plugins");
    fs::copy(go::plugin(), plugin.join("rootfs/plugin")).unwrap();
    let _ = plugin.file(
        "config.json",
        r#"{"entrypoint": ["/plugin", "/run/docker/plugins/p.sock"], "network": {"type": "host"},
            "interface": {"types": ["wharf.nothing/1.0"], "socket": "p.sock"}}"#,
    );
    docker.ok(["plugin", "create", "wharf/plugin:1", plugin.path().to_str().unwrap()]);
    docker.ok("plugin enable wharf/plugin:1");
    docker.start("web", "", COUNTING);
    let running = daemon.ok("-n plugins.moby tasks ls").stdout;
    assert!(running.contains("RUNNING"), "{running}");
    daemon.terminate();
    daemon.up();
    goes_on(&docker, "web");
    docker.ok("stop web");
    assert_eq!(docker.inspect("web", STATUS), "exited 3");
    assert_eq!(daemon.ok("-n plugins.moby tasks ls").stdout, running);
    docker.ok("plugin disable wharf/plugin:1");
    docker.ok("plugin rm wharf/plugin:1");
    docker.ok("rm web");
    for known in ["tasks ls -q", "containers ls -q"] {
        daemon.ok(format!("-n plugins.moby {known}")).prints("");
    }
    docker.expect_nothing_left_on(&daemon);
}
