//! What must be true of every database, whatever was done to it.

use crate::{
    Reader,
    record::{self, Record},
    row::{IngestRow, SnapshotRow, TaskRow},
    schema,
};
use redb::{ReadableTable, TableDefinition};
use std::collections::{BTreeMap, BTreeSet};
use wharf_messages::{
    container::Container,
    content::ContentInfo,
    event::{Event, EventRecord, Seq},
    health::HealthRecord,
    image::Image,
    lease::Lease,
    namespace::NamespaceRecord,
    restart::RestartRecord,
    snapshot::SnapshotKind,
};

/// Every row of every table but `meta`, as text: two databases with equal dumps hold the same.
pub fn dump(reader: &Reader) -> Vec<String> {
    let mut lines = Vec::new();
    macro_rules! tables {
        ($($table:ident),*) => {$(each(reader, schema::$table, |key, value| {
            lines.push(format!("{} {key} {value}", stringify!($table)));
        });)*};
    }
    tables!(
        EVENTS,
        CURSORS,
        REQUESTS,
        NAMESPACES,
        IMAGES,
        CONTAINERS,
        TASKS,
        RESTARTS,
        HEALTH,
        SNAPSHOTS,
        SNAPSHOT_IDS,
        SNAPSHOT_CHILDREN
    );
    tables!(CONTENT, BLOBS, INGESTS, LEASES, LEASE_RESOURCES, RESOURCE_LEASES);
    lines
}

fn each<K: redb::Key, V: redb::Value>(
    reader: &Reader,
    table: TableDefinition<K, V>,
    mut with: impl FnMut(String, String),
) {
    let table = reader.transaction.open_table(table).unwrap();
    for row in table.iter().unwrap() {
        let (key, value) = row.unwrap();
        with(format!("{:?}", key.value()), format!("{:?}", value.value()));
    }
}

/// All records of a table by their key as text.
fn records<K: redb::Key, R: Record>(reader: &Reader, table: TableDefinition<K, schema::Bytes>) -> BTreeMap<String, R> {
    let table = reader.transaction.open_table(table).unwrap();
    let rows = table.iter().unwrap().map(|row| {
        let (key, value) = row.unwrap();
        (format!("{:?}", key.value()), record::decode(value.value()).unwrap())
    });
    rows.collect()
}

/// Checks that indexes say what rows say, that references lead somewhere, and that the log accounts for the rows there
/// are: no row without its event, no event without its row.
pub fn audit(reader: &Reader) {
    indexes(reader);
    history(reader);
}

