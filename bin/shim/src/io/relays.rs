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
