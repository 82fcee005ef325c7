//! What keeps a container running: restart policies and health checks, with the daemon killed in between.

use crate::{
    events::{self, Event},
    fixture::{BUSYBOX, import_busybox, sleeper, with_busybox},
};
use serde_json::Value;
use std::process::Command;
use wharf_tests::{Daemon, eventually};

fn told(daemon: &Daemon, topic: &str) -> Vec<Event> {
    events::log(daemon).into_iter().filter(|event| event.topic == topic).collect()
}

fn starts(daemon: &Daemon) -> usize {
    told(daemon, "/tasks/start").len()
}

fn until_starts(daemon: &Daemon, count: usize) {
    eventually(&format!("start {count}"), || (starts(daemon) >= count).then_some(()));
}

fn info(daemon: &Daemon, id: &str) -> Value {
    serde_json::from_str(&daemon.ok(["containers", "info", id]).stdout).unwrap()
}

/// Runs a container in the background under a policy.
fn run(daemon: &Daemon, policy: &str, id: &str, script: &str) {
    daemon.ok(["run", "-d", "--null-io", "--restart", policy, BUSYBOX, id, "sh", "-c", script]);
}

fn configured(config: &str) -> Daemon {
    let daemon = Daemon::configured(config);
    import_busybox(&daemon);
    daemon
}

#[test]
fn on_failure_restarts_so_often_and_says_that_it_gave_up() {
    let daemon = with_busybox();
    run(&daemon, "on-failure:3", "web", "exit 7");
    let given_up = eventually("giving up", || told(&daemon, "/wharf/restarts/given-up").pop());
    assert_eq!(given_up.payload["reason"], "it ended with 7, after 3 restarts");
    assert_eq!((starts(&daemon), told(&daemon, "/wharf/restarts/scheduled").len()), (4, 3));
    let info = info(&daemon, "web");
    assert_eq!(info["Labels"]["containerd.io/restart.count"], "3");
    assert_eq!((&info["Restart"]["Phase"], &info["Restart"]["Restarts"]), (&"given up".into(), &3.into()));
    assert!(!daemon.ctr("containers info web").ok().stdout.contains("\"Restart\""), "ctr's users know no such field");
    // Success ends it as well.
    run(&daemon, "on-failure", "well", "exit 0");
    daemon.until_task("well", "STOPPED");
    assert_eq!(starts(&daemon), 5);
    daemon.ok("tasks rm well");
    let _ = daemon.ok("tasks rm web");
    daemon.ok("containers rm web well");
    daemon.expect_nothing_left();
}

