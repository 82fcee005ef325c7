//! What keeps a container in: namespaces, capabilities, system calls, limits, devices, masked paths.

use crate::fixture::{BUSYBOX, with_busybox};
use std::{collections::BTreeMap, fs};
use wharf_tests::{Containerd, Daemon, Output, cgroups, images};

/// Lines of `/proc/self/status` by their names.
fn status(daemon: &Daemon, flags: &[&str]) -> BTreeMap<String, String> {
    let args = [&["run", "--rm"], flags, &[BUSYBOX, "a", "cat", "/proc/self/status"]].concat();
    let output = daemon.ok(args.as_slice());
    output.lines().filter_map(|line| line.split_once(":\t")).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
}

#[test]
fn a_container_is_as_containerds_is() {
    let daemon = with_busybox();
    let containerd = Containerd::start();
    let archive = images::docker_archive(&images::busybox(), BUSYBOX);
    containerd.ok(["images", "import", archive.to_str().unwrap()]);
    // Mount points with their kinds and flags, devices, limits, identity, what is hidden.
    let script = "
        awk '{ print $5, $6, $(NF-2) }' /proc/self/mountinfo | sort
        ls -l /dev | awk '{ print $1, $3, $4, $5, $6 == int($6) ? $6 : 0, $NF }'
        ulimit -n; umask; id; hostname | wc -l; pwd; env | sort
        grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
        ls /sys/class/net; ls /proc/1/ns | wc -l; set -- /proc/[0-9]*; echo $#
        head -c 1 /proc/kcore 2>/dev/null | wc -c; ls /sys/firmware | wc -l
        echo x 2>&1 >/proc/sys/kernel/hostname; cat /proc/1/oom_score_adj
    ";
    for flags in [&[][..], &["--privileged"], &["--net-host"], &["--read-only"], &["--allow-new-privs"]] {
        let args = [&["run", "--rm"], flags, &[BUSYBOX, "a", "sh", "-c", script]].concat();
        let (ours, theirs) = (daemon.wharf(args.as_slice()), containerd.ctr(args.as_slice()));
        let lines = |output: &Output| output.stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        let (here, there) = (lines(&ours), lines(&theirs));
        let only_here: Vec<_> = here.iter().filter(|line| !there.contains(line)).collect();
        let only_there: Vec<_> = there.iter().filter(|line| !here.contains(line)).collect();
        assert_eq!(here, there, "{flags:?}\nonly in wharf's: {only_here:#?}\nonly in containerd's: {only_there:#?}");
        assert_eq!((ours.code, &ours.stderr), (theirs.code, &theirs.stderr), "{flags:?}");
    }
}

