//! A `wharfd` on private folders.

use crate::{
    cgroups,
    command::{Args, Output, Program},
    dir::{TestDir, report},
    leftovers::{self, Leftovers},
    order, paths,
    process::{Guarded, shell_code},
    pty::Pty,
    wait,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

/// What a daemon is started with, where that is not the default.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Size of the tmpfs that everything is on, as `size=` takes it.
    pub size: Option<String>,
    /// A configuration file's text.
    pub config: Option<String>,
    /// More arguments.
    pub args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// A shell command that changes what the daemon sees of the machine, in a mount namespace of its own.
    pub view: Option<String>,
}

/// A running daemon with root, state and socket in a folder of its own, and a namespace that no other test has.
///
/// Dropped, it is ended, and so is every shim and container beneath it; mounts and cgroups go too. If the test did not
/// fail by itself, it fails if the daemon does not end as it should.
#[derive(Debug)]
pub struct Daemon {
    // Declared before the folder: it has to end first.
    process: Option<Guarded>,
    settings: Settings,
    namespace: String,
    dir: TestDir,
}

impl Daemon {
    /// Starts one and waits until it answers.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// Starts one that logs no more than it does by default, for measuring.
    #[must_use]
    pub fn release() -> Self {
        Self::with(Settings { args: vec!["--log-level".to_owned(), "info".to_owned()], ..Settings::default() })
    }

    /// Starts one with a configuration file.
    #[must_use]
    pub fn configured(config: &str) -> Self {
        Self::with(Settings { config: Some(config.to_owned()), ..Settings::default() })
    }

    /// Starts one with settings.
    #[must_use]
    pub fn with(settings: Settings) -> Self {
        let dir = settings.size.as_deref().map_or_else(TestDir::new, TestDir::with_size);
        let namespace = wait::unique("t");
        // For whoever finds the folder after this process was killed.
        let _ = dir.file("namespace", &namespace);
        let mut daemon = Self { process: None, settings, namespace, dir };
        daemon.up();
        daemon
    }

    /// Starts the daemon again after [`Self::kill`] or [`Self::terminate`].
    pub fn up(&mut self) {
        let code = self.try_up();
        assert_eq!(code, None, "wharfd ended before it was ready:\n{}", self.log());
    }

    /// Starts it and waits until it is ready; answers how it ended, if it has before.
    fn try_up(&mut self) -> Option<i32> {
        let mut process = self.spawn();
        let outcome = wait::within(wait::PATIENCE, || match process.ended() {
            Some(status) => Some(Some(shell_code(status))),
            None => UnixStream::connect(self.address()).ok().map(|_| None),
        });
        let ended = outcome.unwrap_or_else(|| panic!("wharfd is not ready:\n{}", self.log()));
        if ended.is_none() {
            self.process = Some(process);
        }
        ended
    }

    /// Runs another `wharfd` on the same folders, at an address, to its end, which has to come by itself.
    #[must_use]
    pub fn run_another(&self, address: &Path) -> Output {
        crate::command::run(self.command(address), b"", wait::PATIENCE)
    }

    fn command(&self, address: &Path) -> std::process::Command {
        let mut program = match &self.settings.view {
            None => Program::new(paths::binary("wharfd")),
            Some(view) => {
                let script = format!("{view} && exec \"$0\" \"$@\"");
                let wharfd = paths::binary("wharfd");
                let words = ["--mount", "--propagation", "private", "sh", "-c", &script, wharfd.to_str().unwrap()];
                Program::new("unshare").before(words)
            }
        };
        for (key, value) in &self.settings.env {
            program = program.env(key, value);
        }
        let mut command = program.command(["--root"]);
        command.arg(self.root()).arg("--state").arg(self.state()).arg("--address").arg(address);
        if let Some(config) = &self.settings.config {
            command.arg("--config").arg(self.dir.file("config.toml", config));
        }
        if !self.settings.args.iter().any(|arg| arg == "--log-level") {
            command.args(["--log-level", "debug"]);
        }
        command.args(&self.settings.args);
        command
    }

    fn spawn(&self) -> Guarded {
        let log = fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command(&self.address());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Guarded::new(command.spawn().unwrap())
    }

