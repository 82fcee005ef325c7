//! Containers in the background: their tasks, processes, signals and figures.

use crate::fixture::{BUSYBOX, UNTIL_TERM, sleeper, with_busybox};
use std::fs;
use wharf_tests::process;

#[test]
fn a_detached_container_is_listed_killed_and_removed() {
    let daemon = with_busybox();
    daemon.ok("tasks ls").prints("TASK    PID    STATUS");
    daemon.ok("containers ls").prints("CONTAINER    IMAGE    RUNTIME");
    sleeper(&daemon, "web");
    let row = daemon.ok("containers ls").row("web").unwrap();
    assert_eq!(row, ["web", BUSYBOX, "io.containerd.runc.v2"]);
    let pid = daemon.task_pid("web");
    assert_eq!(daemon.ok("tasks ls").row("web").unwrap()[2], "RUNNING");
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sleep"));
    daemon.ok("tasks ls -q").prints("web");

    daemon.wharf("tasks rm web").refused(&["cannot delete a running process"]);
    daemon.wharf("containers rm web").refused(&["web"]);
    assert!(process::alive(pid), "a refused removal touches nothing");

    daemon.ok("tasks kill -s 9 web");
    daemon.until_task("web", "STOPPED");
    assert!(!process::alive(pid));
    daemon.wharf("tasks kill web").refused(&["process already finished", "not found"]);
    daemon.ok("tasks rm web");
    daemon.wharf("tasks rm web").refused(&["web", "not found"]);
    daemon.ok("containers rm web");
    daemon.wharf("containers rm web").refused(&["container \"web\"", daemon.namespace(), "not found"]);
    daemon.expect_nothing_left();
}

#[test]
fn a_task_can_catch_its_signal() {
    let daemon = with_busybox();
    let log = daemon.dir().join("log");
    let uri = format!("file://{}", log.display());
    daemon.ok(["run", "-d", "--log-uri", &uri, BUSYBOX, "a", "sh", "-c", UNTIL_TERM]);
    wharf_tests::eventually("the trap", || fs::read_to_string(&log).ok().filter(|log| log.contains("ready")));
    daemon.ok("tasks kill a");
    daemon.until_task("a", "STOPPED");
    let output = daemon.ok("tasks rm a");
    assert!(output.stderr.contains("exit code 3"), "the exit code is told: {output}");
    daemon.ok("containers rm a");
}

#[test]
fn removal_by_force_kills_first() {
    let daemon = with_busybox();
    sleeper(&daemon, "a");
    let pid = daemon.task_pid("a");
    daemon.ok("tasks rm -f a");
    assert!(!process::alive(pid));
    daemon.ok("containers rm a");
    daemon.expect_nothing_left();
}

#[test]
fn create_and_start_are_two_steps() {
    let daemon = with_busybox();
    daemon.ok(["containers", "create", BUSYBOX, "made", "sh", "-c", "echo started; exit 9"]);
    daemon.ok("tasks ls -q").prints("");
    let output = daemon.wharf("tasks start made").exits(9);
    assert_eq!(output.stdout, "started\n");
    daemon.ok("containers ls -q").prints("made");
    // The container is still there and can be started again.
    daemon.ok("tasks start -d made");
    daemon.until_task("made", "STOPPED");
    daemon.ok("tasks rm made");
    daemon.ok("containers rm made");
    daemon.expect_nothing_left();
}