#[test]
fn capabilities_are_added_and_dropped() {
    let daemon = with_busybox();
    assert_eq!(status(&daemon, &[])["CapEff"], "00000000a80425fb");
    let changed = status(&daemon, &["--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "CAP_CHOWN"]);
    assert_eq!(changed["CapEff"], "00000000a82425fa");
    assert_eq!(changed["CapBnd"], "00000000a82425fa");
    daemon.wharf(["run", "--rm", "--cap-add", "SYS_ADMIN", BUSYBOX, "a", "true"]).refused(&["CAP_", "SYS_ADMIN"]);
    daemon.wharf(["run", "--rm", "--cap-add", "CAP_NONSENSE", BUSYBOX, "a", "true"]).refused(&["CAP_NONSENSE"]);
    daemon.ok("containers ls -q").prints("");
}

#[test]
fn system_calls_are_filtered_in_earnest() {
    let daemon = with_busybox();
    assert_eq!(status(&daemon, &[])["Seccomp"], "0");
    assert_eq!(status(&daemon, &["--seccomp"])["Seccomp"], "2");
    let profile = daemon.dir().file(
        "profile.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    let profile = profile.to_str().unwrap();
    #[rustfmt::skip]
    let refused = daemon.wharf([
        "run", "--rm", "--seccomp", "--seccomp-profile", profile, BUSYBOX, "a", "mkdir", "/new",
    ]).exits(1);
    assert!(refused.stderr.contains("Operation not permitted"), "{refused}");
    daemon.ok(["run", "--rm", BUSYBOX, "a", "mkdir", "/new"]);
    // The default profile forbids new namespaces to those without CAP_SYS_ADMIN; without a profile anybody may.
    daemon.ok(["run", "--rm", BUSYBOX, "a", "unshare", "-U", "true"]);
    let refused = daemon.wharf(["run", "--rm", "--seccomp", BUSYBOX, "a", "unshare", "-U", "true"]).exits(1);
    assert!(refused.stderr.contains("Operation not permitted"), "{refused}");
}

#[test]
fn memory_over_the_limit_is_an_end_with_a_cause() {
    let daemon = with_busybox();
    let script = "x=a; while :; do x=$x$x; done";
    let output = daemon.wharf(["run", "--memory-limit", "20000000", BUSYBOX, "a", "sh", "-c", script]);
    assert_eq!(output.code, 137, "{output}");
    daemon.until("events --since 0", "the OOM is told", |output| output.stdout.contains("/tasks/oom"));
    daemon.ok("containers rm a");
    daemon.expect_nothing_left();
}

#[test]
fn limits_are_set_in_the_cgroup() {
    let daemon = with_busybox();
    let flags = "run -d --cpus 0.5 --cpu-shares 512 --memory-limit 50000000".split(' ').collect::<Vec<_>>();
    daemon.ok([&flags[..], &[BUSYBOX, "a", "sleep", "1000"]].concat().as_slice());
    let read = |file: &str| {
        let files = cgroups::of(daemon.namespace()).into_iter().map(|top| top.join("a").join(file));
        let found = files.filter_map(|path| fs::read_to_string(path).ok()).next();
        found.unwrap_or_else(|| panic!("no {file} in any cgroup")).trim().to_owned()
    };
    if cgroups::is_v2() {
        assert_eq!(read("cpu.max"), "50000 100000");
    } else {
        assert_eq!(read("cpu.cfs_quota_us"), "50000");
        assert_eq!(read("cpu.cfs_period_us"), "100000");
        assert_eq!(read("cpu.shares"), "512");
        // Pages are 4096 bytes.
        assert_eq!(read("memory.limit_in_bytes"), (50_000_000 / 4096 * 4096).to_string());
    }
    let pid = daemon.task_pid("a");
    assert!(cgroups::processes(daemon.namespace()).contains(&pid));
    daemon.ok("tasks rm -f a");
    daemon.ok("containers rm a");
    daemon.expect_nothing_left();
}

#[test]
fn namespaces_are_new_shared_or_the_hosts() {
    let daemon = with_busybox();
    let link = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let inside = |flags: &[&str], kind: &str| {
        let path = format!("/proc/self/ns/{kind}");
        let args = [&["run", "--rm"], flags, &[BUSYBOX, "b", "readlink", &path]].concat();
        daemon.ok(args.as_slice()).stdout.trim().to_owned()
    };
    for kind in ["pid", "ipc", "uts", "mnt", "net"] {
        assert_ne!(inside(&[], kind), link(kind), "{kind}");
    }
    assert_eq!(inside(&["--net-host"], "net"), link("net"));
    crate::fixture::sleeper(&daemon, "a");
    let pid = daemon.task_pid("a");
    let shared = format!("network:/proc/{pid}/ns/net");
    let theirs = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string();
    assert_eq!(inside(&["--with-ns", &shared], "net"), theirs);
    daemon.wharf(["run", "--rm", "--with-ns", "network:/no/such", BUSYBOX, "c", "true"]).refused(&["/no/such"]);
    daemon.ok("containers ls -q").prints("a");
}

#[test]
fn a_device_of_the_host() {
    let daemon = with_busybox();
    let script = "ls /dev/fuse && exec 3<>/dev/fuse && echo opened";
    let _ = daemon.wharf(["run", "--rm", BUSYBOX, "a", "sh", "-c", script]).exits(1);
    let output = daemon.ok(["run", "--rm", "--device", "/dev/fuse", BUSYBOX, "a", "sh", "-c", script]);
    output.prints("/dev/fuse\nopened");
    daemon.wharf(["run", "--rm", "--device", "/no/such", BUSYBOX, "a", "true"]).refused(&["/no/such"]);
    daemon.ok("containers ls -q").prints("");
}
