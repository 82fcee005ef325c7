//! Cursors in use: who reads by which name, what was sent, and what is acknowledged.
//!
//! A cursor's row says what is acknowledged; what was sent and not yet acknowledged is known here alone, since after a
//! restart of the daemon it is sent again. An acknowledgement is a commit, but one at a time for a cursor: whatever comes
//! while one is being written goes with the next.

use crate::{journal::Journal, runtime::blocking};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;
use wharf_messages::{
    Answer, CursorName, Refusal, RefusalKind, Timestamp,
    cursor::{AckEvents, Cursor, CursorInfo, SHARED_WINDOW, UseCursor},
    event::Seq,
};
use wharf_store::{Change, Commit, Store};

/// How many events of a shared cursor are dealt to a subscriber at once: few, so that a busy one keeps few from others.
const HAND: u64 = 16;

/// How long a subscriber whose subscription came to its end may take to acknowledge what it was sent last.
const LINGER: Duration = Duration::from_secs(10);

/// No code that can panic runs under these locks, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All cursors in use.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    live: Mutex<HashMap<CursorName, Arc<Live>>>,
    /// One opens or deletes a cursor at a time: a row is read, and written if it is not there.
    opening: tokio::sync::Mutex<()>,
    last_id: AtomicU64,
}

/// A cursor in use.
#[derive(Debug)]
pub(super) struct Live {
    name: CursorName,
    shared: bool,
    state: Mutex<State>,
    /// Rung when a subscriber of a shared cursor may get more.
    pub more: Notify,
    /// What the row says; held while it is written.
    committed: tokio::sync::Mutex<Seq>,
}

#[derive(Debug)]
struct State {
    subscribers: BTreeMap<u64, Place>,
    /// Shared: everything up to here was dealt.
    dealt: Seq,
    /// Shared: what was dealt to one who went away.
    returned: BTreeSet<u64>,
}

/// Where a subscriber stands.
#[derive(Debug)]
struct Place {
    acked: Seq,
    /// The last that it was sent.
    sent: Seq,
    /// Everything up to here was looked at; what is beyond `sent` did not pass its filters.
    seen: Seq,
    /// Shared: what it was dealt and not sent yet.
    coming: BTreeSet<u64>,
    /// Shared: what it was sent and has not acknowledged, in the order of sending.
    held: VecDeque<u64>,
}

/// What a subscriber of a shared cursor may read next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hand {
    /// The events after this one, so many of them.
    Events(Seq, u64),
    /// None before it has acknowledged some.
    Full,
    /// None: all there are were dealt.
    Nothing,
}

/// A subscriber's use of a cursor; given up when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub id: u64,
    pub live: Arc<Live>,
    /// Where it starts.
    pub start: Seq,
    cursors: Arc<Cursors>,
    journal: Journal,
}

impl Cursors {
    /// Takes a place at a cursor, making it at `start` if it is not there.
    pub async fn open(
        self: &Arc<Self>,
        store: &Store,
        journal: &Journal,
        wanted: UseCursor,
        start: Seq,
    ) -> Answer<Seat> {
        let UseCursor { name, shared } = wanted;
        let _opening = self.opening.lock().await;
        let known = lock(&self.live).get(&name).cloned();
        let live = match known {
            Some(live) => live,
            None => {
                let (reading, named) = (store.clone(), name.clone());
                let row = blocking("read a cursor", move || reading.read()?.cursor(&named)).await?;
                let (shared, acked) = match row {
                    Some(row) => (row.shared, row.acked),
                    None => {
                        let (created_at, moved_at) = (Timestamp::ZERO, Timestamp::ZERO);
                        let cursor = Cursor { name: name.clone(), shared, acked: start, created_at, moved_at };
                        journal.commit(commit(Change::CreateCursor(cursor))).await?;
                        (shared, start)
                    }
                };
                let state = State { subscribers: BTreeMap::new(), dealt: acked, returned: BTreeSet::new() };
                let (state, more, committed) = (Mutex::new(state), Notify::new(), tokio::sync::Mutex::new(acked));
                Arc::new(Live { name: name.clone(), shared, state, more, committed })
            }
        };
        if live.shared != shared {
            let (is, asked) = if live.shared { ("shared", "unshared") } else { ("not shared", "shared") };
            return Err(Refusal::failed_precondition(format!("cursor {name:?} is {is}, it was asked for {asked}")));
        }
        let start = *live.committed.lock().await;
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Place { acked: start, sent: start, seen: start, coming: BTreeSet::new(), held: VecDeque::new() };
        lock(&live.state).subscribers.insert(id, place);
        lock(&self.live).insert(name, Arc::clone(&live));
        Ok(Seat { id, live, start, cursors: Arc::clone(self), journal: journal.clone() })
    }

