//! Where a subscription begins.

use crate::{
    client::{Channel, Daemon, within},
    proto::containerd::services::events::v1::{PublishRequest, SubscribeRequest, events_client::EventsClient},
};
use std::time::Duration;
use tokio::time::timeout;

type Events = EventsClient<Channel>;

async fn publish(events: &mut Events, topic: &str) {
    let event = Some(wharf_grpc::Any { type_url: "test".to_owned(), value: Vec::new().into() });
    events.publish(within("n", PublishRequest { topic: topic.to_owned(), event })).await.unwrap();
}

/// What a new subscription is told first, while somebody publishes this again and again.
async fn first_heard(events: &mut Events, topic: &str) -> String {
    let filters = vec!["namespace==n".to_owned()];
    let mut told = events.subscribe(SubscribeRequest { filters }).await.unwrap().into_inner();
    loop {
        publish(events, topic).await;
        if let Ok(envelope) = timeout(Duration::from_millis(20), told.message()).await {
            return envelope.unwrap().unwrap().topic;
        }
    }
}

#[tokio::test]
async fn a_subscription_begins_now_and_after_a_restart_with_the_daemon() {
    let mut daemon = Daemon::start();
    let mut events = daemon.events().await;
    publish(&mut events, "/before").await;
    // Nobody has been here before: there is nothing to make up for.
    assert_eq!(first_heard(&mut events, "/now").await, "/now");
    daemon.restart();
    let mut events = daemon.events().await;
    publish(&mut events, "/missed").await;
    assert_eq!(first_heard(&mut events, "/now").await, "/missed");
}
