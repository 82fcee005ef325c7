//! Reading: everything from one reader is of one moment, whatever is written meanwhile.

use crate::{
    error::refusal,
    record::{self, Record},
    row::{IngestRow, SnapshotRow, TaskRow},
    schema::{self, Key2, Key3, Prefix},
    write::{LogSize, oldest_at, weight},
};
use bytes::Bytes;
use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition};
use std::{ops::Range, sync::Arc};
use wharf_messages::{
    Answer, ContainerId, CursorName, Digest, ImageName, IngestRef, LeaseId, Namespace, Refusal, SnapshotKey,
    SnapshotterName, Stored, Timestamp,
    container::Container,
    content::ContentInfo,
    cursor::Cursor,
    event::{EventRecord, Seq},
    health::HealthRecord,
    image::Image,
    lease::{Lease, LeaseResource},
    namespace::NamespaceRecord,
    restart::RestartRecord,
};

const DOING: &str = "read the database";

/// How much of the log one call hands out, whatever the count: events can carry payloads of megabytes.
const EVENTS_MAX_BYTES: usize = 4 << 20;

/// Rows in the order of their keys, read as they are asked for. It keeps its moment alive, even when the reader is gone.
pub type Rows<T> = Box<dyn Iterator<Item = Answer<T>> + Send>;

/// A row where it lies, with the moment in which it lies there.
struct InPlace {
    value: AccessGuard<'static, schema::Bytes>,
    _moment: Arc<ReadOnlyTable<Key2, schema::Bytes>>,
}

impl AsRef<[u8]> for InPlace {
    fn as_ref(&self) -> &[u8] {
        self.value.value()
    }
}

/// A moment of the store.
///
/// Holding one for long keeps the pages of that moment from being reused: read, and let go.
pub struct Reader {
    pub(crate) transaction: ReadTransaction,
}

impl Reader {
    pub(crate) fn new(transaction: ReadTransaction) -> Self {
        Self { transaction }
    }

