//! Writing the index tables anew from the rows that they speak of.

use super::batch::Batch;
use crate::{record, row::SnapshotRow};
use redb::ReadableTable;
use wharf_messages::content::ContentInfo;

impl Batch<'_, '_> {
    /// Writes all indexes anew. Rows that cannot be read are left out, as they are everywhere.
    pub fn reindex(&mut self) -> Result<(), redb::Error> {
        let mut snapshots = Vec::new();
        for row in self.tables.snapshots.iter()? {
            let (key, value) = row?;
            let (namespace, snapshotter, name) = key.value();
            let Ok(row) = record::decode::<SnapshotRow>(value.value()) else { continue };
            snapshots.push((namespace.to_owned(), snapshotter.to_owned(), name.to_owned(), row.id, row.parent_id));
        }
        // No undo: nothing can refuse it.
        self.tables.snapshot_ids.retain(|_, _| false)?;
        self.tables.snapshot_children.retain(|_, ()| false)?;
        for (namespace, snapshotter, name, id, parent) in &snapshots {
            let place = (parent.unwrap_or(0), namespace.as_str(), name.as_str());
            self.tables.snapshot_ids.insert((snapshotter.as_str(), *id), place)?;
            if let Some(parent) = parent {
                self.tables.snapshot_children.insert((snapshotter.as_str(), *parent, *id), ())?;
            }
        }
        let mut content = Vec::new();
        for row in self.tables.content.iter()? {
            let (key, value) = row?;
            let Ok(info) = record::decode::<ContentInfo>(value.value()) else { continue };
            content.push((info.digest, key.value().0.to_owned(), info.size_bytes));
        }
        self.tables.blobs.retain(|_, _| false)?;
        for (digest, namespace, size_bytes) in &content {
            self.tables.blobs.insert((digest.as_str(), namespace.as_str()), *size_bytes)?;
        }
        let mut leased = Vec::new();
        for row in self.tables.lease_resources.iter()? {
            let (key, _) = row?;
            let (namespace, lease, kind, id) = key.value();
            leased.push([namespace, lease, kind, id].map(str::to_owned));
        }
        self.tables.resource_leases.retain(|_, ()| false)?;
        for [namespace, lease, kind, id] in &leased {
            self.tables.resource_leases.insert((namespace.as_str(), kind.as_str(), id.as_str(), lease.as_str()), ())?;
        }
        self.touch();
        Ok(())
    }
}
