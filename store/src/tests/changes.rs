//! Every change: what it writes, tells and answers, and every refusal, after which nothing has changed.

use super::{
    audit::{audit, dump},
    world::*,
};
use crate::{Change, Commit, FileId, IngestRow, NewSnapshot, Outcome};
use wharf_messages::{
    Any, Digest, ImageName, IngestRef, Labels, Namespace, SnapshotterName, Timestamp,
    container::UpdateContainer,
    content::UpdateContent,
    event::Event,
    image::UpdateImage,
    lease::{AddLeaseResource, CreateLease, DeleteLeaseResource, LeaseResource},
    namespace::{CreateNamespace, UpdateNamespace},
    snapshot::{SNAPSHOT_REF_LABEL, SnapshotKind, Usage},
};

/// Does changes one commit each, which must all be done; answers the last outcome.
fn done(world: &mut World, changes: Vec<Change>) -> Outcome {
    let mut last = Outcome::Done;
    for change in changes {
        let text = format!("{change:?}");
        let committed = world.change(change).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        last = committed.outcomes.into_iter().next_back().unwrap();
    }
    audit(&world.store.read().unwrap());
    last
}

/// Tries changes one commit each; each must be refused with these words, and leave everything as it was.
fn refused(world: &mut World, cases: Vec<(Change, &str)>) {
    for (change, text) in cases {
        let before = dump(&world.store.read().unwrap());
        let shown = format!("{change:?}");
        let refusal = world.change(change).expect_err(&shown);
        assert_eq!(refusal.to_string(), text, "{shown}");
        assert_eq!(dump(&world.store.read().unwrap()), before, "{shown}");
    }
}

fn too_long() -> Labels {
    labels(&[("k", &"v".repeat(4096))])
}

const TOO_LONG: &str =
    "label key and value length (4097 bytes) greater than maximum size (4096 bytes), key: k: invalid argument";

fn create_namespace(name: &str, labels: Labels) -> Change {
    Change::CreateNamespace(CreateNamespace { name: Namespace::new(name).unwrap(), labels })
}

