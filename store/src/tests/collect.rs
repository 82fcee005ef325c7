//! Garbage collection against a simple model: random graphs, with and without changes between mark and sweep.

use super::{audit::audit, world::*};
use crate::{Change, Commit, FileId, Garbage, InUse, IngestRow, NewSnapshot, Swept};
use proptest::{collection::vec, prelude::*};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use wharf_messages::{
    Descriptor, ImageName, IngestRef, Labels, Timestamp,
    gc::{Reason, Resource},
    image::CreateImage,
    lease::{AddLeaseResource, CreateLease, EXPIRE_LABEL, LeaseResource},
    snapshot::{SnapshotKind, Usage},
};

fn content(n: u8) -> Resource {
    Resource::Content(digest(n))
}

fn snapshot(n: u8) -> Resource {
    Resource::Snapshot(overlay(), key(&format!("s{n}")))
}

fn image_named(n: u8) -> ImageName {
    ImageName::new(format!("docker.io/library/i{n}:1")).unwrap()
}

fn ingest(n: u8) -> IngestRef {
    IngestRef::new(format!("ingest-{n}")).unwrap()
}

/// What a label or a lease of a random graph names.
fn target() -> impl Strategy<Value = Resource> {
    prop_oneof![3 => (0..8_u8).prop_map(content), 2 => (0..6_u8).prop_map(snapshot)]
}

#[derive(Debug, Clone)]
enum Step {
    Content { n: u8, refers: Vec<Resource>, back: Option<Resource>, root: bool },
    Snapshot { n: u8, parent: Option<u8>, refers: Vec<Resource>, root: bool },
    Image { n: u8, target: u8, refers: Vec<Resource>, expired: bool },
    Container { n: u8, snapshot: u8 },
    Ingest { n: u8, expected: u8 },
    Lease { n: u8, flat: bool, expired: bool },
    Protect { lease: u8, resource: Resource },
    DeleteImage(u8),
    DeleteContent(u8),
    DeleteLease(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let refers = || vec(target(), 0..3);
    prop_oneof![
        6 => (0..8_u8, refers(), proptest::option::weighted(0.2, target()), proptest::bool::weighted(0.1))
            .prop_map(|(n, refers, back, root)| Step::Content { n, refers, back, root }),
        4 => (0..6_u8, proptest::option::of(0..6_u8), refers(), proptest::bool::weighted(0.1))
            .prop_map(|(n, parent, refers, root)| Step::Snapshot { n, parent, refers, root }),
        2 => (0..3_u8, 0..8_u8, refers(), any::<bool>())
            .prop_map(|(n, target, refers, expired)| Step::Image { n, target, refers, expired }),
        1 => (0..3_u8, 0..6_u8).prop_map(|(n, snapshot)| Step::Container { n, snapshot }),
        1 => (0..3_u8, 0..8_u8).prop_map(|(n, expected)| Step::Ingest { n, expected }),
        1 => (0..3_u8, any::<bool>(), any::<bool>()).prop_map(|(n, flat, expired)| Step::Lease { n, flat, expired }),
        2 => (0..3_u8, target()).prop_map(|(lease, resource)| Step::Protect { lease, resource }),
        1 => (0..3_u8).prop_map(Step::DeleteImage),
        1 => (0..8_u8).prop_map(Step::DeleteContent),
        1 => (0..3_u8).prop_map(Step::DeleteLease),
    ]
}

/// A thing as the model knows it.
#[derive(Debug, Clone, Default)]
struct Thing {
    refers: BTreeSet<Resource>,
    parent: Option<Resource>,
    back: Option<Resource>,
    root: bool,
    flat: bool,
}

#[derive(Debug, Default)]
struct Model(BTreeMap<Resource, Thing>);

impl Model {
    /// What is kept, found by going over everything until nothing is added.
    fn kept(&self) -> BTreeSet<Resource> {
        // (thing, whether as a whole)
        let mut kept: BTreeSet<(Resource, bool)> =
            self.0.iter().filter(|(_, thing)| thing.root).map(|(name, _)| (name.clone(), true)).collect();
        loop {
            let mut more = BTreeSet::new();
            for (name, whole) in &kept {
                let thing = &self.0[name];
                more.extend(thing.parent.iter().map(|parent| (parent.clone(), *whole)));
                if *whole {
                    more.extend(thing.refers.iter().map(|to| (to.clone(), !thing.flat)));
                }
                let waiting = self.0.iter().filter(|(_, other)| other.back.as_ref() == Some(name));
                more.extend(waiting.map(|(other, _)| (other.clone(), true)));
            }
            more.retain(|(name, whole)| self.0.contains_key(name) && !kept.contains(&(name.clone(), *whole)));
            if more.is_empty() {
                return kept.into_iter().map(|(name, _)| name).collect();
            }
            kept.extend(more);
        }
    }

