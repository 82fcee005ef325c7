//! The daemon goes and comes back; containers do not notice.

use crate::{
    events,
    fixture::{BUSYBOX, UNTIL_TERM, sleeper, with_busybox},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::fs;
use wharf_tests::{Daemon, eventually, process};

/// Clients wait for a daemon that has gone, but these need not for long: it comes back when they have given up.
const BRIEFLY: &str = "--connect-timeout=500ms";

fn logged(daemon: &Daemon, id: &str, script: &str) -> std::path::PathBuf {
    let log = daemon.dir().join(format!("{id}.log"));
    let uri = format!("file://{}", log.display());
    daemon.ok(["run", "-d", "--log-uri", &uri, BUSYBOX, id, "sh", "-c", script]);
    log
}

fn survives(stop: impl FnOnce(&mut Daemon)) {
    let mut daemon = with_busybox();
    let log = logged(&daemon, "web", "n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.02; done");
    daemon.ok(["containers", "create", BUSYBOX, "idle", "true"]);
    daemon.ok(["run", "-d", BUSYBOX, "done", "sh", "-c", "exit 5"]);
    daemon.until_task("done", "STOPPED");
    sleeper(&daemon, "paused");
    daemon.ok("tasks pause paused");
    let before = (daemon.ok("containers ls").stdout, daemon.ok("tasks ls").stdout, daemon.ok("images ls").stdout);
    let pid = daemon.task_pid("web");
    stop(&mut daemon);
    assert!(process::alive(pid), "the container runs without the daemon");
    let ticks = fs::metadata(&log).unwrap().len();
    eventually("its output goes on", || (fs::metadata(&log).unwrap().len() > ticks).then_some(()));
    daemon.up();
    let after = (daemon.ok("containers ls").stdout, daemon.ok("tasks ls").stdout, daemon.ok("images ls").stdout);
    assert_eq!(before, after);
    // It is managed as before: a new process, figures, a signal, its exit code.
    daemon.ok("tasks exec --exec-id x web echo still here").prints("still here");
    assert!(daemon.ok("tasks metrics web").stdout.contains("pids.current"));
    daemon.ok("tasks resume paused");
    daemon.until_task("paused", "RUNNING");
    assert!(daemon.ok("tasks rm done").stderr.contains("exit code 5"));
    daemon.ok("tasks kill -s 9 web");
    daemon.until_task("web", "STOPPED");
    assert!(daemon.ok("tasks rm web").stderr.contains("137"));
    daemon.ok("tasks rm -f paused");
    daemon.ok("containers rm web idle done paused");
    events::log(&daemon);
    daemon.expect_nothing_left();
}

#[test]
fn containers_survive_sigkill() {
    survives(Daemon::kill);
}

#[test]
fn containers_survive_sigterm() {
    survives(Daemon::terminate);
}

#[test]
fn an_exit_while_the_daemon_is_down_is_learnt_with_its_code_and_time() {
    let mut daemon = with_busybox();
    let log = logged(&daemon, "web", UNTIL_TERM);
    eventually("the trap", || fs::read_to_string(&log).unwrap().contains("ready").then_some(()));
    let pid = daemon.task_pid("web");
    daemon.kill();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    eventually("its end", || (!process::alive(pid)).then_some(()));
    daemon.up();
    daemon.until_task("web", "STOPPED");
    let exits: Vec<_> = events::log(&daemon).into_iter().filter(|event| event.topic == "/tasks/exit").collect();
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert_eq!((&exits[0].payload["exit_status"], &exits[0].payload["pid"]), (&3.into(), &pid.into()));
    let up_again = daemon.ok("tasks rm web");
    assert!(up_again.stderr.contains("exit code 3"), "{up_again}");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn a_shim_that_died_with_its_container_is_cleaned_up() {
    let mut daemon = with_busybox();
    sleeper(&daemon, "web");
    let pid = daemon.task_pid("web");
    let shim = process::parent(pid).unwrap();
    daemon.kill();
    process::kill_all(&[shim, pid]);
    daemon.up();
    daemon.until("tasks ls", "the task is over", |output| output.row("web").is_none_or(|row| row[2] == "STOPPED"));
    let exits: Vec<_> = events::log(&daemon).into_iter().filter(|event| event.topic == "/tasks/exit").collect();
    assert_eq!(exits.len(), 1, "{exits:?}");
    // Killed, or never known: both are told as such.
    assert!([137, 255].contains(&exits[0].payload["exit_status"].as_i64().unwrap()), "{exits:?}");
    let _ = daemon.wharf("tasks rm -f web");
    daemon.ok("tasks start -d web");
    daemon.until_task("web", "RUNNING");
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn a_shim_that_dies_while_the_daemon_watches() {
    let daemon = with_busybox();
    sleeper(&daemon, "web");
    let shim = process::parent(daemon.task_pid("web")).unwrap();
    process::kill_all(&[shim]);
    daemon.until("tasks ls", "the task is over", |output| output.row("web").is_none_or(|row| row[2] == "STOPPED"));
    let _ = daemon.wharf("tasks rm -f web");
    daemon.ok("containers rm web");
    // The container's processes are not left without a shim.
    daemon.expect_nothing_left();
}

#[test]
fn watchers_and_waiting_clients_are_told_of_the_end() {
    let mut daemon = with_busybox();
    let mut watcher = daemon.background([BRIEFLY, "events"]);
    let mut client = daemon.background([BRIEFLY, "run", BUSYBOX, "a", "sh", "-c", UNTIL_TERM]);
    client.expect("ready");
    daemon.kill();
    for background in [&mut watcher, &mut client] {
        assert_eq!(background.wait(), 1, "{}", background.text());
        assert!(background.text().contains("wharf: "), "{}", background.text());
    }
    daemon.up();
    daemon.until_task("a", "RUNNING");
}

/// Removes every container, with its task if it has one.
fn remove_all(daemon: &Daemon) {
    for id in daemon.ok("tasks ls -q").lines() {
        let removed = daemon.wharf(["tasks", "rm", "-f", id]);
        // One whose making was cut short is taken down by the daemon itself, meanwhile or before.
        assert!(removed.code == 0 || removed.stderr.contains("not found"), "{removed}");
    }
    for id in daemon.ok("containers ls -q").lines() {
        daemon.ok(["containers", "rm", id]);
    }
}

#[test]
fn killed_at_any_moment_it_comes_back_clean() {
    let mut daemon = with_busybox();
    let archive = wharf_tests::images::docker_archive(&wharf_tests::images::umoci_layers(), "docker.io/library/l:1");
    for round in 0..12 {
        let id = format!("r{round}");
        let mut work = [
            daemon.background([BRIEFLY, "run", "--rm", BUSYBOX, &id, "true"]),
            daemon.background([BRIEFLY, "images", "import", archive.to_str().unwrap()]),
            daemon.background([BRIEFLY, "run", "-d", BUSYBOX, &format!("{id}d"), "sleep", "1000"]),
        ];
        // A little later each round: the kill meets another moment each time.
        std::thread::sleep(std::time::Duration::from_millis(7 * round));
        daemon.kill();
        for client in &mut work {
            client.wait();
        }
        daemon.up();
        events::log(&daemon);
    }
    remove_all(&daemon);
    daemon.ok(["run", "--rm", BUSYBOX, "last", "echo", "works"]).prints("works");
    events::log(&daemon);
    daemon.expect_nothing_left();
}

#[test]
fn a_run_that_was_cut_short_leaves_no_snapshot() {
    let mut daemon = with_busybox();
    for round in 0..12 {
        let mut work = daemon.background([BRIEFLY, "run", "--rm", BUSYBOX, &format!("r{round}"), "true"]);
        std::thread::sleep(std::time::Duration::from_millis(7 * round));
        daemon.kill();
        work.wait();
        daemon.up();
    }
    remove_all(&daemon);
    daemon.until("snapshots ls", "no snapshot is left", |output| {
        output.table().iter().all(|row| row.last().is_some_and(|kind| kind != "Active"))
    });
}

#[test]
fn one_root_has_one_daemon() {
    let daemon = with_busybox();
    let address = daemon.address();
    let second = daemon.run_another(&address);
    assert_ne!(second.code, 0);
    assert!(second.stderr.contains(address.to_str().unwrap()), "it names the socket: {second}");
    let second = daemon.run_another(&daemon.dir().join("other.sock"));
    assert_ne!(second.code, 0);
    assert!(second.stderr.contains(&daemon.pid().to_string()), "it names the holder of the root: {second}");
    daemon.ok("images ls -q").prints(BUSYBOX);
}
