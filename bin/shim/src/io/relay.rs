//! A stream's copy: from the descriptor that one side writes to the one that the other side reads.
//!
//! Between pipes the kernel moves pages (`splice`); terminals and files are copied through a small buffer. A relay
//! works until one of its ends would block, and is woken by either.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::fifo::FifoWriter;

/// How much is moved before others get their turn.
const TURN_BYTES: usize = 1 << 20;
/// What a pipe holds: the most that one splice can move.
const PIPE_BYTES: usize = 64 << 10;
/// The copy's buffer. Not more than `PIPE_BUF`, so that a write into a pipe succeeds whole or not at all.
const BUFFER_BYTES: usize = 4096;

/// Where a relay's bytes come from.
#[derive(Debug)]
pub enum Source {
    /// A pipe or FIFO, whose pages can be moved.
    Pipe(OwnedFd),
    /// A terminal's master, which fails instead of ending.
    Terminal(OwnedFd),
}

/// Where a relay's bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A pipe to a process.
    Pipe(OwnedFd),
    /// A client's FIFO.
    Fifo(FifoWriter),
    /// A terminal's master.
    Terminal(OwnedFd),
    /// A logging binary's pipe.
    Logger(OwnedFd),
    /// A file that is appended to.
    File(OwnedFd),
    /// Nowhere: a sink that failed must not block the container.
    Nowhere,
}

/// What a relay does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It waits to be woken.
    Wait,
    /// It has more to do and lets others go first.
    Again,
    /// The sink is full: it waits, and something is to look after it, should nobody read there any more.
    Stalled,
    /// Its source has ended, or its sink.
    Done,
}

/// The copy of one stream.
#[derive(Debug)]
pub struct Relay {
    source: Source,
    sink: Sink,
    pending: Vec<u8>,
    /// An empty source is an ended one: nobody will write there any more.
    last: bool,
}

enum Step {
    Moved(usize),
    SourceEmpty,
    SinkFull,
    Ended,
}

impl Relay {
    /// A copy between two non-blocking descriptors.
    #[must_use]
    pub fn new(source: Source, sink: Sink) -> Self {
        Self { source, sink, pending: Vec::new(), last: false }
    }

