//! Cursors: what is acknowledged is not sent again, and what is not, is.

use super::{
    tests::{announce, publish, take},
    *,
};
use crate::testing::{World, run, run_in};
use wharf_messages::{
    CursorName, RefusalKind,
    cursor::{AckEvents, SHARED_WINDOW, UseCursor},
    event::Delivery,
    filter::Filters,
};

fn name() -> CursorName {
    CursorName::new("c").unwrap()
}

fn wanted(shared: bool, filters: &[&str]) -> Wanted {
    let (since, filters) = (Since::Seq(Seq(0)), Filters::parse(filters).unwrap());
    Wanted { since, until: None, follow: true, filters, cursor: Some(UseCursor { name: name(), shared }) }
}

/// Subscribes; answers the subscription, its number, and where it starts.
async fn join(world: &World, wanted: Wanted) -> (Subscription, u64, u64) {
    let mut subscription = world.bus.subscribe(wanted).await.unwrap();
    match subscription.next().await.unwrap() {
        Some(Delivery::Subscribed { after, subscription: number }) => (subscription, number, after.0),
        other => panic!("{other:?}"),
    }
}

async fn ack(world: &World, subscription: u64, seq: u64) -> Answer<()> {
    let call = AckEvents { name: name(), subscription, seq: Seq(seq) };
    world.bus.cursors.ack(&world.journal, &call, world.bus.last_seq()).await
}

/// Where the row says the cursor stands.
fn stands(world: &World) -> u64 {
    world.store.read().unwrap().cursor(&name()).unwrap().unwrap().acked.0
}

/// Waits for what was sent off when a subscriber left.
async fn left(world: &World) {
    world.until(|| world.bus.cursors.list(&world.store, Seq(0)).unwrap()[0].subscribers == 0).await;
    world.until(|| world.bus.cursors.is_unused(&name())).await;
}

#[test]
fn a_cursor_survives_its_subscriber_and_the_daemon() {
    let root = tempfile::tempdir().unwrap();
    run_in(root.path(), async |world| {
        publish(world, 10).await;
        let (mut one, number, after) = join(world, wanted(false, &[])).await;
        assert_eq!((take(&mut one, 6).await, after), (vec![1, 2, 3, 4, 5, 6], 0));
        assert_eq!(stands(world), 0, "what is sent is not acknowledged");
        ack(world, number, 4).await.unwrap();
        assert_eq!(stands(world), 4, "it is durable when it is answered");
        drop(one);
        left(world).await;
        let (mut two, number, after) = join(world, wanted(false, &[])).await;
        assert_eq!((after, take(&mut two, 2).await), (4, vec![5, 6]), "at least once");
        ack(world, number, 5).await.unwrap();
        ack(world, number, 3).await.unwrap();
        assert_eq!(stands(world), 5, "it never moves back");
    });
    run_in(root.path(), async |world| {
        let (mut three, number, after) = join(world, wanted(false, &[])).await;
        assert_eq!((after, take(&mut three, 5).await), (5, vec![6, 7, 8, 9, 10]));
        assert!(ack(world, number + 1, 6).await.unwrap_err().is(RefusalKind::NotFound));
        assert!(ack(world, number, 11).await.unwrap_err().is(RefusalKind::OutOfRange));
        assert_eq!(stands(world), 5);
    });
}

#[test]
fn what_is_told_and_acknowledged_while_one_joins_does_not_turn_it_away() {
    run(async |world| {
        publish(world, 3).await;
        let (mut one, number, _) = join(world, wanted(true, &[])).await;
        let opening = world.bus.cursors.hold().await;
        let mut joining = Box::pin(join(world, wanted(true, &[])));
        assert!(futures_util::poll!(&mut joining).is_pending());
        publish(world, 2).await;
        assert_eq!(take(&mut one, 5).await, [1, 2, 3, 4, 5]);
        ack(world, number, 5).await.unwrap();
        drop(opening);
        assert_eq!(joining.await.2, 5);
    });
}

#[test]
fn what_the_filters_do_not_want_is_passed() {
    run(async |world| {
        let (mut one, number, _) = join(world, wanted(false, &[r#"topic=="/wanted""#])).await;
        announce(world, "/wanted").await;
        publish(world, 50).await;
        announce(world, "/wanted").await;
        publish(world, 20).await;
        assert_eq!(take(&mut one, 1).await, [1]);
        ack(world, number, 1).await.unwrap();
        assert_eq!(take(&mut one, 1).await, [52]);
        assert_eq!(stands(world), 1);
        ack(world, number, 52).await.unwrap();
        assert!(stands(world) >= 52);
        // It looks at the last twenty, which it does not want.
        let mut next = Box::pin(one.next());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), &mut next).await.is_err());
        drop(next);
        drop(one);
        world.until(|| stands(world) == 72).await;
    });
}

