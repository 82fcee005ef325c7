//! Every row: whether it can be read, whether what it refers to is there, and whether the indexes say the same.

use super::{Problem, Remedy, Report};
use crate::{
    Reader,
    error::refusal,
    record::{self, Record},
    row::{IngestRow, SnapshotRow, TaskRow},
    schema::{self, Bytes, Key2},
};
use redb::{ReadableTable, TableDefinition};
use std::collections::{BTreeMap, BTreeSet};
use wharf_messages::{
    Answer, Digest, Namespace, SnapshotterName, container::Container, content::ContentInfo, event::EventRecord,
    health::HealthRecord, image::Image, lease::Lease, namespace::NamespaceRecord, restart::RestartRecord,
    snapshot::SnapshotKind,
};

const DOING: &str = "check the database";

/// A snapshot and where it is.
pub(super) struct Snapshot {
    pub namespace: Namespace,
    pub snapshotter: SnapshotterName,
    pub row: SnapshotRow,
}

/// What the other checks need of the rows.
#[derive(Default)]
pub(super) struct Rows {
    /// Blobs, and the namespaces that have each.
    pub content: BTreeMap<Digest, (u64, Vec<Namespace>)>,
    pub ingests: Vec<(Namespace, IngestRow)>,
    pub snapshots: Vec<Snapshot>,
    /// Containers by what they stand on: snapshotter and key.
    pub containers: BTreeMap<(String, String, String), String>,
}

fn problem(subject: String, what: impl Into<String>, remedy: Remedy) -> Problem {
    Problem { subject, what: what.into(), remedy }
}

/// Reads a table of records by namespace and name; those that cannot be read are found.
fn records<R: Record>(
    reader: &Reader,
    table: TableDefinition<Key2, Bytes>,
    report: &mut Report,
    mut with: impl FnMut(&str, &str, R, &mut Report) -> Answer<()>,
) -> Answer<u64> {
    let table = reader.transaction.open_table(table).map_err(|e| refusal(DOING, e))?;
    let mut count = 0;
    for row in table.iter().map_err(|e| refusal(DOING, e))? {
        let (key, value) = row.map_err(|e| refusal(DOING, e))?;
        let (namespace, name) = key.value();
        count += 1;
        match record::decode::<R>(value.value()) {
            Ok(record) => with(namespace, name, record, report)?,
            Err(unreadable) => report.problems.push(unread::<R>(namespace, name, &unreadable)),
        }
    }
    Ok(count)
}

fn unread<R: Record>(namespace: &str, name: &str, why: &wharf_messages::Refusal) -> Problem {
    problem(format!("{} {name:?} in namespace {namespace:?}", R::KIND), why.detail.clone(), Remedy::None)
}

impl Rows {
    pub fn read(reader: &Reader, report: &mut Report) -> Answer<Self> {
        let mut rows = Self::default();
        let mut known = BTreeSet::new();
        let mut used = BTreeSet::new();
        rows.namespaces(reader, report, &mut known)?;
        rows.content(reader, report, &mut used)?;
        rows.snapshots(reader, report, &mut used)?;
        rows.containers(reader, report, &mut used)?;
        rows.leases(reader, report)?;
        log(reader, report)?;
        for namespace in used.difference(&known) {
            let what = "it has rows, but none of its own";
            report.problems.push(problem(format!("namespace {namespace:?}"), what, Remedy::None));
        }
        Ok(rows)
    }

    fn namespaces(&mut self, reader: &Reader, report: &mut Report, known: &mut BTreeSet<String>) -> Answer<()> {
        let table = reader.transaction.open_table(schema::NAMESPACES).map_err(|e| refusal(DOING, e))?;
        for row in table.iter().map_err(|e| refusal(DOING, e))? {
            let (key, value) = row.map_err(|e| refusal(DOING, e))?;
            known.insert(key.value().to_owned());
            if let Err(unreadable) = record::decode::<NamespaceRecord>(value.value()) {
                report.problems.push(problem(format!("namespace {:?}", key.value()), unreadable.detail, Remedy::None));
            }
        }
        report.counts.push((known.len() as u64, "namespaces"));
        Ok(())
    }

