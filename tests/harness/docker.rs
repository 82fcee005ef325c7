//! Debian's dockerd on private folders, with a containerd or a wharfd beneath it.

use crate::{
    Daemon,
    command::{Args, Output, Program},
    dir::{TestDir, report},
    images::{self, Layout},
    leftovers::{self, Leftovers},
    process::{Guarded, shell_code},
    pty::Pty,
    wait,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// The API of Debian's dockerd; a client that is newer has to be told.
const API_VERSION: &str = "1.41";
/// Debian's client. Another one may come first on the search path, which will do if this one is not there.
const CLIENT: &str = "/usr/bin/docker";
/// Where dockerd keeps its containers in containerd.
const NAMESPACE: &str = "moby";

/// A running dockerd without networks, whose containers outlive it.
///
/// Dropped, it is ended, and so is every container; mounts and cgroups go too.
#[derive(Debug)]
pub struct Docker {
    // Declared before the folder: it has to end first.
    process: Option<Guarded>,
    /// The parent of its containers' cgroups.
    cgroup: String,
    dir: TestDir,
}

impl Docker {
    /// Starts one on a containerd's socket, and gives it an image by the name `busybox`.
    #[must_use]
    pub fn on(containerd: &Path) -> Self {
        let dir = TestDir::new();
        let cgroup = wait::unique("d");
        // For whoever finds the folder after this process was killed.
        let _ = dir.file("namespace", &cgroup);
        let _ = dir.folder("client");
        // Its identity is in /etc else. The other one is not an argument, so that it is not taken for the daemon's own process.
        let config = serde_json::json!({"deprecated-key-path": dir.join("key.json"), "containerd": containerd});
        let _ = dir.file("daemon.json", config.to_string());
        let mut docker = Self { process: None, cgroup, dir };
        docker.up();
        docker.load(&images::busybox(), "busybox:latest");
        docker
    }

    /// Starts it again after [`Self::kill`] or [`Self::terminate`].
    ///
    /// # Panics
    /// If it is not ready in time.
    pub fn up(&mut self) {
        // One that was killed has left it.
        let _ = fs::remove_file(self.dir.join("dockerd.pid"));
        let log = fs::File::options().create(true).append(true).open(self.dir.join("dockerd.log")).unwrap();
        let mut command = Program::new("dockerd").command(["--debug", "--live-restore"]);
        for (flag, path) in [
            ("--config-file", self.dir.join("daemon.json")),
            ("--data-root", self.dir.join("data")),
            ("--exec-root", self.dir.join("exec")),
            ("--pidfile", self.dir.join("dockerd.pid")),
        ] {
            command.arg(flag).arg(path);
        }
        command.arg("--host").arg(self.host()).arg("--cgroup-parent").arg(format!("/{}", self.cgroup));
        // It must not touch the machine's network.
        command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        command.args(["--ip-masq=false", "--storage-driver", "overlay2"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = Guarded::new(command.spawn().expect("dockerd is installed: `.setup test`"));
        let ready = wait::within(wait::PATIENCE, || {
            if let Some(status) = process.ended() {
                panic!("dockerd ended with {} before it was ready:\n{}", shell_code(status), self.log());
            }
            (self.docker("version").code == 0).then_some(())
        });
        assert!(ready.is_some(), "dockerd is not ready:\n{}", self.log());
        self.process = Some(process);
    }

    /// Ends it by SIGKILL and reaps it; containers go on.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends it by SIGTERM; containers go on.
    pub fn terminate(&mut self) {
        self.end(Signal::SIGTERM);
    }

    fn end(&mut self, signal: Signal) {
        let mut process = self.process.take().expect("dockerd is up");
        process.signal(signal);
        assert!(process.wait_for(wait::PATIENCE).is_some(), "dockerd does not end on {signal}:\n{}", self.log());
    }

    fn host(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("dockerd.log")).unwrap_or_default()).into_owned()
    }

    /// The folder that all of it is in.
    #[must_use]
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    fn client(&self) -> Program {
        let client = if Path::new(CLIENT).exists() { CLIENT } else { "docker" };
        let client = Program::new(client).env("DOCKER_HOST", self.host()).env("DOCKER_API_VERSION", API_VERSION);
        client.env("DOCKER_CONFIG", self.dir.join("client"))
    }

    /// Loads an image under a name.
    fn load(&self, layout: &Layout, name: &str) {
        self.ok(["load", "--quiet", "--input", images::docker_archive(layout, name).to_str().unwrap()]);
    }

    /// Runs `docker`.
    #[must_use]
    pub fn docker(&self, args: impl Args) -> Output {
        self.client().run(args)
    }

    /// Runs `docker`, which has to succeed.
    #[track_caller]
    pub fn ok(&self, args: impl Args) -> Output {
        self.docker(args).ok()
    }

    /// Runs `docker` with this on its standard input.
    #[must_use]
    pub fn fed(&self, args: impl Args, input: &str) -> Output {
        self.client().run_with(args, input.as_bytes())
    }

    /// A command that runs `docker`, for the background.
    #[must_use]
    pub fn command(&self, args: impl Args) -> Command {
        self.client().command(args)
    }

    /// Runs `docker` on a terminal of its own.
    #[must_use]
    pub fn terminal(&self, args: impl Args) -> Pty {
        Pty::spawn(self.command(args))
    }

    /// Starts a shell script in a container in the background.
    #[track_caller]
    pub fn start(&self, name: &str, options: &str, script: &str) {
        let mut args = format!("run -d --name {name} {options} busybox sh -c").list();
        args.push(script.into());
        self.ok(args);
    }

    /// What `docker inspect` says of a container, by Go's template.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.ok(["inspect", "--format", template, name]).stdout.trim().to_owned()
    }

    /// Waits until `docker inspect` says this.
    ///
    /// # Panics
    /// If it never does, with what it says instead.
    #[track_caller]
    pub fn until(&self, name: &str, template: &str, wanted: &str) {
        let mut said = String::new();
        let found = wait::within(wait::PATIENCE, || {
            said = self.inspect(name, template);
            (said == wanted).then_some(())
        });
        assert!(found.is_some(), "{name}: {template} is {said:?}, not {wanted:?}:\n{}", self.log_tail());
    }

    /// The pid of a container's first process.
    #[must_use]
    pub fn pid(&self, name: &str) -> i32 {
        self.inspect(name, "{{.State.Pid}}").parse().unwrap()
    }

    /// Waits until nothing is left of any container, here and on wharf.
    ///
    /// # Panics
    /// If something stays, saying what.
    #[track_caller]
    pub fn expect_nothing_left_on(&self, wharf: &Daemon) {
        let own = self.process.as_ref().map(Guarded::pid);
        let mut found = Leftovers::default();
        let gone = wait::within(Duration::from_secs(20), || {
            found = Leftovers::find(self.dir.path(), &self.cgroup);
            found.processes.retain(|(pid, _)| Some(*pid) != own);
            // Its own file systems are its own business.
            (found.processes.is_empty() && found.cgroups.is_empty()).then_some(())
        });
        assert!(gone.is_some(), "left behind:\n{found}");
        wharf.expect_nothing_left();
        let bundles = wharf.state().join("io.containerd.runtime.v2.task").join(NAMESPACE);
        let left: Vec<_> = fs::read_dir(bundles).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "bundles left behind: {left:?}");
        for known in ["containers ls -q", "tasks ls -q"] {
            wharf.ok(format!("-n {NAMESPACE} {known}")).prints("");
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("Calling ")).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the last of dockerd's log\n{}\n---", self.log_tail());
        }
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            process.wait_for(Duration::from_secs(20));
        }
        if let Err(problem) = leftovers::remove(self.dir.path(), &self.cgroup) {
            report(&problem);
        }
    }
}