    /// Reads all namespaces, by name.
    ///
    /// # Errors
    /// As all reads: an operating error of the disk, `DataLoss` for a row that cannot be read.
    pub fn namespaces(&self) -> Answer<Rows<NamespaceRecord>> {
        let range = self.table(schema::NAMESPACES)?.range::<&str>(..).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| record::decode(row.map_err(|e| refusal(DOING, e))?.1.value()))))
    }

    /// Reads one namespace.
    ///
    /// # Errors
    /// As all reads.
    pub fn namespace(&self, name: &Namespace) -> Answer<Option<NamespaceRecord>> {
        let row = self.table(schema::NAMESPACES)?.get(name.as_str()).map_err(|e| refusal(DOING, e))?;
        row.map(|row| record::decode(row.value())).transpose()
    }

    /// Reads one image.
    ///
    /// # Errors
    /// As all reads.
    pub fn image(&self, namespace: &Namespace, name: &ImageName) -> Answer<Option<Image>> {
        self.get2(schema::IMAGES, namespace, name.as_str())
    }

    /// Reads a namespace's images, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn images(&self, namespace: &Namespace) -> Answer<Rows<Image>> {
        self.list2(schema::IMAGES, namespace)
    }

    /// Reads a namespace's containers, by id, for an answer: they are not copied, and keep the database's pages of this
    /// moment as long as they are there. What is kept for longer is to be taken [`apart`](Stored::apart).
    ///
    /// # Errors
    /// As all reads.
    pub fn containers_in_place(&self, namespace: &Namespace) -> Answer<Rows<Stored<Container>>> {
        let table = Arc::new(self.table(schema::CONTAINERS)?);
        let range = table.range(Prefix::new(namespace.as_str()).two()).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(move |row| {
            let value = row.map_err(|e| refusal(DOING, e))?.1;
            record::in_place(Bytes::from_owner(InPlace { value, _moment: table.clone() }))
        })))
    }

    /// Reads one container.
    ///
    /// # Errors
    /// As all reads.
    pub fn container(&self, namespace: &Namespace, id: &ContainerId) -> Answer<Option<Container>> {
        self.get2(schema::CONTAINERS, namespace, id.as_str())
    }

    /// Reads a namespace's containers, by id.
    ///
    /// # Errors
    /// As all reads.
    pub fn containers(&self, namespace: &Namespace) -> Answer<Rows<Container>> {
        self.list2(schema::CONTAINERS, namespace)
    }

    /// Reads one task.
    ///
    /// # Errors
    /// As all reads.
    pub fn task(&self, namespace: &Namespace, id: &ContainerId) -> Answer<Option<TaskRow>> {
        self.get2(schema::TASKS, namespace, id.as_str())
    }

    /// Reads a namespace's tasks, by container.
    ///
    /// # Errors
    /// As all reads.
    pub fn tasks(&self, namespace: &Namespace) -> Answer<Rows<TaskRow>> {
        self.list2(schema::TASKS, namespace)
    }

    /// Reads all tasks there are: what a daemon that starts must look after.
    ///
    /// # Errors
    /// As all reads.
    pub fn all_tasks(&self) -> Answer<Rows<TaskRow>> {
        let range = self.table(schema::TASKS)?.range::<(&str, &str)>(..).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| record::decode(row.map_err(|e| refusal(DOING, e))?.1.value()))))
    }

    /// Reads how far a container's restart has come.
    ///
    /// # Errors
    /// As all reads.
    pub fn restart(&self, namespace: &Namespace, id: &ContainerId) -> Answer<Option<RestartRecord>> {
        self.get2(schema::RESTARTS, namespace, id.as_str())
    }

    /// Reads how a task fares.
    ///
    /// # Errors
    /// As all reads.
    pub fn health(&self, namespace: &Namespace, id: &ContainerId) -> Answer<Option<HealthRecord>> {
        self.get2(schema::HEALTH, namespace, id.as_str())
    }

    /// Reads how a namespace's tasks fare, by container.
    ///
    /// # Errors
    /// As all reads.
    pub fn healths(&self, namespace: &Namespace) -> Answer<Rows<HealthRecord>> {
        self.list2(schema::HEALTH, namespace)
    }

    /// Reads one snapshot.
    ///
    /// # Errors
    /// As all reads.
    pub fn snapshot(
        &self,
        namespace: &Namespace,
        snapshotter: &SnapshotterName,
        key: &SnapshotKey,
    ) -> Answer<Option<SnapshotRow>> {
        let key = (namespace.as_str(), snapshotter.as_str(), key.as_str());
        let row = self.table(schema::SNAPSHOTS)?.get(key).map_err(|e| refusal(DOING, e))?;
        row.map(|row| record::decode(row.value())).transpose()
    }

    /// Reads a namespace's snapshots of one snapshotter, by key.
    ///
    /// # Errors
    /// As all reads.
    pub fn snapshots(&self, namespace: &Namespace, snapshotter: &SnapshotterName) -> Answer<Rows<SnapshotRow>> {
        let prefix = Prefix::new(snapshotter.as_str());
        self.list3(schema::SNAPSHOTS, prefix.three_in(namespace.as_str()))
    }

    /// Reads a namespace's snapshots of all snapshotters, by snapshotter and key.
    ///
    /// # Errors
    /// As all reads.
    pub fn all_snapshots(&self, namespace: &Namespace) -> Answer<Rows<(SnapshotterName, SnapshotRow)>> {
        let prefix = Prefix::new(namespace.as_str());
        let range = self.table(schema::SNAPSHOTS)?.range(prefix.three()).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| {
            let (key, value) = row.map_err(|e| refusal(DOING, e))?;
            Ok((parse(key.value().1, SnapshotterName::new)?, record::decode(value.value())?))
        })))
    }

    /// Reads the ids of what a snapshot stands on, nearest first.
    ///
    /// # Errors
    /// As all reads; `DataLoss` if one of them has no row.
    pub fn ancestors(&self, snapshotter: &SnapshotterName, row: &SnapshotRow) -> Answer<Vec<u64>> {
        let table = self.table(schema::SNAPSHOT_IDS)?;
        let mut ids = Vec::new();
        let mut next = row.parent_id;
        while let Some(id) = next {
            ids.push(id);
            let parent = table.get((snapshotter.as_str(), id)).map_err(|e| refusal(DOING, e))?;
            let parent = parent.ok_or_else(|| {
                Refusal::data_loss(format!("snapshot {} stands on {snapshotter} {id}, which has no row", row.info.key))
            })?;
            next = Some(parent.value().0).filter(|id| *id != 0);
        }
        Ok(ids)
    }

    /// Reads the ids of the snapshots that stand directly on one.
    ///
    /// # Errors
    /// As all reads.
    pub fn children(&self, snapshotter: &SnapshotterName, id: u64) -> Answer<Vec<u64>> {
        let name = snapshotter.as_str();
        let range = self
            .table(schema::SNAPSHOT_CHILDREN)?
            .range((name, id, 0)..=(name, id, u64::MAX))
            .map_err(|e| refusal(DOING, e))?;
        range.map(|row| Ok(row.map_err(|e| refusal(DOING, e))?.0.value().2)).collect()
    }

    /// Reads which snapshot of which namespace has an id.
    ///
    /// # Errors
    /// As all reads.
    pub fn snapshot_by_id(&self, snapshotter: &SnapshotterName, id: u64) -> Answer<Option<(Namespace, SnapshotKey)>> {
        let row = self.table(schema::SNAPSHOT_IDS)?.get((snapshotter.as_str(), id)).map_err(|e| refusal(DOING, e))?;
        row.map(|row| {
            let (_, namespace, key) = row.value();
            Ok((parse(namespace, Namespace::new)?, parse(key, SnapshotKey::new)?))
        })
        .transpose()
    }

    /// Reads all ids of one snapshotter, ascending: a folder that is not among them is rubbish.
    ///
    /// # Errors
    /// As all reads.
    pub fn snapshot_ids(&self, snapshotter: &SnapshotterName) -> Answer<Rows<u64>> {
        let name = snapshotter.as_str();
        let range =
            self.table(schema::SNAPSHOT_IDS)?.range((name, 0)..=(name, u64::MAX)).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| Ok(row.map_err(|e| refusal(DOING, e))?.0.value().1))))
    }

    /// Reads the largest id of one snapshotter; 0 if it has none.
    ///
    /// # Errors
    /// As all reads.
    pub fn max_snapshot_id(&self, snapshotter: &SnapshotterName) -> Answer<u64> {
        let name = snapshotter.as_str();
        let mut range =
            self.table(schema::SNAPSHOT_IDS)?.range((name, 0)..=(name, u64::MAX)).map_err(|e| refusal(DOING, e))?;
        match range.next_back() {
            None => Ok(0),
            Some(row) => Ok(row.map_err(|e| refusal(DOING, e))?.0.value().1),
        }
    }

    /// Reads about one blob as a namespace sees it.
    ///
    /// # Errors
    /// As all reads.
    pub fn content(&self, namespace: &Namespace, digest: &Digest) -> Answer<Option<ContentInfo>> {
        self.get2(schema::CONTENT, namespace, digest.as_str())
    }

    /// Reads about a namespace's blobs, by digest.
    ///
    /// # Errors
    /// As all reads.
    pub fn contents(&self, namespace: &Namespace) -> Answer<Rows<ContentInfo>> {
        self.list2(schema::CONTENT, namespace)
    }

    /// Reads the length of a blob that any namespace has.
    ///
    /// # Errors
    /// As all reads.
    pub fn blob(&self, digest: &Digest) -> Answer<Option<u64>> {
        let prefix = Prefix::new(digest.as_str());
        let mut range = self.table(schema::BLOBS)?.range(prefix.two()).map_err(|e| refusal(DOING, e))?;
        range.next().map(|row| Ok(row.map_err(|e| refusal(DOING, e))?.1.value())).transpose()
    }

    /// Reads which namespaces have a blob.
    ///
    /// # Errors
    /// As all reads.
    pub fn blob_namespaces(&self, digest: &Digest) -> Answer<Vec<Namespace>> {
        let prefix = Prefix::new(digest.as_str());
        let range = self.table(schema::BLOBS)?.range(prefix.two()).map_err(|e| refusal(DOING, e))?;
        range.map(|row| parse(row.map_err(|e| refusal(DOING, e))?.0.value().1, Namespace::new)).collect()
    }

    /// Reads every blob of every namespace: its name and its length.
    ///
    /// # Errors
    /// As all reads.
    pub fn all_blobs(&self) -> Answer<Rows<(Digest, u64)>> {
        let range = self.table(schema::BLOBS)?.range::<(&str, &str)>(..).map_err(|e| refusal(DOING, e))?;
        let mut last: Option<Digest> = None;
        Ok(Box::new(range.filter_map(move |row| {
            let step = || {
                let (key, size) = row.map_err(|e| refusal(DOING, e))?;
                let text = key.value().0;
                if last.as_ref().is_some_and(|digest| digest.as_str() == text) {
                    return Ok(None); // the same in another namespace
                }
                let digest = parse(text, Digest::new)?;
                last = Some(digest.clone());
                Ok(Some((digest, size.value())))
            };
            step().transpose()
        })))
    }

    /// Reads one ingest.
    ///
    /// # Errors
    /// As all reads.
    pub fn ingest(&self, namespace: &Namespace, reference: &IngestRef) -> Answer<Option<IngestRow>> {
        self.get2(schema::INGESTS, namespace, reference.as_str())
    }

    /// Reads a namespace's ingests, by reference.
    ///
    /// # Errors
    /// As all reads.
    pub fn ingests(&self, namespace: &Namespace) -> Answer<Rows<IngestRow>> {
        self.list2(schema::INGESTS, namespace)
    }

    /// Reads every ingest of every namespace.
    ///
    /// # Errors
    /// As all reads.
    pub fn all_ingests(&self) -> Answer<Rows<(Namespace, IngestRow)>> {
        let range = self.table(schema::INGESTS)?.range::<(&str, &str)>(..).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| {
            let (key, value) = row.map_err(|e| refusal(DOING, e))?;
            Ok((parse(key.value().0, Namespace::new)?, record::decode(value.value())?))
        })))
    }

    /// Reads one lease.
    ///
    /// # Errors
    /// As all reads.
    pub fn lease(&self, namespace: &Namespace, id: &LeaseId) -> Answer<Option<Lease>> {
        self.get2(schema::LEASES, namespace, id.as_str())
    }

    /// Reads a namespace's leases, by id.
    ///
    /// # Errors
    /// As all reads.
    pub fn leases(&self, namespace: &Namespace) -> Answer<Rows<Lease>> {
        self.list2(schema::LEASES, namespace)
    }

    /// Reads what a lease protects, by kind and id.
    ///
    /// # Errors
    /// As all reads.
    pub fn lease_resources(&self, namespace: &Namespace, id: &LeaseId) -> Answer<Rows<LeaseResource>> {
        let prefix = Prefix::new(id.as_str());
        let range = self
            .table(schema::LEASE_RESOURCES)?
            .range(prefix.four_in(namespace.as_str()))
            .map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| {
            let key = row.map_err(|e| refusal(DOING, e))?.0;
            let (_, _, kind, id) = key.value();
            Ok(LeaseResource { kind: kind.to_owned(), id: id.to_owned() })
        })))
    }

    /// Reads which leases protect something.
    ///
    /// # Errors
    /// As all reads.
    pub fn leases_of(&self, namespace: &Namespace, resource: &LeaseResource) -> Answer<Vec<LeaseId>> {
        let end = schema::after(&resource.id);
        let (ns, kind) = (namespace.as_str(), resource.kind.as_str());
        let range = self
            .table(schema::RESOURCE_LEASES)?
            .range((ns, kind, resource.id.as_str(), "")..(ns, kind, end.as_str(), ""))
            .map_err(|e| refusal(DOING, e))?;
        range.map(|row| parse(row.map_err(|e| refusal(DOING, e))?.0.value().3, LeaseId::new)).collect()
    }

    /// Reads the log from the first event after a place on: at most `max_count`, and fewer if they are large, but one
    /// if there is one.
    ///
    /// # Errors
    /// As all reads.
    pub fn events(&self, after: Seq, max_count: usize) -> Answer<Vec<EventRecord>> {
        let Some(from) = after.0.checked_add(1) else { return Ok(Vec::new()) };
        let range = self.table(schema::EVENTS)?.range(from..).map_err(|e| refusal(DOING, e))?;
        let mut events = Vec::new();
        let mut size_bytes = 0;
        for row in range.take(max_count) {
            let value = row.map_err(|e| refusal(DOING, e))?.1;
            size_bytes += value.value().len();
            if size_bytes > EVENTS_MAX_BYTES && !events.is_empty() {
                break;
            }
            events.push(record::decode(value.value())?);
        }
        Ok(events)
    }

    /// The log as it lies. Where an older wharf wrote it, its bytes are counted.
    ///
    /// # Errors
    /// As all reads.
    pub fn log_size(&self) -> Answer<LogSize> {
        let table = self.table(schema::EVENTS)?;
        let (first, last) = (self.first_seq()?, self.last_seq()?);
        let kept = self.table(schema::META)?.get(schema::META_LOG_BYTES).map_err(|e| refusal(DOING, e))?;
        let kept = kept.and_then(|bytes| Some(u64::from_le_bytes(bytes.value().try_into().ok()?)));
        let bytes = match kept {
            Some(bytes) => bytes,
            None => {
                let rows = table.range::<u64>(..).map_err(|e| refusal(DOING, e))?;
                rows.map(|row| Ok(weight(row?.1.value())))
                    .sum::<Result<_, _>>()
                    .map_err(|e: redb::Error| refusal(DOING, e))?
            }
        };
        let oldest_at = oldest_at(&table).map_err(|e| refusal(DOING, e))?;
        Ok(LogSize { first: first.unwrap_or(Seq(last.0 + 1)), last, bytes, oldest_at })
    }

    /// Reads all cursors, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn cursors(&self) -> Answer<Rows<Cursor>> {
        let range = self.table(schema::CURSORS)?.range::<&str>(..).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| record::decode(row.map_err(|e| refusal(DOING, e))?.1.value()))))
    }

    /// Reads one cursor.
    ///
    /// # Errors
    /// As all reads.
    pub fn cursor(&self, name: &CursorName) -> Answer<Option<Cursor>> {
        let row = self.table(schema::CURSORS)?.get(name.as_str()).map_err(|e| refusal(DOING, e))?;
        row.map(|row| record::decode(row.value())).transpose()
    }

    /// The oldest event that the log still has.
    ///
    /// # Errors
    /// As all reads.
    pub fn first_seq(&self) -> Answer<Option<Seq>> {
        let table = self.table(schema::EVENTS)?;
        let first = table.first().map_err(|e| refusal(DOING, e))?;
        Ok(first.map(|(seq, _)| Seq(seq.value())))
    }

    /// The log's end; 0 if nothing was ever written.
    ///
    /// # Errors
    /// As all reads.
    pub fn last_seq(&self) -> Answer<Seq> {
        let table = self.table(schema::EVENTS)?;
        let last = table.last().map_err(|e| refusal(DOING, e))?;
        Ok(last.map(|(seq, _)| Seq(seq.value())).unwrap_or_default())
    }

    /// The place before the first event at or after a time, by halving: reading on from it gives all that came since.
    ///
    /// Times inform and do not order: where the clock was set back, the answer is one of the places where it fits.
    ///
    /// # Errors
    /// As all reads.
    pub fn seq_at(&self, time: Timestamp) -> Answer<Seq> {
        let table = self.table(schema::EVENTS)?;
        let Some(Seq(first)) = self.first_seq()? else { return Ok(Seq(0)) };
        let Seq(last) = self.last_seq()?;
        // Before `low` all are earlier; from `high` on none is.
        let (mut low, mut high) = (first, last + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            let row = table.get(middle).map_err(|e| refusal(DOING, e))?;
            let row = row.ok_or_else(|| Refusal::data_loss(format!("event {middle} is missing from the log")))?;
            if record::decode::<EventRecord>(row.value())?.at < time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Seq(low - 1))
    }

    fn table<K: redb::Key, V: redb::Value>(&self, table: TableDefinition<K, V>) -> Answer<ReadOnlyTable<K, V>> {
        self.transaction.open_table(table).map_err(|e| refusal(DOING, e))
    }

    fn get2<R: Record>(
        &self,
        table: TableDefinition<Key2, schema::Bytes>,
        namespace: &Namespace,
        name: &str,
    ) -> Answer<Option<R>> {
        let row = self.table(table)?.get((namespace.as_str(), name)).map_err(|e| refusal(DOING, e))?;
        row.map(|row| record::decode(row.value())).transpose()
    }

    fn list2<R: Record + 'static>(
        &self,
        table: TableDefinition<Key2, schema::Bytes>,
        namespace: &Namespace,
    ) -> Answer<Rows<R>> {
        let prefix = Prefix::new(namespace.as_str());
        let range = self.table(table)?.range(prefix.two()).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| record::decode(row.map_err(|e| refusal(DOING, e))?.1.value()))))
    }

    fn list3<R: Record + 'static>(
        &self,
        table: TableDefinition<Key3, schema::Bytes>,
        range: Range<(&str, &str, &str)>,
    ) -> Answer<Rows<R>> {
        let range = self.table(table)?.range(range).map_err(|e| refusal(DOING, e))?;
        Ok(Box::new(range.map(|row| record::decode(row.map_err(|e| refusal(DOING, e))?.1.value()))))
    }
}

/// Reads an identifier out of a key. It was checked on the way in, so what does not fit is damage.
fn parse<'a, T>(text: &'a str, new: impl FnOnce(&'a str) -> Result<T, Refusal>) -> Answer<T> {
    new(text).map_err(|e| Refusal::data_loss(format!("stored key: {}", e.detail)))
}
