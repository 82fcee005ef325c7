//! The shim's own log: one line a happening, into the daemon's `log` pipe in the bundle.
//!
//! A daemon that is away must never stop a shim: a line that finds the pipe full is dropped.

use std::fmt::Arguments;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use wharf_messages::Timestamp;

static SINK: OnceLock<File> = OnceLock::new();
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Opens the log in the bundle. Without one (a daemon that made none) lines go nowhere.
pub fn open(bundle: &Path, verbose: bool) {
    use rustix::fs::{Mode, OFlags};
    VERBOSE.store(verbose, Ordering::Relaxed);
    // Read and write, so that opening a pipe needs no reader and a reader that leaves raises no SIGPIPE.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::APPEND;
    if let Ok(descriptor) = rustix::fs::open(bundle.join("log"), flags, Mode::empty()) {
        // A second opening in one process keeps the first log: there is only one daemon.
        let _ = SINK.set(File::from(descriptor));
    }
}

/// Writes a line of that level.
pub fn line(level: &str, message: Arguments<'_>) {
    let Some(mut sink) = SINK.get() else { return };
    if level == "debug" && !VERBOSE.load(Ordering::Relaxed) {
        return;
    }
    let now = Timestamp::from(SystemTime::now());
    let line = format!(
        "time={}.{:09} level={level} msg={:?} pid={}\n",
        now.seconds(),
        now.nanos(),
        message.to_string(),
        std::process::id()
    );
    // A full pipe means that nobody reads; the line is worth less than going on.
    let _ = sink.write_all(line.as_bytes());
}

/// Logs what only helps to find a fault.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::line("debug", format_args!($($arg)*)) };
}

/// Logs what an operator may want to know.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::line("info", format_args!($($arg)*)) };
}

/// Logs what went wrong and was lived with.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::line("warning", format_args!($($arg)*)) };
}
