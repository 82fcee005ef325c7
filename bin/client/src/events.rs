//! Following the daemon's log: what happened and what happens, over restarts of the daemon.

use crate::{Client, Items};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use wharf_messages::{
    Answer, Refusal, RefusalKind,
    cursor::AckEvents,
    event::{Delivery, Seq, Since, WatchEvents},
};

/// How long a daemon that is being started again is waited for.
const RESTART_PATIENCE: Duration = Duration::from_secs(10);
/// How long to rest between two attempts to reach it.
const REST: Duration = Duration::from_millis(50);

/// A subscription to the log.
///
/// One that follows outlives the daemon: when that is started again, the subscription goes on after the last event it
/// had. With a cursor ([`WatchEvents::cursor`]) it outlives the subscriber as well: whoever subscribes with the same name
/// goes on after the last event that [`Events::ack`] acknowledged.
#[derive(Debug)]
pub struct Events {
    client: Client,
    watch: WatchEvents,
    /// None once the subscription is over.
    items: Option<Items<WatchEvents>>,
    batch: VecDeque<Delivery>,
    subscription: u64,
    position: Seq,
    /// Whether the first subscription stands; what later ones say of themselves is no news.
    began: bool,
}

impl Client {
    /// Subscribes to the log.
    ///
    /// # Errors
    /// As [`Client::connect`]; the daemon's refusal comes with the first delivery.
    pub async fn subscribe(&self, watch: WatchEvents) -> Answer<Events> {
        let items = Some(self.items(watch.clone()).await?);
        let (client, batch, position) = (self.clone(), VecDeque::new(), Seq(0));
        Ok(Events { client, watch, items, batch, subscription: 0, position, began: false })
    }
}

impl Events {
    /// The next delivery; none when the subscription is over.
    ///
    /// # Errors
    /// The daemon's refusal; `Unavailable` if it was lost and did not come back.
    ///
    /// # Cancel safety
    /// No delivery is lost when the future is dropped.
    pub async fn next(&mut self) -> Answer<Option<Delivery>> {
        loop {
            while let Some(delivery) = self.batch.pop_front() {
                if let Some(delivery) = self.took(delivery) {
                    return Ok(Some(delivery));
                }
            }
            let Some(items) = &mut self.items else { return Ok(None) };
            if let Some(batch) = items.next().await? {
                self.batch = batch.into();
                continue;
            }
            let Some(items) = self.items.take() else { return Ok(None) };
            match items.reply().await {
                Err(refusal) if refusal.is(RefusalKind::Unavailable) && self.began && self.watch.follow => {
                    self.subscribe_again(refusal).await?;
                }
                ended => return ended.map(|_| None),
            }
        }
    }

    /// The deliveries that are here already, without waiting.
    pub fn ready(&mut self) -> Option<Delivery> {
        while let Some(delivery) = self.batch.pop_front() {
            if let Some(delivery) = self.took(delivery) {
                return Some(delivery);
            }
        }
        None
    }

    /// Whether something is here that [`Events::ready`] would answer.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.batch.is_empty()
    }

    /// The last place delivered.
    #[must_use]
    pub fn position(&self) -> Seq {
        self.position
    }

    /// Says that everything delivered up to a place is dealt with. Durable when it answers; cheap enough for each event,
    /// cheaper for some at once.
    ///
    /// # Errors
    /// `FailedPrecondition` without a cursor. `NotFound` or `Unavailable` if the daemon was restarted meanwhile: then what
    /// was not acknowledged comes again.
    pub async fn ack(&self, seq: Seq) -> Answer<()> {
        let Some(cursor) = &self.watch.cursor else {
            return Err(Refusal::failed_precondition("a subscription without a cursor has nothing to acknowledge"));
        };
        self.client.call(AckEvents { name: cursor.name.clone(), subscription: self.subscription, seq }).await
    }

    /// Notes where a delivery leads; none if it is of no use to the caller.
    fn took(&mut self, delivery: Delivery) -> Option<Delivery> {
        let shared = self.watch.cursor.as_ref().is_some_and(|cursor| cursor.shared);
        let last = match &delivery {
            Delivery::Subscribed { after, subscription } => {
                self.subscription = *subscription;
                if std::mem::replace(&mut self.began, true) {
                    return None;
                }
                *after
            }
            Delivery::Event(event) => event.seq,
            Delivery::Gap(_, last) => *last,
            Delivery::Behind(_) => return Some(delivery),
        };
        if matches!(delivery, Delivery::Subscribed { .. }) || shared {
            self.position = self.position.max(last);
            return Some(delivery);
        }
        // After a restart of the daemon a cursor starts with what was not acknowledged; the caller has it already.
        let news = last > self.position;
        self.position = self.position.max(last);
        news.then_some(delivery)
    }

    async fn subscribe_again(&mut self, mut why: Refusal) -> Answer<()> {
        if self.watch.cursor.is_none() {
            self.watch.since = Since::Seq(self.position);
        }
        let until = Instant::now() + RESTART_PATIENCE.min(self.client.connect_timeout());
        while Instant::now() < until {
            match self.client.items(self.watch.clone()).await {
                Ok(items) => {
                    self.items = Some(items);
                    return Ok(());
                }
                Err(refusal) if refusal.is(RefusalKind::Unavailable) => why = refusal,
                Err(refusal) => return Err(refusal),
            }
            tokio::time::sleep(REST).await;
        }
        Err(why)
    }
}
