//! Processes that end with their guard, and what `/proc` tells of others.

use crate::wait;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A child that is killed and reaped when dropped.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Takes a child over.
    #[must_use]
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// The child itself, for its streams.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Its end, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Sends a signal; fine if it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            // Not yet reaped, so the pid is still its own; it may be a zombie, which is no error.
            kill(Pid::from_raw(self.pid()), signal).unwrap();
        }
    }

    /// Waits for its end.
    pub fn wait_for(&mut self, time: Duration) -> Option<ExitStatus> {
        wait::within(time, || self.ended())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        self.0.wait().unwrap();
    }
}

/// An exit as a shell would show it: the code, or 128 + signal.
#[must_use]
pub fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// Every process there is.
#[must_use]
pub fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process is there and not a zombie.
#[must_use]
pub fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

/// Processes that work in a folder or name it on their command line: daemons, shims and their helpers.
#[must_use]
pub fn using(folder: &Path) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap();
    let uses = |pid: &i32| {
        let proc = format!("/proc/{pid}");
        // A process may end while it is looked at: what cannot be read is not using anything.
        let within = |link: &str| fs::read_link(format!("{proc}/{link}")).is_ok_and(|path| path.starts_with(folder));
        let named = || {
            let line = fs::read(format!("{proc}/cmdline")).unwrap_or_default();
            let folder = folder.as_os_str().as_encoded_bytes();
            line.windows(folder.len()).enumerate().any(|(at, part)| {
                part == folder && line.get(at + folder.len()).is_none_or(|next| matches!(next, 0 | b'/' | b','))
            })
        };
        *pid != own && alive(*pid) && (within("cwd") || within("root") || named())
    };
    all().into_iter().filter(uses).collect()
}

/// The children of a process, by `/proc`.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    all().into_iter().filter(|child| parent(*child) == Some(pid)).collect()
}

/// The parent of a process.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// A process's share of memory, in kilobytes.
#[must_use]
pub fn pss_kilobytes(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB")?.trim().parse().ok())
}

/// What memory of a process is its own, in kilobytes: not the program's code, of which a share of memory
/// ([`pss_kilobytes`]) counts the more, the fewer others run the program at that moment, and only what is paged in.
#[must_use]
pub fn own_kilobytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(field("RssAnon:")? + field("RssShmem:")?)
}

/// Asks somebody else's process to end.
///
/// # Panics
/// If it is not there.
pub fn terminate(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap_or_else(|errno| panic!("end {pid}: {errno}"));
}

/// Watches the memory of a process.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Watch {
    /// Begins, with what counts as its memory.
    #[must_use]
    pub fn of(pid: i32, kilobytes: fn(i32) -> Option<u64>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let watching = over.clone();
        let thread = thread::spawn(move || {
            let mut most = 0;
            while !watching.load(Ordering::Relaxed) {
                most = most.max(kilobytes(pid).unwrap_or(0));
                thread::sleep(Duration::from_millis(10));
            }
            most
        });
        Self { over, thread }
    }

    /// Ends; the most that was seen, in kilobytes.
    ///
    /// # Panics
    /// If the watching did.
    #[must_use]
    pub fn most_kilobytes(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Kills processes by their ids and waits until they are gone.
///
/// # Panics
/// If one does not go.
pub fn kill_all(pids: &[i32]) {
    for pid in pids {
        // ESRCH: it ended by itself in the meantime.
        if let Err(errno) = kill(Pid::from_raw(*pid), Signal::SIGKILL) {
            assert_eq!(errno, nix::errno::Errno::ESRCH, "kill {pid}");
        }
    }
    wait::eventually(&format!("the end of {pids:?}"), || pids.iter().all(|pid| !alive(*pid)).then_some(()));
}