fn update_namespace(name: &str, labels: Labels, mask: &[&str]) -> Change {
    Change::UpdateNamespace(UpdateNamespace { name: Namespace::new(name).unwrap(), labels, mask: strings(mask) })
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn commit_snapshot(from: &str, to: &str, parent: Option<&str>) -> Change {
    Change::CommitSnapshot {
        snapshotter: overlay(),
        key: key(from),
        name: key(to),
        parent: parent.map(key),
        labels: labels(&[("l", "1")]),
        usage: Usage { size_bytes: 5, inodes: 2 },
    }
}

fn remove_snapshot(name: &str) -> Change {
    Change::RemoveSnapshot { snapshotter: overlay(), key: key(name) }
}

fn create_content(n: u8) -> Change {
    Change::CreateContent { digest: digest(n), size_bytes: u64::from(n), labels: Labels::new() }
}

#[test]
fn namespaces() {
    let mut world = World::new();
    let made = done(&mut world, vec![create_namespace("a", labels(&[("k", "v"), ("empty", "")]))]);
    assert!(matches!(made, Outcome::Namespace(record) if record.labels == labels(&[("k", "v")])));
    let updated = done(&mut world, vec![update_namespace("a", labels(&[("n", "1")]), &["labels.n"])]);
    assert!(matches!(updated, Outcome::Namespace(record) if record.labels == labels(&[("k", "v"), ("n", "1")])));
    // An update makes what is not there.
    let fresh = done(&mut world, vec![update_namespace("b", labels(&[("n", "1")]), &[])]);
    assert!(matches!(fresh, Outcome::Namespace(record) if record.labels == labels(&[("n", "1")])));
    refused(
        &mut world,
        vec![
            (create_namespace("a", Labels::new()), "namespace \"a\": already exists"),
            (create_namespace("c", too_long()), &format!("namespace.Labels: {TOO_LONG}")),
            (update_namespace("a", too_long(), &[]), &format!("namespace.Labels: {TOO_LONG}")),
            (
                update_namespace("a", Labels::new(), &["name"]),
                "cannot update \"name\" field on namespace \"a\": invalid argument",
            ),
            (Change::DeleteNamespace(Namespace::new("zz").unwrap()), "namespace \"zz\": not found"),
        ],
    );
    // The first write makes the namespace.
    done(&mut world, vec![Change::CreateImage(image("i", &[])), create_content(1)]);
    done(&mut world, vec![Change::PrepareSnapshot(active("s", None, 1)), Change::CreateContainer(container("c"))]);
    let native = NewSnapshot { snapshotter: SnapshotterName::new("native").unwrap(), ..active("n", None, 1) };
    done(&mut world, vec![Change::PrepareSnapshot(native)]);
    refused(
        &mut world,
        vec![(
            Change::DeleteNamespace(ns()),
            "namespace \"default\" must be empty, but it still has images, blobs, containers, snapshots on \"native\" \
             snapshotter, snapshots on \"overlayfs\" snapshotter: failed precondition",
        )],
    );
    // Leases and ingests do not keep it.
    let mut other = Commit::new(&Namespace::new("a").unwrap());
    other.changes = vec![
        Change::CreateLease(CreateLease { id: Some(lease_id("l")), labels: Labels::new() }),
        Change::AddLeaseResource(AddLeaseResource { id: lease_id("l"), resource: blob_resource(1) }),
        Change::PutIngest(ingest("r")),
    ];
    world.commit(other).unwrap();
    done(&mut world, vec![Change::DeleteNamespace(Namespace::new("a").unwrap())]);
    let reader = world.store.read().unwrap();
    assert_eq!(reader.all_ingests().unwrap().count(), 0);
    let names: Vec<_> = reader.namespaces().unwrap().map(|record| record.unwrap().name.to_string()).collect();
    assert_eq!(names, ["b", "default"]);
}

#[test]
fn images() {
    let mut world = World::new();
    let made = done(&mut world, vec![Change::CreateImage(image("i", &[("a", "1"), ("b", "2")]))]);
    let Outcome::Image(made) = made else { panic!("{made:?}") };
    assert_eq!((made.created_at, made.updated_at), (Timestamp(1), Timestamp(1)));

    let update = |mask: &[&str]| {
        let mut target = image("i", &[]).target;
        target.size_bytes = 9;
        target.annotations = labels(&[("x", "y")]);
        let name = ImageName::new("i").unwrap();
        Change::UpdateImage(UpdateImage { name, target, labels: labels(&[("b", ""), ("c", "3")]), mask: strings(mask) })
    };
    for (mask, size_bytes, want, annotations) in [
        (&["labels.c"][..], 7, &[("a", "1"), ("b", "2"), ("c", "3")][..], &[][..]),
        (&["labels.b"], 7, &[("a", "1"), ("c", "3")], &[]),
        (&["annotations.x"], 7, &[("a", "1"), ("c", "3")], &[("x", "y")]),
        (&["labels"], 7, &[("c", "3")], &[("x", "y")]),
        (&["annotations"], 7, &[("c", "3")], &[("x", "y")]),
        (&["target", "labels.a"], 9, &[("c", "3")], &[("x", "y")]),
        (&[], 9, &[("c", "3")], &[("x", "y")]),
    ] {
        let updated = done(&mut world, vec![update(mask)]);
        let Outcome::Image(updated) = updated else { panic!("{updated:?}") };
        assert_eq!(updated.target.size_bytes, size_bytes, "{mask:?}");
        assert_eq!(updated.labels, labels(want), "{mask:?}");
        assert_eq!(updated.target.annotations, labels(annotations), "{mask:?}");
        assert_eq!((updated.created_at, updated.updated_at), (Timestamp(1), Timestamp(world.clock)));
    }
    // A pull makes or replaces.
    let put = done(&mut world, vec![Change::PutImage(image("i", &[("p", "1")]))]);
    assert!(
        matches!(put, Outcome::Image(put) if put.created_at == Timestamp(1) && put.labels == labels(&[("p", "1")]))
    );
    done(&mut world, vec![Change::PutImage(image("j", &[]))]);

    let mut sizeless = image("k", &[]);
    sizeless.target.size_bytes = 0;
    let mut typeless = image("k", &[]);
    typeless.target.media_type.clear();
    let mut long = image("k", &[]);
    long.labels = too_long();
    refused(
        &mut world,
        vec![
            (Change::CreateImage(image("i", &[])), "image \"i\": already exists"),
            (Change::CreateImage(sizeless.clone()), "target.Size must be greater than zero: invalid argument"),
            (Change::CreateImage(typeless), "target.MediaType must be set: invalid argument"),
            (Change::PutImage(sizeless), "target.Size must be greater than zero: invalid argument"),
            (Change::CreateImage(long), &format!("image.Labels: {TOO_LONG}")),
            (update(&["size"]), "cannot update \"size\" field on image \"i\": invalid argument"),
            (update(&["labels.a", "name"]), "cannot update \"name\" field on image \"i\": invalid argument"),
            (Change::DeleteImage(ImageName::new("zz").unwrap()), "image \"zz\": not found"),
        ],
    );
    done(&mut world, vec![Change::DeleteImage(ImageName::new("i").unwrap())]);
    refused(&mut world, vec![(update(&[]), "image \"i\": not found")]);
}

#[test]
fn containers_and_tasks() {
    let mut world = World::new();
    let made = done(&mut world, vec![Change::CreateContainer(container("c"))]);
    assert!(
        matches!(made, Outcome::Container(made) if made.created_at == Timestamp(1) && made.updated_at == Timestamp(1))
    );

    let update = |mask: &[&str], edit: fn(&mut wharf_messages::container::Container)| {
        let mut new = container("c");
        new.labels = labels(&[("new", "1")]);
        new.image = "other".to_owned();
        new.spec = Some(Any::new(Any::SPEC, "{\"a\":1}"));
        new.extensions = [("y".to_owned(), Any::new("t", "2"))].into();
        new.snapshot_key = Some(key("moved"));
        edit(&mut new);
        Change::UpdateContainer(UpdateContainer { container: new, mask: strings(mask) })
    };
    let updated = done(&mut world, vec![update(&["labels.new", "extensions.y", "image"], |_| {})]);
    let Outcome::Container(updated) = updated else { panic!("{updated:?}") };
    assert_eq!(updated.labels, labels(&[("app", "web"), ("new", "1")]));
    assert_eq!(updated.extensions.len(), 2);
    assert_eq!((updated.image.as_str(), &updated.snapshot_key), ("other", &Some(key("c"))));
    assert_eq!((updated.created_at, updated.updated_at), (Timestamp(1), Timestamp(2)));
    let Outcome::Container(updated) = done(&mut world, vec![update(&[], |_| {})]) else { panic!() };
    assert_eq!((updated.labels, updated.extensions.len()), (labels(&[("new", "1")]), 1));
    assert_eq!((updated.snapshot_key, updated.spec), (Some(key("moved")), Some(Any::new(Any::SPEC, "{\"a\":1}"))));

    let bad = |edit: fn(&mut wharf_messages::container::Container)| {
        let mut bad = container("d");
        edit(&mut bad);
        Change::CreateContainer(bad)
    };
    refused(
        &mut world,
        vec![
            (Change::CreateContainer(container("c")), "container \"c\": already exists"),
            (
                bad(|c| c.spec = None),
                "create container failed validation: container.Spec must be set: invalid argument",
            ),
            (
                bad(|c| c.runtime.name.clear()),
                "create container failed validation: container.Runtime.Name must be set: invalid argument",
            ),
            (
                bad(|c| c.snapshotter = None),
                "create container failed validation: container.Snapshotter must be set if container.SnapshotKey is set: invalid argument",
            ),
            (
                bad(|c| c.extensions = [(String::new(), Any::default())].into()),
                "create container failed validation: container.Extension keys must not be zero-length: invalid argument",
            ),
            (
                bad(|c| c.labels = too_long()),
                &format!("create container failed validation: containers.Labels: {TOO_LONG}"),
            ),
            (
                update(&["labels"], |c| c.labels = too_long()),
                &format!("update failed validation: containers.Labels: {TOO_LONG}"),
            ),
            (update(&[], |c| c.snapshotter = None), "container.Snapshotter field is immutable: invalid argument"),
            (
                update(&[], |c| c.runtime.name = "x".into()),
                "container.Runtime.Name field is immutable: invalid argument",
            ),
            (update(&["runtime"], |_| {}), "cannot update \"runtime\" field on \"c\": invalid argument"),
            (update(&[], |c| c.id = container_id("zz")), "container \"zz\" in namespace \"default\": not found"),
            (Change::DeleteContainer(container_id("zz")), "container \"zz\" in namespace \"default\": not found"),
            (Change::CreateTask(task("zz")), "container \"zz\" in namespace \"default\": not found"),
            (Change::PutTask(task("c")), "task c not found: not found"),
            (Change::DeleteTask(container_id("c")), "task c not found: not found"),
        ],
    );

    let Outcome::Task(made) = done(&mut world, vec![Change::CreateTask(task("c"))]) else { panic!() };
    assert_eq!(made.created_at, Timestamp(world.clock));
    let mut elsewhere = task("c");
    elsewhere.namespace = Namespace::new("other").unwrap();
    refused(
        &mut world,
        vec![
            (Change::CreateTask(task("c")), "task c: already exists"),
            (Change::PutTask(elsewhere), "task c of namespace \"other\" in a commit of \"default\": invalid argument"),
            (
                Change::DeleteContainer(container_id("c")),
                "container \"c\" in namespace \"default\" has a task, which must be deleted first: failed precondition",
            ),
        ],
    );
    let Outcome::Task(put) = done(&mut world, vec![Change::PutTask(task("c"))]) else { panic!() };
    assert_eq!(put.created_at, made.created_at);
    // Both in one commit: the later change sees what the earlier did.
    let gone =
        Commit::one(&ns(), Change::DeleteTask(container_id("c"))).change(Change::DeleteContainer(container_id("c")));
    assert!(world.commit(gone).unwrap().into_container().is_some());
    audit(&world.store.read().unwrap());
}

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
                "parent \"v\" is not committed snapshot: invalid argument",
            ),
            (Change::PrepareSnapshot(active("n", None, 2)), "snapshot n: id 2 of overlayfs is taken"),
            (
                Change::PrepareSnapshot(committed),
                "snapshot r must be made as an active one or a view, with an id above 0: invalid argument",
            ),
            (commit_snapshot("zz", "new", None), "snapshot zz does not exist: not found"),
            (commit_snapshot("v", "new", None), "snapshot v is not active: failed precondition"),
            (commit_snapshot("layer2", "new", None), "snapshot layer2 is not active: failed precondition"),
            (commit_snapshot("v", "layer1", None), "snapshot \"layer1\": already exists"),
            (remove_snapshot("zz"), "snapshot zz does not exist: not found"),
            (remove_snapshot("layer1"), "layer1: cannot remove snapshot with child: failed precondition"),
            (remove_snapshot("layer2"), "layer2: cannot remove snapshot with child: failed precondition"),
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

