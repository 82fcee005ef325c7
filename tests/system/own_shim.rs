//! wharf's shim, installed as `containerd-shim-wharf-v2`, under Debian's containerd and its `ctr`.

use crate::fixture::{BUSYBOX, UNTIL_TERM};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use wharf_tests::{
    Containerd, Output, Pty, containerd::Settings, eventually, images, leftovers::Leftovers, paths, process,
    process::Guarded, wait,
};

const RUNTIME: &str = "io.containerd.wharf.v2";

/// A containerd with a busybox image that finds wharf's shim.
fn with_busybox() -> Containerd {
    let shims = paths::binary("containerd-shim-wharf-v2").parent().unwrap().to_path_buf();
    let containerd = Containerd::with(Settings { shims: Some(shims), ..Settings::default() });
    let archive = images::docker_archive(&images::busybox(), BUSYBOX);
    containerd.ok(["images", "import", archive.to_str().unwrap()]);
    containerd
}

fn run(containerd: &Containerd, flags: &[&str], id: &str, args: &[&str]) -> Output {
    let args = [&["run", "--runtime", RUNTIME], flags, &[BUSYBOX, id], args].concat();
    containerd.ctr(args.as_slice())
}

fn bundle(containerd: &Containerd, id: &str) -> PathBuf {
    containerd.state().join("io.containerd.runtime.v2.task").join(containerd.namespace()).join(id)
}

fn task_pid(containerd: &Containerd, id: &str) -> i32 {
    containerd.ok("tasks ls").row(id).unwrap()[1].parse().unwrap()
}

fn shim(containerd: &Containerd, id: &str) -> i32 {
    let shim = process::parent(task_pid(containerd, id)).unwrap();
    let program = fs::read_link(format!("/proc/{shim}/exe")).unwrap();
    assert_eq!(program.file_name().unwrap(), "wharf-shim");
    shim
}

fn until_task(containerd: &Containerd, id: &str, status: &str) {
    eventually(&format!("{id} is {status}"), || (containerd.ctr("tasks ls").row(id)?.last()? == status).then_some(()));
}

#[track_caller]
fn expect_nothing_left(containerd: &Containerd) {
    let look = || {
        let mut found = Leftovers::find(containerd.dir().path(), containerd.namespace());
        found.processes.retain(|(pid, _)| *pid != containerd.pid());
        found
    };
    let gone = wait::within(Duration::from_secs(20), || look().is_empty().then_some(()));
    assert!(gone.is_some(), "left behind:\n{}\n{}", look(), containerd.log());
    assert!(!bundle(containerd, "a").exists());
}

/// `ctr events` in the background, and what it has told so far.
struct Watcher {
    _process: Guarded,
    path: PathBuf,
}

impl Watcher {
    fn new(containerd: &Containerd) -> Self {
        let path = containerd.dir().join(wait::unique("events"));
        let mut command: Command = containerd.client().command("events");
        command.stdin(Stdio::null()).stdout(fs::File::create(&path).unwrap()).stderr(Stdio::null());
        let watcher = Self { _process: Guarded::new(command.spawn().unwrap()), path };
        // Whoever subscribes hears what comes after; when that began it does not say.
        let probe = wait::unique("probe");
        eventually("the subscription", || {
            let name = format!("{probe}-{}", wait::unique("n"));
            containerd.ok(["namespaces", "create", &name]);
            containerd.ok(["namespaces", "rm", &name]);
            fs::read_to_string(&watcher.path).ok()?.contains(&probe).then_some(())
        });
        watcher
    }

    /// The topics of a container's task, each with its words.
    fn topics(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(&self.path).unwrap();
        let of = format!("\"container_id\":\"{id}\"");
        let lines = text.lines().filter(|line| line.contains(&of));
        lines.filter_map(|line| line.split(' ').find(|word| word.starts_with("/tasks/"))).map(str::to_owned).collect()
    }

    fn expect(&self, id: &str, topics: &[&str]) {
        let told = wait::within(wait::PATIENCE, || (self.topics(id) == topics).then_some(()));
        assert!(told.is_some(), "{:?}, not {topics:?}", self.topics(id));
    }
}

#[test]
fn a_life_in_the_foreground() {
    let containerd = with_busybox();
    let output = run(&containerd, &["--rm"], "a", &["sh", "-c", "echo out; echo err >&2; exit 7"]).exits(7);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"), "{output}");
    let args = ["run", "--rm", "-t", "--runtime", RUNTIME, BUSYBOX, "a", "sh", "-c", "tty; stty size; exit 4"];
    let mut terminal = Pty::spawn(containerd.client().command(args));
    terminal.expect("/dev/pts/0");
    terminal.expect("24 80");
    assert_eq!(terminal.exit_code(), 4, "{}", terminal.screen());
    let output = run(&containerd, &["--rm"], "a", &["nosuch"]).exits(1);
    assert!(output.stderr.contains("nosuch"), "{output}");
    containerd.ok("containers ls -q").prints("");
    expect_nothing_left(&containerd);
}

