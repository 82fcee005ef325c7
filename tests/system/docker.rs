//! Debian's dockerd on wharf: every verb that reaches containerd's API.

use std::{
    thread,
    time::{Duration, Instant},
};
use wharf_tests::{Daemon, Docker, Registry, eventually, images};

/// A shell that counts aloud, and ends when told to by SIGTERM, with code 3.
pub const COUNTING: &str = "trap 'echo bye; exit 3' TERM; n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.05; done";
/// How a container is.
pub const STATUS: &str = "{{.State.Status}} {{.State.ExitCode}}";

/// Both daemons, the upper one with an image.
pub fn start() -> (Daemon, Docker) {
    let daemon = Daemon::start();
    let docker = Docker::on(&daemon.address());
    (daemon, docker)
}

/// The lines of a container's log so far.
fn lines(docker: &Docker, name: &str) -> usize {
    docker.ok(["logs", name]).lines().count()
}

/// Waits until a container's log grows.
pub fn goes_on(docker: &Docker, name: &str) {
    let before = lines(docker, name);
    eventually("its output goes on", || (lines(docker, name) > before).then_some(()));
}

#[test]
fn docker_runs_containers_to_their_end() {
    let (daemon, docker) = start();
    let run = |args: &str, script: &str| {
        let mut words: Vec<_> = "run --rm".split(' ').chain(args.split_whitespace()).collect();
        words.extend(["busybox", "sh", "-c", script]);
        docker.docker(words.as_slice())
    };
    let said = run("", "echo out; echo err >&2; exit 7").exits(7);
    assert_eq!(said.stdout, "out\n");
    assert!(said.stderr.ends_with("err\n"), "{said}");
    docker.fed("run --rm -i busybox sh -c cat", "fed").ok().prints("fed");
    // What cannot be run, in containerd's words, which docker makes codes of.
    for (program, code, why) in
        [("no-such", 127, "executable file not found in $PATH"), ("/etc", 126, "permission denied")]
    {
        let refused = docker.docker(["run", "--rm", "busybox", program]).exits(code);
        assert!(refused.stderr.contains("failed to create shim task: OCI runtime create failed: "), "{refused}");
        assert!(refused.stderr.contains(why), "{refused}");
    }
    // On a terminal.
    let mut terminal =
        docker.terminal(["run", "--rm", "-it", "busybox", "sh", "-c", "tty; read word; echo got $word; exit 5"]);
    terminal.expect("/dev/pts/0");
    terminal.send("word\n");
    terminal.expect("got word");
    assert_eq!(terminal.exit_code(), 5, "{}", terminal.screen());
    // What dockerd asks of the runtime.
    for (args, script, printed) in [
        ("--init", "cat /proc/1/comm", "docker-init"),
        ("--user 1000:1000 --group-add 10", "id -u; id -G", "1000\n1000 10"),
        ("--hostname here --workdir /tmp -e A=b", "hostname; pwd; echo $A", "here\n/tmp\nb"),
        ("--ulimit nofile=100:200 --sysctl kernel.msgmax=9000", "ulimit -n; cat /proc/sys/kernel/msgmax", "100\n9000"),
        ("--read-only --tmpfs /t", "touch /x || touch /t/x && ls /t", "x"),
        ("--volume kept:/data", "echo kept >/data/file; cat /data/file", "kept"),
        ("--cap-drop ALL", "chown guest /tmp 2>/dev/null || echo refused", "refused"),
        ("--pids-limit 50 --cpus 0.5 --memory 64m", "echo limited", "limited"),
        ("--pid host", "test -d /proc/2 && echo host", "host"),
    ] {
        run(args, script).ok().prints(printed);
    }
    docker.ok("volume rm kept");
    assert_eq!(docker.ok("ps -aq").stdout, "");
    docker.expect_nothing_left_on(&daemon);
}

#[test]
fn docker_pulls_and_pushes() {
    let (daemon, docker) = start();
    let registry = Registry::start();
    let reference = registry.push(&images::umoci_layers(), "app/layers:latest");
    docker.ok(["pull", &reference]);
    docker.ok(["run", "--rm", &reference, "cat", "/srv/changed"]).prints("third");
    let pushed = registry.reference("app/pushed:1");
    docker.ok(["run", "--name", "made", "busybox", "touch", "/made"]);
    docker.ok(["commit", "made", &pushed]);
    docker.ok(["push", &pushed]);
    docker.ok(["rmi", &pushed]);
    docker.ok(["run", "--rm", &pushed, "ls", "/made"]).prints("/made");
    docker.ok(["rm", "made"]);
    // dockerd keeps manifests in containerd's content store.
    assert_eq!(daemon.ok("-n moby content ls -q").lines().count(), 2);
    docker.expect_nothing_left_on(&daemon);
}