#[test]
fn a_good_run_makes_the_count_begin_anew() {
    let daemon = configured("[restart]\ngood_run_ms = 300\n");
    // One restart would be all that its policy allows.
    run(&daemon, "on-failure:1", "web", "sleep 0.5; exit 1");
    until_starts(&daemon, 4);
    daemon.ok("tasks kill -s 9 web");
    daemon.until_task("web", "STOPPED");
    assert!(told(&daemon, "/wharf/restarts/scheduled").iter().all(|event| event.payload["restarts"] == 1));
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn a_daemon_killed_while_a_task_rests_goes_on_with_the_same_restart() {
    let mut daemon = configured("[restart]\nbackoff_first_ms = 1500\n");
    run(&daemon, "on-failure:2", "web", "exit 3");
    eventually("its rest", || told(&daemon, "/wharf/restarts/scheduled").pop());
    assert_eq!(info(&daemon, "web")["Restart"]["Phase"], "waiting");
    daemon.kill();
    daemon.up();
    until_starts(&daemon, 2);
    let second = eventually("its second rest", || told(&daemon, "/wharf/restarts/scheduled").into_iter().nth(1));
    assert_eq!((&second.payload["restarts"], &second.payload["reason"]), (&2.into(), &"it ended with 3".into()));
    daemon.kill();
    daemon.up();
    until_starts(&daemon, 3);
    eventually("giving up", || told(&daemon, "/wharf/restarts/given-up").pop());
    // A later daemon does not begin again.
    daemon.terminate();
    daemon.up();
    assert_eq!((starts(&daemon), told(&daemon, "/wharf/restarts/given-up").len()), (3, 1));
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn a_users_stop_holds_for_one_policy_until_the_daemon_starts_and_for_the_other_beyond() {
    let mut daemon = with_busybox();
    for (policy, id) in [("always", "a"), ("unless-stopped", "u")] {
        run(&daemon, policy, id, "sleep 1000");
        daemon.ok(["tasks", "kill", "-s", "9", id]);
        daemon.until_task(id, "STOPPED");
        assert_eq!(info(&daemon, id)["Labels"]["containerd.io/restart.explicitly-stopped"], "true");
    }
    daemon.kill();
    daemon.up();
    daemon.until_task("a", "RUNNING");
    assert_eq!(daemon.ok("tasks ls").row("u").unwrap()[2], "STOPPED");
    assert_eq!(info(&daemon, "a")["Labels"]["containerd.io/restart.explicitly-stopped"], "false");
    // A user's start is remembered as well.
    daemon.ok("tasks rm u");
    daemon.ok("tasks start -d --null-io u");
    let killed = daemon.task_pid("u");
    wharf_tests::process::kill_all(&[killed]);
    eventually("another life", || {
        let row = daemon.ok("tasks ls").row("u")?;
        (row[2] == "RUNNING" && row[1] != killed.to_string()).then_some(())
    });
    daemon.ok("tasks rm -f a u");
    daemon.ok("containers rm a u");
    daemon.expect_nothing_left();
}

#[test]
fn a_stop_during_the_rest_cancels_it() {
    let daemon = configured("[restart]\nbackoff_first_ms = 2000\n");
    run(&daemon, "always", "web", "exit 1");
    eventually("its rest", || told(&daemon, "/wharf/restarts/scheduled").pop());
    // There is nobody to signal, and that is no failure: it will not come again.
    daemon.ok("tasks kill web");
    let given_up = eventually("the cancellation", || told(&daemon, "/wharf/restarts/given-up").pop());
    assert_eq!(given_up.payload["reason"], "a user has stopped it");
    run(&daemon, "always", "gone", "exit 1");
    eventually("its rest", || told(&daemon, "/wharf/restarts/scheduled").into_iter().nth(1));
    daemon.ok("containers rm web gone");
    daemon.expect_nothing_left();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(starts(&daemon), 2);
    daemon.expect_nothing_left();
}

/// The labels alone, set by a client that knows nothing of wharf.
#[test]
fn labels_of_debians_ctr_are_followed() {
    let daemon = with_busybox();
    let ctr = |args: &[&str]| {
        let mut command = Command::new("/usr/bin/ctr");
        command.arg("-a").arg(daemon.address()).args(["-n", daemon.namespace()]).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let plugin = ctr(&["plugins", "ls", "-d", "id==restart"]);
    for word in ["io.containerd.internal.v1", "always", "on-failure", "unless-stopped"] {
        assert!(plugin.contains(word), "{plugin}");
    }
    let log = daemon.dir().join("log");
    let uri = format!("containerd.io/restart.loguri=file://{}", log.display());
    let (status, policy) = ("containerd.io/restart.status=running", "containerd.io/restart.policy=on-failure:2");
    #[rustfmt::skip]
    ctr(&["run", "-d", "--null-io", "--label", status, "--label", policy, "--label", &uri, BUSYBOX, "web", "sh", "-c", "echo life; exit 1"]);
    eventually("giving up", || told(&daemon, "/wharf/restarts/given-up").pop());
    // The first life had no log; the others have the container's.
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "life\nlife\n");
    sleeper(&daemon, "other");
    ctr(&["containers", "label", "other", "containerd.io/restart.status=stopped"]);
    eventually("its end", || daemon.ok("tasks ls -q").stdout.lines().all(|id| id != "other").then_some(()));
    daemon.ok("containers rm web other");
    daemon.expect_nothing_left();
}

#[test]
fn a_restarted_task_needs_nobody_in_the_foreground() {
    let daemon = with_busybox();
    daemon.wharf(["run", "--restart", "always", BUSYBOX, "web", "true"]).refused(&["--restart", "--detach"]);
    daemon.wharf(["run", "-d", "--restart", "never", BUSYBOX, "web", "true"]).refused(&["never", "on-failure"]);
    let bad = ["run", "-d", "--health-interval", "1s", BUSYBOX, "web", "true"];
    daemon.wharf(bad).refused(&["--health-cmd"]);
    daemon.ok("containers ls -q").prints("");
    // One that never started is not tried again behind the back of whoever was told so.
    daemon.wharf(["run", "-d", "--restart", "always", BUSYBOX, "web", "nonsense"]).refused(&["nonsense"]);
    assert_eq!(info(&daemon, "web")["Labels"]["containerd.io/restart.explicitly-stopped"], "true");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

fn until_health(daemon: &Daemon, id: &str, health: &str) {
    daemon.until("tasks ls", &format!("{id} is {health}"), |output| {
        output.row(id).is_some_and(|row| row.get(3).is_some_and(|cell| cell == health))
    });
}

#[test]
fn health_is_checked_told_and_followed() {
    let mut daemon = with_busybox();
    let checked = |id: &str, policy: &str| {
        #[rustfmt::skip]
        daemon_run(&daemon, &["--restart", policy, "--health-cmd", "test -e /ok", "--health-interval", "200ms", "--health-retries", "2", "--health-timeout", "5s"], id, "touch /ok; sleep 1000");
    };
    checked("web", "no");
    checked("kept", "always");
    until_health(&daemon, "web", "healthy");
    until_health(&daemon, "kept", "healthy");
    assert!(!daemon.ctr("tasks ls").ok().stdout.contains("HEALTH"));
    for id in ["web", "kept"] {
        daemon.ok(["tasks", "exec", "--exec-id", "x", id, "rm", "/ok"]);
    }
    // Without a policy it is told; with one it is ended and started again, and well again.
    until_health(&daemon, "web", "unhealthy");
    assert_eq!(info(&daemon, "web")["Health"]["LastFailure"], "it ended with 1");
    let scheduled = eventually("its end", || told(&daemon, "/wharf/restarts/scheduled").pop());
    assert_eq!(
        (&scheduled.payload["container_id"], &scheduled.payload["reason"]),
        (&"kept".into(), &"it is unhealthy".into())
    );
    until_health(&daemon, "kept", "healthy");
    daemon.kill();
    daemon.up();
    until_health(&daemon, "web", "unhealthy");
    daemon.ok(["tasks", "exec", "--exec-id", "x", "web", "touch", "/ok"]);
    until_health(&daemon, "web", "healthy");
    let changes: Vec<_> = told(&daemon, "/wharf/health/change")
        .into_iter()
        .filter(|event| event.payload["container_id"] == "web")
        .map(|event| event.payload["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(changes, ["starting", "healthy", "unhealthy", "healthy"]);
    daemon.ok("tasks rm -f web kept");
    assert!(!daemon.ok("tasks ls").stdout.contains("HEALTH"));
    daemon.ok("containers rm web kept");
    daemon.expect_nothing_left();
}

fn daemon_run(daemon: &Daemon, flags: &[&str], id: &str, script: &str) {
    let mut args = vec!["run", "-d", "--null-io"];
    args.extend(flags);
    args.extend([BUSYBOX, id, "sh", "-c", script]);
    daemon.ok(args.as_slice());
}

#[test]
fn a_probe_that_hangs_is_killed_and_leaves_nothing() {
    let daemon = with_busybox();
    let flags = ["--health-cmd", "sleep 1000", "--health-interval", "100ms", "--health-timeout", "200ms"];
    daemon_run(&daemon, &flags, "web", "sleep 1000");
    until_health(&daemon, "web", "unhealthy");
    // One at a time, whatever it does.
    let probes = daemon.ok("tasks ps web").stdout.matches("wharf-probe").count();
    assert!(probes <= 1, "{probes} probes at once");
    assert_eq!(info(&daemon, "web")["Health"]["LastFailure"], "it took longer than 200 ms");
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    assert!(told(&daemon, "/tasks/exec-added").is_empty());
    daemon.expect_nothing_left();
}
