//! Snapshots.

use super::*;
use crate::NewSnapshot;
use wharf_messages::{
    SnapshotterName,
    snapshot::{SNAPSHOT_REF_LABEL, SnapshotKind},
};

#[test]
fn snapshots() {
    let mut world = World::new();
    done(&mut world, vec![Change::PrepareSnapshot(active("a", None, 1)), commit_snapshot("a", "layer1", None)]);
    let stacked = vec![Change::PrepareSnapshot(active("b", Some("layer1"), 2)), commit_snapshot("b", "layer2", None)];
    let Outcome::Snapshot(layer2) = done(&mut world, stacked) else { panic!() };
    assert_eq!((layer2.id, layer2.parent_id), (2, Some(1)));
    assert_eq!(layer2.usage, Some(Usage { size_bytes: 5, inodes: 2 }));
    assert_eq!((layer2.info.kind, &layer2.info.labels), (SnapshotKind::Committed, &labels(&[("l", "1")])));
    let view = NewSnapshot { kind: SnapshotKind::View, ..active("v", Some("layer2"), 3) };
    let quiet = world.change(Change::PrepareSnapshot(view)).unwrap();
    assert!(quiet.events.is_empty(), "nobody is told of views");

    let reader = world.store.read().unwrap();
    let top = reader.snapshot(&ns(), &overlay(), &key("v")).unwrap().unwrap();
    assert_eq!(reader.ancestors(&overlay(), &top).unwrap(), [2, 1]);
    assert_eq!(reader.children(&overlay(), 1).unwrap(), [2]);
    assert_eq!(reader.children(&overlay(), 3).unwrap(), [0; 0]);
    assert_eq!(reader.snapshot_ids(&overlay()).unwrap().map(Result::unwrap).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(reader.max_snapshot_id(&overlay()).unwrap(), 3);
    assert_eq!(reader.max_snapshot_id(&SnapshotterName::new("native").unwrap()).unwrap(), 0);
    assert_eq!(reader.snapshot_by_id(&overlay(), 2).unwrap(), Some((ns(), key("layer2"))));
    assert_eq!(reader.snapshots(&ns(), &overlay()).unwrap().count(), 3);
    drop(reader);

    let with_ref = NewSnapshot { labels: labels(&[(SNAPSHOT_REF_LABEL, "layer1")]), ..active("r", None, 9) };
    let bad_ref = NewSnapshot { labels: labels(&[(SNAPSHOT_REF_LABEL, "a\nb")]), ..active("r", None, 9) };
    let long = NewSnapshot { labels: too_long(), ..active("r", None, 9) };
    let committed = NewSnapshot { kind: SnapshotKind::Committed, ..active("r", None, 9) };
    let update = |name: &str, mask: &[&str]| Change::UpdateSnapshot {
        snapshotter: overlay(),
        key: key(name),
        labels: labels(&[("u", "1")]),
        mask: strings(mask),
    };
    refused(
        &mut world,
        vec![
            (Change::PrepareSnapshot(active("v", None, 9)), "snapshot \"v\": already exists"),
            (Change::PrepareSnapshot(with_ref), "target snapshot \"layer1\": already exists"),
            (
                Change::PrepareSnapshot(bad_ref),
                "label containerd.io/snapshot.ref: snapshot key \"a\\nb\" must not contain control characters: invalid argument",
            ),
            (Change::PrepareSnapshot(long), &format!("info.Labels: {TOO_LONG}")),
            (Change::PrepareSnapshot(active("n", Some("zz"), 9)), "parent snapshot zz does not exist: not found"),
            (
                Change::PrepareSnapshot(active("n", Some("v"), 9)),
                "failed to create snapshot: parent \"v\" is not committed snapshot: invalid argument",
            ),
            (Change::PrepareSnapshot(active("n", None, 2)), "snapshot n: id 2 of overlayfs is taken"),
            (
                Change::PrepareSnapshot(committed),
                "snapshot r must be made as an active one or a view, with an id above 0: invalid argument",
            ),
            (commit_snapshot("zz", "new", None), "snapshot zz does not exist: not found"),
            (
                commit_snapshot("v", "new", None),
                "failed to commit snapshot: snapshot \"v\" is not active: failed precondition",
            ),
            (
                commit_snapshot("layer2", "new", None),
                "failed to commit snapshot: snapshot \"layer2\" is not active: failed precondition",
            ),
            (commit_snapshot("v", "layer1", None), "snapshot \"layer1\": already exists"),
            (remove_snapshot("zz"), "snapshot zz does not exist: not found"),
            (remove_snapshot("layer1"), "cannot remove snapshot with child: failed precondition"),
            (remove_snapshot("layer2"), "cannot remove snapshot with child: failed precondition"),
            (update("zz", &[]), "snapshot zz does not exist: not found"),
            (update("v", &["parent"]), "cannot update \"parent\" field on snapshot \"v\": invalid argument"),
        ],
    );
    let Outcome::Snapshot(updated) = done(&mut world, vec![update("layer2", &["labels.u"])]) else { panic!() };
    assert_eq!(updated.info.labels, labels(&[("l", "1"), ("u", "1")]));

    // A parent that comes late, as parallel unpacking has it.
    done(
        &mut world,
        vec![Change::PrepareSnapshot(active("late", None, 4)), Change::PrepareSnapshot(active("p", Some("layer1"), 5))],
    );
    refused(
        &mut world,
        vec![
            (commit_snapshot("late", "x", Some("zz")), "parent snapshot zz does not exist: not found"),
            (
                commit_snapshot("p", "x", Some("layer2")),
                "snapshot p stands on layer1 and cannot be moved onto layer2: failed precondition",
            ),
        ],
    );
    let Outcome::Snapshot(late) = done(&mut world, vec![commit_snapshot("late", "layer3", Some("layer2"))]) else {
        panic!()
    };
    assert_eq!((late.parent_id, late.info.parent), (Some(2), Some(key("layer2"))));

    for name in ["p", "layer3", "v", "layer2", "layer1"] {
        let Outcome::Snapshot(gone) = done(&mut world, vec![remove_snapshot(name)]) else { panic!() };
        assert_eq!(gone.info.key, key(name));
    }
}

#[test]
fn snapshots_of_other_namespaces_and_snapshotters_are_apart() {
    let mut world = World::new();
    let other = Namespace::new("other").unwrap();
    let native = NewSnapshot { snapshotter: SnapshotterName::new("native").unwrap(), ..active("a", None, 1) };
    done(&mut world, vec![Change::PrepareSnapshot(active("a", None, 1)), Change::PrepareSnapshot(native)]);
    world.commit(Commit::one(&other, Change::PrepareSnapshot(active("a", None, 2)))).unwrap();
    let taken = world.commit(Commit::one(&other, Change::PrepareSnapshot(active("b", None, 1)))).unwrap_err();
    assert_eq!(taken.to_string(), "snapshot b: id 1 of overlayfs is taken");
    done(&mut world, vec![commit_snapshot("a", "base", None)]);
    let foreign = world.commit(Commit::one(&other, Change::PrepareSnapshot(active("b", Some("base"), 3)))).unwrap_err();
    assert_eq!(foreign.to_string(), "parent snapshot base does not exist: not found");
}
