//! `run`: a container from an image, in the foreground.

use crate::fixture::{BUSYBOX, with_busybox};
use std::fs;

#[test]
fn output_errors_and_exit_code_are_passed_on() {
    let daemon = with_busybox();
    let output = daemon.wharf(["run", "--rm", BUSYBOX, "a", "sh", "-c", "echo out; echo err >&2; exit 7"]).exits(7);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"), "{output}");
    // The name is free again, and so is everything else.
    daemon.ok(["run", "--rm", BUSYBOX, "a", "true"]).prints("");
    let _ = daemon.wharf(["run", "--rm", BUSYBOX, "a", "false"]).exits(1);
    daemon.ok("containers ls -q").prints("");
    daemon.expect_nothing_left();
}

#[test]
fn a_signal_that_kills_is_128_and_its_number() {
    let daemon = with_busybox();
    let script = "sleep 1000 & kill -9 $!; wait $!";
    let _ = daemon.wharf(["run", "--rm", BUSYBOX, "a", "sh", "-c", script]).exits(137);
}

#[test]
fn standard_input_reaches_the_process_and_ends() {
    let daemon = with_busybox();
    let output = daemon.client().run_with(["run", "--rm", BUSYBOX, "a", "cat"], b"one\ntwo\n").ok();
    assert_eq!(output.stdout, "one\ntwo\n");
    let output = daemon.client().run_with(["run", "--rm", BUSYBOX, "a", "wc", "-c"], &vec![b'x'; 3 << 20]).ok();
    output.prints("3145728");
}

#[test]
fn much_output_arrives_whole() {
    let daemon = with_busybox();
    let script = "dd if=/dev/zero bs=1M count=8 2>/dev/null | tr '\\0' x; echo; echo end >&2";
    let output = daemon.ok(["run", "--rm", BUSYBOX, "a", "sh", "-c", script]);
    assert_eq!((output.stdout.len(), output.stderr.as_str()), ((8 << 20) + 1, "end\n"));
}

#[test]
fn the_images_command_is_the_default() {
    let daemon = with_busybox();
    // The image's command is `sh`, which reads its input.
    daemon
        .client()
        .run_with(["run", "--rm", BUSYBOX, "a"], b"echo from the default command")
        .ok()
        .prints("from the default command");
}