fn indexes(reader: &Reader) {
    let namespaces: BTreeMap<String, NamespaceRecord> = records(reader, schema::NAMESPACES);
    let known: BTreeSet<&str> = namespaces.values().map(|record| record.name.as_str()).collect();
    let mut namespaces_used = BTreeSet::new();
    let mut ids = BTreeMap::new();
    let mut children = BTreeSet::new();
    let mut snapshots: BTreeMap<(String, String, String), SnapshotRow> = BTreeMap::new();
    let table = reader.transaction.open_table(schema::SNAPSHOTS).unwrap();
    for row in table.iter().unwrap() {
        let (key, value) = row.unwrap();
        let (namespace, snapshotter, name) = key.value();
        let row: SnapshotRow = record::decode(value.value()).unwrap();
        assert_eq!(row.info.key.as_str(), name);
        assert_eq!(row.usage.is_some(), row.info.kind == SnapshotKind::Committed, "{row:?}");
        namespaces_used.insert(namespace.to_owned());
        ids.insert(
            (snapshotter.to_owned(), row.id),
            (row.parent_id.unwrap_or(0), namespace.to_owned(), name.to_owned()),
        );
        if let Some(parent_id) = row.parent_id {
            children.insert((snapshotter.to_owned(), parent_id, row.id));
        }
        snapshots.insert((namespace.to_owned(), snapshotter.to_owned(), name.to_owned()), row);
    }
    assert_eq!(ids.len(), snapshots.len(), "an id is there twice");
    for ((namespace, snapshotter, _), row) in &snapshots {
        let Some(parent) = &row.info.parent else {
            assert_eq!(row.parent_id, None);
            continue;
        };
        let parent = &snapshots[&(namespace.clone(), snapshotter.clone(), parent.as_str().to_owned())];
        assert_eq!((parent.info.kind, Some(parent.id)), (SnapshotKind::Committed, row.parent_id));
    }
    let stored = collect(reader, schema::SNAPSHOT_IDS, |(name, id), (parent, ns, key)| {
        ((name.to_owned(), id), (parent, ns.to_owned(), key.to_owned()))
    });
    assert_eq!(stored, ids.into_iter().collect());
    let stored = collect(reader, schema::SNAPSHOT_CHILDREN, |(name, parent, id), ()| (name.to_owned(), parent, id));
    assert_eq!(stored, children);

    let owned = |key: (&str, &str)| (key.0.to_owned(), key.1.to_owned());
    let content = collect(reader, schema::CONTENT, |key, value| {
        let info: ContentInfo = record::decode(value).unwrap();
        ((info.digest.as_str().to_owned(), key.0.to_owned()), info.size_bytes)
    });
    assert_eq!(collect(reader, schema::BLOBS, |key, size| (owned(key), size)), content);

    let containers = collect(reader, schema::CONTAINERS, |key, value| {
        let container: Container = record::decode(value).unwrap();
        assert_eq!(container.id.as_str(), key.1);
        owned(key)
    });
    let tasks = collect(reader, schema::TASKS, |key, value| {
        let row: TaskRow = record::decode(value).unwrap();
        assert_eq!((row.namespace.as_str(), row.container_id.as_str()), key);
        owned(key)
    });
    for task in &tasks {
        assert!(containers.contains(task), "{task:?} has no container");
    }
    for restart in collect(reader, schema::RESTARTS, |key, value| {
        assert_eq!(record::decode::<RestartRecord>(value).unwrap().container_id.as_str(), key.1);
        owned(key)
    }) {
        assert!(containers.contains(&restart), "{restart:?} has no container");
    }
    for health in collect(reader, schema::HEALTH, |key, value| {
        assert_eq!(record::decode::<HealthRecord>(value).unwrap().container_id.as_str(), key.1);
        owned(key)
    }) {
        assert!(tasks.contains(&health), "{health:?} has no task");
    }

    let leases = collect(reader, schema::LEASES, |key, value| {
        assert_eq!(record::decode::<Lease>(value).unwrap().id.as_str(), key.1);
        owned(key)
    });
    let there = collect(reader, schema::LEASE_RESOURCES, |(ns, lease, kind, id), ()| {
        assert!(leases.contains(&owned((ns, lease))), "{lease} is no lease");
        [ns, lease, kind, id].map(str::to_owned)
    });
    let back =
        collect(reader, schema::RESOURCE_LEASES, |(ns, kind, id, lease), ()| [ns, lease, kind, id].map(str::to_owned));
    assert_eq!(there, back);

    namespaces_used.extend(collect(reader, schema::IMAGES, |key, _| key.0.to_owned()));
    namespaces_used.extend(collect(reader, schema::INGESTS, |key, value| {
        assert_eq!(record::decode::<IngestRow>(value).unwrap().reference.as_str(), key.1);
        key.0.to_owned()
    }));
    namespaces_used.extend(content.into_iter().map(|((_, namespace), _)| namespace));
    namespaces_used.extend(containers.into_iter().chain(leases).map(|(namespace, _)| namespace));
    for namespace in namespaces_used {
        assert!(known.contains(namespace.as_str()), "{namespace} has rows but no row of its own");
    }
}

