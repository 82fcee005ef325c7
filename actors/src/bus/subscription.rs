//! A subscription: a place in the log that moves on as it is read.

use super::{
    Bus, CHUNK_EVENTS, Subscriber,
    cursors::{Hand, Seat},
    weight,
};
use crate::runtime::blocking;
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;
use wharf_messages::{
    Answer, Refusal, Timestamp,
    cursor::UseCursor,
    event::{DELIVERIES_MAX, Delivery, EventRecord, Seq, Since},
    filter::Filters,
};

/// About how many bytes of events go into one batch.
const BATCH_MAX_BYTES: usize = 1 << 20;
/// How far behind a subscriber is slow: beyond what the ring holds, it costs reads of the log.
const BEHIND_MIN: u64 = 1024;
/// How often it is told at most.
const BEHIND_INTERVAL: Duration = Duration::from_secs(1);

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
    /// The cursor that remembers the place.
    pub cursor: Option<UseCursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Reading,
    Over,
}

/// What a subscriber can be sent without waiting.
enum Step {
    Send(Delivery),
    /// Nothing before more is read.
    Read,
    Over,
}

/// A place in the log that moves on as it is read.
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
    /// A whole hand that is no longer in the log, and not told yet.
    missing: Option<(Seq, Seq)>,
    seat: Option<Seat>,
    number: u64,
    report: Arc<Subscriber>,
    /// Whether it has been at the log's end, and when it was last told that it is slow.
    caught_up: bool,
    told_behind: Option<Instant>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({} at {})", self.number, self.position.0)
    }
}

