//! Another process in a container that runs.
//!
//! Done here and not by libcontainer, whose own way into a container leaves the seccomp profile behind, does not enter
//! user namespaces, and keeps the daemon's supplementary groups. The order of the steps is what makes them safe:
//! cgroups while they can be seen, then the namespaces, then (in the child) the terminal, the user, the filter.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use libcontainer::oci_spec::runtime::{LinuxPersonalityDomain, PosixRlimit, Process, Spec};
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::{apparmor, capabilities, seccomp, tty};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::{executor, report};
use crate::cgroup::Cgroup;
use crate::sys::{self, Fork};

/// What is to be run, and where.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The container's init.
    pub init_pid: i32,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// The file with the OCI process.
    pub process: PathBuf,
    /// Where its terminal goes, if it has one.
    pub console_socket: Option<PathBuf>,
    /// Whether it keeps the daemon's session keyring.
    pub no_new_keyring: bool,
}

/// The 32-bit personality, from the kernel's `personality.h`.
const PER_LINUX32: libc::c_ulong = 8;
/// How much of a container's `/etc/passwd` is looked at.
const PASSWD_BYTES_MAX: u64 = 1 << 20;

/// The namespaces, by their names under `/proc/<pid>/ns`.
const NAMESPACES: [(&str, libc::c_int); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("time", libc::CLONE_NEWTIME),
    ("mnt", libc::CLONE_NEWNS),
];

/// Gives an error what was being done.
trait Doing<T> {
    fn doing(self, what: &str) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Result<T, String> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

/// Runs the process and gives its id.
///
/// # Errors
/// What a person should read. The reason why the command itself cannot run is in the report already.
pub fn run(exec: &Exec) -> Result<i32, String> {
    let process: Process =
        serde_json::from_slice(&fs::read(&exec.process).doing("read the process")?).doing("read the process")?;
    let spec = Spec::load(exec.bundle.join("config.json")).doing("read the container's configuration")?;
    let pid = rustix::process::Pid::from_raw(exec.init_pid).ok_or("the container has no process")?;
    let init = pidfd_open(pid, PidfdFlags::empty()).doing("find the container's process")?;
    let console = match &exec.console_socket {
        Some(path) => Some(UnixStream::connect(path).doing("connect to the console socket")?),
        None => None,
    };
    if let Some(score) = process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string()).doing("set the process's oom_score_adj")?;
    }
    // While the file of this process can still be read, and the paths mean what they mean to the daemon.
    Cgroup::of(exec.init_pid).and_then(|cgroup| cgroup.join()).doing("join the container's cgroups")?;
    let kinds = different_namespaces(exec.init_pid).doing("compare namespaces")?;
    sys::set_dumpable(false).doing("hide from the container")?;
    if kinds != 0 {
        sys::enter_namespaces(init.as_fd(), kinds).doing("enter the container's namespaces")?;
    }
    drop(init);
    if kinds & libc::CLONE_NEWUSER != 0 {
        sys::set_ids(0, 0).doing("become the container's root")?;
    }
    let (mut told, teller) =
        pipe_with(PipeFlags::CLOEXEC).map(|(reader, writer)| (File::from(reader), writer)).doing("make a pipe")?;
    match sys::fork().doing("start a process")? {
        Fork::Child => {
            let Err(reason) = enter(&process, &spec, console);
            // If even that fails, the parent finds the pipe's end without a word, and no process.
            let _ = rustix::io::write(&teller, reason.as_bytes());
            // SAFETY: ends this process without running what its parent registered to run at exit.
            unsafe { libc::_exit(255) }
        }
        Fork::Parent(child) => {
            drop(teller);
            drop(console);
            let mut reason = String::new();
            told.read_to_string(&mut reason).doing("wait for the process")?;
            if reason.is_empty() {
                return Ok(child);
            }
            report::line('E', &format!("exec failed: unable to start container process: {reason}"));
            Err(reason)
        }
    }
}

/// The kinds of namespaces in which this process and the container's differ.
fn different_namespaces(pid: i32) -> io::Result<libc::c_int> {
    let mut kinds = 0;
    for (name, kind) in NAMESPACES {
        let theirs = match fs::read_link(format!("/proc/{pid}/ns/{name}")) {
            // A kernel without such namespaces.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if theirs != fs::read_link(format!("/proc/self/ns/{name}"))? {
            kinds |= kind;
        }
    }
    Ok(kinds)
}