    /// Ends it by SIGKILL and reaps it.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends it by SIGTERM, which it has to answer with exit code 0.
    pub fn terminate(&mut self) {
        let code = self.end(Signal::SIGTERM);
        assert_eq!(code, 0, "SIGTERM:\n{}", self.log());
    }

    fn end(&mut self, signal: Signal) -> i32 {
        let mut process = self.process.take().expect("the daemon is up");
        process.signal(signal);
        let status = process.wait_for(wait::PATIENCE);
        shell_code(status.unwrap_or_else(|| panic!("wharfd does not end on {signal}:\n{}", self.log())))
    }

    /// Starts it again if it has died, as whoever runs a daemon does, and once more if it dies of that.
    pub fn revive(&mut self) {
        if !self.is_up() {
            self.process = None;
            if self.try_up().is_some() {
                self.up();
            }
        }
    }

    /// Runs `wharf`, and starts the daemon again whenever it dies meanwhile. It has the time of the longest call to a shim.
    pub fn wharf_reviving(&mut self, args: impl Args) -> Output {
        let command = self.client().command(args);
        thread::scope(|scope| {
            let running = scope.spawn(move || crate::command::run(command, b"", 4 * wait::PATIENCE));
            while !running.is_finished() {
                self.revive();
                thread::sleep(Duration::from_millis(5));
            }
            running.join().unwrap()
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.as_ref().expect("the daemon is up").pid()
    }

    /// Whether it has not ended by itself.
    #[must_use]
    pub fn is_up(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Where its durable state is.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where its other state is.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its socket.
    #[must_use]
    pub fn address(&self) -> PathBuf {
        self.dir.join("wharf.sock")
    }

    /// The namespace that commands work in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The folder that root, state and socket are in: on a tmpfs, gone with the daemon.
    #[must_use]
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// Holds the log of events against the rules of its order. A daemon that does not answer has told why otherwise.
    fn check_order(&self) -> Result<(), String> {
        let output = self.wharf("events --since 0 --format json");
        if output.code != 0 { Ok(()) } else { order::check(&order::parse(&output.stdout)?) }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("wharfd.log")
    }

    /// What it logged, all starts together.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The client, set to this daemon and namespace.
    #[must_use]
    pub fn client(&self) -> Program {
        self.client_named("wharf")
    }

    fn client_named(&self, name: &str) -> Program {
        let program = Program::new(paths::binary("wharf")).called(name);
        program.env("WHARF_ADDRESS", self.address()).env("WHARF_NAMESPACE", &self.namespace)
    }

    /// Runs `wharf`.
    #[must_use]
    pub fn wharf(&self, args: impl Args) -> Output {
        self.client().run(args)
    }

    /// Runs `wharf`, which has to succeed.
    #[track_caller]
    pub fn ok(&self, args: impl Args) -> Output {
        self.wharf(args).ok()
    }

    /// Runs `wharf` under the name `ctr`.
    #[must_use]
    pub fn ctr(&self, args: impl Args) -> Output {
        self.client_named("ctr").run(args)
    }

    /// Runs Debian's `ctr`.
    #[must_use]
    pub fn real_ctr(&self, args: impl Args) -> Output {
        let client = Program::new("ctr").env("CONTAINERD_ADDRESS", self.address());
        client.env("CONTAINERD_NAMESPACE", &self.namespace).run(args)
    }

    /// Runs `wharf` on a terminal of its own.
    #[must_use]
    pub fn terminal(&self, args: impl Args) -> Pty {
        Pty::spawn(self.client().command(args))
    }

    /// Starts `wharf` in the background, its output going to a file.
    #[must_use]
    pub fn background(&self, args: impl Args) -> Background {
        let path = self.dir.join(wait::unique("output"));
        let output = fs::File::create(&path).unwrap();
        let mut command = self.client().command(args);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        Background { process: Guarded::new(command.spawn().unwrap()), path }
    }

    /// Waits until `wharf` prints something that satisfies.
    pub fn until(&self, args: impl Args, what: &str, mut check: impl FnMut(&Output) -> bool) -> Output {
        let args = args.list();
        let mut last = None;
        let found = wait::within(wait::PATIENCE, || {
            let output = self.wharf(args.clone());
            last = Some(output.to_string());
            check(&output).then_some(output)
        });
        found.unwrap_or_else(|| panic!("waited in vain until {what}:\n{}", last.unwrap_or_default()))
    }

    /// Waits until a task has this status, and gives its row of `tasks ls`.
    pub fn until_task(&self, id: &str, status: &str) -> Vec<String> {
        let has = |output: &Output| output.row(id).is_some_and(|row| row.last().is_some_and(|cell| cell == status));
        self.until("tasks ls", &format!("{id} is {status}"), has).row(id).unwrap()
    }

    /// The process id of a task, from `tasks ls`.
    #[must_use]
    pub fn task_pid(&self, id: &str) -> i32 {
        let list = self.ok("tasks ls");
        list.row(id).unwrap_or_else(|| panic!("no task {id}: {list}"))[1].parse().unwrap()
    }

    /// What is there of containers: shims and their processes, mounts, cgroups.
    #[must_use]
    pub fn leftovers(&self) -> Leftovers {
        let mut found = Leftovers::find(self.dir.path(), &self.namespace);
        let own = self.process.as_ref().map(Guarded::pid);
        found.processes.retain(|(pid, _)| Some(*pid) != own);
        found
    }

    /// Waits until nothing is left of any container: no process, no mount, no cgroup, no bundle.
    ///
    /// # Panics
    /// If something stays, saying what.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        let gone = wait::within(Duration::from_secs(20), || self.leftovers().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind:\n{}", self.leftovers());
        let bundles = self.state().join("io.containerd.runtime.v2.task").join(&self.namespace);
        let left: Vec<_> = fs::read_dir(bundles).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "bundles left behind");
    }

    /// Every file beneath a folder of the root that ends like this.
    #[must_use]
    pub fn files(&self, below: impl AsRef<Path>) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.root().join(below)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut problems = Vec::new();
        if let Some(mut process) = self.process.take() {
            if let Some(status) = process.ended() {
                problems.push(format!("wharfd ended by itself with {}", shell_code(status)));
            } else {
                if !thread::panicking()
                    && let Err(problem) = self.check_order()
                {
                    problems.push(format!("events out of order: {problem}"));
                }
                process.signal(Signal::SIGTERM);
                if process.wait_for(Duration::from_secs(20)).is_none() {
                    problems.push("wharfd does not end on SIGTERM".to_owned());
                }
            }
        }
        if let Err(problem) = leftovers::remove(self.dir.path(), &self.namespace) {
            problems.push(problem);
        }
        debug_assert!(cgroups::processes(&self.namespace).is_empty());
        let log = self.log();
        if let Some(panic) = unwanted_panic(&log) {
            problems.push(format!("wharfd panicked: {panic}"));
        }
        if thread::panicking() || !problems.is_empty() {
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- the last of wharfd's log\n{tail}\n---");
        }
        if !problems.is_empty() {
            report(&problems.join("\n"));
        }
    }
}

/// The first panic in a log that no failpoint asked for.
fn unwanted_panic(log: &str) -> Option<String> {
    let mut lines = log.lines();
    while let Some(line) = lines.find(|line| line.contains("panicked at")) {
        let message = lines.next().unwrap_or_default();
        if !message.starts_with("failpoint ") {
            return Some(format!("{line}: {message}"));
        }
    }
    None
}

/// A `wharf` in the background.
#[derive(Debug)]
pub struct Background {
    process: Guarded,
    path: PathBuf,
}

impl Background {
    /// What it printed so far, complaints included.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap()).into_owned()
    }

    /// Waits until it printed this.
    pub fn expect(&self, text: &str) {
        let seen = wait::within(wait::PATIENCE, || self.text().contains(text).then_some(()));
        assert!(seen.is_some(), "{text:?} was not printed:\n{}", self.text());
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end and gives its code.
    pub fn wait(&mut self) -> i32 {
        let status = self.process.wait_for(wait::PATIENCE);
        shell_code(status.unwrap_or_else(|| panic!("it does not end:\n{}", self.text())))
    }
}
