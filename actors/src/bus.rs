//! The bus: subscribers are cursors on the log.
//!
//! There is nothing here that runs: the journal puts the newest events into a small ring and moves the high-water mark;
//! each subscriber reads on from its own place at its own pace, from the ring if it is close behind and from the log if it
//! is not. No subscriber has a queue, so none can fill memory, and none waits for another. It is not a child of the root
//! for the same reason: it has no state that could fail.
//!
//! Calls: `events.watch`, `events.publish`; see `bus/calls.rs`.
//!
//! Invariants:
//! - **BUS-1** A subscriber sees every event after its start that passes its filters, in order, once, or a gap that says
//!   which are no longer there.
//! - **BUS-2** The ring is a contiguous piece of the log that ends at the high-water mark.

mod calls;

use crate::runtime::{Clock, blocking};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use wharf_messages::{
    Answer, Refusal, Timestamp,
    event::{Delivery, Event, EventRecord, Seq, Since},
    filter::Filters,
};
use wharf_store::Store;

/// The most events in the ring, and about how many bytes they may hold.
const RING_MAX: (usize, usize) = (512, 1 << 20);
/// How many events are read from the log, or copied from the ring, at once.
const CHUNK_EVENTS: usize = 128;

/// The newest events, and where the log ends.
#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<EventRecord>>,
    size_bytes: usize,
}

impl Ring {
    fn push(&mut self, event: &EventRecord) {
        if self.events.back().is_some_and(|last| last.seq.0 + 1 != event.seq.0) {
            self.clear();
        }
        self.size_bytes += weight(event);
        self.events.push_back(Arc::new(event.clone()));
        while self.events.len() > RING_MAX.0 || self.size_bytes > RING_MAX.1 {
            let Some(oldest) = self.events.pop_front() else { break };
            self.size_bytes -= weight(&oldest);
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// What comes after a place, if the ring has all of it.
    fn after(&self, seq: Seq) -> Option<Vec<Arc<EventRecord>>> {
        let first = self.events.front()?.seq;
        let skip = usize::try_from(seq.0.checked_add(1)?.checked_sub(first.0)?).ok()?;
        (skip < self.events.len()).then(|| self.events.iter().skip(skip).take(CHUNK_EVENTS).cloned().collect())
    }
}

/// About how many bytes an event holds: clients' own payloads are what can be large.
fn weight(event: &EventRecord) -> usize {
    512 + match &event.event {
        Event::Published { payload, .. } => payload.value.len(),
        _ => 0,
    }
}

#[derive(Default)]
struct Shared {
    ring: Mutex<Ring>,
}

impl Shared {
    /// No code that can panic runs under the lock.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The journal's end of the bus.
pub(crate) struct Tail {
    shared: Arc<Shared>,
    mark: watch::Sender<Seq>,
}

impl Tail {
    /// Puts events that are durable into the ring.
    pub(crate) fn push(&self, events: &[EventRecord]) {
        let mut ring = self.shared.ring();
        for event in events {
            ring.push(event);
        }
    }

    /// Moves the high-water mark.
    pub(crate) fn advance(&self, last: Seq) {
        self.mark.send_if_modified(|mark| std::mem::replace(mark, last) != last);
    }

    /// Begins anew at a log's end: what the ring has may not be all there is.
    pub(crate) fn reset(&self, last: Seq) {
        self.shared.ring().clear();
        self.advance(last);
    }
}

/// What is told, for whoever wants to follow. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
    mark: watch::Receiver<Seq>,
    store: Store,
    clock: Clock,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bus(at {})", self.mark.borrow().0)
    }
}

/// What a subscriber wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where to start.
    pub since: Since,
    /// Where to stop, if before the end of time.
    pub until: Option<Timestamp>,
    /// Whether to wait for more at the log's end.
    pub follow: bool,
    /// Which events; gaps are told in any case.
    pub filters: Filters,
}

impl Bus {
    /// A bus over a store's log, and the journal's end of it.
    pub(crate) fn new(store: Store, clock: Clock) -> (Self, Tail) {
        let (mark, marked) = watch::channel(Seq(0));
        let shared = Arc::<Shared>::default();
        (Self { shared: Arc::clone(&shared), mark: marked, store, clock }, Tail { shared, mark })
    }

