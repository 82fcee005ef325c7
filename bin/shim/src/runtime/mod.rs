//! What makes containers: the embedded runtime, or an OCI runtime's program that the container's options name.
//!
//! Every verb that does more than read and write a few files runs in a process of its own. It is started here, reaped
//! by the event loop, and its outcome is read by [`Running::outcome`]; the shim never waits for it.

pub mod as_runc;
pub mod device_folders;
pub mod embedded;
pub mod exec;
pub mod executor;
pub mod external;
pub mod report;
pub mod sealed;
pub mod trace;
pub mod verb;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use containerd_shim_protos::shim::oci::Options;
use rustix::process::WaitStatus;
use serde::{Deserialize, Serialize};
use wharf_messages::{Answer, Refusal};

use self::report::Report;
use crate::io::ChildStdio;

/// The root of the state of runc and its like: the one that their users expect.
const EXTERNAL_ROOT: &str = "/run/containerd/runc";
/// No log of an external runtime is read beyond this.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// The runtime of a container, and what it was told once and for all. Kept in the bundle as `shim.json`, so that the
/// container can be cleaned up by whoever comes after this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The container's name.
    pub id: String,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// The runtime's program; none for the embedded one.
    pub binary: Option<PathBuf>,
    /// Where it keeps its state.
    pub root: PathBuf,
    /// Whether systemd makes the cgroups.
    pub systemd_cgroup: bool,
    /// Whether the root is left without pivoting.
    pub no_pivot_root: bool,
    /// Whether the container keeps the daemon's session keyring.
    pub no_new_keyring: bool,
    /// Where CRIU works.
    pub criu_work_path: Option<PathBuf>,
}

/// Where a container's runtime is written down.
const FILE: &str = "shim.json";

impl Runtime {
    /// The runtime that the options ask for.
    #[must_use]
    pub fn new(id: &str, namespace: &str, bundle: &Path, options: &Options) -> Self {
        let given = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let binary = given(&options.binary_name);
        let root = match (given(&options.root), &binary) {
            (Some(root), _) => root.join(namespace),
            (None, Some(_)) => Path::new(EXTERNAL_ROOT).join(namespace),
            // In the bundle nobody else stumbles over it, and it goes with the bundle.
            (None, None) => bundle.join("runtime"),
        };
        Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            binary,
            root,
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            criu_work_path: given(&options.criu_work_path),
        }
    }

    /// Who owns the pipes of a process that runs as `user` (a user of this machine). In the end that is the user, who has to
    /// be able to open them again by `/proc/self/fd`, whatever the options say; a runtime of its own sees to that itself.
    #[must_use]
    pub fn stdio_owner(&self, asked: u32, user: u32) -> u32 {
        if self.binary.is_none() || asked == 0 { user } else { asked }
    }

    /// Writes it into the bundle.
    ///
    /// # Errors
    /// Whatever the file system answers.
    pub fn save(&self) -> Answer<()> {
        let path = self.bundle.join(FILE);
        serde_json::to_vec(self)
            .map_err(std::io::Error::from)
            .and_then(|json| fs::write(&path, json))
            .map_err(|error| Refusal::io(format!("write {}", path.display()), &error))
    }

    /// Reads it from a bundle, if it is there.
    ///
    /// # Errors
    /// Whatever the file system answers; invalid argument if the file is none of ours.
    pub fn load(bundle: &Path) -> Answer<Option<Self>> {
        let path = bundle.join(FILE);
        let refuse = |error: &std::io::Error| Refusal::io(format!("read {}", path.display()), error);
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refuse(&error)),
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| refuse(&error.into())),
        }
    }

    /// The folder of the container's own state.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        self.root.join(&self.id)
    }
}

/// A verb whose process runs.
#[derive(Debug)]
pub struct Running {
    /// The process to wait for.
    pub pid: i32,
    what: &'static str,
    account: Account,
}

/// Where a verb's process leaves word.
#[derive(Debug)]
enum Account {
    /// The embedded runtime's report.
    Report(OwnedFd),
    /// An external runtime's log and pid file.
    Files { log: PathBuf, pid_file: Option<PathBuf> },
}

impl Running {
    /// What came of it: the process that it made, if it was to make one.
    ///
    /// # Errors
    /// Unknown, with the runtime's words: containerd's shims give these no kind either.
    pub fn outcome(self, status: WaitStatus) -> Answer<Option<i32>> {
        let success = status.exit_status() == Some(0);
        let report = match self.account {
            Account::Report(pipe) => Report::read(pipe),
            Account::Files { log, pid_file } => {
                let reason = if success { None } else { last_error(&log) };
                let _ = fs::remove_file(&log);
                let pid = pid_file.as_deref().and_then(read_pid);
                Report { pid, reason }
            }
        };
        if success {
            return Ok(report.pid);
        }
        let reason = report.reason.unwrap_or_else(|| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("the runtime exited with code {code} and said nothing"),
            (_, Some(signal)) => format!("the runtime was killed by signal {signal}"),
            _ => "the runtime failed".to_owned(),
        });
        Err(Refusal::unknown(match (self.what, status.exit_status()) {
            // In go-runc's words, which is what clients have come to read here.
            ("checkpoint", Some(code)) => format!("runc did not terminate successfully: exit status {code}: {reason}"),
            (what, _) => format!("OCI runtime {what} failed: {reason}"),
        }))
    }
}

/// The last error in a runtime's log: lines of JSON with `level` and `msg`.
fn last_error(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut text = String::new();
    File::open(log).ok()?.take(LOG_BYTES_MAX).read_to_string(&mut text).ok()?;
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.rfind(|line| line.level == "error").map(|line| line.msg.trim().to_owned())
}

/// The number in a pid file.
#[must_use]
pub fn read_pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
}

fn stdio(end: Option<OwnedFd>) -> Stdio {
    end.map_or_else(Stdio::null, Stdio::from)
}

/// A process's id, as signals take it.
fn pid(child: &std::process::Child) -> Answer<i32> {
    i32::try_from(child.id()).map_err(|_| Refusal::internal("a process id is out of range"))
}

/// What a process is made with.
#[derive(Debug)]
pub struct Making<'a> {
    /// Its standard streams.
    pub stdio: ChildStdio,
    /// Where its terminal goes.
    pub console_socket: Option<&'a Path>,
}

impl Runtime {
    /// Makes the container.
    ///
    /// # Errors
    /// If the verb cannot be started.
    pub fn create(&self, making: Making<'_>) -> Answer<Running> {
        match &self.binary {
            None => embedded::create(self, making),
            Some(binary) => external::create(self, binary, making),
        }
    }

    /// Runs another process in it, whose OCI process is in that file.
    ///
    /// # Errors
    /// If the verb cannot be started.
    pub fn exec(&self, exec_id: &str, init_pid: i32, process: &Path, making: Making<'_>) -> Answer<Running> {
        match &self.binary {
            None => embedded::exec(self, init_pid, process, making),
            Some(binary) => external::exec(self, binary, exec_id, process, making),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_choose_the_runtime_and_its_root() {
        let bundle = Path::new("/run/b");
        let options =
            |binary: &str, root: &str| Options { binary_name: binary.into(), root: root.into(), ..Default::default() };
        let root = |binary, root| Runtime::new("web", "ns", bundle, &options(binary, root)).root;
        assert_eq!(root("", ""), Path::new("/run/b/runtime"));
        assert_eq!(root("runc", ""), Path::new("/run/containerd/runc/ns"));
        assert_eq!(root("/usr/bin/crun", "/r"), Path::new("/r/ns"));
        assert_eq!(root("", "/r"), Path::new("/r/ns"));
    }
}