    fn content(&mut self, reader: &Reader, report: &mut Report, used: &mut BTreeSet<String>) -> Answer<()> {
        let mut index = BTreeSet::new();
        let images = records::<Image>(reader, schema::IMAGES, report, |namespace, name, image, report| {
            used.insert(namespace.to_owned());
            let digest = image.target.digest;
            if reader.content(&Namespace::new(namespace)?, &digest).is_ok_and(|content| content.is_none()) {
                // A name may stand before its content: that is told, and is the client's to mend.
                let what = format!("its target {digest} is not here: pull it again");
                report.problems.push(problem(format!("image {name:?} in namespace {namespace:?}"), what, Remedy::None));
            }
            Ok(())
        })?;
        report.counts.push((images, "images"));
        records::<ContentInfo>(reader, schema::CONTENT, report, |namespace, name, info, report| {
            used.insert(namespace.to_owned());
            let entry = self.content.entry(info.digest.clone()).or_insert_with(|| (info.size_bytes, Vec::new()));
            if entry.0 != info.size_bytes {
                let what = format!("its length is {} in one namespace and {} in another", entry.0, info.size_bytes);
                report.problems.push(problem(format!("blob {name}"), what, Remedy::None));
            }
            entry.1.push(Namespace::new(namespace)?);
            index.insert((info.digest.as_str().to_owned(), namespace.to_owned(), info.size_bytes));
            Ok(())
        })?;
        report.counts.push((self.content.len() as u64, "blobs"));
        let stored = collect(reader, schema::BLOBS, |(digest, namespace), size| {
            (digest.to_owned(), namespace.to_owned(), size)
        })?;
        compare("blobs", &index, &stored, report);
        records::<IngestRow>(reader, schema::INGESTS, report, |namespace, _, row, _| {
            used.insert(namespace.to_owned());
            self.ingests.push((Namespace::new(namespace)?, row));
            Ok(())
        })?;
        Ok(())
    }

    fn snapshots(&mut self, reader: &Reader, report: &mut Report, used: &mut BTreeSet<String>) -> Answer<()> {
        let table = reader.transaction.open_table(schema::SNAPSHOTS).map_err(|e| refusal(DOING, e))?;
        let (mut ids, mut children) = (BTreeSet::new(), BTreeSet::new());
        for row in table.iter().map_err(|e| refusal(DOING, e))? {
            let (key, value) = row.map_err(|e| refusal(DOING, e))?;
            let (namespace, snapshotter, name) = key.value();
            used.insert(namespace.to_owned());
            let row = match record::decode::<SnapshotRow>(value.value()) {
                Ok(row) => row,
                Err(unreadable) => {
                    let name = format!("{snapshotter}/{name}");
                    report.problems.push(unread::<SnapshotRow>(namespace, &name, &unreadable));
                    continue;
                }
            };
            let parent = row.parent_id.unwrap_or(0);
            ids.insert((snapshotter.to_owned(), row.id, parent, namespace.to_owned(), name.to_owned()));
            if parent != 0 {
                children.insert((snapshotter.to_owned(), parent, row.id));
            }
            let (namespace, snapshotter) = (Namespace::new(namespace)?, SnapshotterName::new(snapshotter)?);
            self.snapshots.push(Snapshot { namespace, snapshotter, row });
        }
        report.counts.push((self.snapshots.len() as u64, "snapshots"));
        let stored = collect(reader, schema::SNAPSHOT_IDS, |(snapshotter, id), (parent, namespace, key)| {
            (snapshotter.to_owned(), id, parent, namespace.to_owned(), key.to_owned())
        })?;
        compare("snapshot_ids", &ids, &stored, report);
        let stored = collect(reader, schema::SNAPSHOT_CHILDREN, |(snapshotter, parent, id), ()| {
            (snapshotter.to_owned(), parent, id)
        })?;
        compare("snapshot_children", &children, &stored, report);
        for snapshot in &self.snapshots {
            let Some(parent) = &snapshot.row.info.parent else { continue };
            let is_parent = |other: &&Snapshot| {
                (&other.namespace, &other.snapshotter, &other.row.info.key)
                    == (&snapshot.namespace, &snapshot.snapshotter, parent)
                    && other.row.info.kind == SnapshotKind::Committed
            };
            if !self.snapshots.iter().any(|other| is_parent(&other)) {
                let what = format!("its parent {parent} is not there");
                report.problems.push(problem(super::snapshots::name(snapshot), what, Remedy::None));
            }
        }
        Ok(())
    }

