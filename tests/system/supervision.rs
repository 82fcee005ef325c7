//! The tree of parts: shown, restarted by hand, and a disk that fails beneath it.

use crate::{
    events,
    fixture::{BUSYBOX, import_busybox, sleeper, with_busybox},
};
use wharf_tests::{Failpoints, eventually, process};

#[test]
fn a_part_is_restarted_by_hand_and_containers_do_not_notice() {
    let daemon = with_busybox();
    sleeper(&daemon, "web");
    let pid = daemon.task_pid("web");
    let task = format!("tasks/{}/web", daemon.namespace());
    for path in [&task, "tasks", "containers", "images", "snapshots", "content", "namespaces", "journal", &task] {
        daemon.ok(["supervision", "restart", path]);
        assert_eq!(daemon.task_pid("web"), pid, "{path}");
    }
    let tree = daemon.ok("supervision tree");
    for line in ["|- journal", "|- tasks"] {
        let row = tree.lines().find(|row| row.trim_start().starts_with(line)).unwrap_or_else(|| panic!("{tree}"));
        assert!(row.contains("restarted by hand"), "{tree}");
    }
    for (path, words) in [("root", "restart the daemon"), ("tasks/nobody/none", "not found"), ("nothing", "not found")]
    {
        daemon.wharf(["supervision", "restart", path]).refused(&[words]);
    }
    assert!(process::alive(pid));
    daemon.ok("tasks exec --exec-id x web echo still here").prints("still here");
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    events::log(&daemon);
    daemon.expect_nothing_left();
}

#[test]
fn a_disk_that_fails_costs_no_read_and_no_container() {
    let (daemon, points) = Failpoints::start();
    import_busybox(&daemon);
    sleeper(&daemon, "web");
    let pid = daemon.task_pid("web");
    points.set("store/sync=error");
    daemon.wharf(["containers", "create", BUSYBOX, "more", "true"]).refused(&["failpoint store/sync"]);
    assert!(daemon.ok("containers ls").row("web").is_some() && daemon.ok("containers ls").row("more").is_none());
    assert_eq!(daemon.task_pid("web"), pid);
    // What happens meanwhile is told when the disk works again.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("its end", || (!process::alive(pid)).then_some(()));
    points.clear();
    daemon.until_task("web", "STOPPED");
    daemon.ok(["containers", "create", BUSYBOX, "more", "true"]);
    daemon.ok("tasks rm web");
    daemon.ok("containers rm web more");
    events::log(&daemon);
    daemon.expect_nothing_left();
}
