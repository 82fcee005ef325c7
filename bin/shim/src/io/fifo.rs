//! A client's FIFOs.
//!
//! The shim holds both ends of the output FIFOs: a client that goes away neither kills the container nor loses what
//! the FIFO still holds, and one that comes later opens it again. Of the input FIFO it holds a writing end, so that
//! a client that goes away does not end the container's input.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use wharf_messages::{Answer, Refusal};

const BASE: OFlags = OFlags::NONBLOCK.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The writing end of an output FIFO, and the reading end that keeps it alive.
#[derive(Debug)]
pub struct FifoWriter {
    writer: OwnedFd,
    /// There but for the moment of a look at the other readers.
    reader: Option<OwnedFd>,
}

/// What an output path turned out to be.
#[derive(Debug)]
pub enum Output {
    /// A FIFO.
    Fifo(FifoWriter),
    /// Something else that can be appended to.
    File(OwnedFd),
}

fn open(path: &Path, flags: OFlags) -> Answer<OwnedFd> {
    rustix::fs::open(path, flags | BASE, Mode::empty())
        .map_err(|error| Refusal::io(format!("open {}", path.display()), &error.into()))
}

fn is_fifo(descriptor: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode) == FileType::Fifo)
}

/// Opens an output path that a client named.
///
/// # Errors
/// Whatever opening it answers.
pub fn open_output(path: &Path) -> Answer<Output> {
    // The reading end first: a writing end that must not wait needs one.
    let reader = open(path, OFlags::RDONLY)?;
    let fifo = is_fifo(&reader).map_err(|error| Refusal::io(format!("stat {}", path.display()), &error))?;
    if !fifo {
        return open(path, OFlags::WRONLY | OFlags::APPEND).map(Output::File);
    }
    let writer = open(path, OFlags::WRONLY)?;
    Ok(Output::Fifo(FifoWriter { writer, reader: Some(reader) }))
}

/// Opens an input FIFO that a client named: the end to be read, and the end that keeps it open.
///
/// # Errors
/// Whatever opening it answers; invalid argument if it is no FIFO.
pub fn open_input(path: &Path) -> Answer<(OwnedFd, OwnedFd)> {
    let reader = open(path, OFlags::RDONLY)?;
    let fifo = is_fifo(&reader).map_err(|error| Refusal::io(format!("stat {}", path.display()), &error))?;
    if !fifo {
        return Err(Refusal::invalid(format!("stdin {}: not a fifo", path.display())));
    }
    Ok((reader, open(path, OFlags::WRONLY)?))
}

impl FifoWriter {
    /// The end to be written.
    #[must_use]
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// Whether anybody but this process has the FIFO open for reading.
    ///
    /// The kernel counts readers and does not tell; but a pipe without any has an error condition. So our own reading
    /// end is let go for the moment of a look. What the FIFO holds stays, for the writing end keeps it.
    pub fn has_reader(&mut self) -> bool {
        self.reader = None;
        let mut look = [PollFd::new(&self.writer, PollFlags::OUT)];
        let looked = poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let alone = looked.is_ok() && look[0].revents().contains(PollFlags::ERR);
        // By way of the descriptor: the path may lead elsewhere by now, or nowhere.
        let again = format!("/proc/self/fd/{}", self.writer.as_raw_fd());
        match rustix::fs::open(again, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(reader) => self.reader = Some(reader),
            Err(error) => crate::warning!("the reading end of a fifo cannot be opened again: {error}"),
        }
        !alone
    }

    /// Whether there is output in it that was not read.
    #[must_use]
    pub fn holds_something(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| rustix::io::ioctl_fionread(reader).is_ok_and(|count| count > 0))
    }

    /// Drops up to that many of the oldest bytes that the FIFO holds. Gives whether there were any.
    pub fn drop_oldest(&mut self, count: usize) -> bool {
        let Some(reader) = &self.reader else { return false };
        let mut buffer = [0; 4096];
        let mut dropped = 0;
        while dropped < count {
            match rustix::io::read(reader, &mut buffer) {
                Ok(read @ 1..) => dropped += read,
                _ => break,
            }
        }
        dropped > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    struct Fifo(std::path::PathBuf);

    impl Fifo {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-shim-{name}-{}", std::process::id()));
            rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
            Self(path)
        }

        fn client(&self) -> File {
            File::from(open(&self.0, OFlags::RDONLY).unwrap())
        }

        fn writer(&self) -> FifoWriter {
            match open_output(&self.0).unwrap() {
                Output::Fifo(fifo) => fifo,
                Output::File(_) => panic!("a fifo is no file"),
            }
        }
    }

    impl Drop for Fifo {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }

    #[test]
    fn a_reader_is_noticed_and_what_is_held_survives_the_look() {
        let _quiet = crate::sys::testing::no_children();
        let fifo = Fifo::new("reader");
        let mut ours = fifo.writer();
        rustix::io::write(ours.writer(), b"kept").unwrap();
        assert!(!ours.has_reader());
        let mut client = fifo.client();
        assert!(ours.has_reader());
        let mut text = [0; 4];
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"kept");
        drop(client);
        assert!(!ours.has_reader());
        assert!(rustix::io::write(ours.writer(), b"x").is_ok(), "our own reading end is back");
    }

    #[test]
    fn the_oldest_output_makes_room() {
        let _quiet = crate::sys::testing::no_children();
        let fifo = Fifo::new("room");
        let mut ours = fifo.writer();
        while rustix::io::write(ours.writer(), &[b'o'; 4096]).is_ok() {}
        assert!(ours.drop_oldest(8192));
        rustix::io::write(ours.writer(), b"new").unwrap();
    }

    #[test]
    fn other_things_than_fifos() {
        let _quiet = crate::sys::testing::no_children();
        let path = std::env::temp_dir().join(format!("wharf-shim-file-{}", std::process::id()));
        File::create(&path).unwrap().write_all(b"a").unwrap();
        match open_output(&path).unwrap() {
            Output::File(file) => File::from(file).write_all(b"b").unwrap(),
            Output::Fifo(_) => panic!("a file is no fifo"),
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"ab");
        assert!(open_input(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(open_output(&path).unwrap_err().is(wharf_messages::RefusalKind::NotFound));
    }
}
