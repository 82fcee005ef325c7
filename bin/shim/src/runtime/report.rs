//! How a verb's process tells the shim what came of it: lines on a pipe.
//!
//! Each line is a letter and a text: `P` the process id that was made, `E` the reason of a refusal in the words that a
//! person should read, `F` the last error in the runtime's own words, `L` what the runtime logged as an error on the
//! way. The pipe's end stays open in the container's init until it runs its command, so the shim reads what is there
//! when the verb's process is gone, and does not wait for the end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// What the shim reads of a report, at most: what a pipe holds.
const BYTES_MAX: u64 = 64 << 10;

static REPORT: OnceLock<File> = OnceLock::new();

/// Takes the inherited end of the pipe, in the verb's process. May be called once.
///
/// # Safety
/// `descriptor` is open, and nobody else in this process uses it.
pub unsafe fn take(descriptor: RawFd) {
    // SAFETY: the caller's promise.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // Errors below: a report that cannot be made is found missing by the shim.
    let _ = rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC);
    // Nobody reads while the verb runs: a full pipe must not stop it.
    let _ = rustix::io::ioctl_fionbio(&owned, true);
    let _ = REPORT.set(File::from(owned));
}

/// Writes a line.
pub fn line(letter: char, text: &str) {
    if let Some(mut report) = REPORT.get() {
        let line = format!("{letter}{}\n", text.replace('\n', " "));
        // As above: a line that does not fit is lost, and the first ones say the most.
        let _ = report.write_all(line.as_bytes());
    }
}

/// What a verb's process told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The process that was made.
    pub pid: Option<i32>,
    /// Why it was not, in words for a person.
    pub reason: Option<String>,
}

impl Report {
    /// Reads what is in the pipe.
    #[must_use]
    pub fn read(pipe: OwnedFd) -> Self {
        let mut bytes = Vec::new();
        // The end of a pipe that is still open elsewhere is an error of the kind "would block": what came before it
        // is in `bytes`.
        let _ = File::from(pipe).take(BYTES_MAX).read_to_end(&mut bytes);
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(text: &str) -> Self {
        let lines = |letter: char| text.lines().filter_map(move |line| line.strip_prefix(letter));
        let pid = lines('P').next().and_then(|pid| pid.parse().ok());
        let reason = lines('E').next().map(str::to_owned).or_else(|| {
            let last = lines('F').next()?;
            // The first thing that was logged is the nearest to the cause; what follows are its echoes.
            Some(match lines('L').next() {
                Some(cause) => format!("{last}: {cause}"),
                None => last.to_owned(),
            })
        });
        Self { pid, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let report = |pid, reason: Option<&str>| Report { pid, reason: reason.map(str::to_owned) };
        let cases = [
            ("", report(None, None)),
            ("P12\n", report(Some(12), None)),
            ("Fio error\n", report(None, Some("io error"))),
            (
                "Lmount /x: no such file\nLfailed to mount\nFfailed\n",
                report(None, Some("failed: mount /x: no such file")),
            ),
            (
                "Lnoise\nEexec: \"x\": permission denied\nFfailed\n",
                report(None, Some("exec: \"x\": permission denied")),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Report::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_pipe_that_is_still_open_is_read_as_far_as_it_goes() {
        let _quiet = crate::sys::testing::no_children();
        let flags = rustix::pipe::PipeFlags::NONBLOCK | rustix::pipe::PipeFlags::CLOEXEC;
        let (reader, writer) = rustix::pipe::pipe_with(flags).unwrap();
        rustix::io::write(&writer, b"P7\n").unwrap();
        assert_eq!(Report::read(reader).pid, Some(7));
        drop(writer);
    }
}