    /// Acknowledges what a subscriber was sent up to a place; durable when it answers. The log ends at `end`.
    pub async fn ack(&self, journal: &Journal, call: &AckEvents, end: Seq) -> Answer<()> {
        let AckEvents { name, subscription: id, seq } = call;
        if *seq > end {
            let why = format!("event {} is not in the log yet, which ends with {}", seq.0, end.0);
            return Err(Refusal::out_of_range(why));
        }
        let live = lock(&self.live).get(name).cloned();
        let gone = || Refusal::not_found(format!("subscription {id} of cursor {name:?}"));
        let live = live.ok_or_else(gone)?;
        live.ack(*id, *seq).ok_or_else(gone)?;
        live.commit(journal).await
    }

    /// Deletes a cursor that nobody uses.
    pub async fn delete(&self, journal: &Journal, name: &CursorName) -> Answer<()> {
        let _opening = self.opening.lock().await;
        let live = lock(&self.live).get(name).cloned();
        if let Some(live) = live {
            let subscribers = live.subscribers();
            if subscribers > 0 {
                let why = format!("cursor {name:?} is in use by {subscribers} subscribers");
                return Err(Refusal::failed_precondition(why));
            }
            // Its last subscriber has just left; what it acknowledged is on its way.
            drop(live.committed.lock().await);
            lock(&self.live).remove(name);
        }
        journal.commit(commit(Change::DeleteCursor(name.clone()))).await.map(drop)
    }

    /// All cursors of a store.
    pub fn list(&self, store: &Store, end: Seq) -> Answer<Vec<CursorInfo>> {
        let info = |cursor: Answer<Cursor>| {
            let cursor = cursor?;
            let live = lock(&self.live).get(&cursor.name).cloned();
            let subscribers = live.map_or(0, |live| live.subscribers());
            Ok(CursorInfo { behind: end.0.saturating_sub(cursor.acked.0), subscribers, cursor })
        };
        store.read()?.cursors()?.map(info).collect()
    }

    /// Keeps whoever comes waiting until it is dropped.
    #[cfg(test)]
    pub async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    /// Whether what its last subscriber left is written, and nobody has come since.
    #[cfg(test)]
    pub fn is_unused(&self, name: &CursorName) -> bool {
        !lock(&self.live).contains_key(name)
    }

    /// Forgets a cursor that nobody uses any more.
    fn forget(&self, live: &Arc<Live>) {
        let mut all = lock(&self.live);
        if live.subscribers() == 0 && all.get(&live.name).is_some_and(|known| Arc::ptr_eq(known, live)) {
            all.remove(&live.name);
        }
    }
}

fn commit(change: Change) -> Commit {
    Commit { changes: vec![change], ..Commit::default() }
}

impl Live {
    pub fn name(&self) -> &CursorName {
        &self.name
    }

    pub fn is_shared(&self) -> bool {
        self.shared
    }

    fn subscribers(&self) -> u32 {
        u32::try_from(lock(&self.state).subscribers.len()).unwrap_or(u32::MAX)
    }

    /// A subscriber was sent an event, or a gap that ends with it.
    pub fn sent(&self, id: u64, seq: Seq) {
        if let Some(place) = lock(&self.state).subscribers.get_mut(&id) {
            (place.sent, place.seen) = (place.sent.max(seq), place.seen.max(seq));
            if place.coming.remove(&seq.0) {
                place.held.push_back(seq.0);
            }
        }
    }

    /// A subscriber was not sent what lies up to here: its filters do not want it.
    pub fn passed(&self, id: u64, seq: Seq) {
        if let Some(place) = lock(&self.state).subscribers.get_mut(&id) {
            place.seen = place.seen.max(seq);
            place.coming.remove(&seq.0);
        }
    }

    /// What of a hand is no longer in the log is nobody's any more, but for its last, which stands for the gap.
    pub fn missing(&self, id: u64, first: Seq, last: Seq) {
        if let Some(place) = lock(&self.state).subscribers.get_mut(&id) {
            place.coming.retain(|seq| *seq < first.0 || *seq >= last.0);
        }
    }

    /// None of a hand that ended with `last` is in the log any more, which now begins with `kept`: the subscriber is told of
    /// all that is missing, unless others were dealt of it. Answers the last that is.
    pub fn skip(&self, id: u64, last: Seq, kept: Seq) -> Seq {
        let mut state = lock(&self.state);
        let State { subscribers, dealt, .. } = &mut *state;
        let missing = Seq(kept.0.saturating_sub(1));
        match subscribers.get_mut(&id) {
            Some(place) if *dealt == last && missing > last => {
                *dealt = missing;
                place.coming.insert(missing.0);
                missing
            }
            _ => last,
        }
    }

