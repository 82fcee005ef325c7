//! The verbs of the embedded runtime, in their own fresh process: this program, run again with an order.

use std::ffi::CString;
use std::path::PathBuf;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use serde::{Deserialize, Serialize};

use super::{as_runc, device_folders, exec, executor, report, trace};
use crate::sys;

/// The first argument of a verb's process.
pub const ARGUMENT: &str = "@runtime";

/// What a verb's process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The descriptor that the report goes to.
    pub report: i32,
    /// The process that waits for the verb.
    pub parent: i32,
    /// The container's name.
    pub id: String,
    /// The folder of the runtime's state.
    pub root: PathBuf,
    /// The verb.
    pub verb: Verb,
}

/// A verb.
#[derive(Debug, Serialize, Deserialize)]
pub enum Verb {
    /// Makes a container, up to the moment before its command runs.
    Create {
        /// Its bundle.
        bundle: PathBuf,
        /// Where its terminal goes.
        console_socket: Option<PathBuf>,
        /// Whether systemd makes its cgroups.
        systemd_cgroup: bool,
        /// Whether its root is left without pivoting.
        no_pivot_root: bool,
        /// Whether it keeps the daemon's session keyring.
        no_new_keyring: bool,
    },
    /// Runs its command, and the hooks after that.
    Start,
    /// Removes what is left of it, and runs the hooks after that.
    Delete,
    /// Runs another process in it.
    Exec(exec::Exec),
}

/// Does what was ordered and gives the process's exit code.
#[must_use]
pub fn main(order: &str) -> i32 {
    let order: Order = match serde_json::from_str(order) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("this is no order for the runtime: {error}");
            return 2;
        }
    };
    // SAFETY: the shim passes the descriptor for this purpose alone.
    unsafe { report::take(order.report) };
    // Whoever cleans up after a shim that was killed must not meet a verb of it that goes on making things.
    if let Err(error) = sys::die_with_parent(order.parent) {
        report::line('F', &format!("prepare the runtime's process: {error}"));
        return 1;
    }
    trace::install();
    // The library panics where it finds no way on, with a text that says more than the silence of its process.
    std::panic::set_hook(Box::new(|panic| report::line('F', &panic.to_string())));
    // libcontainer leaves the supplementary groups alone where the container asks for none: they would be the daemon's.
    let clean = sys::reset_signals().and_then(|()| sys::set_groups(&[]));
    let result = clean.map_err(|error| format!("prepare the runtime's process: {error}")).and_then(|()| run(&order));
    match result {
        Ok(Some(pid)) => {
            report::line('P', &pid.to_string());
            0
        }
        Ok(None) => 0,
        Err(reason) => {
            report::line('F', &reason);
            1
        }
    }
}

fn run(order: &Order) -> Result<Option<i32>, String> {
    match &order.verb {
        Verb::Create { bundle, console_socket, systemd_cgroup, no_pivot_root, no_new_keyring } => {
            if !no_new_keyring {
                new_keyring(&order.id)?;
            }
            as_runc::complete(bundle).map_err(|error| format!("complete the bundle: {error}"))?;
            let container = ContainerBuilder::new(order.id.clone(), SyscallType::default())
                .with_executor(executor::Command)
                .with_root_path(&order.root)
                .map_err(explain)?
                .with_console_socket(console_socket.clone())
                .validate_id()
                .map_err(explain)?
                .as_init(bundle)
                .with_systemd(*systemd_cgroup)
                .with_no_pivot(*no_pivot_root)
                .build()
                .map_err(explain)?;
            let pid = container.pid().ok_or("the container has no process")?.as_raw();
            let give_up = |what: &str, error: std::io::Error| {
                // What is not as it was ordered must not run. Gone already is as good.
                let _ = sys::kill(pid, libc::SIGKILL);
                format!("{what}: {error}")
            };
            device_folders::tidy(bundle, pid)
                .map_err(|error| give_up("set the modes of the devices' folders", error))?;
            as_runc::raise_loopback(bundle, pid).map_err(|error| give_up("bring the loopback device up", error))?;
            Ok(Some(pid))
        }
        Verb::Start => load(order)?.start().map_err(explain).map(|()| None),
        Verb::Delete => load(order)?.delete(true).map_err(explain).map(|()| None),
        Verb::Exec(exec) => {
            if !exec.no_new_keyring {
                new_keyring(&order.id)?;
            }
            exec::run(exec).map(Some)
        }
    }
}

fn load(order: &Order) -> Result<Container, String> {
    Container::load(order.root.join(&order.id)).map_err(explain)
}

/// Gives the container a session keyring of its own, the one that its other processes have.
fn new_keyring(id: &str) -> Result<(), String> {
    let name = CString::new(format!("_ses.{id}")).map_err(|error| error.to_string())?;
    match sys::join_session_keyring(&name) {
        // A kernel without keyrings has none to share.
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => Err(format!("make a session keyring: {error}")),
        _ => Ok(()),
    }
}

/// An error with its causes, as far as they are not said already.
fn explain(error: LibcontainerError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}