    /// The place of the newest event.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        *self.mark.borrow()
    }

    /// Begins to follow the log.
    ///
    /// # Errors
    /// `OutOfRange` for a place that the log has not reached: it is another root's, or another log's.
    pub async fn subscribe(&self, wanted: Wanted) -> Answer<Subscription> {
        let last = self.last_seq();
        let start = match wanted.since {
            Since::Now => last,
            Since::Seq(seq) if seq <= last => seq,
            Since::Seq(seq) => {
                return Err(Refusal::out_of_range(format!(
                    "event {} is not in the log yet, which ends with {}",
                    seq.0, last.0
                )));
            }
            Since::Time(time) => {
                let store = self.store.clone();
                blocking("find a place in the log", move || store.read()?.seq_at(time)).await?
            }
        };
        Ok(Subscription {
            bus: self.clone(),
            wanted,
            position: start,
            end: last,
            chunk: VecDeque::new(),
            state: State::Fresh,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Reading,
    Over,
}

/// A place in the log that moves on as it is read.
#[derive(Debug)]
pub struct Subscription {
    bus: Bus,
    wanted: Wanted,
    /// The last event read.
    position: Seq,
    /// Where the log ended when the subscription began: the end, if it does not follow.
    end: Seq,
    /// Events read and not yet delivered, `position` being the one before them.
    chunk: VecDeque<Arc<EventRecord>>,
    state: State,
}

impl Subscription {
    /// The last place read: what a subscriber that comes back names in `Since::Seq`.
    #[must_use]
    pub fn position(&self) -> Seq {
        self.position
    }

    /// The next delivery; `None` at the end.
    ///
    /// # Errors
    /// If the log cannot be read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Answer<Option<Delivery>> {
        if self.state == State::Fresh {
            self.state = State::Reading;
            return Ok(Some(Delivery::Subscribed(self.position)));
        }
        while self.state == State::Reading {
            if let Some(event) = self.chunk.front() {
                if event.seq.0 > self.position.0 + 1 {
                    let gap = Delivery::Gap(Seq(self.position.0 + 1), Seq(event.seq.0 - 1));
                    self.position = Seq(event.seq.0 - 1);
                    return Ok(Some(gap));
                }
                if self.wanted.until.is_some_and(|until| event.at > until) {
                    break;
                }
                let Some(event) = self.chunk.pop_front() else { continue };
                self.position = event.seq;
                if self.wanted.filters.matches(&*event) {
                    return Ok(Some(Delivery::Event(Box::new(Arc::unwrap_or_clone(event)))));
                }
            } else if !self.wanted.follow && self.position >= self.end {
                break;
            } else if self.bus.last_seq() > self.position {
                self.chunk = self.read().await?;
            } else if !self.wait().await {
                break;
            }
        }
        self.state = State::Over;
        Ok(None)
    }

    /// Reads what comes next: from the ring, or from the log.
    async fn read(&self) -> Answer<VecDeque<Arc<EventRecord>>> {
        if let Some(events) = self.bus.shared.ring().after(self.position) {
            return Ok(events.into());
        }
        let (store, after) = (self.bus.store.clone(), self.position);
        blocking("read the log", move || {
            let events = store.read()?.events(after, CHUNK_EVENTS)?;
            if events.is_empty() {
                return Err(Refusal::data_loss(format!("the log has no event after {}", after.0)));
            }
            Ok(events.into_iter().map(Arc::new).collect())
        })
        .await
    }

    /// Waits for the log to grow; false if there is nothing to wait for any more.
    async fn wait(&mut self) -> bool {
        let position = self.position;
        let grown = self.bus.mark.wait_for(|mark| *mark > position);
        let left = self.wanted.until.map(|until| until.since(self.bus.clock.now()) + Duration::from_millis(1));
        match left {
            Some(left) => tokio::time::timeout(left, grown).await.is_ok_and(|grown| grown.is_ok()),
            None => grown.await.is_ok(),
        }
    }
}

#[cfg(test)]
mod tests;
