//! Debian's containerd on private folders: what wharf is compared with.

use crate::{
    command::{Args, Output, Program},
    dir::TestDir,
    leftovers,
    process::Guarded,
    wait,
};
use nix::sys::signal::Signal;
use std::{fs, os::unix::net::UnixStream, path::PathBuf, process::Stdio, time::Duration};

/// What a containerd is started with, where that is not the default.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// More of the configuration file's text.
    pub config: String,
    /// A folder in which it looks for shims first.
    pub shims: Option<PathBuf>,
}

/// A running containerd without CRI, and a namespace that no other test has.
#[derive(Debug)]
pub struct Containerd {
    process: Option<Guarded>,
    settings: Settings,
    namespace: String,
    dir: TestDir,
}

impl Containerd {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// Starts one with settings.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn with(settings: Settings) -> Self {
        let dir = TestDir::new();
        let namespace = wait::unique("c");
        let _ = dir.file("namespace", &namespace);
        let mut containerd = Self { process: None, settings, namespace, dir };
        containerd.up();
        containerd
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Panics
    /// If it does not answer.
    pub fn up(&mut self) {
        let (root, state, socket) = (self.dir.folder("root"), self.state(), self.address());
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n{}",
            self.dir.join("opt"),
            self.settings.config,
        );
        let config = self.dir.file("config.toml", config);
        let log = fs::File::options().create(true).append(true).open(self.dir.join("containerd.log")).unwrap();
        let mut command = Program::new("containerd").command(["--config"]);
        if let Some(shims) = &self.settings.shims {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::iter::once(shims.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(path).unwrap());
        }
        command.arg(config).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Guarded::new(command.spawn().expect("containerd is installed: `.setup test`")));
        wait::eventually("containerd", || UnixStream::connect(self.address()).ok());
        // The socket is there before the services are.
        wait::eventually("containerd's services", || (self.ctr("version").code == 0).then_some(()));
    }

    /// Ends it by SIGKILL and reaps it.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Where it keeps bundles and the like.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.folder("state")
    }

    /// What it logged, all starts together.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.as_ref().unwrap().pid()
    }

    /// Its socket.
    #[must_use]
    pub fn address(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// The folder that all of it is in.
    #[must_use]
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// The namespace that commands work in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The client, set to this daemon and namespace.
    #[must_use]
    pub fn client(&self) -> Program {
        let program = Program::new("ctr");
        program.env("CONTAINERD_ADDRESS", self.address()).env("CONTAINERD_NAMESPACE", &self.namespace)
    }

    /// Runs the real `ctr`.
    #[must_use]
    pub fn ctr(&self, args: impl Args) -> Output {
        self.client().run(args)
    }

    /// Runs the real `ctr`, which has to succeed.
    #[track_caller]
    pub fn ok(&self, args: impl Args) -> Output {
        self.ctr(args).ok()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            process.wait_for(Duration::from_secs(20));
        }
        if let Err(problem) = leftovers::remove(self.dir.path(), &self.namespace) {
            crate::dir::report(&problem);
        }
    }
}
