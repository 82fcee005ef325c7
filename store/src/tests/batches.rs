//! Batches: each commit stands or falls alone, whatever is around it.

use super::{
    audit::{audit, dump},
    world::*,
};
use crate::{BATCH_MAX_COMMITS, Change, Commit, NewSnapshot};
use proptest::prelude::*;
use wharf_messages::{
    ImageName, Labels, Namespace, RefusalKind,
    event::{Event, Seq},
    lease::CreateLease,
    snapshot::{SnapshotKind, Usage},
};

#[test]
fn a_batch_keeps_its_commits_apart() {
    let mut world = World::new();
    let answers = world.batch(vec![
        Commit::one(&ns(), Change::CreateImage(image("a", &[]))),
        Commit::one(&ns(), Change::CreateImage(image("b", &[]))).change(Change::CreateImage(image("a", &[]))),
        Commit::one(&ns(), Change::CreateImage(image("c", &[]))),
    ]);
    assert_eq!(answers[0].as_ref().unwrap().last_seq, Seq(2));
    assert!(answers[1].as_ref().unwrap_err().is(RefusalKind::AlreadyExists));
    let last = answers[2].as_ref().unwrap();
    assert!(
        matches!(&last.events[..], [record] if matches!(&record.event, Event::ImageCreated { name, .. } if name.as_str() == "c"))
    );

    let world = world.reopened();
    let reader = world.store.read().unwrap();
    let names: Vec<String> = reader.images(&ns()).unwrap().map(|image| image.unwrap().name.to_string()).collect();
    assert_eq!(names, ["a", "c"]);
    let topics: Vec<String> =
        reader.events(Seq(0), 100).unwrap().iter().map(|record| record.event.topic().to_owned()).collect();
    assert_eq!(topics, ["/namespaces/create", "/images/create", "/images/create"]);
    assert_eq!((last.last_seq, reader.last_seq().unwrap()), (Seq(3), Seq(3)));
    assert_eq!(world.writer.last_seq(), Seq(3));
}

#[test]
fn nothing_to_do_is_done() {
    let mut world = World::new();
    assert_eq!(world.batch(Vec::new()).len(), 0);
    let committed = world.commit(Commit::default()).unwrap();
    assert_eq!((committed.last_seq, committed.outcomes.len(), committed.events.len()), (Seq(0), 0, 0));
}

#[test]
fn a_batch_may_be_longer_than_a_transaction() {
    let mut world = World::new();
    let count = BATCH_MAX_COMMITS + 3;
    let batch = (0..count).map(|i| Commit::one(&ns(), Change::CreateImage(image(&format!("i{i}"), &[])))).collect();
    assert!(world.batch(batch).iter().all(Result::is_ok));
    assert_eq!(world.store.read().unwrap().last_seq().unwrap().0, count as u64 + 1);
}

/// A commit out of a small world, so that collisions, refusals and dependencies are common.
fn any_commit() -> impl Strategy<Value = Commit> {
    let namespace = prop_oneof![Just("one"), Just("two")];
    let lease = prop_oneof![3 => Just(None), 1 => Just(Some(lease_id("l0")))];
    (namespace, lease, prop::collection::vec(any_change(), 1..4)).prop_map(|(namespace, lease, changes)| {
        let namespace = Namespace::new(namespace).unwrap();
        let changes = changes.into_iter().map(|change| placed(change, &namespace)).collect();
        Commit { changes, ..Commit::new(&namespace) }.leased(lease)
    })
}

/// Tasks know their namespace, and namespaces are deleted by name.
fn placed(change: Change, namespace: &Namespace) -> Change {
    match change {
        Change::CreateTask(mut row) => {
            row.namespace = namespace.clone();
            Change::CreateTask(row)
        }
        Change::DeleteNamespace(_) => Change::DeleteNamespace(namespace.clone()),
        other => other,
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let image_name = |n: u8| ImageName::new(format!("i{n}")).unwrap();
    let snapshot = (0..4u8, prop::option::of(0..4u8), 1..9u64, any::<bool>()).prop_map(|(name, parent, id, view)| {
        let kind = if view { SnapshotKind::View } else { SnapshotKind::Active };
        let parent = parent.map(|p| format!("c{p}"));
        Change::PrepareSnapshot(NewSnapshot { kind, ..active(&format!("s{name}"), parent.as_deref(), id) })
    });
    let freeze = (0..4u8, 0..4u8).prop_map(|(from, to)| Change::CommitSnapshot {
        snapshotter: overlay(),
        key: key(&format!("s{from}")),
        name: key(&format!("c{to}")),
        parent: None,
        labels: Labels::new(),
        usage: Usage::default(),
    });
    let remove = (0..4u8, prop_oneof![Just("s"), Just("c")])
        .prop_map(|(n, kind)| Change::RemoveSnapshot { snapshotter: overlay(), key: key(&format!("{kind}{n}")) });
    let lease_of = |n: u8| CreateLease { id: Some(lease_id(&format!("l{n}"))), labels: Labels::new() };
    prop_oneof![
        (0..3u8).prop_map(|n| Change::CreateImage(image(&format!("i{n}"), &[]))),
        (0..3u8).prop_map(|n| Change::PutImage(image(&format!("i{n}"), &[("p", "1")]))),
        (0..3u8).prop_map(move |n| Change::DeleteImage(image_name(n))),
        (0..3u8).prop_map(|n| Change::CreateContainer(container(&format!("k{n}")))),
        (0..3u8).prop_map(|n| Change::DeleteContainer(container_id(&format!("k{n}")))),
        (0..3u8).prop_map(|n| Change::CreateTask(task(&format!("k{n}")))),
        (0..3u8).prop_map(|n| Change::DeleteTask(container_id(&format!("k{n}")))),
        (0..3u8).prop_map(|n| Change::CreateContent { digest: digest(n), size_bytes: 3, labels: Labels::new() }),
        (0..3u8).prop_map(|n| Change::ShareContent { digest: digest(n), labels: Labels::new() }),
        (0..3u8).prop_map(|n| Change::DeleteContent(digest(n))),
        (0..2u8).prop_map(move |n| Change::CreateLease(lease_of(n))),
        (0..2u8).prop_map(|n| Change::DeleteLease(lease_id(&format!("l{n}")))),
        Just(Change::DeleteNamespace(ns())),
        snapshot,
        freeze,
        remove,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However commits are batched, the answers and the rows are the same, and all invariants hold; a refused commit
    /// leaves nothing behind.
    #[test]
    fn batching_changes_nothing(commits in prop::collection::vec(any_commit(), 1..40), sizes in prop::collection::vec(1..9usize, 40)) {
        let (mut alone, mut batched) = (World::in_memory(), World::in_memory());
        let mut rest = commits;
        for size in sizes {
            if rest.is_empty() {
                break;
            }
            let batch: Vec<Commit> = rest.drain(..size.min(rest.len())).collect();
            let clock = alone.clock;
            let one_by_one: Vec<_> = batch
                .iter()
                .map(|commit| {
                    alone.clock = clock; // the same time for the whole batch
                    let before = dump(&alone.store.read().unwrap());
                    let answer = alone.commit(commit.clone());
                    if answer.is_err() && commit.lease.is_none() {
                        assert_eq!(dump(&alone.store.read().unwrap()), before);
                    }
                    answer
                })
                .collect();
            prop_assert_eq!(&batched.batch(batch), &one_by_one);
            prop_assert_eq!(dump(&batched.store.read().unwrap()), dump(&alone.store.read().unwrap()));
        }
        audit(&batched.store.read().unwrap());
    }
}
