//! An OCI runtime's program: runc, crun, and whatever else has runc's command line.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim_protos::shim::oci::CheckpointOptions;
use wharf_messages::{Answer, Refusal};

use super::{Account, Making, Running, Runtime, pid, stdio};

/// The verbs that take no more than the container's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Plain {
    Start,
    Pause,
    Resume,
    Delete,
    DeleteForced,
}

impl Plain {
    fn words(self) -> &'static [&'static str] {
        match self {
            Plain::Start => &["start"],
            Plain::Pause => &["pause"],
            Plain::Resume => &["resume"],
            Plain::Delete => &["delete"],
            Plain::DeleteForced => &["delete", "--force"],
        }
    }
}

/// One call of the program.
struct Invocation<'a> {
    runtime: &'a Runtime,
    what: &'static str,
    command: Command,
    log: PathBuf,
    pid_file: Option<PathBuf>,
}

impl<'a> Invocation<'a> {
    fn new(runtime: &'a Runtime, binary: &Path, what: &'static str, tag: &str) -> Self {
        // A log of its own, or calls at the same time would read each other's errors.
        let log = runtime.bundle.join(format!("runtime-{tag}.log"));
        let mut command = Command::new(binary);
        command.arg("--root").arg(&runtime.root);
        command.arg("--log").arg(&log).args(["--log-format", "json"]);
        if runtime.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { runtime, what, command, log, pid_file: None }
    }

    fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    fn when<S: AsRef<OsStr>>(self, condition: bool, args: impl IntoIterator<Item = S>) -> Self {
        if condition { self.args(args) } else { self }
    }

    fn pid_file(mut self, name: &str) -> Self {
        let path = self.runtime.bundle.join(name);
        // An earlier process's number would be taken for this one's.
        let _ = std::fs::remove_file(&path);
        self.command.arg("--pid-file").arg(&path);
        self.pid_file = Some(path);
        self
    }

    fn making(mut self, making: Making<'_>) -> Self {
        if let Some(socket) = making.console_socket {
            self.command.arg("--console-socket").arg(socket);
        }
        self.command.stdin(stdio(making.stdio.stdin)).stdout(stdio(making.stdio.stdout));
        self.command.stderr(stdio(making.stdio.stderr));
        self
    }

    fn spawn(mut self) -> Answer<Running> {
        let child = self.command.arg(&self.runtime.id).spawn().map_err(|error| {
            Refusal::io(format!("run {} {}", self.command.get_program().display(), self.what), &error)
        })?;
        let account = Account::Files { log: self.log, pid_file: self.pid_file };
        Ok(Running { pid: pid(&child)?, what: self.what, account })
    }
}

pub(super) fn create(runtime: &Runtime, binary: &Path, making: Making<'_>) -> Answer<Running> {
    Invocation::new(runtime, binary, "create", "create")
        .args(["create"])
        .args([OsStr::new("--bundle"), runtime.bundle.as_os_str()])
        .pid_file("init.pid")
        .when(runtime.no_pivot_root, ["--no-pivot"])
        .when(runtime.no_new_keyring, ["--no-new-keyring"])
        .making(making)
        .spawn()
}

pub(super) fn exec(
    runtime: &Runtime,
    binary: &Path,
    exec_id: &str,
    process: &Path,
    making: Making<'_>,
) -> Answer<Running> {
    Invocation::new(runtime, binary, "exec", &format!("exec-{exec_id}"))
        .args(["exec", "--detach"])
        .args([OsStr::new("--process"), process.as_os_str()])
        .pid_file(&format!("exec-{exec_id}.pid"))
        .making(making)
        .spawn()
}

/// Runs a verb that takes no more than the container's name.
///
/// # Errors
/// If the program cannot be started.
pub fn plain(runtime: &Runtime, binary: &Path, verb: Plain) -> Answer<Running> {
    let words = verb.words();
    Invocation::new(runtime, binary, words[0], words[0]).args(words).spawn()
}

/// Sends a signal to the container's init, or to all of its processes.
///
/// # Errors
/// If the program cannot be started.
pub fn kill(runtime: &Runtime, binary: &Path, signal: u32, all: bool) -> Answer<Running> {
    let mut invocation = Invocation::new(runtime, binary, "kill", "kill").args(["kill"]).when(all, ["--all"]);
    // The signal comes after the name.
    invocation.command.arg(&runtime.id).arg(signal.to_string());
    let child =
        invocation.command.spawn().map_err(|error| Refusal::io(format!("run {} kill", binary.display()), &error))?;
    Ok(Running { pid: pid(&child)?, what: "kill", account: Account::Files { log: invocation.log, pid_file: None } })
}

/// Changes the container's limits to those in a file.
///
/// # Errors
/// If the program cannot be started.
pub fn update(runtime: &Runtime, binary: &Path, resources: &Path) -> Answer<Running> {
    Invocation::new(runtime, binary, "update", "update")
        .args([OsStr::new("update"), OsStr::new("--resources"), resources.as_os_str()])
        .spawn()
}

/// Writes the container's state to disk.
///
/// # Errors
/// If the program cannot be started.
pub fn checkpoint(runtime: &Runtime, binary: &Path, image: &Path, options: &CheckpointOptions) -> Answer<Running> {
    let work = criu_work_path(runtime, &options.work_path);
    let mut invocation = Invocation::new(runtime, binary, "checkpoint", "checkpoint")
        .args(["checkpoint"])
        .args([OsStr::new("--image-path"), image.as_os_str()])
        .args([OsStr::new("--work-path"), work.as_os_str()])
        .when(!options.exit, ["--leave-running"])
        .when(options.open_tcp, ["--tcp-established"])
        .when(options.external_unix_sockets, ["--ext-unix-sk"])
        .when(options.terminal, ["--shell-job"])
        .when(options.file_locks, ["--file-locks"])
        .when(!options.cgroups_mode.is_empty(), ["--manage-cgroups-mode", &options.cgroups_mode]);
    for namespace in &options.empty_namespaces {
        invocation = invocation.args(["--empty-ns", namespace]);
    }
    invocation.spawn()
}

/// Makes the container from what a checkpoint wrote; it runs when the verb is done.
///
/// # Errors
/// If the program cannot be started.
pub fn restore(runtime: &Runtime, binary: &Path, image: &Path, parent: &str, making: Making<'_>) -> Answer<Running> {
    let work = criu_work_path(runtime, "");
    Invocation::new(runtime, binary, "restore", "restore")
        .args(["restore", "--detach", "--no-subreaper"])
        .args([OsStr::new("--bundle"), runtime.bundle.as_os_str()])
        .args([OsStr::new("--image-path"), image.as_os_str()])
        .args([OsStr::new("--work-path"), work.as_os_str()])
        .when(!parent.is_empty(), ["--parent-path", parent])
        .pid_file("init.pid")
        .when(runtime.no_pivot_root, ["--no-pivot"])
        .making(making)
        .spawn()
}

fn criu_work_path(runtime: &Runtime, asked: &str) -> PathBuf {
    let asked = (!asked.is_empty()).then(|| PathBuf::from(asked));
    asked.or_else(|| runtime.criu_work_path.clone()).unwrap_or_else(|| runtime.bundle.join("criu-work"))
}