fn ingest(reference: &str) -> IngestRow {
    IngestRow {
        reference: IngestRef::new(reference).unwrap(),
        file_id: FileId::new("0123456789abcdef0123456789abcdef").unwrap(),
        total_bytes: 10,
        expected: None,
        started_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
        labels: Labels::new(),
    }
}

#[test]
fn content() {
    let mut world = World::new();
    let other = Namespace::new("other").unwrap();
    let update = |n: u8, mask: &[&str]| {
        Change::UpdateContent(UpdateContent { digest: digest(n), labels: labels(&[("u", "1")]), mask: strings(mask) })
    };
    let share = |n: u8| Change::ShareContent { digest: digest(n), labels: labels(&[("s", "1")]) };
    let name = digest(1);
    done(&mut world, vec![create_content(1)]);
    refused(
        &mut world,
        vec![
            (create_content(1), &format!("content {name}: already exists")),
            (share(1), &format!("content {name}: already exists")),
            (share(2), &format!("content digest {}: not found", digest(2))),
            (update(2, &[]), &format!("content digest {}: not found", digest(2))),
            (
                update(1, &["size"]),
                &format!("cannot update \"size\" field on content info \"{name}\": invalid argument"),
            ),
            (Change::DeleteContent(digest(2)), &format!("content digest {}: not found", digest(2))),
            (
                Change::CreateContent { digest: digest(3), size_bytes: 1, labels: too_long() },
                &format!("info.Labels: {TOO_LONG}"),
            ),
        ],
    );
    let Outcome::Content(updated) = done(&mut world, vec![update(1, &["labels.u"])]) else { panic!() };
    assert_eq!((updated.labels, updated.size_bytes), (labels(&[("u", "1")]), 1));
    // Another namespace takes it without an upload, with labels of its own.
    let shared = world.commit(Commit::one(&other, share(1))).unwrap();
    assert!(matches!(&shared.events.last().unwrap().event, Event::ContentCreated { size_bytes: 1, .. }));
    assert_eq!(shared.into_content().unwrap().labels, labels(&[("s", "1")]));
    let reader = world.store.read().unwrap();
    assert_eq!(reader.blob(&name).unwrap(), Some(1));
    assert_eq!(reader.all_blobs().unwrap().map(Result::unwrap).collect::<Vec<_>>(), [(name.clone(), 1)]);
    drop(reader);
    let Outcome::ContentDeleted { last, .. } = done(&mut world, vec![Change::DeleteContent(name.clone())]) else {
        panic!()
    };
    assert!(!last);
    let gone = world.commit(Commit::one(&other, Change::DeleteContent(name.clone()))).unwrap();
    assert!(matches!(gone.outcomes[..], [Outcome::ContentDeleted { last: true, .. }]));
    assert_eq!(world.store.read().unwrap().blob(&name).unwrap(), None);
}

