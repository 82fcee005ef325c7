//! All relays of this shim, and who is to be told when one ends.

use std::time::Duration;

use wharf_messages::{Answer, Refusal};

use super::fifo::FifoWriter;
use super::relay::{Next, Relay};
use crate::reactor::{Interest, Reactor, Timer, Token};

/// How long a FIFO may be full before it is looked at whether anybody reads it. A client that restarts is back by
/// then and has lost nothing.
const STALL: Duration = Duration::from_secs(10);

/// How long output that nobody read when its process ended is looked after, at first and at most.
const UNREAD_MIN: Duration = Duration::from_millis(100);
const UNREAD_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Copying {
    relay: Relay,
    /// A timer is set to look after it.
    stalled: bool,
    /// Nobody reads its sink: the oldest output makes room for the newest.
    orphan: bool,
}

#[derive(Debug)]
enum Work {
    Copying(Copying),
    /// The copy has ended and its reader is away, a daemon that restarts. Held until a reader is there, which then
    /// finds the end, or until the process is deleted.
    Unread(FifoWriter, Duration),
}

#[derive(Debug)]
struct Slot {
    owner: u32,
    work: Work,
}

/// The relays, by number.
#[derive(Debug, Default)]
pub struct Relays {
    slots: Vec<Option<Slot>>,
    /// Those that had more to do when their turn was over.
    again: Vec<u32>,
}

/// A relay that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ended {
    pub relay: u32,
    pub owner: u32,
}