    /// Deals a subscriber of a shared cursor its next events; the log ends at `end`.
    pub fn deal(&self, id: u64, end: Seq) -> Hand {
        let mut state = lock(&self.state);
        let State { subscribers, dealt, returned } = &mut *state;
        let Some(place) = subscribers.get_mut(&id) else { return Hand::Nothing };
        let room = (SHARED_WINDOW.saturating_sub(place.coming.len() + place.held.len()) as u64).min(HAND);
        if room == 0 {
            return Hand::Full;
        }
        // What comes back goes first. It may be older than what this subscriber has seen: then it comes to it late.
        let (first, count) = match returned.first().copied() {
            Some(first) => (first, (first..).zip(returned.iter()).take_while(|(a, b)| a == *b).count() as u64),
            None if *dealt < end => (dealt.0 + 1, end.0 - dealt.0),
            None => return Hand::Nothing,
        };
        let count = count.min(room);
        for seq in first..first + count {
            returned.remove(&seq);
            place.coming.insert(seq);
        }
        *dealt = (*dealt).max(Seq(first + count - 1));
        Hand::Events(Seq(first - 1), count)
    }

    /// None if there is no such subscriber.
    fn ack(&self, id: u64, seq: Seq) -> Option<()> {
        let mut state = lock(&self.state);
        let place = state.subscribers.get_mut(&id)?;
        place.acked = place.acked.max(seq);
        // In the order of sending, which is not that of the numbers once something came back.
        if let Some(at) = place.held.iter().position(|held| *held == seq.0) {
            place.held.drain(..=at);
        }
        drop(state);
        self.more.notify_waiters();
        Some(())
    }

    /// Whether a subscriber has acknowledged all that it was sent.
    fn is_settled(&self, id: u64) -> bool {
        let state = lock(&self.state);
        let Some(place) = state.subscribers.get(&id) else { return true };
        if self.shared { place.held.is_empty() } else { place.acked >= place.sent }
    }

    /// Everything up to here is acknowledged.
    fn floor(&self) -> Option<Seq> {
        let state = lock(&self.state);
        if self.shared {
            let theirs =
                state.subscribers.values().flat_map(|place| place.coming.first().into_iter().chain(&place.held));
            let open = theirs.chain(state.returned.first()).min();
            return Some(open.map_or(state.dealt, |first| Seq(first - 1)));
        }
        state.subscribers.values().map(Place::floor).min()
    }

    /// Writes down what is acknowledged, unless another has done so meanwhile.
    async fn commit(&self, journal: &Journal) -> Answer<()> {
        let mut committed = self.committed.lock().await;
        match self.floor() {
            Some(floor) if floor > *committed => {
                let change = Change::MoveCursor { name: self.name.clone(), acked: floor };
                journal.commit(commit(change)).await?;
                *committed = floor;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Place {
    fn floor(&self) -> Seq {
        // It may have been sent more by an earlier subscription, and acknowledge that.
        if self.acked >= self.sent { self.seen.max(self.acked) } else { self.acked }
    }
}

impl Seat {
    /// Keeps the place until all that was sent is acknowledged, or time is up.
    pub async fn linger(self) {
        let settled = async {
            loop {
                let mut acked = std::pin::pin!(self.live.more.notified());
                acked.as_mut().enable();
                if self.live.is_settled(self.id) {
                    return;
                }
                acked.await;
            }
        };
        // Time is up for those who never acknowledge.
        let _ = tokio::time::timeout(LINGER, settled).await;
    }

    /// Gives the place up: what it was dealt goes to others.
    fn leave(&self) {
        let mut state = lock(&self.live.state);
        if let Some(place) = state.subscribers.remove(&self.id) {
            state.returned.extend(place.coming.into_iter().chain(place.held));
        }
        drop(state);
        self.live.more.notify_waiters();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            self.leave();
            return self.cursors.forget(&self.live);
        };
        let floor = self.live.floor();
        self.leave();
        let (live, cursors, journal) = (Arc::clone(&self.live), Arc::clone(&self.cursors), self.journal.clone());
        // What its filters did not want is passed for good. Should the daemon end before it is written, it is looked at
        // once more.
        runtime.spawn(async move {
            let mut committed = live.committed.lock().await;
            if let Some(floor) = floor.filter(|floor| *floor > *committed) {
                let change = Change::MoveCursor { name: live.name.clone(), acked: floor };
                match journal.commit(commit(change)).await {
                    Ok(_) => *committed = floor,
                    // Deleted meanwhile.
                    Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
                    Err(refusal) => tracing::warn!(cursor = %live.name, %refusal, "a cursor did not move"),
                }
            }
            drop(committed);
            cursors.forget(&live);
        });
    }
}
