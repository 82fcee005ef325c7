//! Logging binaries (`binary://`): a program that is given the container's output on descriptors 3 and 4, and closes
//! descriptor 5 when it is ready.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};
use wharf_messages::{Answer, Refusal};

use crate::sys;

/// A logging binary that runs.
#[derive(Debug)]
pub struct Logger {
    /// Its process id.
    pub pid: i32,
    /// Readable, at its end, when the binary is ready.
    pub ready: OwnedFd,
}

/// The ends that the container writes, and the logger that reads them.
#[derive(Debug)]
pub struct Started {
    /// The logger.
    pub logger: Logger,
    /// Where the container's standard output goes.
    pub stdout: OwnedFd,
    /// Where its standard error goes.
    pub stderr: OwnedFd,
}

/// Starts a logging binary for a container.
///
/// # Errors
/// Not found and the like, naming the binary.
pub fn start(binary: &Path, arguments: &[OsString], id: &str, namespace: &str) -> Answer<Started> {
    let refuse = |error: std::io::Error| Refusal::io(format!("start logging binary {}", binary.display()), &error);
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| refuse(error.into()));
    let (out_reader, stdout) = pipe()?;
    let (err_reader, stderr) = pipe()?;
    let (ready, ready_writer) = pipe()?;
    rustix::io::ioctl_fionbio(&ready, true).map_err(|error| refuse(error.into()))?;
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .env_clear()
        .env("CONTAINER_ID", id)
        .env("CONTAINER_NAMESPACE", namespace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    // Moved out of the way first: an end may sit on a number that another one is to get.
    let high = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 16).map_err(|error| refuse(error.into()));
    let ends = [high(&out_reader)?, high(&err_reader)?, high(&ready_writer)?];
    // SAFETY: between fork and exec only dup2 is called, which is safe there; `ends` are open in the child.
    unsafe {
        command.pre_exec(move || {
            for (end, number) in ends.iter().zip(3..) {
                sys::place(end.as_fd(), number)?;
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(refuse)?;
    let pid = i32::try_from(child.id()).map_err(|_| Refusal::internal("a process id is out of range"))?;
    Ok(Started { logger: Logger { pid, ready }, stdout, stderr })
}

impl Logger {
    /// Whether a logging binary has said on its descriptor that it is ready, or has ended.
    #[must_use]
    pub fn is_ready(ready: &OwnedFd) -> bool {
        let mut byte = [0];
        !matches!(rustix::io::read(ready, &mut byte), Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR))
    }

    /// Asks it to end.
    pub fn stop(&self) {
        if let Err(error) = sys::kill(self.pid, libc::SIGTERM) {
            crate::debug!("logging binary {} cannot be stopped: {error}", self.pid);
        }
    }
}
