//! The bus's calls: following it, and putting a client's own event on it.

use super::Wanted;
use crate::{
    Wharf,
    runtime::blocking,
    serve::{CallIo, Serve, once},
};
use wharf_messages::{
    Answer, Meta, Namespace, Refusal,
    cursor::{AckEvents, CursorInfo, DeleteCursor, ListCursors},
    event::{Delivery, Event, PublishEvent, Seq, WatchEvents},
    filter::Filters,
};
use wharf_store::Commit;

/// The largest payload of a client's own event. Ours: the log keeps it, and every subscriber reads it.
const PAYLOAD_MAX_BYTES: usize = 1 << 20;
/// The longest topic of a client's own event.
const TOPIC_MAX_BYTES: usize = 1024;

impl Serve for WatchEvents {
    async fn serve(self, wharf: Wharf, _: Meta, io: CallIo<Vec<Delivery>>) -> Answer<Seq> {
        let filters = Filters::parse(&self.filters)?;
        let Self { since, until, follow, cursor, .. } = self;
        let wanted = Wanted { since, until, follow, filters, cursor };
        let mut subscription = wharf.bus.subscribe(wanted).await?;
        loop {
            let batch = tokio::select! {
                batch = subscription.batch() => batch?,
                () = io.cancel.cancelled() => return Err(Refusal::canceled("watch events")),
            };
            if batch.is_empty() {
                let position = subscription.position();
                subscription.finish();
                return Ok(position);
            }
            // A full channel is a slow client: it lags alone.
            if io.items.send(batch).await.is_err() {
                return Err(Refusal::canceled("watch events: the client went away"));
            }
        }
    }
}

impl Serve for AckEvents {
    async fn serve(self, wharf: Wharf, _: Meta, _: CallIo<()>) -> Answer<()> {
        wharf.bus.cursors.ack(&wharf.journal, &self, wharf.bus.last_seq()).await
    }
}

impl Serve for ListCursors {
    async fn serve(self, wharf: Wharf, _: Meta, _: CallIo<()>) -> Answer<Vec<CursorInfo>> {
        blocking("cursors.list", move || wharf.bus.cursors.list(&wharf.store, wharf.bus.last_seq())).await
    }
}

impl Serve for DeleteCursor {
    async fn serve(self, wharf: Wharf, _: Meta, _: CallIo<()>) -> Answer<()> {
        wharf.bus.cursors.delete(&wharf.journal, &self.name).await
    }
}

impl Serve for PublishEvent {
    async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<Seq> {
        let namespace = meta.namespace()?;
        check_topic(&self.topic)?;
        let size_bytes = self.payload.value.len();
        if size_bytes > PAYLOAD_MAX_BYTES {
            return Err(Refusal::invalid(format!(
                "payload of event {:?} is {size_bytes} bytes long, the limit is {PAYLOAD_MAX_BYTES}",
                self.topic
            )));
        }
        let event = Event::Published { topic: self.topic, payload: self.payload };
        let commit = Commit::new(namespace).event(event).request(meta.request_id);
        let journal = wharf.journal.clone();
        let publish = async move { Ok(journal.commit(commit).await?.last_seq) };
        once(&wharf, meta.request_id, publish, |_, seq| async move { Ok(seq) }).await
    }
}

/// Checks containerd's rule: `/` and identifiers joined by `/`.
///
/// # Spec
/// containerd `events/exchange.validateTopic` (1.6).
fn check_topic(topic: &str) -> Answer<()> {
    let bad = |why: &str| Err(Refusal::invalid(format!("envelope topic {topic:?}: {why}")));
    if topic.is_empty() {
        return bad("must not be empty");
    }
    if topic.len() > TOPIC_MAX_BYTES {
        return Err(Refusal::invalid(format!("topic is {} bytes long, the limit is {TOPIC_MAX_BYTES}", topic.len())));
    }
    let Some(components) = topic.strip_prefix('/') else { return bad("must start with '/'") };
    if components.is_empty() {
        return bad("must have at least one component");
    }
    // The rule for a component is that of every identifier; a namespace's is as good as any.
    if components.split('/').any(|component| Namespace::new(component).is_err()) {
        return bad("must be made of identifiers joined by '/'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_paths_of_identifiers() {
        for good in ["/a", "/tasks/exec-added", "/orders/v1.2/create_x"] {
            assert_eq!(check_topic(good), Ok(()), "{good}");
        }
        for bad in ["", "/", "a", "a/b", "/a/", "//a", "/a//b", "/a b", "/..", &"/a".repeat(600)] {
            assert!(check_topic(bad).is_err(), "{bad}");
        }
    }
}