#[test]
fn ingests() {
    let mut world = World::new();
    let reference = IngestRef::new("layer-1").unwrap();
    let Outcome::Ingest(put) = done(&mut world, vec![Change::PutIngest(ingest("layer-1"))]) else { panic!() };
    assert_eq!((put.started_at, put.updated_at), (Timestamp(1), Timestamp(1)));
    let Outcome::Ingest(put) = done(&mut world, vec![Change::PutIngest(ingest("layer-1"))]) else { panic!() };
    assert_eq!((put.started_at, put.updated_at), (Timestamp(1), Timestamp(2)));
    refused(
        &mut world,
        vec![
            (Change::DeleteIngest(IngestRef::new("zz").unwrap()), "reference zz: not found"),
            (Change::PutIngest(IngestRow { labels: too_long(), ..ingest("x") }), &format!("info.Labels: {TOO_LONG}")),
        ],
    );
    assert!(world.store.read().unwrap().ingest(&ns(), &reference).unwrap().is_some());
    done(&mut world, vec![Change::DeleteIngest(reference.clone())]);
    assert!(world.store.read().unwrap().ingest(&ns(), &reference).unwrap().is_none());
}

fn blob_resource(n: u8) -> LeaseResource {
    LeaseResource { kind: "content".to_owned(), id: digest(n).to_string() }
}