#[test]
fn environment_folder_user_and_host_name() {
    let daemon = with_busybox();
    let file = daemon.dir().file("env", "C=three\n");
    #[rustfmt::skip]
    let output = daemon.ok([
        "run", "--rm", "--env", "A=one", "--env", "B=two words", "--env-file", file.to_str().unwrap(), "--cwd", "/tmp",
        "--user", "guest", BUSYBOX, "a", "sh", "-c", "echo $A,$B,$C; pwd; id -u; id -g; echo $PATH",
    ]);
    output
        .prints("one,two words,three\n/tmp\n1000\n1000\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    daemon.ok(["run", "--rm", "--user", "1234:5678", BUSYBOX, "a", "sh", "-c", "id -u; id -g"]).prints("1234\n5678");
    daemon.ok(["run", "--rm", "--hostname", "there", BUSYBOX, "a", "hostname"]).prints("there");
}

#[test]
fn mounts_and_a_read_only_root() {
    let daemon = with_busybox();
    let shared = daemon.dir().folder("shared");
    fs::write(shared.join("file"), "from the host").unwrap();
    let bind = format!("type=bind,src={},dst=/mnt,options=rbind:ro", shared.display());
    daemon.ok(["run", "--rm", "--mount", &bind, BUSYBOX, "a", "cat", "/mnt/file"]).prints("from the host");
    let output = daemon.wharf(["run", "--rm", "--mount", &bind, BUSYBOX, "a", "touch", "/mnt/new"]).exits(1);
    assert!(output.stderr.contains("Read-only file system"), "{output}");
    let bind = bind.replace(":ro", ":rw");
    daemon.ok(["run", "--rm", "--mount", &bind, BUSYBOX, "a", "sh", "-c", "echo back >/mnt/new"]);
    assert_eq!(fs::read_to_string(shared.join("new")).unwrap(), "back\n");
    let tmpfs = "type=tmpfs,src=tmpfs,dst=/mnt,options=size=64k";
    daemon
        .ok(["run", "--rm", "--mount", tmpfs, BUSYBOX, "a", "grep", "-c", " /mnt tmpfs ", "/proc/mounts"])
        .prints("1");
    let output = daemon.wharf(["run", "--rm", "--read-only", BUSYBOX, "a", "touch", "/new"]).exits(1);
    assert!(output.stderr.contains("Read-only file system"), "{output}");
    daemon.expect_nothing_left();
}

#[test]
fn what_a_container_writes_is_its_own() {
    let daemon = with_busybox();
    daemon.ok(["run", "--rm", BUSYBOX, "a", "sh", "-c", "echo changed >/etc/passwd; rm /bin/vi; touch /new"]);
    let script = "head -1 /etc/passwd; ls -d /bin/vi; ls /new 2>/dev/null || echo none";
    daemon.ok(["run", "--rm", BUSYBOX, "a", "sh", "-c", script]).prints("root:x:0:0:root:/root:/bin/sh\n/bin/vi\nnone");
}

#[test]
fn labels_and_the_pid_file() {
    let daemon = with_busybox();
    let pid_file = daemon.dir().join("pid");
    #[rustfmt::skip]
    daemon.ok([
        "run", "-d", "--label", "role=web", "--label", "plain", "--pid-file", pid_file.to_str().unwrap(),
        BUSYBOX, "a", "sleep", "1000",
    ]);
    assert_eq!(fs::read_to_string(pid_file).unwrap(), daemon.task_pid("a").to_string());
    let info: serde_json::Value = serde_json::from_str(&daemon.ok("containers info a").stdout).unwrap();
    assert_eq!((&info["Labels"]["role"], &info["Labels"]["plain"]), (&"web".into(), &"true".into()), "{info}");
    assert_eq!((&info["ID"], &info["Image"]), (&"a".into(), &BUSYBOX.into()));
    assert_eq!(info["Runtime"]["Name"], "io.containerd.runc.v2");
    assert_eq!(info["Spec"]["process"]["args"], serde_json::json!(["sleep", "1000"]));
    daemon.ok("containers ls -q labels.role==web").prints("a");
    daemon.ok("containers ls -q labels.role==db").prints("");
}

#[test]
fn output_goes_to_a_file_or_nowhere() {
    let daemon = with_busybox();
    let log = daemon.dir().join("deep/er/log");
    let uri = format!("file://{}", log.display());
    daemon.ok(["run", "-d", "--log-uri", &uri, BUSYBOX, "a", "sh", "-c", "echo out; echo err >&2"]).prints("");
    daemon.until_task("a", "STOPPED");
    let mut lines: Vec<_> = fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    daemon.ok(["run", "--rm", "--null-io", BUSYBOX, "b", "echo", "unheard"]).prints("");
}

#[test]
fn the_client_forwards_signals() {
    let daemon = with_busybox();
    let mut client = daemon.background(["run", "--rm", BUSYBOX, "a", "sh", "-c", crate::fixture::UNTIL_TERM]);
    client.expect("ready");
    client.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(client.wait(), 3, "{}", client.text());
    daemon.expect_nothing_left();
}

#[test]
fn a_folder_can_be_the_root_file_system() {
    let daemon = wharf_tests::Daemon::start();
    let root = daemon.dir().folder("rootfs");
    wharf_tests::images::fill_busybox(&root);
    fs::write(root.join("marker"), "this folder").unwrap();
    daemon.ok(["run", "--rm", "--rootfs", root.to_str().unwrap(), "a", "/bin/cat", "/marker"]).prints("this folder");
    assert!(root.join("marker").exists(), "the folder is the caller's and stays");
    daemon.expect_nothing_left();
}

#[test]
fn runc_and_crun_are_used_when_named() {
    let daemon = with_busybox();
    daemon.ok(["run", "--rm", "--runc-binary", "runc", BUSYBOX, "a", "echo", "by runc"]).prints("by runc");
    let _ = daemon.wharf(["run", "--rm", "--runc-binary", "runc", BUSYBOX, "a", "sh", "-c", "exit 4"]).exits(4);
    // crun refuses hybrid cgroups, which a machine may have; that it was asked is to be seen in either case.
    let output = daemon.wharf(["run", "--rm", "--runc-binary", "crun", BUSYBOX, "a", "echo", "by crun"]);
    assert!(output.code == 0 && output.stdout == "by crun\n" || output.stderr.contains("cgroup"), "{output}");
    daemon.wharf(["run", "--rm", "--runc-binary", "/no/such", BUSYBOX, "a", "true"]).refused(&["/no/such"]);
    daemon.expect_nothing_left();
}

#[test]
fn many_at_once() {
    let daemon = with_busybox();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let daemon = &daemon;
            scope.spawn(move || {
                for round in 0..3 {
                    let id = format!("c{worker}-{round}");
                    daemon.ok(["run", "--rm", BUSYBOX, &id, "echo", &id]).prints(&id);
                }
            });
        }
    });
    daemon.ok("containers ls -q").prints("");
    daemon.ok("snapshots ls").table().iter().for_each(|row| assert_ne!(row.last().unwrap(), "Active", "{row:?}"));
    daemon.expect_nothing_left();
}