#[test]
fn an_unshared_name_gives_each_subscriber_everything() {
    run(async |world| {
        publish(world, 4).await;
        let (mut one, first, _) = join(world, wanted(false, &[])).await;
        let (mut two, second, _) = join(world, wanted(false, &[])).await;
        assert_eq!((take(&mut one, 4).await, take(&mut two, 4).await), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]));
        ack(world, first, 4).await.unwrap();
        assert_eq!(stands(world), 0, "the other has not acknowledged");
        ack(world, second, 3).await.unwrap();
        assert_eq!(stands(world), 3, "what all have acknowledged");
        let refusal = world.bus.subscribe(wanted(true, &[])).await.unwrap_err();
        assert!(refusal.is(RefusalKind::FailedPrecondition) && refusal.detail.contains("not shared"), "{refusal}");
    });
}

#[test]
fn a_shared_name_deals_events_out_and_again_when_one_leaves() {
    run(async |world| {
        publish(world, 40).await;
        let (mut one, first, _) = join(world, wanted(true, &[])).await;
        let (mut two, second, _) = join(world, wanted(true, &[])).await;
        let ones = take(&mut one, 16).await;
        let twos = take(&mut two, 16).await;
        assert_eq!((ones[0], ones[15], twos[0], twos[15]), (1, 16, 17, 32), "each gets its own, in order");
        ack(world, second, 32).await.unwrap();
        assert_eq!(stands(world), 0, "the first has acknowledged nothing");
        ack(world, first, 5).await.unwrap();
        assert_eq!(stands(world), 5);
        drop(one);
        // What the first leaves goes to the second, before what is new.
        let rest = take(&mut two, 19).await;
        assert_eq!(rest, (6..=16).chain(33..=40).collect::<Vec<_>>());
        // In the order of sending: 16 came before 33.
        ack(world, second, 33).await.unwrap();
        assert_eq!(stands(world), 33);
        ack(world, second, 40).await.unwrap();
        assert_eq!(stands(world), 40);
    });
}

#[test]
fn one_who_does_not_acknowledge_gets_no_more_than_its_window() {
    run(async |world| {
        publish(world, 2 * SHARED_WINDOW as u64).await;
        let (mut one, number, _) = join(world, wanted(true, &[])).await;
        let taken = take(&mut one, SHARED_WINDOW).await;
        let mut next = Box::pin(one.next());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), &mut next).await.is_err());
        ack(world, number, taken[0]).await.unwrap();
        assert!(matches!(next.await.unwrap(), Some(Delivery::Event(event)) if event.seq.0 == 257));
    });
}

#[test]
fn cursors_are_listed_and_deleted_once_nobody_uses_them() {
    run(async |world| {
        publish(world, 3).await;
        let (one, number, _) = join(world, wanted(false, &[])).await;
        ack(world, number, 1).await.unwrap();
        let listed = world.bus.cursors.list(&world.store, world.bus.last_seq()).unwrap();
        assert_eq!((listed[0].behind, listed[0].subscribers, listed[0].cursor.acked), (2, 1, Seq(1)));
        let delete = async || world.bus.cursors.delete(&world.journal, &name()).await;
        assert!(delete().await.unwrap_err().is(RefusalKind::FailedPrecondition));
        drop(one);
        left(world).await;
        delete().await.unwrap();
        assert!(delete().await.unwrap_err().is(RefusalKind::NotFound));
        assert_eq!(world.bus.cursors.list(&world.store, Seq(0)).unwrap(), []);
    });
}

#[test]
fn a_cursor_that_retention_overtook_is_told_what_is_missing() {
    run(async |world| {
        for shared in [false, true] {
            let (mut one, number, after) = join(world, wanted(shared, &[])).await;
            publish(world, world.config.retention.events_max + 400).await;
            publish(world, 1).await;
            let first = world.store.read().unwrap().first_seq().unwrap().unwrap().0;
            let mut gaps = Vec::new();
            let mut next = after + 1;
            while next < first {
                match one.next().await.unwrap() {
                    Some(Delivery::Gap(from, to)) => {
                        assert_eq!(from.0, next, "no hole in what is told");
                        gaps.push((from.0, to.0));
                        next = to.0 + 1;
                        ack(world, number, to.0).await.unwrap();
                    }
                    Some(Delivery::Behind(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert!(!gaps.is_empty());
            assert_eq!(stands(world), first - 1);
            drop(one);
            left(world).await;
            world.bus.cursors.delete(&world.journal, &name()).await.unwrap();
        }
    });
}

#[test]
fn a_slow_subscriber_is_told_how_far_behind_it_is() {
    run(async |world| {
        let plain = Wanted { cursor: None, since: Since::Now, ..wanted(false, &[]) };
        let mut slow = world.bus.subscribe(plain).await.unwrap();
        slow.next().await.unwrap();
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), slow.next()).await.is_err());
        publish(world, 2000).await;
        assert_eq!(slow.next().await, Ok(Some(Delivery::Behind(2000))));
        assert_eq!(take(&mut slow, 2000).await.len(), 2000);
        assert_eq!(world.bus.subscribers()[0].behind, 0);
    });
}