    fn containers(&mut self, reader: &Reader, report: &mut Report, used: &mut BTreeSet<String>) -> Answer<()> {
        let mut there = BTreeSet::new();
        let count = records::<Container>(reader, schema::CONTAINERS, report, |namespace, id, container, report| {
            used.insert(namespace.to_owned());
            there.insert((namespace.to_owned(), id.to_owned()));
            let Some((snapshotter, key)) = container.snapshotter.zip(container.snapshot_key) else { return Ok(()) };
            if reader.snapshot(&Namespace::new(namespace)?, &snapshotter, &key).is_ok_and(|row| row.is_none()) {
                let what = format!("its snapshot {key} of {snapshotter} is not there: it can only be deleted");
                let subject = format!("container {id:?} in namespace {namespace:?}");
                report.problems.push(problem(subject, what, Remedy::None));
            }
            let place = (namespace.to_owned(), snapshotter.as_str().to_owned(), key.as_str().to_owned());
            self.containers.insert(place, id.to_owned());
            Ok(())
        })?;
        report.counts.push((count, "containers"));
        let orphan = |noun: &str, namespace: &str, id: &str, remedy| {
            problem(format!("{noun} {id:?} in namespace {namespace:?}"), "it has no container", remedy)
        };
        let tasks = records::<TaskRow>(reader, schema::TASKS, report, |namespace, id, row, report| {
            if !there.contains(&(namespace.to_owned(), id.to_owned())) {
                let remedy = Remedy::DropTask(row.namespace, row.container_id);
                report.problems.push(orphan("task", namespace, id, remedy));
            }
            Ok(())
        })?;
        report.counts.push((tasks, "tasks"));
        records::<RestartRecord>(reader, schema::RESTARTS, report, |namespace, id, _, report| {
            if !there.contains(&(namespace.to_owned(), id.to_owned())) {
                report.problems.push(orphan("restart", namespace, id, Remedy::None));
            }
            Ok(())
        })?;
        records::<HealthRecord>(reader, schema::HEALTH, report, |_, _, _, _| Ok(()))?;
        Ok(())
    }

    fn leases(&mut self, reader: &Reader, report: &mut Report) -> Answer<()> {
        let leases = records::<Lease>(reader, schema::LEASES, report, |_, _, _, _| Ok(()))?;
        report.counts.push((leases, "leases"));
        let own = |parts: [&str; 4]| parts.map(str::to_owned);
        let rows = collect(reader, schema::LEASE_RESOURCES, |(ns, lease, kind, id), ()| own([ns, lease, kind, id]))?;
        let back = collect(reader, schema::RESOURCE_LEASES, |(ns, kind, id, lease), ()| own([ns, lease, kind, id]))?;
        compare("resource_leases", &rows, &back, report);
        Ok(())
    }
}

/// The log: readable, and without gaps.
fn log(reader: &Reader, report: &mut Report) -> Answer<()> {
    let table = reader.transaction.open_table(schema::EVENTS).map_err(|e| refusal(DOING, e))?;
    let (mut count, mut last) = (0, None);
    for row in table.iter().map_err(|e| refusal(DOING, e))? {
        let (key, value) = row.map_err(|e| refusal(DOING, e))?;
        let seq = key.value();
        count += 1;
        if let Err(unreadable) = record::decode::<EventRecord>(value.value()) {
            report.problems.push(problem(format!("event {seq}"), unreadable.detail, Remedy::None));
        }
        if last.is_some_and(|last: u64| last + 1 != seq) {
            report.problems.push(problem(format!("event {seq}"), "the log has a gap before it", Remedy::None));
        }
        last = Some(seq);
    }
    report.counts.push((count, "events"));
    Ok(())
}

fn collect<K: redb::Key, V: redb::Value, T: Ord>(
    reader: &Reader,
    table: TableDefinition<K, V>,
    make: impl Fn(K::SelfType<'_>, V::SelfType<'_>) -> T,
) -> Answer<BTreeSet<T>> {
    let table = reader.transaction.open_table(table).map_err(|e| refusal(DOING, e))?;
    let mut rows = BTreeSet::new();
    for row in table.iter().map_err(|e| refusal(DOING, e))? {
        let (key, value) = row.map_err(|e| refusal(DOING, e))?;
        rows.insert(make(key.value(), value.value()));
    }
    Ok(rows)
}

fn compare<T: Ord>(table: &str, wanted: &BTreeSet<T>, stored: &BTreeSet<T>, report: &mut Report) {
    let (missing, extra) = (wanted.difference(stored).count(), stored.difference(wanted).count());
    if missing + extra > 0 {
        let what = format!("it lacks {missing} rows and has {extra} that nothing stands behind");
        report.problems.push(problem(format!("index {table}"), what, Remedy::Reindex));
    }
}
