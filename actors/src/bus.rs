//! The bus: subscribers are cursors on the log.
//!
//! There is nothing here that runs: the journal puts the newest events into a small ring and moves the high-water mark;
//! each subscriber reads on from its own place at its own pace, from the ring if it is close behind and from the log if it
//! is not. No subscriber has a queue, so none can fill memory, and none waits for another. It is not a child of the root
//! for the same reason: it has no state that could fail.
//!
//! A subscriber that names a cursor is remembered in a row (`bus/cursors.rs`). Calls: `events.*`, `cursors.*`, in
//! `bus/calls.rs`.
//!
//! Invariants:
//! - **BUS-1** A subscriber sees every event after its start that passes its filters, in order, once, or a gap that says
//!   which are no longer there.
//!   With a shared cursor, it and the others who share see every event between them, at least once.
//! - **BUS-2** The ring is a contiguous piece of the log that ends at the high-water mark.

mod calls;
mod cursors;
mod subscription;

pub use subscription::{Subscription, Wanted};

use crate::{
    journal::Journal,
    runtime::{Clock, blocking},
};
use cursors::Cursors;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;
use wharf_messages::{
    Answer, CursorName, Refusal,
    event::{Event, EventRecord, Seq, Since},
};
use wharf_store::Store;

/// The most events in the ring, and about how many bytes they may hold.
const RING_MAX: (usize, usize) = (512, 1 << 20);
/// How many events are read from the log, or copied from the ring, at once.
const CHUNK_EVENTS: usize = 256;

/// The newest events, and where the log ends.
#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<EventRecord>>,
    size_bytes: usize,
}

impl Ring {
    fn push(&mut self, event: &Arc<EventRecord>) {
        if self.events.back().is_some_and(|last| last.seq.0 + 1 != event.seq.0) {
            self.clear();
        }
        self.size_bytes += weight(event);
        self.events.push_back(Arc::clone(event));
        while self.events.len() > RING_MAX.0 || self.size_bytes > RING_MAX.1 {
            let Some(oldest) = self.events.pop_front() else { break };
            self.size_bytes -= weight(&oldest);
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// What comes after a place, at most so many, if the ring has all of it.
    fn after(&self, seq: Seq, max_count: usize) -> Option<VecDeque<Arc<EventRecord>>> {
        let first = self.events.front()?.seq;
        let skip = usize::try_from(seq.0.checked_add(1)?.checked_sub(first.0)?).ok()?;
        (skip < self.events.len()).then(|| self.events.iter().skip(skip).take(max_count).cloned().collect())
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
    subscribers: Mutex<BTreeMap<u64, Arc<Subscriber>>>,
    subscriptions_made: AtomicU64,
}

/// A subscriber, for whoever wants to know how far behind it is.
struct Subscriber {
    cursor: Option<CursorName>,
    position: AtomicU64,
}

/// How a subscriber fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberReport {
    /// The cursor it uses.
    pub cursor: Option<CursorName>,
    /// How many events of the log it has not been sent or passed yet.
    pub behind: u64,
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
    pub(crate) fn push(&self, events: &[Arc<EventRecord>]) {
        let mut ring = self.shared.ring();
        for event in events {
            ring.push(event);
        }
    }

    /// Moves the high-water mark.
    pub(crate) fn advance(&self, last: Seq) {
        self.mark.send_if_modified(|mark| std::mem::replace(mark, last) != last);
    }

    /// Drops from the ring what the log no longer has.
    pub(crate) fn forget(&self, first: Seq) {
        let mut ring = self.shared.ring();
        while ring.events.front().is_some_and(|oldest| oldest.seq < first) {
            let Some(oldest) = ring.events.pop_front() else { break };
            ring.size_bytes -= weight(&oldest);
        }
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
    journal: Journal,
    cursors: Arc<Cursors>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bus(at {})", self.mark.borrow().0)
    }
}

impl Bus {
    /// A bus over a store's log, and the journal's end of it.
    pub(crate) fn new(store: Store, clock: Clock, journal: Journal) -> (Self, Tail) {
        let (mark, marked) = watch::channel(Seq(0));
        let shared = Arc::<Shared>::default();
        let cursors = Arc::default();
        (Self { shared: Arc::clone(&shared), mark: marked, store, clock, journal, cursors }, Tail { shared, mark })
    }

    /// The place of the newest event.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        *self.mark.borrow()
    }

    /// How every subscriber fares.
    #[must_use]
    pub fn subscribers(&self) -> Vec<SubscriberReport> {
        let Seq(last) = self.last_seq();
        let all = self.shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |subscriber: &Arc<Subscriber>| SubscriberReport {
            cursor: subscriber.cursor.clone(),
            behind: last.saturating_sub(subscriber.position.load(Ordering::Relaxed)),
        };
        all.values().map(report).collect()
    }

    /// Begins to follow the log.
    ///
    /// # Errors
    /// `OutOfRange` for a place that the log has not reached: it is another root's, or another log's.
    pub async fn subscribe(&self, wanted: Wanted) -> Answer<Subscription> {
        let last = self.last_seq();
        let start = match wanted.since {
            Since::Now => last,
            Since::Seq(seq) => seq,
            Since::Time(time) => {
                let store = self.store.clone();
                blocking("find a place in the log", move || store.read()?.seq_at(time)).await?
            }
        };
        let seat = match &wanted.cursor {
            None => None,
            // One that would be made beyond the log's end is not made.
            Some(_) if start > last => None,
            Some(cursor) => Some(self.cursors.open(&self.store, &self.journal, cursor.clone(), start).await?),
        };
        let (start, last) = match &seat {
            None => (start, last),
            // While it was opened others may have acknowledged what has been told meanwhile.
            Some(seat) => (seat.start, self.last_seq()),
        };
        if start > last {
            return Err(Refusal::out_of_range(format!(
                "event {} is not in the log yet, which ends with {}",
                start.0, last.0
            )));
        }
        Ok(Subscription::new(self.clone(), wanted, start, last, seat))
    }
}

#[cfg(test)]
mod cursor_tests;
#[cfg(test)]
mod tests;
