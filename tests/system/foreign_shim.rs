//! Debian's unmodified `containerd-shim-runc-v2`, with runc behind it, under wharfd.

use crate::{
    events,
    fixture::{BUSYBOX, UNTIL_TERM, import_busybox, with_busybox},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, path::PathBuf};
use wharf_tests::{Daemon, command::Program, eventually, paths, process};

/// Debian's shim by its path: the one way that needs no configuration and hides nothing.
const DEBIANS: &str = "/usr/bin/containerd-shim-runc-v2";

fn run(daemon: &Daemon, flags: &[&str], id: &str, args: &[&str]) -> wharf_tests::Output {
    let args = [&["run", "--runtime", DEBIANS], flags, &[BUSYBOX, id], args].concat();
    daemon.wharf(args.as_slice())
}

fn bundle(daemon: &Daemon, id: &str) -> PathBuf {
    daemon.state().join("io.containerd.runtime.v2.task").join(daemon.namespace()).join(id)
}

/// The shim of a task.
fn shim(daemon: &Daemon, id: &str) -> i32 {
    process::parent(daemon.task_pid(id)).unwrap()
}

fn program(pid: i32) -> String {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

/// Where the shim of a task listens.
fn socket(daemon: &Daemon, id: &str) -> PathBuf {
    let address = fs::read_to_string(bundle(daemon, id).join("address")).unwrap();
    address.strip_prefix("unix://").unwrap().into()
}

#[test]
fn a_life_in_the_foreground() {
    let daemon = with_busybox();
    let output = run(&daemon, &["--rm"], "a", &["sh", "-c", "echo out; echo err >&2; exit 7"]).exits(7);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"), "{output}");
    let args = ["run", "--rm", "--runtime", DEBIANS, BUSYBOX, "a", "cat"];
    daemon.client().run_with(args, b"typed").ok().prints("typed");
    let mut terminal =
        daemon.terminal(["run", "--rm", "-t", "--runtime", DEBIANS, BUSYBOX, "a", "sh", "-c", "stty size; exit 4"]);
    terminal.expect("24 80");
    assert_eq!(terminal.exit_code(), 4, "{}", terminal.screen());
    run(&daemon, &["--rm"], "a", &["nosuch"]).refused(&["nosuch", "executable file not found"]);
    daemon.ok("containers ls -q").prints("");
    daemon.expect_nothing_left();
}

#[test]
fn every_verb_reaches_it() {
    let daemon = with_busybox();
    run(&daemon, &["-d"], "web", &["sh", "-c", "while :; do echo tick; sleep 0.05; done"]).ok().prints("");
    assert_eq!(program(shim(&daemon, "web")), "containerd-shim-runc-v2");
    let mut attached = daemon.background("tasks attach web");
    attached.expect("tick");
    daemon.wharf(["tasks", "exec", "--exec-id", "x", "web", "sh", "-c", "echo hi; exit 5"]).exits(5).prints("hi");
    daemon.ok(["tasks", "exec", "-d", "--exec-id", "bg", "web", "sleep", "1000"]);
    let rows = daemon.ok("tasks ps web").table();
    assert!(rows.iter().any(|row| row.join(" ").contains("bg")), "the exec's id is told: {rows:?}");
    daemon.ok("tasks kill --exec-id bg -s KILL web");
    daemon.until("tasks ps web", "the exec is gone", |output| !output.stdout.contains("bg"));
    let _ = daemon.wharf("tasks rm --exec-id bg web").exits(137);
    daemon.ok("tasks pause web");
    daemon.until_task("web", "PAUSED");
    daemon.ok("tasks resume web");
    daemon.until_task("web", "RUNNING");
    assert!(daemon.ok("tasks metrics web").stdout.contains("pids.current"));
    let listening = socket(&daemon, "web");
    daemon.ok("tasks kill -s 9 web");
    // As with `ctr`, whoever is attached when it ends removes the task.
    assert_eq!(attached.wait(), 137, "{}", attached.text());
    daemon.ok("containers rm web");
    let story: Vec<_> = events::log(&daemon).into_iter().filter(|event| event.topic.starts_with("/tasks/")).collect();
    let init: Vec<_> =
        story.iter().filter(|event| !event.topic.contains("exec")).map(|event| event.topic.as_str()).collect();
    // The execs' ends among them; no event twice, although the shim tells of each as well.
    #[rustfmt::skip]
    assert_eq!(init, [
        "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/tasks/exit", "/tasks/delete",
        "/tasks/paused", "/tasks/resumed", "/tasks/exit", "/tasks/delete",
    ], "{story:?}");
    daemon.expect_nothing_left();
    eventually("the shim's socket", || (!listening.exists()).then_some(()));
}

#[test]
fn a_killed_daemon_finds_it_again_and_learns_what_it_missed() {
    let mut daemon = with_busybox();
    run(&daemon, &["-d"], "web", &["sleep", "1000"]).ok().prints("");
    let log = daemon.dir().join("log");
    let uri = format!("file://{}", log.display());
    run(&daemon, &["-d", "--log-uri", &uri], "gone", &["sh", "-c", UNTIL_TERM]).ok().prints("");
    eventually("the trap", || fs::read_to_string(&log).ok()?.contains("ready").then_some(()));
    let (web, gone) = (daemon.task_pid("web"), daemon.task_pid("gone"));
    daemon.kill();
    kill(Pid::from_raw(gone), Signal::SIGTERM).unwrap();
    eventually("its end", || (!process::alive(gone)).then_some(()));
    assert!(process::alive(web), "it runs without the daemon");
    daemon.up();
    daemon.until_task("gone", "STOPPED");
    let exits: Vec<_> = events::log(&daemon).into_iter().filter(|event| event.topic == "/tasks/exit").collect();
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert_eq!((&exits[0].payload["exit_status"], &exits[0].payload["pid"]), (&3.into(), &gone.into()));
    daemon.ok("tasks exec --exec-id x web echo still here").prints("still here");
    assert_eq!(daemon.task_pid("web"), web);
    daemon.ok("tasks rm -f web");
    assert!(daemon.ok("tasks rm gone").stderr.contains("exit code 3"));
    daemon.ok("containers rm web gone");
    daemon.expect_nothing_left();
}

#[test]
fn what_a_killed_shim_leaves_is_cleaned_up_by_its_own_delete() {
    let mut daemon = with_busybox();
    for watching in [true, false] {
        run(&daemon, &["-d"], "web", &["sleep", "1000"]).ok().prints("");
        let (pid, shim, listening) = (daemon.task_pid("web"), shim(&daemon, "web"), socket(&daemon, "web"));
        if watching {
            process::kill_all(&[shim]);
        } else {
            daemon.kill();
            process::kill_all(&[shim]);
            assert!(process::alive(pid), "the container outlives its shim until somebody looks");
            daemon.up();
        }
        daemon.until_task("web", "STOPPED");
        assert!(!process::alive(pid));
        assert!(!listening.exists(), "a killed shim cannot remove its socket");
        assert!(daemon.ok("tasks rm web").stderr.contains("137"));
        daemon.ok("containers rm web");
        daemon.expect_nothing_left();
    }
}

/// Containers of one group are one shim's, whichever annotation names the group.
fn a_group(runtime: &str, annotation: &str) {
    let mut daemon = with_busybox();
    let annotation = format!("{annotation}=pod");
    let member = |daemon: &Daemon, id: &str| {
        daemon.ok(["run", "-d", "--runtime", runtime, "--annotation", &annotation, BUSYBOX, id, "sleep", "1000"]);
        shim(daemon, id)
    };
    let first = member(&daemon, "pod");
    assert_eq!(member(&daemon, "one"), first);
    daemon.kill();
    daemon.up();
    assert_eq!(member(&daemon, "two"), first, "also for a daemon that came later");
    assert_eq!(socket(&daemon, "one"), socket(&daemon, "two"));
    // One may end and go, and the others stay.
    daemon.ok("tasks kill -s 9 one");
    daemon.until_task("one", "STOPPED");
    assert!(daemon.ok("tasks rm one").stderr.contains("137"));
    daemon.ok("containers rm one");
    for id in ["pod", "two"] {
        daemon.ok(["tasks", "exec", "--exec-id", "x", id, "echo", "alive"]).prints("alive");
    }
    // With the shim all of them end, and nothing stays.
    process::kill_all(&[first]);
    for id in ["pod", "two"] {
        daemon.until_task(id, "STOPPED");
        assert!(daemon.ok(["tasks", "rm", id]).stderr.contains("137"));
        daemon.ok(["containers", "rm", id]);
    }
    daemon.expect_nothing_left();
    // The group can be had again, and its shim ends with the last of it.
    let again = member(&daemon, "pod");
    assert_eq!(member(&daemon, "one"), again);
    daemon.ok("tasks rm -f pod");
    assert!(process::alive(again), "one holds it");
    daemon.ok("tasks rm -f one");
    daemon.ok("containers rm pod one");
    daemon.expect_nothing_left();
}

#[test]
fn debians_shim_holds_a_group() {
    a_group(DEBIANS, "io.containerd.runc.v2.group");
}

#[test]
fn wharfs_shim_holds_a_pod() {
    a_group("io.containerd.runc.v2", "io.kubernetes.cri.sandbox-id");
}

#[test]
fn a_shim_is_chosen_by_path_by_name_or_by_configuration() {
    let daemon = with_busybox();
    let shim_of = |daemon: &Daemon, runtime: &str| {
        daemon.ok(["run", "-d", "--runtime", runtime, BUSYBOX, "a", "sleep", "1000"]);
        let name = program(shim(daemon, "a"));
        daemon.ok("tasks rm -f a");
        daemon.ok("containers rm a");
        name
    };
    assert_eq!(shim_of(&daemon, "io.containerd.runc.v2"), "wharf-shim");
    assert_eq!(shim_of(&daemon, DEBIANS), "containerd-shim-runc-v2");
    // Another name is found as containerd finds it: `containerd-shim-NAME-VERSION` beside the daemon or on the path.
    assert_eq!(shim_of(&daemon, "io.debian.runc.v2"), "containerd-shim-runc-v2");
    assert_eq!(shim_of(&daemon, "io.containerd.wharf.v2"), "wharf-shim");
    let refused = |runtime: &str, words: &[&str]| {
        daemon.wharf(["run", "--rm", "--runtime", runtime, BUSYBOX, "a", "true"]).refused(words);
    };
    refused("io.containerd.nosuch.v7", &["io.containerd.nosuch.v7", "containerd-shim-nosuch-v7"]);
    refused("/no/such/shim", &["/no/such/shim"]);
    refused("nonsense", &["nonsense"]);
    daemon.ok("containers ls -q").prints("");
    daemon.expect_nothing_left();
    drop(daemon);
    let daemon = Daemon::configured(&format!("[runtime]\nshim = {DEBIANS:?}\n"));
    import_busybox(&daemon);
    assert_eq!(shim_of(&daemon, "io.containerd.runc.v2"), "containerd-shim-runc-v2");
    daemon.expect_nothing_left();
}

#[test]
fn a_program_publishes_for_a_shim() {
    let daemon = Daemon::start();
    let publish = |topic: &str, bytes: &[u8]| {
        let program = Program::new(paths::binary("wharfd")).before(["--address"]);
        let address = daemon.address();
        let args = [address.to_str().unwrap(), "publish", "--topic", topic, "--namespace", daemon.namespace()];
        program.run_with(args, bytes)
    };
    // google.protobuf.Any { type_url: "test.Thing", value: 08 07 }
    let any = b"\x0a\x0atest.Thing\x12\x02\x08\x07";
    publish("/things/happen", any).ok().prints("");
    let seen = |output: &wharf_tests::Output| output.stdout.contains("/things/happen");
    let told = daemon.until("events --since 0", "it is told", seen);
    assert!(told.stdout.contains("test.Thing"), "{told}");
    for (topic, bytes, word) in [
        ("no-path", &any[..], "no-path"),
        ("/things", &b"\xff\xff"[..], "standard input"),
        ("/things", &vec![b'x'; 2 << 20][..], "larger"),
    ] {
        let refused = publish(topic, bytes).exits(1);
        assert!(refused.stderr.starts_with("wharfd: ") && refused.stderr.contains(word), "{refused}");
    }
    let nowhere = daemon.dir().join("nobody.sock");
    let program = Program::new(paths::binary("wharfd")).before(["--address", nowhere.to_str().unwrap()]);
    let refused = program.run_with(["publish", "--topic", "/t", "--namespace", "n"], any).exits(1);
    assert!(refused.stderr.contains("nobody.sock.ttrpc"), "{refused}");
}