impl Relays {
    /// Takes a relay and watches its ends. The first wake comes by itself.
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` answers.
    pub fn add(&mut self, reactor: &Reactor, relay: Relay, owner: u32) -> Answer<u32> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let index = u32::try_from(free).map_err(|_| Refusal::resource_exhausted("too many streams"))?;
        let token = Token::Relay(index);
        let watched = reactor.watch(relay.source(), token, Interest::Read).and_then(|()| match relay.sink() {
            Some(sink) => reactor.watch(sink, token, Interest::Write),
            None => Ok(()),
        });
        watched.map_err(|error| Refusal::io("watch a stream", &error))?;
        let slot = Some(Slot { owner, work: Work::Copying(Copying { relay, stalled: false, orphan: false }) });
        if free == self.slots.len() {
            self.slots.push(slot);
        } else {
            self.slots[free] = slot;
        }
        Ok(index)
    }

    /// Drops a relay and closes its ends.
    pub fn remove(&mut self, relay: u32) {
        self.take(relay);
    }

    /// Drops everything of a process.
    pub fn remove_all(&mut self, owner: u32) {
        for slot in &mut self.slots {
            slot.take_if(|slot| slot.owner == owner);
        }
        self.shrink();
    }

    fn take(&mut self, relay: u32) -> Option<Slot> {
        let taken = self.slots.get_mut(relay as usize).and_then(Option::take);
        self.shrink();
        taken
    }

    fn shrink(&mut self) {
        if self.slots.iter().all(Option::is_none) {
            self.slots = Vec::new();
        }
    }

    fn copying(&mut self, relay: u32) -> Option<&mut Copying> {
        match &mut self.slots.get_mut(relay as usize)?.as_mut()?.work {
            Work::Copying(copying) => Some(copying),
            Work::Unread(..) => None,
        }
    }

    /// Says that a relay's source gets nothing more than it holds now. Gives the relay if that is its end.
    pub fn finish(&mut self, reactor: &mut Reactor, relay: u32) -> Option<Ended> {
        self.copying(relay)?.relay.finish();
        self.pump(reactor, relay)
    }

    /// Lets a relay work. Gives it back if that was its end.
    pub fn pump(&mut self, reactor: &mut Reactor, relay: u32) -> Option<Ended> {
        let copying = self.copying(relay)?;
        match copying.relay.pump() {
            Next::Wait => copying.stalled = false,
            Next::Again => self.again.push(relay),
            Next::Stalled if copying.orphan => {
                if copying.relay.make_room() {
                    self.again.push(relay);
                } else {
                    copying.orphan = false;
                }
            }
            Next::Stalled => {
                if !std::mem::replace(&mut copying.stalled, true) {
                    reactor.after(STALL, Timer::Relay(relay));
                }
            }
            Next::Done => return self.end(reactor, relay),
        }
        None
    }

    fn end(&mut self, reactor: &mut Reactor, relay: u32) -> Option<Ended> {
        let slot = self.slots.get_mut(relay as usize)?.take()?;
        let owner = slot.owner;
        if let Work::Copying(copying) = slot.work
            && let Some(fifo) = copying.relay.into_unread()
        {
            reactor.after(UNREAD_MIN, Timer::Relay(relay));
            self.slots[relay as usize] = Some(Slot { owner, work: Work::Unread(fifo, UNREAD_MIN) });
        }
        self.shrink();
        Some(Ended { relay, owner })
    }

    /// Looks after a relay that was stalled some time ago, or whose output was not read.
    pub fn due(&mut self, reactor: &mut Reactor, relay: u32) -> Option<Ended> {
        let slot = self.slots.get_mut(relay as usize)?.as_mut()?;
        match &mut slot.work {
            Work::Unread(fifo, pause) => {
                if fifo.has_reader() {
                    self.remove(relay);
                } else {
                    *pause = (*pause * 2).min(UNREAD_MAX);
                    reactor.after(*pause, Timer::Relay(relay));
                }
                None
            }
            Work::Copying(copying) => {
                if !std::mem::take(&mut copying.stalled) {
                    return None;
                }
                if copying.relay.make_room() {
                    crate::info!("nobody reads a container's output: from here on the oldest of it is dropped");
                    copying.orphan = true;
                }
                self.pump(reactor, relay)
            }
        }
    }

    /// Whether some have more to do.
    #[must_use]
    pub fn have_more(&self) -> bool {
        !self.again.is_empty()
    }

    /// Takes the numbers of those that have more to do.
    pub fn take_more(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::fifo::{Output, open_output};
    use crate::io::relay::{Sink, Source};
    use rustix::fs::{FileType, Mode, OFlags};
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io::{Read, Write};
    use std::path::PathBuf;

    struct Fifo(PathBuf);

    impl Fifo {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-shim-relays-{name}-{}", std::process::id()));
            rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
            Self(path)
        }

        fn reader(&self) -> std::fs::File {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::open(&self.0, flags, Mode::empty()).unwrap().into()
        }
    }

    impl Drop for Fifo {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }

    /// A relay into a FIFO, and the end that feeds it.
    fn relay(fifo: &Fifo) -> (Relay, std::fs::File) {
        let (source, feed) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        let Output::Fifo(sink) = open_output(&fifo.0).unwrap() else { panic!("a fifo is no file") };
        (Relay::new(Source::Pipe(source), Sink::Fifo(sink)), feed.into())
    }

    #[test]
    fn without_a_reader_the_newest_output_is_kept_and_nothing_blocks() {
        let _quiet = crate::sys::testing::no_children();
        let (fifo, mut reactor, mut relays) = (Fifo::new("orphan"), Reactor::new().unwrap(), Relays::default());
        let (copy, mut feed) = relay(&fifo);
        let number = relays.add(&reactor, copy, 1).unwrap();
        let settle = |relays: &mut Relays, reactor: &mut Reactor| {
            assert_eq!(relays.pump(reactor, number), None);
            while relays.have_more() {
                for relay in relays.take_more() {
                    assert_eq!(relays.pump(reactor, relay), None);
                }
            }
        };
        // Until both pipes are full the output waits for a reader.
        let mut written = 0;
        while feed.write(&[b'o'; 4096]).inspect(|count| written += count).is_ok() {
            settle(&mut relays, &mut reactor);
        }
        assert!(written >= 128 << 10);
        // Ten seconds later nobody has come.
        assert_eq!(relays.due(&mut reactor, number), None);
        settle(&mut relays, &mut reactor);
        for _ in 0..100 {
            feed.write_all(&[b'n'; 4096]).unwrap();
            settle(&mut relays, &mut reactor);
        }
        let mut text = Vec::new();
        fifo.reader().read_to_end(&mut text).unwrap_err();
        assert!(text.iter().all(|byte| *byte == b'n'), "the oldest has made room");
    }

    #[test]
    fn a_slow_reader_loses_nothing() {
        let _quiet = crate::sys::testing::no_children();
        let (fifo, mut reactor, mut relays) = (Fifo::new("slow"), Reactor::new().unwrap(), Relays::default());
        let (copy, mut feed) = relay(&fifo);
        let number = relays.add(&reactor, copy, 1).unwrap();
        let mut reader = fifo.reader();
        while feed.write(&[b'x'; 4096]).is_ok() {
            assert_eq!(relays.pump(&mut reactor, number), None);
        }
        assert_eq!(relays.due(&mut reactor, number), None);
        assert!(feed.write(b"x").is_err(), "it still waits for the reader");
        let mut buffer = [0; 65536];
        let read = reader.read(&mut buffer).unwrap();
        assert!(read > 0);
        assert_eq!(relays.pump(&mut reactor, number), None);
        feed.write_all(b"x").unwrap();
    }

    #[test]
    fn output_that_was_not_read_waits_for_its_reader() {
        let _quiet = crate::sys::testing::no_children();
        let (fifo, mut reactor, mut relays) = (Fifo::new("unread"), Reactor::new().unwrap(), Relays::default());
        let (copy, mut feed) = relay(&fifo);
        let number = relays.add(&reactor, copy, 7).unwrap();
        feed.write_all(b"last words").unwrap();
        drop(feed);
        assert_eq!(relays.pump(&mut reactor, number), Some(Ended { relay: number, owner: 7 }));
        assert_eq!(relays.due(&mut reactor, number), None);
        let mut reader = fifo.reader();
        relays.due(&mut reactor, number);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words", "and then the end");
    }
}
