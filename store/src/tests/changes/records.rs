//! Namespaces, images, containers and tasks.

use super::*;
use crate::NewSnapshot;
use wharf_messages::{
    Any, ImageName, SnapshotterName,
    container::{Container, UpdateContainer},
    health::HealthStatus,
    image::UpdateImage,
    lease::{AddLeaseResource, CreateLease},
    restart::RestartRecord,
};

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

    let update = |mask: &[&str], edit: fn(&mut Container)| {
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

    let bad = |edit: fn(&mut Container)| {
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
fn a_restart_goes_with_its_container_and_begins_only_if_it_is_still_wished() {
    use wharf_messages::restart::{EXPLICITLY_STOPPED_LABEL, STATUS_LABEL};
    let mut world = World::new();
    refused(
        &mut world,
        vec![
            (Change::PutRestart(restart()), "container \"web\" in namespace \"default\": not found"),
            (Change::BeginRestart(restart()), "container \"web\" in namespace \"default\": not found"),
        ],
    );
    let not = "container \"web\" in namespace \"default\" is not to be started again: failed precondition";
    done(&mut world, vec![Change::CreateContainer(container("web")), Change::PutRestart(restart())]);
    refused(&mut world, vec![(Change::BeginRestart(restart()), not)]);
    let label = |key: &str, value: &str| {
        let container = Container { labels: labels(&[(key, value)]), ..container("web") };
        Change::UpdateContainer(UpdateContainer { container, mask: vec![format!("labels.{key}")] })
    };
    done(&mut world, vec![label(STATUS_LABEL, "running"), Change::BeginRestart(restart())]);
    let count = |world: &World| {
        let container = world.store.read().unwrap().container(&ns(), &container_id("web")).unwrap().unwrap();
        container.labels["containerd.io/restart.count"].clone()
    };
    assert_eq!(count(&world), "2");
    // A user was faster.
    done(&mut world, vec![label(EXPLICITLY_STOPPED_LABEL, "true")]);
    refused(&mut world, vec![(Change::BeginRestart(RestartRecord { restarts: 3, ..restart() }), not)]);
    assert_eq!(world.store.read().unwrap().restart(&ns(), &container_id("web")).unwrap(), Some(restart()));
    done(&mut world, vec![Change::DeleteContainer(container_id("web"))]);
    assert_eq!(world.store.read().unwrap().restart(&ns(), &container_id("web")).unwrap(), None);
    done(&mut world, vec![Change::DeleteRestart(container_id("web"))]);
}

#[test]
fn health_goes_with_its_task() {
    let mut world = World::new();
    done(&mut world, vec![Change::CreateContainer(container("web"))]);
    refused(&mut world, vec![(Change::PutHealth(health(HealthStatus::Starting)), "task web not found: not found")]);
    done(&mut world, vec![Change::CreateTask(task("web")), Change::PutHealth(health(HealthStatus::Starting))]);
    done(&mut world, vec![Change::PutHealth(health(HealthStatus::Healthy))]);
    let all = |world: &World| -> Vec<_> {
        world.store.read().unwrap().healths(&ns()).unwrap().map(|record| record.unwrap()).collect()
    };
    assert_eq!(all(&world), [health(HealthStatus::Healthy)]);
    done(&mut world, vec![Change::DeleteTask(container_id("web"))]);
    assert_eq!(all(&world), []);
}
