//! The bus's invariants, over a real log.

use super::*;
use crate::testing::{START, World, run};
use std::time::Duration;
use wharf_messages::{Any, Namespace, RefusalKind, event::Delivery, filter::Filters};
use wharf_store::Commit;

fn subscribed(after: u64) -> Delivery {
    Delivery::Subscribed { after: Seq(after), subscription: 0 }
}

/// Publishes so many events, a hundred to a commit.
pub async fn publish(world: &World, count: u64) {
    let mut left = count;
    while left > 0 {
        let mut commit = Commit::new(&Namespace::new("default").unwrap());
        for _ in 0..left.min(100) {
            let payload = Any { type_url: "test".to_owned(), value: Vec::new().into() };
            commit = commit.event(Event::Published { topic: "/x".to_owned(), payload });
            left -= 1;
        }
        world.journal.commit(commit).await.unwrap();
    }
}

fn wanted(since: Since, follow: bool) -> Wanted {
    Wanted { since, until: None, follow, filters: Filters::default(), cursor: None }
}

/// The sequence numbers of the next so many events; anything else fails.
pub async fn take(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    while seqs.len() < count {
        match subscription.next().await.unwrap() {
            Some(Delivery::Event(record)) => seqs.push(record.seq.0),
            other => panic!("{other:?} after {seqs:?}"),
        }
    }
    seqs
}

/// All deliveries of a subscription that ends.
async fn all(world: &World, wanted: Wanted) -> Vec<Delivery> {
    let mut subscription = world.bus.subscribe(wanted).await.unwrap();
    let mut deliveries = Vec::new();
    while let Some(delivery) = subscription.next().await.unwrap() {
        deliveries.push(delivery);
    }
    assert_eq!(subscription.next().await, Ok(None), "an end is an end");
    deliveries
}

fn seqs(deliveries: &[Delivery]) -> Vec<u64> {
    let event = |delivery: &Delivery| match delivery {
        Delivery::Event(record) => Some(record.seq.0),
        _ => None,
    };
    deliveries.iter().filter_map(event).collect()
}

#[test]
fn a_subscriber_follows_from_now_on() {
    run(async |world| {
        publish(world, 3).await;
        let mut live = world.bus.subscribe(wanted(Since::Now, true)).await.unwrap();
        assert_eq!(live.next().await, Ok(Some(subscribed(3))));
        publish(world, 2).await;
        assert_eq!(take(&mut live, 2).await, [4, 5]);
        let mut next = Box::pin(live.next());
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(next);
        publish(world, 1).await;
        assert_eq!(take(&mut live, 1).await, [6]);
    });
}

#[test]
fn a_slow_subscriber_lags_alone_and_misses_nothing() {
    run(async |world| {
        let mut slow = world.bus.subscribe(wanted(Since::Now, true)).await.unwrap();
        let mut fast = world.bus.subscribe(wanted(Since::Now, true)).await.unwrap();
        assert_eq!(slow.next().await, Ok(Some(subscribed(0))));
        assert_eq!(fast.next().await, Ok(Some(subscribed(0))));
        let count = 3 * RING_MAX.0 as u64;
        for n in 0..count / 16 {
            publish(world, 16).await;
            assert_eq!(take(&mut fast, 16).await, (16 * n + 1..=16 * n + 16).collect::<Vec<_>>());
        }
        // From the log first, from the ring at the end, without a seam.
        assert_eq!(take(&mut slow, count as usize).await, (1..=count).collect::<Vec<_>>());
        assert!(world.bus.shared.ring().events.len() <= RING_MAX.0);
    });
}

#[test]
fn a_subscriber_that_comes_back_goes_on_where_it_was() {
    run(async |world| {
        publish(world, 5).await;
        let mut first = world.bus.subscribe(wanted(Since::Seq(Seq(0)), true)).await.unwrap();
        assert_eq!(first.next().await, Ok(Some(subscribed(0))));
        assert_eq!(take(&mut first, 3).await, [1, 2, 3]);
        let position = first.position();
        drop(first);
        publish(world, 2).await;
        let mut second = world.bus.subscribe(wanted(Since::Seq(position), true)).await.unwrap();
        assert_eq!(second.next().await, Ok(Some(subscribed(3))));
        assert_eq!(take(&mut second, 4).await, [4, 5, 6, 7]);
    });
}

