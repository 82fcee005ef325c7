//! All relays of this shim, and who is to be told when one ends.

use std::time::Duration;

use wharf_messages::{Answer, Refusal};

use super::relay::{Next, Relay};
use crate::reactor::{Interest, Reactor, Timer, Token};

/// How long a FIFO may be full before it is looked at whether anybody reads it. A client that restarts is back by
/// then and has lost nothing.
const STALL: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Slot {
    relay: Relay,
    owner: u32,
    /// A timer is set to look after it.
    stalled: bool,
    /// Nobody reads its sink: the oldest output makes room for the newest.
    orphan: bool,
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
        let slot = Some(Slot { relay, owner, stalled: false, orphan: false });
        if free == self.slots.len() {
            self.slots.push(slot);
        } else {
            self.slots[free] = slot;
        }
        Ok(index)
    }

    /// Drops a relay and closes its ends.
    pub fn remove(&mut self, relay: u32) {
        if let Some(slot) = self.slots.get_mut(relay as usize) {
            *slot = None;
        }
        if self.slots.iter().all(Option::is_none) {
            self.slots = Vec::new();
        }
    }

    /// Says that a relay's source gets nothing more than it holds now. Gives the relay if that is its end.
    pub fn finish(&mut self, reactor: &mut Reactor, relay: u32) -> Option<Ended> {
        self.slots.get_mut(relay as usize)?.as_mut()?.relay.finish();
        self.pump(reactor, relay)
    }

    /// Lets a relay work. Gives it back if that was its end; it is dropped then.
    pub fn pump(&mut self, reactor: &mut Reactor, relay: u32) -> Option<Ended> {
        let slot = self.slots.get_mut(relay as usize)?.as_mut()?;
        let owner = slot.owner;
        match slot.relay.pump() {
            Next::Wait => slot.stalled = false,
            Next::Again => self.again.push(relay),
            Next::Stalled if slot.orphan => {
                if slot.relay.make_room() {
                    self.again.push(relay);
                } else {
                    slot.orphan = false;
                }
            }
            Next::Stalled => {
                if !std::mem::replace(&mut slot.stalled, true) {
                    reactor.after(STALL, Timer::Relay(relay));
                }
            }
            Next::Done => {
                self.remove(relay);
                return Some(Ended { relay, owner });
            }
        }
        None
    }

    /// Looks after a relay that was stalled some time ago.
    pub fn due(&mut self, reactor: &mut Reactor, relay: u32) -> Option<Ended> {
        let slot = self.slots.get_mut(relay as usize)?.as_mut()?;
        if !std::mem::take(&mut slot.stalled) {
            return None;
        }
        if slot.relay.make_room() {
            crate::info!("nobody reads a container's output: from here on the oldest of it is dropped");
            slot.orphan = true;
        }
        self.pump(reactor, relay)
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