impl Subscription {
    pub(super) fn new(bus: Bus, wanted: Wanted, start: Seq, end: Seq, seat: Option<Seat>) -> Self {
        let number = bus.shared.subscriptions_made.fetch_add(1, Ordering::Relaxed);
        let cursor = seat.as_ref().map(|seat| seat.live.name().clone());
        let report = Arc::new(Subscriber { cursor, position: start.0.into() });
        let mut all = bus.shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, Arc::clone(&report));
        drop(all);
        Self {
            bus,
            wanted,
            position: start,
            end,
            chunk: VecDeque::new(),
            state: State::Fresh,
            missing: None,
            seat,
            number,
            report,
            caught_up: false,
            told_behind: None,
        }
    }

    /// The last place read: what a subscriber that comes back names in `Since::Seq`.
    #[must_use]
    pub fn position(&self) -> Seq {
        self.position
    }

    /// Ends it. What was sent may be acknowledged for a while yet.
    pub fn finish(mut self) {
        if let Some(seat) = self.seat.take() {
            tokio::spawn(seat.linger());
        }
    }

    /// The next deliveries: what is there, at least one; none at the end.
    ///
    /// # Errors
    /// If the log cannot be read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn batch(&mut self) -> Answer<Vec<Delivery>> {
        let Some(first) = self.next().await? else { return Ok(Vec::new()) };
        let mut left_bytes = BATCH_MAX_BYTES.saturating_sub(size(&first));
        let mut batch = Vec::with_capacity(self.chunk.len().min(DELIVERIES_MAX - 1) + 1);
        batch.push(first);
        while batch.len() < DELIVERIES_MAX && left_bytes > 0 {
            let Step::Send(delivery) = self.step() else { break };
            left_bytes = left_bytes.saturating_sub(size(&delivery));
            batch.push(delivery);
        }
        Ok(batch)
    }

    /// The next delivery; `None` at the end.
    ///
    /// # Errors
    /// If the log cannot be read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Answer<Option<Delivery>> {
        loop {
            match self.step() {
                Step::Send(delivery) => return Ok(Some(delivery)),
                Step::Over => return Ok(None),
                Step::Read => {}
            }
            let more = match self.seat.as_ref().filter(|seat| seat.live.is_shared()) {
                None => self.more().await?,
                Some(_) => self.more_shared().await?,
            };
            if !more {
                self.state = State::Over;
            }
        }
    }

    /// What can be sent of what was read.
    fn step(&mut self) -> Step {
        match self.state {
            State::Fresh => {
                self.state = State::Reading;
                let subscription = self.seat.as_ref().map_or(0, |seat| seat.id);
                return Step::Send(Delivery::Subscribed { after: self.position, subscription });
            }
            State::Over => return Step::Over,
            State::Reading => {}
        }
        if let Some(behind) = self.behind() {
            return Step::Send(behind);
        }
        if let Some((first, last)) = self.missing.take() {
            return Step::Send(self.gap(first, last));
        }
        while let Some(event) = self.chunk.front() {
            if event.seq.0 > self.position.0 + 1 {
                let (first, last) = (Seq(self.position.0 + 1), Seq(event.seq.0 - 1));
                return Step::Send(self.gap(first, last));
            }
            if self.wanted.until.is_some_and(|until| event.at > until) {
                self.state = State::Over;
                return Step::Over;
            }
            let Some(event) = self.chunk.pop_front() else { break };
            self.moved(event.seq);
            let wanted = self.wanted.filters.matches(&*event);
            if let Some(seat) = &self.seat {
                if wanted { seat.live.sent(seat.id, event.seq) } else { seat.live.passed(seat.id, event.seq) }
            }
            if wanted {
                return Step::Send(Delivery::Event(Box::new(Arc::unwrap_or_clone(event))));
            }
        }
        Step::Read
    }

    fn gap(&mut self, first: Seq, last: Seq) -> Delivery {
        self.moved(last);
        if let Some(seat) = &self.seat {
            seat.live.missing(seat.id, first, last);
            seat.live.sent(seat.id, last);
        }
        Delivery::Gap(first, last)
    }

    fn moved(&mut self, to: Seq) {
        self.position = to;
        self.report.position.store(to.0, Ordering::Relaxed);
    }

    /// Tells a subscriber that was at the log's end once, and takes less than there comes.
    fn behind(&mut self) -> Option<Delivery> {
        if !self.caught_up {
            return None;
        }
        let behind = self.bus.last_seq().0.saturating_sub(self.position.0);
        if behind < BEHIND_MIN || self.told_behind.is_some_and(|at| at.elapsed() < BEHIND_INTERVAL) {
            return None;
        }
        self.told_behind = Some(Instant::now());
        Some(Delivery::Behind(behind))
    }

    /// Reads on; false if there is nothing to wait for any more.
    async fn more(&mut self) -> Answer<bool> {
        if !self.wanted.follow && self.position >= self.end {
            return Ok(false);
        }
        if self.bus.last_seq() > self.position {
            self.chunk = self.read(self.position, CHUNK_EVENTS).await?;
            return Ok(true);
        }
        self.caught_up = true;
        Ok(self.wait(self.position).await)
    }

    /// Has events dealt, and reads them; false if there is nothing to wait for any more.
    async fn more_shared(&mut self) -> Answer<bool> {
        let Some((live, id)) = self.seat.as_ref().map(|seat| (Arc::clone(&seat.live), seat.id)) else {
            return Ok(false);
        };
        let ringing = live.more.notified();
        tokio::pin!(ringing);
        ringing.as_mut().enable();
        let end = if self.wanted.follow { self.bus.last_seq() } else { self.end };
        match live.deal(id, end) {
            Hand::Events(after, count) => {
                let last = Seq(after.0 + count);
                let mut chunk = self.read(after, usize::try_from(count).unwrap_or(CHUNK_EVENTS)).await?;
                let kept = chunk.front().map(|event| event.seq);
                chunk.retain(|event| event.seq <= last);
                if let (true, Some(kept)) = (chunk.is_empty(), kept) {
                    self.missing = Some((Seq(after.0 + 1), live.skip(id, last, kept)));
                }
                self.moved(after);
                self.chunk = chunk;
                Ok(true)
            }
            Hand::Nothing if !self.wanted.follow => Ok(false),
            Hand::Nothing => {
                self.caught_up = true;
                let mut grown = std::pin::pin!(self.wait(end));
                Ok(tokio::select! {
                    grown = &mut grown => grown,
                    () = ringing => true,
                })
            }
            Hand::Full => {
                ringing.await;
                Ok(true)
            }
        }
    }

    /// Reads what comes after a place: from the ring, or from the log.
    async fn read(&self, after: Seq, max_count: usize) -> Answer<VecDeque<Arc<EventRecord>>> {
        if let Some(events) = self.bus.shared.ring().after(after, max_count) {
            return Ok(events);
        }
        let store = self.bus.store.clone();
        blocking("read the log", move || {
            let events = store.read()?.events(after, max_count)?;
            if events.is_empty() {
                return Err(Refusal::data_loss(format!("the log has no event after {}", after.0)));
            }
            Ok(events.into_iter().map(Arc::new).collect())
        })
        .await
    }

    /// Waits for the log to grow beyond a place; false if there is nothing to wait for any more.
    async fn wait(&self, place: Seq) -> bool {
        let mut mark = self.bus.mark.clone();
        let grown = mark.wait_for(|mark| *mark > place);
        let left = self.wanted.until.map(|until| until.since(self.bus.clock.now()) + Duration::from_millis(1));
        match left {
            Some(left) => tokio::time::timeout(left, grown).await.is_ok_and(|grown| grown.is_ok()),
            None => grown.await.is_ok(),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

fn size(delivery: &Delivery) -> usize {
    match delivery {
        Delivery::Event(event) => weight(event),
        _ => 16,
    }
}
