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

/// A running containerd without CRI, and a namespace that no other test has.
#[derive(Debug)]
pub struct Containerd {
    process: Option<Guarded>,
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
        let dir = TestDir::new();
        let namespace = wait::unique("c");
        let _ = dir.file("namespace", &namespace);
        let (root, state, socket) = (dir.folder("root"), dir.folder("state"), dir.join("containerd.sock"));
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            dir.join("opt"),
        );
        let config = dir.file("config.toml", config);
        let log = fs::File::create(dir.join("containerd.log")).unwrap();
        let mut command = Program::new("containerd").command(["--config"]);
        command.arg(config).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = Guarded::new(command.spawn().expect("containerd is installed: `.setup test`"));
        let containerd = Self { process: Some(process), namespace, dir };
        wait::eventually("containerd", || UnixStream::connect(containerd.address()).ok());
        // The socket is there before the services are.
        wait::eventually("containerd's services", || (containerd.ctr("version").code == 0).then_some(()));
        containerd
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
