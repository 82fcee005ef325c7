//! The few system calls that `rustix` does not offer, each behind a safe function.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Turns a C return value into a result.
fn check(value: libc::c_int) -> io::Result<libc::c_int> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Sends any signal, real-time ones too, to a process.
///
/// # Errors
/// `ESRCH` if there is no such process, `EINVAL` if there is no such signal.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        // 0, -1 and negative numbers address whole groups, which nobody here ever means.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill takes plain integers and touches no memory.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// This process's id.
#[must_use]
pub fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Has the kernel kill this process when its parent ends.
///
/// # Errors
/// If the parent is gone already.
pub fn die_with_parent(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now == Some(parent) { Ok(()) } else { Err(io::Error::other("the process that waits for this one is gone")) }
}

/// Blocks the given signals for this thread and returns a descriptor that delivers them.
///
/// # Errors
/// Whatever `signalfd(2)` answers.
pub fn signal_descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is an initialised signal set that outlives both calls; the descriptor is new and ours.
    unsafe {
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Gives this process the signal mask and the dispositions that a freshly started program expects: nothing blocked,
/// nothing ignored. Rust's start-up ignores SIGPIPE, service managers do, and a container's command would inherit it.
///
/// # Errors
/// Whatever `sigprocmask(2)` answers.
pub fn reset_signals() -> io::Result<()> {
    /// The kernel's own structure: the C library's function leaves out the signals that it uses itself.
    #[repr(C)]
    struct KernelAction {
        handler: usize,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let default = KernelAction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    let set = signal_set(&[]);
    // SAFETY: both structures are initialised and outlive the calls; the default action runs no code of this process.
    unsafe {
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()))?;
        for signal in 1..=64 {
            // Fails for the two that cannot be ignored in the first place.
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, 0usize, size_of::<u64>());
        }
    }
    Ok(())
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is valid memory for sigemptyset to initialise, and signal numbers are checked by
    // sigaddset itself.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// One delivered signal, read from a [`signal_descriptor`].
///
/// # Errors
/// Whatever `read(2)` answers; `WouldBlock` when none is pending.
pub fn next_signal(descriptor: BorrowedFd<'_>) -> io::Result<i32> {
    let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
    rustix::io::read(descriptor, &mut buffer)?;
    // ssi_signo is the structure's first field.
    let signal = u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    i32::try_from(signal).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Which side of [`fork`] this is.
pub enum Fork {
    /// The one that called; the other's process id.
    Parent(i32),
    /// The new one.
    Child,
}

/// Forks this process.
///
/// # Errors
/// Whatever `fork(2)` answers.
///
/// # Panics
/// Never; but only a process with one thread may call it, for the child has that thread alone.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: this program never starts a thread, so the child's copy of the heap and of every lock is consistent.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Joins or makes the session keyring of that name, so that a container does not share its runtime's keys.
///
/// # Errors
/// `ENOSYS` where the kernel has no keyrings, otherwise whatever `keyctl(2)` answers.
pub fn join_session_keyring(name: &std::ffi::CStr) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: `name` is a terminated string that outlives the call.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if serial < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts a descriptor on a given number, inherited across exec.
///
/// # Errors
/// Whatever `dup2(2)` answers.
pub fn place(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if descriptor.as_raw_fd() == number {
        return Ok(rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?);
    }
    // SAFETY: dup2 takes plain integers; the caller owns the target number.
    check(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }).map(drop)
}

/// The peer side of a terminal whose master this is, without a path to it.
///
/// # Errors
/// `ENOTTY` if it is not a master.
pub fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: TIOCGPTPEER takes open flags as an integer and returns a new descriptor that is ours.
    unsafe {
        let fd =
            check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Leaves all supplementary groups but these.
///
/// # Errors
/// `EPERM` without the privilege, or where a user namespace forbids it.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one slice of gid_t, which is u32.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).map(drop)
}

/// Becomes a user and a group for good; the permitted capabilities stay until they are dropped.
///
/// # Errors
/// `EPERM` without the privilege, `EINVAL` for ids that a user namespace does not know.
pub fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: these calls take plain integers. This process has one thread, so the C library's wrappers, which would
    // change all of them, do what the system calls do.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Undoes the part of [`set_ids`] that keeps capabilities.
///
/// # Errors
/// Whatever `prctl(2)` answers.
pub fn forget_kept_capabilities() -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0) }).map(drop)
}

/// Enters the namespaces of a process.
///
/// # Errors
/// Whatever `setns(2)` answers.
pub fn enter_namespaces(pidfd: BorrowedFd<'_>, kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: an open descriptor and an integer.
    check(unsafe { libc::setns(pidfd.as_raw_fd(), kinds) }).map(drop)
}

/// Marks every descriptor from `first` on to be closed by an exec.
///
/// # Errors
/// Whatever `close_range(2)` answers.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: with this flag nothing is closed now, so nobody loses a descriptor.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether other processes of the same user may look into this one, and into its files by way of `/proc`.
///
/// # Errors
/// Whatever `prctl(2)` answers.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) }).map(drop)
}

/// Gives this process, and what it starts, a core scheduling group: no others share a core with them.
///
/// # Errors
/// Whatever `prctl(2)` answers.
pub fn new_core_scheduling_group() -> io::Result<()> {
    const SCOPE_THREAD_GROUP: libc::c_ulong = 1;
    // SAFETY: plain integers.
    check(unsafe { libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, 0, SCOPE_THREAD_GROUP, 0) }).map(drop)
}

/// Tests run in threads of one process, and a child holds a copy of every descriptor from its fork to its exec. The
/// shim has one thread; a test that depends on who has a descriptor open must keep others from starting children.
#[cfg(test)]
pub mod testing {
    use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

    static CHILDREN: RwLock<()> = RwLock::new(());

    /// Nobody starts a child while this lives.
    pub fn no_children() -> RwLockReadGuard<'static, ()> {
        CHILDREN.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held to start a child.
    pub fn children() -> RwLockWriteGuard<'static, ()> {
        CHILDREN.write().unwrap_or_else(PoisonError::into_inner)
    }
}
