//! The embedded runtime, from the shim's side: starting its verbs, and the small ones that need no process.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use wharf_messages::{Answer, Refusal};

use super::exec::Exec;
use super::verb::{ARGUMENT, Order, Verb};
use super::{Account, Making, Running, Runtime, pid, sealed, stdio};
use crate::io::ChildStdio;
use crate::sys;

/// libcontainer's socket on which a created container waits for its start.
const START_SOCKET: &str = "notify.sock";

pub(super) fn create(runtime: &Runtime, making: Making<'_>) -> Answer<Running> {
    fs::create_dir_all(&runtime.root)
        .map_err(|error| Refusal::io(format!("make {}", runtime.root.display()), &error))?;
    let verb = Verb::Create {
        bundle: runtime.bundle.clone(),
        console_socket: making.console_socket.map(Path::to_owned),
        systemd_cgroup: runtime.systemd_cgroup,
        no_pivot_root: runtime.no_pivot_root,
        no_new_keyring: runtime.no_new_keyring,
    };
    spawn(runtime, "create", verb, making.stdio)
}

pub(super) fn exec(runtime: &Runtime, init_pid: i32, process: &Path, making: Making<'_>) -> Answer<Running> {
    let verb = Verb::Exec(Exec {
        init_pid,
        bundle: runtime.bundle.clone(),
        process: process.to_owned(),
        console_socket: making.console_socket.map(Path::to_owned),
        no_new_keyring: runtime.no_new_keyring,
    });
    spawn(runtime, "exec", verb, making.stdio)
}

/// Starts the container by way of the library, which runs the hooks that come after.
///
/// # Errors
/// If the verb cannot be started.
pub fn start_with_hooks(runtime: &Runtime) -> Answer<Running> {
    spawn(runtime, "start", Verb::Start, ChildStdio::default())
}

/// Deletes the container by way of the library, which runs the hooks that come after.
///
/// # Errors
/// If the verb cannot be started.
pub fn delete_with_hooks(runtime: &Runtime) -> Answer<Running> {
    spawn(runtime, "delete", Verb::Delete, ChildStdio::default())
}

/// Starts the container: tells its init, which waits on a socket, to run the command.
///
/// # Errors
/// If init is not there any more.
pub fn start(runtime: &Runtime) -> Answer<()> {
    let folder = runtime.state_folder();
    let refuse = |error: std::io::Error| Refusal::io("OCI runtime start failed: tell the container to go", &error);
    let folder = rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| refuse(error.into()))?;
    // By way of the descriptor: the folder's own path may be longer than a socket's may.
    let mut socket =
        UnixStream::connect(format!("/proc/self/fd/{}/{START_SOCKET}", folder.as_raw_fd())).map_err(refuse)?;
    socket.write_all(b"start container").map_err(refuse)
}

/// Removes the library's state of the container.
///
/// # Errors
/// Whatever the file system answers.
pub fn forget(runtime: &Runtime) -> Answer<()> {
    let folder = runtime.state_folder();
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Refusal::io(format!("remove {}", folder.display()), &error))
        }
        _ => Ok(()),
    }
}

fn spawn(runtime: &Runtime, what: &'static str, verb: Verb, child: ChildStdio) -> Answer<Running> {
    let refuse = |error: std::io::Error| Refusal::io(format!("run the runtime's {what}"), &error);
    let program = sealed::open(&runtime.bundle)?;
    let (report, told) = report_pipe().map_err(|error| refuse(error.into()))?;
    let order = Order {
        report: told.as_raw_fd(),
        parent: sys::own_pid(),
        id: runtime.id.clone(),
        root: runtime.root.clone(),
        verb,
    };
    let order = serde_json::to_string(&order).map_err(|error| refuse(error.into()))?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg(ARGUMENT).arg(order).stdin(stdio(child.stdin)).stdout(stdio(child.stdout));
    command.stderr(child.stderr.map_or_else(Stdio::null, Stdio::from));
    let child = command.spawn().map_err(refuse)?;
    Ok(Running { pid: pid(&child)?, what, account: Account::Report(report) })
}

/// The reading end, which the shim keeps, and the writing end, which is inherited.
fn report_pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (report, told) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&report, true)?;
    // No other process is started between here and the one that is meant.
    rustix::io::fcntl_setfd(&told, rustix::io::FdFlags::empty())?;
    Ok((report, told))
}