#[test]
fn every_verb_reaches_it_and_every_event_comes_back() {
    let containerd = with_busybox();
    let watcher = Watcher::new(&containerd);
    run(&containerd, &["-d"], "a", &["sleep", "1000"]).ok().prints("");
    shim(&containerd, "a");
    containerd.ctr(["tasks", "exec", "--exec-id", "x", "a", "sh", "-c", "echo hi; exit 5"]).exits(5).prints("hi");
    assert_eq!(containerd.ok("tasks ps a").table().len(), 2);
    containerd.ok("tasks pause a");
    until_task(&containerd, "a", "PAUSED");
    containerd.ok("tasks resume a");
    until_task(&containerd, "a", "RUNNING");
    let figures = containerd.ok("tasks metrics a");
    assert!(figures.row("pids.current").is_some(), "{figures}");
    containerd.ok("tasks kill -s 9 a");
    until_task(&containerd, "a", "STOPPED");
    assert!(containerd.ok("tasks rm a").stderr.contains("exit code 137"));
    containerd.ok("containers rm a");
    #[rustfmt::skip]
    watcher.expect("a", &[
        "/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/paused",
        "/tasks/resumed", "/tasks/exit", "/tasks/delete",
    ]);
    expect_nothing_left(&containerd);
}

#[test]
fn ctr_talks_to_the_shim_itself() {
    let containerd = with_busybox();
    run(&containerd, &["-d"], "a", &["sleep", "1000"]).ok().prints("");
    let state = containerd.ok("shim --id a state");
    let state: serde_json::Value = serde_json::from_str(&state.stdout).unwrap();
    assert_eq!((&state["id"], &state["pid"]), (&"a".into(), &task_pid(&containerd, "a").into()));
    // (`shim exec` of this version panics before it asks any shim: it names its own spec's type wrongly.)
    // These name no container, whichever shim they talk to, and so none is found.
    containerd.ok(["run", "-d", BUSYBOX, "b", "sleep", "1000"]);
    for id in ["a", "b"] {
        for verb in ["delete", "start"] {
            let refused = containerd.ctr(["shim", "--id", id, verb]).exits(1);
            assert!(refused.stderr.contains("NotFound"), "{refused}");
        }
    }
    containerd.ok("tasks rm -f b");
    containerd.ok("containers rm b");
    containerd.ok("tasks rm -f a");
    containerd.ok("containers rm a");
    expect_nothing_left(&containerd);
}

#[test]
fn a_killed_containerd_finds_it_again_and_learns_what_it_missed() {
    let mut containerd = with_busybox();
    run(&containerd, &["-d"], "web", &["sleep", "1000"]).ok().prints("");
    let log = containerd.dir().join("log");
    let uri = format!("file://{}", log.display());
    run(&containerd, &["-d", "--log-uri", &uri], "a", &["sh", "-c", UNTIL_TERM]).ok().prints("");
    eventually("the trap", || fs::read_to_string(&log).ok()?.contains("ready").then_some(()));
    let (web, gone) = (task_pid(&containerd, "web"), task_pid(&containerd, "a"));
    containerd.kill();
    kill(Pid::from_raw(gone), Signal::SIGTERM).unwrap();
    eventually("its end", || (!process::alive(gone)).then_some(()));
    containerd.up();
    until_task(&containerd, "a", "STOPPED");
    assert_eq!(task_pid(&containerd, "web"), web);
    containerd.ok("tasks exec --exec-id x web echo still here").prints("still here");
    assert!(containerd.ok("tasks rm a").stderr.contains("exit code 3"));
    containerd.ok("tasks rm -f web");
    containerd.ok("containers rm web a");
    expect_nothing_left(&containerd);
}

#[test]
fn what_a_killed_shim_leaves_is_cleaned_up_by_its_own_delete() {
    let mut containerd = with_busybox();
    let watcher = Watcher::new(&containerd);
    run(&containerd, &["-d"], "a", &["sleep", "1000"]).ok().prints("");
    let (pid, killed) = (task_pid(&containerd, "a"), shim(&containerd, "a"));
    let address = fs::read_to_string(bundle(&containerd, "a").join("address")).unwrap();
    process::kill_all(&[killed]);
    watcher.expect("a", &["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    let told = fs::read_to_string(&watcher.path).unwrap();
    assert!(told.contains("\"exit_status\":137"), "{told}");
    assert!(!process::alive(pid));
    assert!(!fs::exists(address.strip_prefix("unix://").unwrap()).unwrap(), "its socket is gone");
    containerd.ok("containers rm a");
    expect_nothing_left(&containerd);
    // The same for a containerd that was away.
    run(&containerd, &["-d"], "a", &["sleep", "1000"]).ok().prints("");
    let (pid, killed) = (task_pid(&containerd, "a"), shim(&containerd, "a"));
    containerd.kill();
    process::kill_all(&[killed]);
    containerd.up();
    eventually("the cleanup", || (!process::alive(pid) && !bundle(&containerd, "a").exists()).then_some(()));
    containerd.ok("containers rm a");
    expect_nothing_left(&containerd);
}

#[test]
fn it_holds_a_group() {
    let containerd = with_busybox();
    let member = |id: &str| {
        run(&containerd, &["-d", "--annotation", "io.containerd.runc.v2.group=pod"], id, &["sleep", "1000"])
            .ok()
            .prints("");
        shim(&containerd, id)
    };
    let first = member("a");
    assert_eq!(member("b"), first);
    containerd.ok("tasks kill -s 9 a");
    until_task(&containerd, "a", "STOPPED");
    containerd.ok("tasks rm a");
    containerd.ok("tasks exec --exec-id x b echo alive").prints("alive");
    process::kill_all(&[first]);
    eventually("the cleanup", || containerd.ok("tasks ls").row("b").is_none().then_some(()));
    containerd.ok("containers rm a b");
    expect_nothing_left(&containerd);
}
