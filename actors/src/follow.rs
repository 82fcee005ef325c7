//! Following the bus on behalf of a plural: what there is already, then what happens, as the facts that its children want.
//!
//! The work is a job, so neither the log nor the rows are read on the actors' thread. It begins with the rows of one
//! moment and goes on with the log from that moment, so no fact falls between the two.

use crate::{
    bus::{Bus, Wanted},
    runtime::{Actor, Ctx, Handle, Handler, JobToken, Tell, blocking},
};
use std::time::Duration;
use wharf_messages::{
    Answer, Refusal,
    event::{Delivery, EventRecord, Seq, Since},
    filter::Filters,
};
use wharf_store::{Reader, Store};

/// How long to rest before a fact is handed to a plural again whose mailbox was full.
const FULL_REST: Duration = Duration::from_millis(50);

/// What a plural wants to know of the world.
pub(crate) trait Watch: Send + 'static {
    /// What it is told.
    type Fact: Clone + Send + 'static;

    /// What the rows of a moment say.
    fn scan(&mut self, reader: &Reader) -> Answer<Vec<Self::Fact>>;

    /// What an event says; most say nothing.
    fn hear(&mut self, record: &EventRecord, store: &Store) -> Answer<Option<Self::Fact>>;
}

/// Follows until the actor ends. If the log cannot be read, the actor fails, and its next incarnation begins anew.
pub(crate) fn follow<A, W>(watch: W, store: Store, bus: Bus, ctx: &mut Ctx<A>)
where
    A: Actor<Context = Ctx<A>> + Handler<Tell<W::Fact>>,
    W: Watch,
{
    let handle = ctx.handle().clone();
    ctx.lasting_job(
        "follow the log",
        |token| async move {
            let JobToken { cancel, .. } = token;
            cancel.run_until_cancelled(read(watch, store, bus, handle)).await.unwrap_or(Ok(()))
        },
        |_, end, ctx| {
            if let Err(refusal) = end {
                ctx.fail(refusal.to_string());
            }
        },
    );
}

async fn read<A, W>(mut watch: W, store: Store, bus: Bus, handle: Handle<A>) -> Answer<()>
where
    A: Actor<Context = Ctx<A>> + Handler<Tell<W::Fact>>,
    W: Watch,
{
    let scanned = {
        let store = store.clone();
        move || {
            let reader = store.read()?;
            let (since, facts) = (reader.last_seq()?, watch.scan(&reader)?);
            Ok((since, facts, watch))
        }
    };
    let (since, facts, mut watch) = blocking("read what is there", scanned).await?;
    for fact in facts {
        hand(&handle, fact).await;
    }
    let mut subscription = subscribe(&bus, since).await?;
    loop {
        match subscription.next().await? {
            Some(Delivery::Subscribed { .. } | Delivery::Behind(_)) => {}
            Some(Delivery::Event(record)) => {
                if let Some(fact) = watch.hear(&record, &store)? {
                    hand(&handle, fact).await;
                }
            }
            Some(Delivery::Gap(first, last)) => {
                return Err(Refusal::data_loss(format!("the log lost events {} to {} unread", first.0, last.0)));
            }
            None => return Ok(()),
        }
    }
}

/// The place is in the log; the bus may not have been told yet where the log ends.
async fn subscribe(bus: &Bus, since: Seq) -> Answer<crate::bus::Subscription> {
    while bus.last_seq() < since {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let filters = Filters::parse::<String>(&[])?;
    bus.subscribe(Wanted { since: Since::Seq(since), until: None, follow: true, filters, cursor: None }).await
}

async fn hand<A, T>(handle: &Handle<A>, fact: T)
where
    A: Actor<Context = Ctx<A>> + Handler<Tell<T>>,
    T: Clone + Send + 'static,
{
    while let Err(refusal) = handle.tell(fact.clone()) {
        tracing::debug!(%refusal, "a fact waits");
        tokio::time::sleep(FULL_REST).await;
    }
}