    /// The descriptor that is read.
    #[must_use]
    pub fn source(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Pipe(fd) | Source::Terminal(fd) => fd.as_fd(),
        }
    }

    /// The descriptor that is written, if it is one that can be waited for.
    #[must_use]
    pub fn sink(&self) -> Option<BorrowedFd<'_>> {
        match &self.sink {
            Sink::Pipe(fd) | Sink::Terminal(fd) | Sink::Logger(fd) => Some(fd.as_fd()),
            Sink::Fifo(fifo) => Some(fifo.writer()),
            Sink::File(_) | Sink::Nowhere => None,
        }
    }

    /// Says that the source gets nothing more than it holds now.
    pub fn finish(&mut self) {
        self.last = true;
    }

    /// Works until it would block, or long enough.
    pub fn pump(&mut self) -> Next {
        let mut moved = 0;
        while moved < TURN_BYTES {
            match self.step() {
                Ok(Step::Moved(count)) => moved += count,
                Ok(Step::SourceEmpty) if self.last => return Next::Done,
                Ok(Step::SourceEmpty) => return Next::Wait,
                Ok(Step::SinkFull) => return Next::Stalled,
                Ok(Step::Ended) => return Next::Done,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => match self.sink {
                    // The process, or the terminal's other side, does not read its input any more.
                    Sink::Pipe(_) | Sink::Terminal(_) => return Next::Done,
                    Sink::Nowhere => return Next::Done,
                    Sink::Fifo(_) | Sink::Logger(_) | Sink::File(_) => {
                        crate::warning!("a stream's output is discarded from here on: {error}");
                        self.sink = Sink::Nowhere;
                        self.pending = Vec::new();
                    }
                },
            }
        }
        Next::Again
    }

    /// What is left of a relay that is done: a FIFO that holds output which nobody has come to read yet.
    #[must_use]
    pub fn into_unread(self) -> Option<FifoWriter> {
        let Sink::Fifo(mut fifo) = self.sink else { return None };
        (fifo.holds_something() && !fifo.has_reader()).then_some(fifo)
    }

    /// Makes room in a FIFO that is full and that nobody reads, by dropping the oldest output. Gives whether it did.
    pub fn make_room(&mut self) -> bool {
        match &mut self.sink {
            Sink::Fifo(fifo) => !fifo.has_reader() && fifo.drop_oldest(PIPE_BYTES / 4),
            _ => false,
        }
    }

    fn step(&mut self) -> io::Result<Step> {
        if let (Source::Pipe(source), Sink::Pipe(_) | Sink::Fifo(_)) = (&self.source, &self.sink) {
            let Some(sink) = self.sink() else { return Ok(Step::Ended) };
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            return match splice(source, None, sink, None, PIPE_BYTES, flags) {
                Ok(0) => Ok(Step::Ended),
                Ok(count) => Ok(Step::Moved(count)),
                // Either end may be the one that would block.
                Err(Errno::AGAIN) if is_empty(source.as_fd())? => Ok(Step::SourceEmpty),
                Err(Errno::AGAIN) => Ok(Step::SinkFull),
                Err(error) => Err(error.into()),
            };
        }
        if !self.pending.is_empty() {
            return self.drain();
        }
        let mut buffer = [0; BUFFER_BYTES];
        let count = match (rustix::io::read(self.source(), &mut buffer), &self.source) {
            (Ok(0), _) => return Ok(Step::Ended),
            (Ok(count), _) => count,
            (Err(Errno::AGAIN), _) => return Ok(Step::SourceEmpty),
            // Linux's way to say that a terminal's other side is closed.
            (Err(Errno::IO), Source::Terminal(_)) => return Ok(Step::Ended),
            (Err(error), _) => return Err(error.into()),
        };
        self.pending.extend_from_slice(&buffer[..count]);
        match self.drain()? {
            Step::Moved(_) => Ok(Step::Moved(count)),
            other => Ok(other),
        }
    }

    /// Writes what was read and did not go out yet.
    fn drain(&mut self) -> io::Result<Step> {
        let sink = match &self.sink {
            Sink::Pipe(fd) | Sink::Terminal(fd) | Sink::Logger(fd) | Sink::File(fd) => fd.as_fd(),
            Sink::Fifo(fifo) => fifo.writer(),
            Sink::Nowhere => {
                let count = self.pending.len();
                self.pending = Vec::new();
                return Ok(Step::Moved(count));
            }
        };
        match rustix::io::write(sink, &self.pending) {
            Ok(count) if count == self.pending.len() => {
                self.pending = Vec::new();
                Ok(Step::Moved(count))
            }
            Ok(count) => {
                self.pending.drain(..count);
                Ok(Step::Moved(count))
            }
            Err(Errno::AGAIN) => Ok(Step::SinkFull),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a pipe holds nothing, without being at its end.
fn is_empty(pipe: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::io::ioctl_fionread(pipe)? == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io::{Read, Write};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn bytes_pass_and_the_end_is_passed_on() {
        let _quiet = crate::sys::testing::no_children();
        let ((source, feed), (out, sink)) = (pipe(), pipe());
        let (mut feed, mut out) = (std::fs::File::from(feed), std::fs::File::from(out));
        let mut relay = Relay::new(Source::Pipe(source), Sink::Pipe(sink));
        assert_eq!(relay.pump(), Next::Wait);
        feed.write_all(b"hello").unwrap();
        assert_eq!(relay.pump(), Next::Wait);
        drop(feed);
        assert_eq!(relay.pump(), Next::Done);
        drop(relay);
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_full_sink_is_told_from_an_empty_source() {
        let _quiet = crate::sys::testing::no_children();
        let ((source, feed), (out, sink)) = (pipe(), pipe());
        let (mut feed, mut out) = (std::fs::File::from(feed), std::fs::File::from(out));
        let mut relay = Relay::new(Source::Pipe(source), Sink::Pipe(sink));
        let mut sent = 0;
        loop {
            match feed.write(&[7; 4096]) {
                Ok(count) => sent += count,
                Err(_) if relay.pump() == Next::Stalled => break,
                Err(_) => {}
            }
        }
        drop(feed);
        let mut got = 0;
        let mut buffer = [0; 8192];
        while relay.pump() != Next::Done {
            while let Ok(count) = out.read(&mut buffer) {
                got += count;
            }
        }
        drop(relay);
        while let Ok(count @ 1..) = out.read(&mut buffer) {
            got += count;
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn a_sink_that_is_gone_ends_an_input() {
        let _quiet = crate::sys::testing::no_children();
        let ((source, feed), (out, sink)) = (pipe(), pipe());
        let mut relay = Relay::new(Source::Pipe(source), Sink::Pipe(sink));
        drop(out);
        std::fs::File::from(feed).write_all(b"x").unwrap();
        assert_eq!(relay.pump(), Next::Done);
    }

    #[test]
    fn an_input_that_is_closed_is_drained_first() {
        let _quiet = crate::sys::testing::no_children();
        let ((source, feed), (out, sink)) = (pipe(), pipe());
        let (mut feed, mut out) = (std::fs::File::from(feed), std::fs::File::from(out));
        let mut relay = Relay::new(Source::Pipe(source), Sink::Pipe(sink));
        feed.write_all(b"rest").unwrap();
        relay.finish();
        assert_eq!(relay.pump(), Next::Done, "although a writer still has the source open");
        drop(relay);
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "rest");
    }
}
