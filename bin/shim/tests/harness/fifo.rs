//! The client's side of streams.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};

/// A FIFO in a test's folder.
pub struct Fifo(pub PathBuf);

impl Fifo {
    pub fn new(folder: &Path, name: &str) -> Self {
        let path = folder.join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        Self(path)
    }

    pub fn name(&self) -> String {
        self.0.to_str().unwrap().into()
    }

    /// Opens it for reading as clients do: before or after the shim, without waiting.
    pub fn reader(&self) -> Reader {
        let fd = rustix::fs::open(&self.0, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Reader { fd, text: String::new() }
    }

    /// Opens it for writing, when somebody reads it.
    pub fn writer(&self) -> File {
        File::options().write(true).open(&self.0).unwrap()
    }
}

/// What has come out of a FIFO.
pub struct Reader {
    fd: OwnedFd,
    pub text: String,
}

impl Reader {
    /// Reads until a condition holds for what was read, or the stream ends; gives whether it holds.
    pub fn read_until(&mut self, mut condition: impl FnMut(&str) -> bool) -> bool {
        let deadline = std::time::Instant::now() + super::PATIENCE;
        let mut buffer = [0; 65536];
        let mut file = File::from(self.fd.try_clone().unwrap());
        loop {
            if condition(&self.text) {
                return true;
            }
            assert!(std::time::Instant::now() < deadline, "read so far: {:?}", self.text);
            match file.read(&mut buffer) {
                Ok(0) if self.has_ended() => return false,
                // Before the first writer comes there is nothing either.
                Ok(0) => std::thread::sleep(std::time::Duration::from_millis(1)),
                Ok(count) => self.text.push_str(&String::from_utf8_lossy(&buffer[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut wait = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
                    poll(&mut wait, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whether there were writers and are none any more.
    fn has_ended(&self) -> bool {
        let mut look = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
        poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        look[0].revents().contains(PollFlags::HUP)
    }

    pub fn expect(&mut self, text: &str) {
        assert!(self.read_until(|read| read.contains(text)), "{text:?} is not in {:?}", self.text);
    }

    /// Reads to the end.
    pub fn rest(mut self) -> String {
        self.read_until(|_| false);
        self.text
    }
}