fn resource(kind: &str, id: &str) -> LeaseResource {
    LeaseResource { kind: kind.to_owned(), id: id.to_owned() }
}

fn leased(world: &World) -> Vec<(String, String)> {
    let reader = world.store.read().unwrap();
    let all = reader.lease_resources(&ns(), &lease_id("l")).unwrap();
    all.map(|resource| resource.map(|r| (r.kind, r.id)).unwrap()).collect()
}

#[test]
fn leases_and_their_resources() {
    let mut world = World::new();
    let create = |id: Option<&str>, labels: Labels| Change::CreateLease(CreateLease { id: id.map(lease_id), labels });
    let add =
        |id: &str, resource: LeaseResource| Change::AddLeaseResource(AddLeaseResource { id: lease_id(id), resource });
    let take = |id: &str, resource: LeaseResource| {
        Change::DeleteLeaseResource(DeleteLeaseResource { id: lease_id(id), resource })
    };
    let Outcome::Lease(made) = done(&mut world, vec![create(Some("l"), labels(&[("a", "1")]))]) else { panic!() };
    assert_eq!((made.created_at, made.labels), (Timestamp(1), labels(&[("a", "1")])));
    for (kind, id) in [("images", "i"), ("ingests", "r"), ("snapshots/overlayfs", "s"), ("ingests", "r")] {
        done(&mut world, vec![add("l", resource(kind, id))]);
    }
    done(
        &mut world,
        vec![add("l", blob_resource(1)), create(Some("m"), Labels::new()), add("m", resource("images", "i"))],
    );
    assert_eq!(leased(&world).len(), 4);
    let holders = world.store.read().unwrap().leases_of(&ns(), &resource("images", "i")).unwrap();
    assert_eq!(holders, [lease_id("l"), lease_id("m")]);
    done(&mut world, vec![take("l", resource("ingests", "r")), take("l", resource("ingests", "never there"))]);
    refused(
        &mut world,
        vec![
            (create(Some("l"), Labels::new()), "lease \"l\": already exists"),
            (create(None, Labels::new()), "lease id must be provided: invalid argument"),
            (create(Some("n"), too_long()), &format!("lease.Labels: {TOO_LONG}")),
            (Change::DeleteLease(lease_id("zz")), "lease \"zz\": not found"),
            (add("zz", blob_resource(1)), "lease \"zz\": not found"),
            (take("zz", blob_resource(1)), "lease \"zz\": not found"),
            (add("l", resource("snapshots", "x")), "invalid snapshot resource type snapshots: invalid argument"),
            (add("l", resource("content/x", "x")), "invalid resource type content/x: invalid argument"),
            (add("l", resource("volumes", "x")), "resource type volumes not supported yet: not implemented"),
            (
                add("l", resource("content", "nothing")),
                "invalid content resource id nothing: digest \"nothing\" must be algorithm:hex: invalid argument",
            ),
            (add("l", resource("images", "")), "invalid resource id \"\" of type images: invalid argument"),
            (add("l", resource("images", "a\0b")), "invalid resource id \"a\\0b\" of type images: invalid argument"),
        ],
    );
    done(&mut world, vec![Change::DeleteLease(lease_id("l"))]);
    assert_eq!(leased(&world), []);
    assert_eq!(world.store.read().unwrap().leases_of(&ns(), &resource("images", "i")).unwrap(), [lease_id("m")]);
}