    fn all(&self) -> BTreeSet<Resource> {
        self.0.keys().cloned().collect()
    }
}

fn gc_labels(refers: &[Resource], back: Option<&Resource>, root: bool, expired: bool) -> Labels {
    let mut labels = Labels::new();
    let mut add = |prefix: &str, n: usize, to: &Resource| match to {
        Resource::Content(digest) => labels.insert(format!("{prefix}content.{n}"), digest.to_string()),
        Resource::Snapshot(name, key) => labels.insert(format!("{prefix}snapshot.{name}/{n}"), key.to_string()),
        other => panic!("{other}"),
    };
    for (n, to) in refers.iter().enumerate() {
        add("containerd.io/gc.ref.", n, to);
    }
    if let Some(to) = back {
        add("containerd.io/gc.bref.", 0, to);
    }
    if root {
        labels.insert("containerd.io/gc.root".to_owned(), "1".to_owned());
    }
    if expired {
        labels.insert(EXPIRE_LABEL.to_owned(), "1970-01-01T00:00:01Z".to_owned());
    }
    labels
}

/// Does a step, and tells the model if it could be done.
fn take(world: &mut World, model: &mut Model, next_id: &mut u64, step: Step) {
    let thing = |refers: &[Resource]| Thing { refers: refers.iter().cloned().collect(), ..Thing::default() };
    match step {
        Step::Content { n, refers, back, root } => {
            let labels = gc_labels(&refers, back.as_ref(), root, false);
            if world.change(Change::CreateContent { digest: digest(n), size_bytes: 1, labels }).is_ok() {
                model.0.insert(content(n), Thing { back, root, ..thing(&refers) });
            }
        }
        Step::Snapshot { n, parent, refers, root } => {
            *next_id += 1;
            let parent = parent.map(|parent| format!("s{parent}"));
            let prepare =
                NewSnapshot { kind: SnapshotKind::Active, ..active(&format!("a{n}"), parent.as_deref(), *next_id) };
            let commit = Change::CommitSnapshot {
                snapshotter: overlay(),
                key: key(&format!("a{n}")),
                name: key(&format!("s{n}")),
                parent: None,
                labels: gc_labels(&refers, None, root, false),
                usage: Usage::default(),
            };
            if world.commit(Commit::one(&ns(), Change::PrepareSnapshot(prepare)).change(commit)).is_ok() {
                let parent = parent.map(|parent| Resource::Snapshot(overlay(), key(&parent)));
                model.0.insert(snapshot(n), Thing { parent, root, ..thing(&refers) });
            }
        }
        Step::Image { n, target, refers, expired } => {
            let target_of = Descriptor { digest: digest(target), ..image("x", &[]).target };
            let labels = gc_labels(&refers, None, false, expired);
            world.change(Change::PutImage(CreateImage { name: image_named(n), target: target_of, labels })).unwrap();
            let mut image = Thing { root: !expired, ..thing(&refers) };
            image.refers.insert(content(target));
            model.0.insert(Resource::Image(image_named(n)), image);
        }
        Step::Container { n, snapshot: on } => {
            let row = wharf_messages::container::Container {
                snapshot_key: Some(key(&format!("s{on}"))),
                ..container(&format!("c{n}"))
            };
            if world.change(Change::CreateContainer(row)).is_ok() {
                let named = Resource::Container(container_id(&format!("c{n}")));
                model.0.insert(named, Thing { root: true, ..thing(&[snapshot(on)]) });
            }
        }
        Step::Ingest { n, expected } => {
            let row = IngestRow {
                reference: ingest(n),
                file_id: FileId::new("0".repeat(32)).unwrap(),
                total_bytes: 0,
                expected: Some(digest(expected)),
                started_at: Timestamp::ZERO,
                updated_at: Timestamp::ZERO,
                labels: Labels::new(),
            };
            world.change(Change::PutIngest(row)).unwrap();
            model.0.insert(Resource::Ingest(ingest(n)), thing(&[content(expected)]));
        }
        Step::Lease { n, flat, expired } => {
            let mut labels = gc_labels(&[], None, false, expired);
            if flat {
                labels.insert("containerd.io/gc.flat".to_owned(), "1".to_owned());
            }
            let id = lease_id(&format!("l{n}"));
            if world.change(Change::CreateLease(CreateLease { id: Some(id.clone()), labels })).is_ok() {
                model.0.insert(Resource::Lease(id), Thing { root: !expired, flat, ..Thing::default() });
            }
        }
        Step::Protect { lease, resource } => {
            let id = lease_id(&format!("l{lease}"));
            let named = match &resource {
                Resource::Content(digest) => LeaseResource { kind: "content".into(), id: digest.to_string() },
                Resource::Snapshot(name, key) => {
                    LeaseResource { kind: format!("snapshots/{name}"), id: key.to_string() }
                }
                other => panic!("{other}"),
            };
            if world.change(Change::AddLeaseResource(AddLeaseResource { id: id.clone(), resource: named })).is_ok() {
                model.0.get_mut(&Resource::Lease(id)).unwrap().refers.insert(resource);
            }
        }
        Step::DeleteImage(n) => {
            if world.change(Change::DeleteImage(image_named(n))).is_ok() {
                model.0.remove(&Resource::Image(image_named(n)));
            }
        }
        Step::DeleteContent(n) => {
            if world.change(Change::DeleteContent(digest(n))).is_ok() {
                model.0.remove(&content(n));
            }
        }
        Step::DeleteLease(n) => {
            let id = lease_id(&format!("l{n}"));
            if world.change(Change::DeleteLease(id.clone())).is_ok() {
                model.0.remove(&Resource::Lease(id));
            }
        }
    }
}

/// A time at which nothing is kept for its age alone.
fn late() -> Timestamp {
    Timestamp(1_900_000_000_000_000_000)
}

fn begin(world: &mut World) -> u64 {
    let committed = world.commit(Commit::default().change(Change::BeginCollection)).unwrap();
    committed.into_collection().unwrap()
}

fn mark(world: &World, collection: u64) -> Garbage {
    let marked = world.store.read().unwrap().mark(&ns(), late(), &InUse::new()).unwrap();
    let mut garbage = Garbage { collection, ..Garbage::default() };
    garbage.add(&ns(), &marked);
    let explained = marked.verdicts().filter(wharf_messages::gc::Verdict::is_garbage);
    assert_eq!(explained.map(|verdict| (ns(), verdict.resource)).collect::<BTreeSet<_>>(), garbage.resources);
    garbage
}

fn sweep(world: &mut World, garbage: Garbage) -> Swept {
    let committed = world.commit(Commit::default().change(Change::Sweep(garbage))).unwrap();
    audit(&world.store.read().unwrap());
    committed.into_swept().unwrap()
}

/// What there is, as a mark sees it.
fn there(world: &World) -> BTreeSet<Resource> {
    let marked = world.store.read().unwrap().mark(&ns(), late(), &InUse::new()).unwrap();
    marked.verdicts().map(|verdict| verdict.resource).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Without changes in between exactly what nothing leads to goes; with changes, nothing that they lead to does, and
    /// the next collection takes the rest.
    #[test]
    fn what_nothing_leads_to_goes_and_nothing_else(before in vec(step(), 0..40), between in vec(step(), 0..12)) {
        let (mut world, mut model, mut next_id) = (World::in_memory(), Model::default(), 0);
        for step in before {
            take(&mut world, &mut model, &mut next_id, step);
        }
        let collection = begin(&mut world);
        let garbage = mark(&world, collection);
        let expected: BTreeSet<_> = model.all().difference(&model.kept()).map(|name| (ns(), name.clone())).collect();
        prop_assert_eq!(&garbage.resources, &expected);
        for step in between {
            take(&mut world, &mut model, &mut next_id, step);
        }
        sweep(&mut world, garbage);
        let left = there(&world);
        prop_assert!(model.kept().is_subset(&left), "gone although kept: {:?}", model.kept().difference(&left));
        let collection = begin(&mut world);
        let garbage = mark(&world, collection);
        sweep(&mut world, garbage);
        // What the first sweep took does not lead anywhere any more; it was not kept either.
        prop_assert_eq!(there(&world), model.kept());
    }
}

#[test]
fn what_was_kept_flat_keeps_more_when_something_else_leads_to_it_since_the_mark() {
    let (mut world, mut model, mut next_id) = (World::in_memory(), Model::default(), 0);
    let blob = |n, refers| Step::Content { n, refers, back: None, root: false };
    let before = [
        Step::Lease { n: 0, flat: true, expired: false },
        blob(1, vec![content(2)]),
        blob(2, vec![]),
        Step::Protect { lease: 0, resource: content(1) },
    ];
    for step in before {
        take(&mut world, &mut model, &mut next_id, step);
    }
    let collection = begin(&mut world);
    let garbage = mark(&world, collection);
    assert_eq!(garbage.resources, BTreeSet::from([(ns(), content(2))]));
    take(&mut world, &mut model, &mut next_id, Step::Image { n: 0, target: 1, refers: vec![], expired: false });
    sweep(&mut world, garbage);
    assert!(there(&world).contains(&content(2)), "the image leads to it");
}

#[test]
fn what_waits_for_itself_is_kept_by_somebody_else() {
    let (mut world, mut model, mut next_id) = (World::in_memory(), Model::default(), 0);
    let steps = [
        Step::Lease { n: 0, flat: true, expired: false },
        Step::Content { n: 1, refers: vec![], back: Some(content(1)), root: false },
        Step::Protect { lease: 0, resource: content(1) },
    ];
    for step in steps {
        take(&mut world, &mut model, &mut next_id, step);
    }
    let marked = world.store.read().unwrap().mark(&ns(), late(), &InUse::new()).unwrap();
    let verdict = marked.verdicts().find(|verdict| verdict.resource == content(1)).unwrap();
    assert!(matches!(verdict.reason, Reason::Referred { by: Resource::Lease(_), .. }), "{:?}", verdict.reason);
}

#[test]
fn a_sweep_of_an_earlier_collection_is_refused_and_changes_nothing() {
    let mut world = World::in_memory();
    world.change(Change::CreateContent { digest: digest(1), size_bytes: 1, labels: Labels::new() }).unwrap();
    let first = begin(&mut world);
    let garbage = mark(&world, first);
    let second = begin(&mut world);
    let refusal = world.commit(Commit::default().change(Change::Sweep(garbage.clone()))).unwrap_err();
    assert!(refusal.is(wharf_messages::RefusalKind::Aborted), "{refusal}");
    assert_eq!(there(&world).len(), 1);
    let swept = sweep(&mut world, Garbage { collection: second, ..garbage.clone() });
    assert_eq!(swept.contents, [(digest(1), 1, true)]);
    // One sweep a collection: what was written after it is not remembered.
    assert!(world.commit(Commit::default().change(Change::Sweep(Garbage { collection: second, ..garbage }))).is_err());
}

#[test]
fn what_is_in_use_or_young_is_kept_and_its_end_is_known() {
    let mut world = World::in_memory();
    world.change(Change::CreateContent { digest: digest(1), size_bytes: 1, labels: Labels::new() }).unwrap();
    let (mut model, mut next_id) = (Model::default(), 0);
    take(&mut world, &mut model, &mut next_id, Step::Ingest { n: 1, expected: 2 });
    let begun_at = world.store.read().unwrap().ingest(&ns(), &ingest(1)).unwrap().unwrap().updated_at;
    let in_use = InUse::from([(ns(), content(1))]);
    let end = begun_at.plus(crate::INGEST_KEPT_FOR);
    let marked = world.store.read().unwrap().mark(&ns(), end, &in_use).unwrap();
    assert_eq!(marked.garbage().count(), 0);
    assert_eq!(marked.next_expiry(), Some(end));
    let reasons: Vec<_> = marked.verdicts().map(|verdict| verdict.reason).collect();
    assert_eq!(reasons, [Reason::InUse, Reason::Until(end)]);
    let marked = world.store.read().unwrap().mark(&ns(), end.plus(Duration::from_nanos(1)), &in_use).unwrap();
    assert_eq!(marked.garbage().collect::<Vec<_>>(), [&Resource::Ingest(ingest(1))]);
}
