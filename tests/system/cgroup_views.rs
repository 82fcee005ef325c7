//! The three ways in which a machine has cgroups. This one has both hierarchies (hybrid), which all other tests run on; a
//! daemon in a mount namespace of its own sees the first version alone, or the second.

use crate::fixture::{BUSYBOX, import_busybox};
use std::fs;
use wharf_tests::{Daemon, cgroups, daemon::Settings};

/// A daemon with a busybox image and another view of the machine; none where the machine has the unified hierarchy alone,
/// on which all other tests run then.
fn seeing(view: &str) -> Option<Daemon> {
    if cgroups::is_v2() {
        return None;
    }
    let daemon = Daemon::with(Settings { view: Some(view.to_owned()), ..Settings::default() });
    import_busybox(&daemon);
    Some(daemon)
}

/// What a container of either runtime does whatever its cgroups are.
fn a_life(daemon: &Daemon, flags: &[&str], figures: &[&str]) {
    let run = |more: &[&str]| daemon.wharf([&["run"], flags, more].concat().as_slice());
    run(&["--rm", BUSYBOX, "a", "sh", "-c", "echo $$; exit 7"]).exits(7).prints("1");
    let log = daemon.dir().join("ticks");
    let uri = format!("file://{}", log.display());
    run(&["-d", "--log-uri", &uri, BUSYBOX, "a", "sh", "-c", "sleep 1000 & while :; do echo; sleep 0.02; done"])
        .ok()
        .prints("");
    let written = || fs::metadata(&log).map_or(0, |meta| meta.len());
    wharf_tests::eventually("ticks", || (written() > 5).then_some(()));
    daemon.ok("tasks exec --exec-id x a echo inside").prints("inside");
    daemon.ok("tasks pause a");
    daemon.until_task("a", "PAUSED");
    let paused = wharf_tests::until_still("a paused task's output", written);
    daemon.ok("tasks resume a");
    wharf_tests::eventually("ticks again", || (written() > paused).then_some(()));
    let table = daemon.ok("tasks metrics a");
    for figure in figures {
        assert!(table.row(figure).is_some(), "no {figure}: {table}");
    }
    daemon.ok("tasks kill -a -s 9 a");
    daemon.until_task("a", "STOPPED");
    assert!(daemon.ok("tasks rm a").stderr.contains("137"));
    daemon.ok("containers rm a");
    daemon.expect_nothing_left();
}

#[test]
fn the_first_version_alone() {
    let Some(daemon) = seeing("umount /sys/fs/cgroup/unified") else { return };
    for flags in [&[][..], &["--runc-binary", "runc"], &["--runc-binary", "crun"]] {
        a_life(&daemon, flags, &["pids.current", "memory.usage_in_bytes", "cpuacct.usage"]);
        let limit = [&["run", "--rm", "--memory-limit", "20000000"], flags].concat();
        let script = "x=a; while :; do x=$x$x; done";
        let _ = daemon.wharf([&limit[..], &[BUSYBOX, "a", "sh", "-c", script]].concat().as_slice()).exits(137);
    }
    daemon.until("events --since 0", "memory that ran out is told each time", |output| {
        output.stdout.matches("/tasks/oom").count() >= 3
    });
    daemon.expect_nothing_left();
}

#[test]
fn the_second_version_alone() {
    // Its only controllers are those that the first version does not have; freezing and counting need none.
    let view = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup";
    let Some(daemon) = seeing(view) else { return };
    let unified = "/sys/fs/cgroup/unified/cgroup.controllers";
    let controllers = fs::read_to_string(unified).unwrap();
    for flags in [&[][..], &["--runc-binary", "runc"]] {
        // As with `ctr`, a container has a share of the processors by default, which is a limit too.
        let flags = [&["--cpu-shares", "0"], flags].concat();
        let flags = flags.as_slice();
        a_life(&daemon, flags, &[]);
        if !controllers.contains("memory") {
            // A limit that cannot be set is no limit: it is said, and nothing runs without it.
            let limit = [&["run", "--rm", "--memory-limit", "20000000"], flags, &[BUSYBOX, "a", "true"]].concat();
            let refused = daemon.wharf(limit.as_slice());
            assert_ne!(refused.code, 0, "{refused}");
            assert!(refused.stderr.contains("memory"), "{refused}");
            daemon.ok("containers ls -q").prints("");
        }
    }
    daemon.expect_nothing_left();
}