#[test]
fn a_commits_lease_gets_what_the_commit_makes() {
    let mut world = World::new();
    let with = |change: Change| Commit::one(&ns(), change).leased(Some(lease_id("l")));
    let missing = world.commit(with(create_content(1))).unwrap_err();
    assert_eq!(missing.to_string(), "lease \"l\": not found");
    assert_eq!(world.store.read().unwrap().last_seq().unwrap().0, 0);

    done(&mut world, vec![Change::CreateLease(CreateLease { id: Some(lease_id("l")), labels: Labels::new() })]);
    done(
        &mut world,
        vec![create_content(2), Change::PrepareSnapshot(active("old", None, 1)), commit_snapshot("old", "base", None)],
    );
    // What is there already is leased too, although the answer is a refusal.
    let shared = NewSnapshot { labels: labels(&[(SNAPSHOT_REF_LABEL, "base")]), ..active("new", None, 2) };
    for (change, text) in [
        (create_content(2), format!("content {}: already exists", digest(2))),
        (Change::PrepareSnapshot(shared), "target snapshot \"base\": already exists".to_owned()),
    ] {
        // Nothing else of that commit is done.
        let commit = Commit { changes: vec![Change::CreateImage(image("no", &[])), change], ..with(create_content(9)) };
        assert_eq!(world.commit(commit).unwrap_err().to_string(), text);
    }
    let kinds = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
    let two = digest(2).to_string();
    assert_eq!(leased(&world), [kinds("content", &two), kinds("snapshots/overlayfs", "base")]);
    assert!(world.store.read().unwrap().image(&ns(), &ImageName::new("no").unwrap()).unwrap().is_none());
    audit(&world.store.read().unwrap());

    // An ingest becomes content, an active snapshot a committed one: the lease follows.
    world.commit(with(Change::PutIngest(ingest("r")))).unwrap();
    world.commit(with(Change::PrepareSnapshot(active("x", Some("base"), 3)))).unwrap();
    assert_eq!(leased(&world).len(), 4);
    world.commit(with(create_content(4)).change(Change::DeleteIngest(IngestRef::new("r").unwrap()))).unwrap();
    world.commit(with(commit_snapshot("x", "layer", None))).unwrap();
    assert_eq!(
        leased(&world),
        [
            kinds("content", &two),
            kinds("content", digest(4).as_str()),
            kinds("snapshots/overlayfs", "base"),
            kinds("snapshots/overlayfs", "layer")
        ]
    );
    world.commit(with(Change::DeleteContent(digest(4))).change(remove_snapshot("layer"))).unwrap();
    assert_eq!(leased(&world).len(), 2);
    audit(&world.store.read().unwrap());
}

#[test]
fn changes_need_a_namespace_and_events_do_not() {
    let mut world = World::new();
    let nowhere = Commit { changes: vec![create_content(1)], ..Commit::default() };
    assert_eq!(world.commit(nowhere).unwrap_err().to_string(), "namespace is required: failed precondition");
    let event = Event::ChildRestarted { path: "tasks".to_owned(), reason: "panic".to_owned(), restarts: 1 };
    let told = world.commit(Commit::default().event(event.clone()).late(true)).unwrap();
    let record = &told.events[0];
    assert_eq!((record.namespace.as_ref(), &record.event, record.late), (None, &event, true));
    // A published event makes no namespace: nothing was written in it.
    world.commit(Commit::new(&ns()).event(event)).unwrap();
    assert_eq!(world.store.read().unwrap().namespaces().unwrap().count(), 0);
}

#[test]
fn digests_of_both_algorithms_are_keys() {
    let mut world = World::new();
    let long = Digest::new(format!("sha512:{}", "ab".repeat(64))).unwrap();
    done(&mut world, vec![Change::CreateContent { digest: long.clone(), size_bytes: 1, labels: Labels::new() }]);
    assert_eq!(world.store.read().unwrap().blob(&long).unwrap(), Some(1));
}
