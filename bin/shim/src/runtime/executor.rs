//! The last step into a container's command: finding it, and becoming it.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::fs::OFlags;

use super::report;
use crate::sys;

/// Finds the file that a command means, as a shell would, and checks that it can be run.
///
/// # Errors
/// In the words that runc and shells have for it, which clients look for.
pub fn find(command: &str, path_variable: Option<&str>) -> Result<PathBuf, String> {
    let refuse = |why: &str| format!("exec: {command:?}: {why}");
    if command.is_empty() {
        return Err("exec: no command".to_owned());
    }
    if command.contains('/') {
        return match check(Path::new(command)) {
            Ok(()) => Ok(PathBuf::from(command)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(refuse(&format!("stat {command}: no such file or directory")))
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(refuse("permission denied")),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(refuse("is a directory")),
            Err(error) => Err(refuse(&error.to_string())),
        };
    }
    let mut denied = false;
    for folder in path_variable.unwrap_or_default().split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(command);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(refuse(if denied { "permission denied" } else { "executable file not found in $PATH" }))
}

fn check(file: &Path) -> io::Result<()> {
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

fn command(process: Option<&Process>) -> Result<(&[String], Option<&str>), String> {
    let args = process.and_then(|process| process.args().as_deref()).unwrap_or_default();
    if args.is_empty() {
        return Err("exec: no command".to_owned());
    }
    let env = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
    Ok((args, env.iter().find_map(|entry| entry.strip_prefix("PATH="))))
}

/// Becomes the command.
///
/// # Errors
/// Only if it does not.
pub fn run(process: Option<&Process>) -> Result<std::convert::Infallible, String> {
    let (args, path) = command(process)?;
    let file = find(&args[0], path)?;
    let refuse = |why: &dyn std::fmt::Display| format!("exec {}: {why}", file.display());
    let terminated = |text: &OsStr| CString::new(text.as_bytes()).map_err(|error| refuse(&error));
    let program = terminated(file.as_os_str())?;
    let args = args.iter().map(|arg| terminated(OsStr::new(arg))).collect::<Result<Vec<_>, _>>()?;
    let mut arg_pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    arg_pointers.push(std::ptr::null());
    sys::reset_signals().map_err(|error| refuse(&error))?;
    // SAFETY: `program` and the terminated list of terminated arguments live until the call returns, if it does; the
    // environment is the process's own.
    unsafe { libc::execv(program.as_ptr(), arg_pointers.as_ptr()) };
    Err(refuse(&in_small_letters(&io::Error::last_os_error())))
}

/// The kernel's reason as runtimes write it: `exec format error`.
pub fn in_small_letters(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Replaces the environment. Entries that no environment can hold are left out.
pub fn set_environment(variables: impl IntoIterator<Item = (OsString, OsString)>) {
    let bad = |text: &OsStr, also: &[u8]| text.as_bytes().iter().any(|byte| *byte == 0 || also.contains(byte));
    for (name, _) in std::env::vars_os() {
        // SAFETY: this process has one thread.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in variables {
        if !name.is_empty() && !bad(&name, b"=") && !bad(&value, b"") {
            // SAFETY: as above.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// Opens the outputs again that go to `/dev/null`: libcontainer opens the container's for reading only, and whatever
/// the command writes would fail.
fn reopen_null_outputs() -> io::Result<()> {
    const NULL: (u32, u32) = (1, 3);
    for output in [io::stdout().as_fd(), io::stderr().as_fd()] {
        let device = rustix::fs::fstat(output)?.st_rdev;
        let is_null = (rustix::fs::major(device), rustix::fs::minor(device)) == NULL;
        if is_null && rustix::fs::fcntl_getfl(output)? & OFlags::ACCMODE == OFlags::RDONLY {
            let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
            sys::place(null.as_fd(), output.as_raw_fd())?;
        }
    }
    Ok(())
}

/// How libcontainer's init process ends in the container's command.
#[derive(Clone)]
pub struct Command;

impl Executor for Command {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let found = command(spec.process().as_ref()).and_then(|(args, path)| find(&args[0], path));
        found.map(drop).map_err(|reason| {
            // In full here: on its way through the library it would be wrapped several times.
            report::line('E', &format!("unable to start container process: {reason}"));
            ExecutorValidationError::ArgValidationError(reason)
        })
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        set_environment(envs.into_iter().map(|(name, value)| (name.into(), value.into())));
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if let Err(error) = reopen_null_outputs() {
            return Err(ExecutorError::Other(format!("open /dev/null for writing: {error}")));
        }
        match run(spec.process().as_ref()) {
            Ok(never) => match never {},
            Err(reason) => {
                // Too late for an answer to who started it: as runc does, it is said where the command would have
                // written, and the process ends with 1. If nobody can be told there is nobody to tell that.
                let _ = rustix::io::write(io::stderr(), format!("{reason}\n").as_bytes());
                // SAFETY: ends this process without running what its parent registered to run at exit.
                unsafe { libc::_exit(1) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_or_missed_in_runcs_words() {
        assert_eq!(find("sh", Some("/nowhere:/bin")).unwrap(), Path::new("/bin/sh"));
        assert_eq!(find("/bin/sh", None).unwrap(), Path::new("/bin/sh"));
        let cases = [
            ("foo", Some("/bin"), "exec: \"foo\": executable file not found in $PATH"),
            ("foo", None, "exec: \"foo\": executable file not found in $PATH"),
            ("/foo", None, "exec: \"/foo\": stat /foo: no such file or directory"),
            ("/etc/passwd", None, "exec: \"/etc/passwd\": permission denied"),
            ("passwd", Some("/etc"), "exec: \"passwd\": permission denied"),
            ("/etc", None, "exec: \"/etc\": is a directory"),
            ("", None, "exec: no command"),
        ];
        for (command, path, expected) in cases {
            assert_eq!(find(command, path).unwrap_err(), expected);
        }
    }
}