#[test]
fn a_replay_ends_at_the_end_and_a_time_limits_it() {
    run(async |world| {
        for _ in 0..6 {
            publish(world, 1).await;
            world.clock.advance(Duration::from_secs(10));
        }
        let replay = all(world, wanted(Since::Seq(Seq(2)), false)).await;
        assert_eq!((replay[0].clone(), seqs(&replay)), (subscribed(2), vec![3, 4, 5, 6]));
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        let since = all(world, wanted(Since::Time(at(20)), false)).await;
        assert_eq!(seqs(&since), [3, 4, 5, 6]);
        let until = Wanted { until: Some(at(30)), ..wanted(Since::Time(at(11)), true) };
        assert_eq!(seqs(&all(world, until).await), [3, 4]);
        assert_eq!(seqs(&all(world, wanted(Since::Now, false)).await), [0; 0]);
        // Until a time that has passed: nothing more can come.
        let until = Wanted { until: Some(at(55)), ..wanted(Since::Seq(Seq(5)), true) };
        assert_eq!(seqs(&all(world, until).await), [6]);
    });
}

#[test]
fn what_the_log_no_longer_has_is_told_as_a_gap() {
    run(async |world| {
        publish(world, 4).await;
        let mut lagging = world.bus.subscribe(wanted(Since::Seq(Seq(1)), true)).await.unwrap();
        assert_eq!(lagging.next().await, Ok(Some(subscribed(1))));
        // The journal cuts the log: enough to push the first events out of it.
        let kept = world.config.retention.events_max;
        publish(world, kept + 200).await;
        // It cuts after it has answered: what it answers next comes after the cut, and is too little for another.
        publish(world, 1).await;
        let first = world.store.read().unwrap().first_seq().unwrap().unwrap();
        assert!(first > Seq(10), "{first:?}");
        assert_eq!(lagging.next().await, Ok(Some(Delivery::Gap(Seq(2), Seq(first.0 - 1)))));
        assert_eq!(take(&mut lagging, 3).await, [first.0, first.0 + 1, first.0 + 2]);
    });
}

#[test]
fn filters_leave_out_and_do_not_stop() {
    run(async |world| {
        publish(world, 300).await;
        announce(world, "/wanted").await;
        publish(world, 300).await;
        let filters = Filters::parse(&[r#"topic=="/wanted""#]).unwrap();
        let replay = all(world, Wanted { filters, ..wanted(Since::Seq(Seq(0)), false) }).await;
        assert_eq!(seqs(&replay), [301]);
        let filters = Filters::parse(&["namespace==elsewhere"]).unwrap();
        let nothing = all(world, Wanted { filters, ..wanted(Since::Seq(Seq(0)), false) }).await;
        assert_eq!(nothing, [subscribed(0)]);
    });
}

/// Publishes one event.
pub async fn announce(world: &World, topic: &str) {
    let payload = Any { type_url: "test".to_owned(), value: Vec::new().into() };
    let event = Event::Published { topic: topic.to_owned(), payload };
    world.journal.commit(Commit::new(&Namespace::new("default").unwrap()).event(event)).await.unwrap();
}

#[test]
fn a_place_that_was_never_reached_is_refused() {
    run(async |world| {
        publish(world, 1).await;
        let refusal = world.bus.subscribe(wanted(Since::Seq(Seq(2)), true)).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::OutOfRange);
        assert!(refusal.detail.contains("event 2"), "{refusal}");
    });
}

#[test]
fn the_ring_holds_only_what_fits_and_has_no_holes() {
    let record = |seq, bytes| {
        Arc::new(EventRecord {
            seq: Seq(seq),
            at: START,
            namespace: None,
            event: Event::Published {
                topic: "/x".to_owned(),
                payload: Any { type_url: String::new(), value: vec![0; bytes].into() },
            },
            late: false,
        })
    };
    let mut ring = Ring::default();
    for seq in 1..=2000 {
        ring.push(&record(seq, 0));
    }
    assert_eq!(ring.events.len(), RING_MAX.0);
    for seq in 2001..=2010 {
        ring.push(&record(seq, RING_MAX.1 / 4));
    }
    assert!(ring.events.len() <= 4 && ring.size_bytes <= RING_MAX.1);
    assert!(ring.after(Seq(1), 256).is_none());
    assert_eq!(ring.after(Seq(2008), 256).unwrap().len(), 2);
    assert!(ring.after(Seq(2010), 256).is_none());
    // The journal lost sight of one: what is before it no longer joins.
    ring.push(&record(2012, 0));
    assert_eq!(ring.events.len(), 1);
    assert!(ring.after(Seq(2010), 256).is_none());
}