#[test]
fn a_process_is_added_to_a_task() {
    let daemon = with_busybox();
    sleeper(&daemon, "web");
    let output = daemon.wharf(["tasks", "exec", "--exec-id", "x", "web", "sh", "-c", "echo $$; echo e >&2; exit 5"]);
    let output = output.exits(5);
    assert_eq!(output.stderr, "e\n", "{output}");
    assert_ne!(output.stdout.trim(), "1", "it is not the first process");
    // The id is free again, input is passed on, folder and user can be chosen.
    let args =
        ["tasks", "exec", "--exec-id", "x", "--cwd", "/tmp", "--user", "guest", "web", "sh", "-c", "pwd; id -u; cat"];
    daemon.client().run_with(args, b"typed").ok().prints("/tmp\n1000\ntyped");
    daemon.wharf("tasks exec --exec-id x web nosuch").refused(&["nosuch"]);
    daemon.ok(["tasks", "exec", "-d", "--exec-id", "bg", "web", "sleep", "1000"]);
    daemon.wharf("tasks exec --exec-id bg web true").refused(&["bg", "already exists"]);
    let rows = daemon.ok("tasks ps web").table();
    assert_eq!(rows[0], ["PID", "INFO"]);
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows.iter().any(|row| row.join(" ").contains("bg")), "the exec's id is told: {rows:?}");
    daemon.ok("tasks kill --exec-id bg -s KILL web");
    daemon.until("tasks ps web", "the exec is gone", |output| output.table().len() == 2);
    let _ = daemon.wharf("tasks rm --exec-id bg web").exits(137);
    daemon.until_task("web", "RUNNING");
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn the_end_of_the_first_process_ends_the_others() {
    let daemon = with_busybox();
    sleeper(&daemon, "web");
    let mut other = daemon.background(["tasks", "exec", "--exec-id", "x", "web", "sh", "-c", "echo up; sleep 1000"]);
    other.expect("up");
    daemon.ok("tasks kill -s 9 web");
    assert_eq!(other.wait(), 137, "{}", other.text());
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn every_process_is_killed_with_all() {
    let daemon = with_busybox();
    daemon.ok(["run", "-d", BUSYBOX, "a", "sh", "-c", "sleep 1001 & sleep 1002 & wait"]);
    daemon.until("tasks ps a", "all three are there", |output| output.table().len() == 4);
    daemon.ok("tasks kill -a -s 9 a");
    daemon.until_task("a", "STOPPED");
    daemon.ok("tasks rm a");
    daemon.expect_nothing_left();
}

#[test]
fn attach_shows_what_is_said_and_the_exit_code() {
    let daemon = with_busybox();
    let script = "trap 'echo asked; exit 4' TERM; while :; do echo tick; sleep 0.05; done";
    daemon.ok(["run", "-d", BUSYBOX, "a", "sh", "-c", script]);
    let mut attached = daemon.background("tasks attach a");
    attached.expect("tick");
    daemon.ok("tasks kill a");
    attached.expect("asked");
    assert_eq!(attached.wait(), 4, "{}", attached.text());
    daemon.ok("containers rm a");
    daemon.expect_nothing_left();
}

#[test]
fn a_paused_task_stands_still() {
    let daemon = with_busybox();
    let log = daemon.dir().join("log");
    let uri = format!("file://{}", log.display());
    daemon.ok(["run", "-d", "--log-uri", &uri, BUSYBOX, "a", "sh", "-c", "while :; do echo tick; sleep 0.02; done"]);
    let length = || fs::metadata(&log).map_or(0, |meta| meta.len());
    wharf_tests::eventually("ticks", || (length() > 20).then_some(()));
    daemon.ok("tasks pause a");
    daemon.until_task("a", "PAUSED");
    daemon.wharf("tasks pause a").refused(&["a"]);
    daemon.wharf("tasks exec --exec-id x a true").refused(&["paused"]);
    let paused = wharf_tests::until_still("a paused task's output", length);
    daemon.ok("tasks resume a");
    daemon.until_task("a", "RUNNING");
    wharf_tests::eventually("ticks again", || (length() > paused).then_some(()));
    // A paused task can be removed too.
    daemon.ok("tasks pause a");
    daemon.ok("tasks rm -f a");
    daemon.ok("containers rm a");
    daemon.expect_nothing_left();
}

#[test]
fn figures_are_told() {
    let daemon = with_busybox();
    sleeper(&daemon, "a");
    let table = daemon.ok("tasks metrics a");
    assert_eq!(table.header(), "ID TIMESTAMP", "{table}");
    let value = |name: &str| table.row(name).unwrap_or_else(|| panic!("no {name}: {table}"))[1].clone();
    if wharf_tests::cgroups::is_v2() {
        assert_eq!(value("pids.current"), "1");
        assert!(value("memory.usage").parse::<u64>().is_ok());
    } else {
        assert_eq!(value("pids.current"), "1");
        assert!(value("memory.usage_in_bytes").parse::<u64>().unwrap() > 0);
        assert!(value("cpuacct.usage").parse::<u64>().unwrap() > 0);
    }
    let json = daemon.ok("tasks metrics --format json a");
    let _: serde_json::Value = serde_json::from_str(&json.stdout).unwrap_or_else(|error| panic!("{error}: {json}"));
}

#[test]
fn the_client_may_go_away() {
    let daemon = with_busybox();
    let script = "echo up; n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.01; done";
    let mut client = daemon.background(["run", BUSYBOX, "a", "sh", "-c", script]);
    client.expect("tick");
    client.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(client.wait(), 137);
    // Nobody reads its output now: it runs on all the same, and can be attached to.
    let mut again = daemon.background("tasks attach a");
    again.expect("tick");
    daemon.ok("tasks kill -s 9 a");
    assert_eq!(again.wait(), 137);
    daemon.ok("containers rm a");
    daemon.expect_nothing_left();
}

#[test]
fn labels_of_a_container_change() {
    let daemon = with_busybox();
    daemon.ok(["containers", "create", "--label", "a=1", BUSYBOX, "c", "true"]);
    daemon.ok("containers label c b=2 a=");
    let info: serde_json::Value = serde_json::from_str(&daemon.ok("containers info c").stdout).unwrap();
    assert_eq!((&info["Labels"]["a"], &info["Labels"]["b"]), (&serde_json::Value::Null, &"2".into()));
    daemon.ok("containers rm c");
}