#[test]
fn docker_manages_containers_that_run() {
    let (daemon, docker) = start();
    docker.start("web", "", COUNTING);
    goes_on(&docker, "web");
    // Other processes.
    let said = docker.docker(["exec", "web", "sh", "-c", "echo in exec; echo err >&2; exit 4"]).exits(4);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("in exec\n", "err\n"));
    docker.fed("exec -i web cat", "fed").ok().prints("fed");
    docker.ok("exec -u guest -w /tmp -e A=b web sh -c whoami;pwd").prints("guest\n/tmp");
    docker.ok("exec -d web touch /tmp/detached");
    eventually("the detached one", || (docker.docker("exec web test -e /tmp/detached").code == 0).then_some(()));
    let refused = docker.docker("exec web no-such").exits(126);
    assert!((refused.stdout.clone() + &refused.stderr).contains("executable file not found"), "{refused}");
    let mut terminal = docker.terminal("exec -it web tty");
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.exit_code(), 0);
    // What is seen of it.
    let top = docker.ok("top web -o pid,comm");
    assert!(top.table().iter().any(|row| row[0] == docker.pid("web").to_string()), "{top}");
    let stats = docker.ok(["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "web"]);
    let figures = stats.table();
    assert!(figures[0][0].parse::<u32>().unwrap() >= 1 && !figures[0][1].starts_with("0B"), "{stats}");
    // Frozen.
    docker.ok("pause web");
    assert_eq!(docker.inspect("web", "{{.State.Status}} {{.State.Paused}}"), "paused true");
    assert!(docker.docker("exec web true").stderr.contains("paused"));
    docker.ok("unpause web");
    goes_on(&docker, "web");
    // Limits.
    docker.ok("update --memory 100m --memory-swap 200m web");
    let limits = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null";
    assert!(docker.docker(["exec", "web", "sh", "-c", limits]).stdout.contains("104857600"));
    // Its ends.
    docker.ok("stop web");
    assert_eq!(docker.inspect("web", STATUS), "exited 3");
    assert!(docker.ok("logs --tail 1 web").stdout.contains("bye"));
    // Each time it is awaited until it counts: it would not hear a signal before.
    docker.ok("start web");
    goes_on(&docker, "web");
    let first = docker.pid("web");
    docker.ok("restart web");
    docker.until("web", STATUS, "running 0");
    goes_on(&docker, "web");
    assert_ne!(docker.pid("web"), first);
    docker.ok("kill --signal TERM web");
    docker.ok("wait web").prints("3");
    docker.ok("start web");
    docker.ok("kill web");
    docker.until("web", STATUS, "exited 137");
    docker.ok("rm web");
    docker.start("stubborn", "--stop-timeout 1", "trap '' TERM; while :; do sleep 0.05; done");
    docker.ok("stop stubborn");
    assert_eq!(docker.inspect("stubborn", STATUS), "exited 137");
    docker.ok("rm stubborn");
    // The events of all that, as dockerd has them from containerd's.
    let events = docker.ok([
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "container=web",
        "--format",
        "{{.Action}} {{.Actor.Attributes.exitCode}}",
    ]);
    let told: Vec<_> =
        events.lines().map(str::trim).filter(|line| !line.starts_with("exec_") && !line.is_empty()).collect();
    let spelt = told.join(",").replace(" <no value>", "");
    assert_eq!(
        spelt,
        "create,start,top,pause,unpause,update,kill,die 3,stop,start,kill,die 3,stop,start,restart,kill,die 3,start,kill,die 137,destroy",
    );
    docker.expect_nothing_left_on(&daemon);
}

#[test]
fn docker_acts_on_how_containers_end() {
    let (daemon, docker) = start();
    docker.start("oom", "--memory 20m --memory-swap 20m", "tail /dev/zero; exit 9");
    docker.start("tries", "--restart on-failure:2", "echo try; exit 1");
    docker.start("always", "--restart always", "sleep 0.1");
    let health = ["--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "2"];
    let words = [&["run", "-d", "--name", "health"], health.as_slice(), &["busybox", "sleep", "1000"]].concat();
    docker.ok(words.as_slice());
    docker.ok("wait oom").prints("9");
    assert_eq!(docker.inspect("oom", "{{.State.OOMKilled}}"), "true");
    docker
        .ok("events --since 10m --until 0s --filter container=oom --filter event=oom --format {{.Action}}")
        .prints("oom");
    docker.until("tries", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "2 exited 1");
    assert_eq!(lines(&docker, "tries"), 3);
    eventually("it is started again", || (docker.inspect("always", "{{.RestartCount}}") != "0").then_some(()));
    docker.until("health", "{{.State.Health.Status}}", "unhealthy");
    docker.ok("exec health touch /tmp/well");
    docker.until("health", "{{.State.Health.Status}}", "healthy");
    docker.ok("rm -f oom tries always health");
    docker.expect_nothing_left_on(&daemon);
}

#[test]
fn docker_starts_and_removes_twenty_at_once() {
    const COUNT: usize = 20;
    let (mut daemon, docker) = start();
    let begun = Instant::now();
    thread::scope(|scope| {
        for n in 0..COUNT {
            let docker = &docker;
            scope.spawn(move || docker.start(&format!("n{n}"), "", "echo up; sleep 1000"));
        }
    });
    let started = begun.elapsed();
    let running = docker.ok("ps -q");
    assert_eq!(running.lines().count(), COUNT);
    thread::scope(|scope| {
        for n in 0..COUNT {
            let docker = &docker;
            scope.spawn(move || docker.ok(["exec", &format!("n{n}"), "echo", "here"]).prints("here"));
        }
    });
    // All of them are found again at once.
    daemon.kill();
    daemon.up();
    thread::scope(|scope| {
        for n in 0..COUNT {
            let docker = &docker;
            scope.spawn(move || {
                let name = format!("n{n}");
                eventually("docker's connection", || (docker.docker(["exec", &name, "true"]).code == 0).then_some(()));
                assert_eq!(docker.inspect(&name, STATUS), "running 0");
            });
        }
    });
    let begun = Instant::now();
    let remove: Vec<String> = (0..COUNT).map(|n| format!("n{n}")).collect();
    let words: Vec<&str> = ["rm", "-f"].into_iter().chain(remove.iter().map(String::as_str)).collect();
    docker.ok(words.as_slice());
    let removed: Duration = begun.elapsed();
    println!("{COUNT} containers by docker: started in {started:?}, removed in {removed:?}");
    docker.expect_nothing_left_on(&daemon);
}