fn collect<K: redb::Key, V: redb::Value, T: Ord>(
    reader: &Reader,
    table: TableDefinition<K, V>,
    make: impl Fn(K::SelfType<'_>, V::SelfType<'_>) -> T,
) -> BTreeSet<T> {
    let table = reader.transaction.open_table(table).unwrap();
    let rows = table.iter().unwrap().map(|row| {
        let (key, value) = row.unwrap();
        make(key.value(), value.value())
    });
    rows.collect()
}

/// Replays the log and compares with the rows. Only for a log that was never trimmed.
fn history(reader: &Reader) {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut last = Seq(0);
    let mut toggle = |noun: &str, name: String, there: bool| {
        let set = told.entry(noun.to_owned()).or_default();
        let fits = if there { set.insert(name.clone()) } else { set.remove(&name) };
        // Nobody is told of a view, but its end is told, as in containerd.
        assert!(fits || (noun == "snapshot" && !there), "{noun} {name} was told twice (there: {there})");
    };
    loop {
        let events = reader.events(last, 100).unwrap();
        let Some(end) = events.last() else { break };
        let end = end.seq;
        for EventRecord { seq, namespace, event, .. } in events {
            assert_eq!(seq.0, last.0 + 1, "the log has a gap");
            last = seq;
            let namespace = namespace.map(|ns| ns.as_str().to_owned()).unwrap_or_default();
            let two = |name: &str| format!("{:?}", (namespace.as_str(), name));
            let three = |a: &str, b: &str| format!("{:?}", (namespace.as_str(), a, b));
            match event {
                Event::NamespaceCreated { name, .. } => toggle("namespace", format!("{:?}", name.as_str()), true),
                Event::NamespaceDeleted { name } => toggle("namespace", format!("{:?}", name.as_str()), false),
                Event::ImageCreated { name, .. } => toggle("image", two(name.as_str()), true),
                Event::ImageDeleted { name } => toggle("image", two(name.as_str()), false),
                Event::ContainerCreated { id, .. } => toggle("container", two(id.as_str()), true),
                Event::ContainerDeleted { id } => toggle("container", two(id.as_str()), false),
                Event::ContentCreated { digest, .. } => toggle("content", two(digest.as_str()), true),
                Event::ContentDeleted { digest } => toggle("content", two(digest.as_str()), false),
                Event::LeaseCreated { id } => toggle("lease", two(id.as_str()), true),
                Event::LeaseDeleted { id } => toggle("lease", two(id.as_str()), false),
                Event::SnapshotPrepared { snapshotter, key, .. } => {
                    toggle("snapshot", three(snapshotter.as_str(), key.as_str()), true);
                }
                Event::SnapshotCommitted { snapshotter, key, name } => {
                    toggle("snapshot", three(snapshotter.as_str(), key.as_str()), false);
                    toggle("snapshot", three(snapshotter.as_str(), name.as_str()), true);
                }
                Event::SnapshotRemoved { snapshotter, key } => {
                    toggle("snapshot", three(snapshotter.as_str(), key.as_str()), false);
                }
                _ => {}
            }
        }
        assert_eq!(last, end);
    }
    let keys = |noun: &str| told.get(noun).cloned().unwrap_or_default();
    assert_eq!(key_set(records::<_, NamespaceRecord>(reader, schema::NAMESPACES)), keys("namespace"));
    assert_eq!(key_set(records::<_, Image>(reader, schema::IMAGES)), keys("image"));
    assert_eq!(key_set(records::<_, Container>(reader, schema::CONTAINERS)), keys("container"));
    assert_eq!(key_set(records::<_, ContentInfo>(reader, schema::CONTENT)), keys("content"));
    assert_eq!(key_set(records::<_, Lease>(reader, schema::LEASES)), keys("lease"));
    let mut snapshots = records::<_, SnapshotRow>(reader, schema::SNAPSHOTS);
    snapshots.retain(|_, row| row.info.kind != SnapshotKind::View); // Nobody is told of views.
    assert_eq!(key_set(snapshots), keys("snapshot"));
}

fn key_set<R>(rows: BTreeMap<String, R>) -> BTreeSet<String> {
    rows.into_keys().collect()
}