/// Becomes the process. Gives why it does not.
fn enter(process: &Process, spec: &Spec, console: Option<UnixStream>) -> Result<std::convert::Infallible, String> {
    let syscall = create_syscall();
    rustix::process::setsid().doing("start a session")?;
    if let Some(socket) = console {
        // Takes the descriptor over and closes it.
        let socket = OwnedFd::from(socket);
        tty::setup_console(&*syscall, socket.as_raw_fd(), false).doing("set up the terminal")?;
        std::mem::forget(socket);
    }
    for limit in process.rlimits().iter().flatten() {
        set_limit(limit).doing("set a resource limit")?;
    }
    if let Some(personality) = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref()) {
        let domain = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
        };
        // SAFETY: takes an integer.
        if unsafe { libc::personality(domain) } < 0 {
            return Err(format!("set the personality: {}", io::Error::last_os_error()));
        }
    }
    if let Some(profile) = process.apparmor_profile() {
        apparmor::apply_profile(profile).doing("apply the AppArmor profile")?;
    }
    let user = process.user();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(user.umask().unwrap_or(0o022)));
    // As the container's root, who may go where the user may not; once more as the user, if only that one may.
    let cwd = process.cwd();
    let entered = std::env::set_current_dir(cwd);
    set_groups(user.additional_gids().as_deref().unwrap_or_default()).doing("set the supplementary groups")?;
    let no_new_privileges = process.no_new_privileges() == Some(true);
    sys::close_on_exec_from(3).doing("close what is the shim's")?;
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).doing("set no_new_privs")?;
    }
    sys::set_ids(user.uid(), user.gid()).doing("become the user")?;
    capabilities::reset_effective(&*syscall).doing("take the capabilities along")?;
    sys::forget_kept_capabilities().doing("drop capabilities")?;
    if entered.is_err() {
        std::env::set_current_dir(cwd).map_err(|error| {
            format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", executor::in_small_letters(&error))
        })?;
    }
    inside().doing("check the working folder")?;
    let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    if filter.is_some_and(seccomp::is_notify) {
        return Err("a seccomp profile that notifies an agent is not supported for an exec".into());
    }
    let load = || filter.map_or(Ok(()), |filter| seccomp::initialize_seccomp(filter).map(drop)).doing("load seccomp");
    // Without no_new_privs loading a filter takes a capability, so it comes before they are dropped.
    if !no_new_privileges {
        load()?;
    }
    if let Some(wanted) = process.capabilities() {
        capabilities::drop_privileges(wanted, &*syscall).doing("drop capabilities")?;
    }
    if no_new_privileges {
        load()?;
    }
    set_environment(process, user.uid());
    executor::run(Some(process))
}

/// That the working folder is inside the container (CVE-2024-21626): the kernel marks one that is not.
fn inside() -> io::Result<()> {
    let cwd = rustix::process::getcwd(Vec::new())?;
    if cwd.as_bytes().starts_with(b"/") { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    match sys::set_groups(groups) {
        // A user namespace that nobody privileged made forbids it; then there are none to be rid of either.
        Err(error) if groups.is_empty() && error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => other,
    }
}

fn set_limit(limit: &PosixRlimit) -> io::Result<()> {
    let name = limit.typ().to_string();
    let resource = RESOURCES.iter().find(|(known, _)| *known == name).map(|(_, resource)| *resource);
    let resource = resource.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, name))?;
    let value = libc::rlimit { rlim_cur: limit.soft(), rlim_max: limit.hard() };
    // SAFETY: `value` outlives the call.
    if unsafe { libc::setrlimit(resource, &raw const value) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const RESOURCES: [(&str, libc::__rlimit_resource_t); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
];

fn set_environment(process: &Process, uid: u32) {
    let entries = process.env().as_deref().unwrap_or_default();
    let split = |entry: &String| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.into(), value.into())
    };
    executor::set_environment(entries.iter().map(split));
    if std::env::var_os("HOME").is_none() {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("HOME", home(uid)) };
    }
}

/// The user's home, as the container's own list of users has it.
fn home(uid: u32) -> String {
    // The container's file may be anything; opened so that nothing waits, and read so far as a list of users goes.
    let open = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/etc/passwd");
    let mut users = Vec::new();
    let read = open.and_then(|file| file.take(PASSWD_BYTES_MAX).read_to_end(&mut users));
    let users = String::from_utf8_lossy(if read.is_ok() { &users } else { &[] });
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2)).flatten()
    });
    found.filter(|home| !home.is_empty()).unwrap_or("/").to_owned()
}
