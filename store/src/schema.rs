//! The database, drawn once. Everything is in `<root>/wharf.redb`.
//!
//! ```text
//! table               key                                       value
//! ------------------  ----------------------------------------  ---------------------------------------------
//! meta                "schema" | "uuid" | "log_bytes"           u32 little-endian | text | u64 little-endian
//! events              seq                                       EventRecord         the log; gap-free from first to last
//! requests            request's id                              seq                 the newest done; seq: the log's end then
//!
//! cursors             name                                      Cursor              who has read how far
//!
//! namespaces          namespace                                 NamespaceRecord
//! images              namespace, name                           Image
//! containers          namespace, id                             Container
//! tasks               namespace, container id                   TaskRow
//! restarts            namespace, container id                   RestartRecord       goes with the container
//! health              namespace, container id                   HealthRecord        goes with the task
//!
//! snapshots           namespace, snapshotter, key               SnapshotRow
//! snapshot_ids        snapshotter, id                           parent's id (0: none), namespace, key
//! snapshot_children   snapshotter, parent's id, id              ()
//!
//! content             namespace, digest                         ContentInfo
//! blobs               digest, namespace                         length               which namespaces have a blob
//! ingests             namespace, reference                      IngestRow
//!
//! leases              namespace, id                             Lease
//! lease_resources     namespace, lease, kind, id                ()
//! resource_leases     namespace, kind, id, lease                ()                   the same, the other way round
//! ```
//!
//! Records are a version byte and bincode (see [`crate::record`]). The lower table of each pair below a rule is an index:
//! it says nothing that the upper one does not, and changes in the same transaction.
//!
//! **Invariants.** Ids of snapshots start at 1 and are unique in a snapshotter over all namespaces. A snapshot's parent is
//! in the same namespace and committed. A task's container has a row. A row's namespace has a row.

use redb::TableDefinition;
use std::ops::Range;

/// A key of two parts, the namespace first.
pub(crate) type Key2 = (&'static str, &'static str);
/// A key of three parts, the namespace first.
pub(crate) type Key3 = (&'static str, &'static str, &'static str);
/// A key of four parts, the namespace first.
pub(crate) type Key4 = (&'static str, &'static str, &'static str, &'static str);
/// An encoded record.
pub(crate) type Bytes = &'static [u8];

/// The version of this drawing. A daemon refuses a database with a larger one.
pub const SCHEMA_VERSION: u32 = 1;
/// The database's file below the root.
pub const DATABASE_FILE: &str = "wharf.redb";

pub(crate) const META: TableDefinition<&str, Bytes> = TableDefinition::new("meta");
pub(crate) const META_SCHEMA: &str = "schema";
pub(crate) const META_UUID: &str = "uuid";
/// How many bytes the log has, so that nobody must walk it to know.
pub(crate) const META_LOG_BYTES: &str = "log_bytes";
pub(crate) const EVENTS: TableDefinition<u64, Bytes> = TableDefinition::new("events");
pub(crate) const CURSORS: TableDefinition<&str, Bytes> = TableDefinition::new("cursors");
pub(crate) const REQUESTS: TableDefinition<u64, u64> = TableDefinition::new("requests");
pub(crate) const NAMESPACES: TableDefinition<&str, Bytes> = TableDefinition::new("namespaces");
pub(crate) const IMAGES: TableDefinition<Key2, Bytes> = TableDefinition::new("images");
pub(crate) const CONTAINERS: TableDefinition<Key2, Bytes> = TableDefinition::new("containers");
pub(crate) const TASKS: TableDefinition<Key2, Bytes> = TableDefinition::new("tasks");
pub(crate) const RESTARTS: TableDefinition<Key2, Bytes> = TableDefinition::new("restarts");
pub(crate) const HEALTH: TableDefinition<Key2, Bytes> = TableDefinition::new("health");
pub(crate) const SNAPSHOTS: TableDefinition<Key3, Bytes> = TableDefinition::new("snapshots");
pub(crate) const SNAPSHOT_IDS: TableDefinition<(&str, u64), (u64, &str, &str)> = TableDefinition::new("snapshot_ids");
pub(crate) const SNAPSHOT_CHILDREN: TableDefinition<(&str, u64, u64), ()> = TableDefinition::new("snapshot_children");
pub(crate) const CONTENT: TableDefinition<Key2, Bytes> = TableDefinition::new("content");
pub(crate) const BLOBS: TableDefinition<Key2, u64> = TableDefinition::new("blobs");
pub(crate) const INGESTS: TableDefinition<Key2, Bytes> = TableDefinition::new("ingests");
pub(crate) const LEASES: TableDefinition<Key2, Bytes> = TableDefinition::new("leases");
pub(crate) const LEASE_RESOURCES: TableDefinition<Key4, ()> = TableDefinition::new("lease_resources");
pub(crate) const RESOURCE_LEASES: TableDefinition<Key4, ()> = TableDefinition::new("resource_leases");

/// The first text that sorts after `text`: names have no control characters, so nothing is between the two.
pub(crate) fn after(text: &str) -> String {
    format!("{text}\0")
}

/// Where a first part's rows begin and end; [`Prefix::two`] and its sisters make the range.
pub(crate) struct Prefix<'a> {
    first: &'a str,
    end: String,
}

impl<'a> Prefix<'a> {
    /// All rows whose key begins with `first`.
    pub fn new(first: &'a str) -> Self {
        Self { first, end: after(first) }
    }

    /// For keys of two parts.
    pub fn two(&self) -> Range<(&str, &str)> {
        (self.first, "")..(self.end.as_str(), "")
    }

    /// For keys of three parts.
    pub fn three(&self) -> Range<(&str, &str, &str)> {
        (self.first, "", "")..(self.end.as_str(), "", "")
    }

    /// For keys of three parts that begin with `outer` and this one.
    pub fn three_in<'b>(&'b self, outer: &'b str) -> Range<(&'b str, &'b str, &'b str)> {
        (outer, self.first, "")..(outer, self.end.as_str(), "")
    }

    /// For keys of four parts that begin with `outer` and this one.
    pub fn four_in<'b>(&'b self, outer: &'b str) -> Range<(&'b str, &'b str, &'b str, &'b str)> {
        (outer, self.first, "", "")..(outer, self.end.as_str(), "", "")
    }
}
