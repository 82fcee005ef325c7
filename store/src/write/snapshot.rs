//! Changes of snapshots.

use super::batch::{Done, Fault, Scope};
use crate::{
    change::{NewSnapshot, Outcome},
    record, refuse,
    row::SnapshotRow,
};
use redb::ReadableTable;
use wharf_messages::{
    Labels, Namespace, Refusal, SnapshotKey, SnapshotterName,
    event::Event,
    gc::Resource,
    labels,
    lease::LeaseResource,
    snapshot::{SNAPSHOT_REF_LABEL, SnapshotInfo, SnapshotKind, Usage},
};

const FIELD: &str = "info.Labels";

impl Scope<'_, '_, '_> {
    pub fn prepare_snapshot(&mut self, ns: &Namespace, new: &NewSnapshot) -> Done {
        let NewSnapshot { snapshotter, key, parent, kind, id, .. } = new;
        if *kind == SnapshotKind::Committed || *id == 0 {
            let why = format!("snapshot {key} must be made as an active one or a view, with an id above 0");
            return Err(Refusal::invalid(why).into());
        }
        let mut labels = new.labels.clone();
        labels::drop_empty(&mut labels);
        labels::validate(FIELD, &labels)?;
        if let Some(target) = labels.get(SNAPSHOT_REF_LABEL) {
            let target = SnapshotKey::new(target).map_err(|e| e.context(format_args!("label {SNAPSHOT_REF_LABEL}")))?;
            if self.snapshot(ns, snapshotter, &target)?.is_some() {
                return Err(exists(format!("target snapshot {target:?}"), snapshotter, &target));
            }
        }
        if self.snapshot(ns, snapshotter, key)?.is_some() {
            return Err(exists(format!("snapshot {key:?}"), snapshotter, key));
        }
        if self.batch.tables.snapshot_ids.get((snapshotter.as_str(), *id))?.is_some() {
            return Err(Refusal::internal(format!("snapshot {key}: id {id} of {snapshotter} is taken")).into());
        }
        let parent_id = parent.as_ref().map(|parent| self.parent(ns, snapshotter, parent)).transpose()?;
        let row = SnapshotRow {
            info: SnapshotInfo {
                key: key.clone(),
                parent: parent.clone(),
                kind: *kind,
                labels,
                created_at: self.now,
                updated_at: self.now,
            },
            id: *id,
            parent_id,
            usage: None,
        };
        self.write_snapshot(ns, snapshotter, &row)?;
        self.lease(resource(snapshotter, key))?;
        if *kind == SnapshotKind::Active {
            let (snapshotter, key, parent) = (snapshotter.clone(), key.clone(), parent.clone());
            self.tell(Event::SnapshotPrepared { snapshotter, key, parent });
        }
        Ok(Outcome::Snapshot(row))
    }

    #[allow(clippy::too_many_arguments)] // The fields of one change.
    pub fn commit_snapshot(
        &mut self,
        ns: &Namespace,
        snapshotter: &SnapshotterName,
        key: &SnapshotKey,
        name: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
        usage: Usage,
    ) -> Done {
        if self.snapshot(ns, snapshotter, name)?.is_some() {
            return Err(exists(format!("snapshot {name:?}"), snapshotter, name));
        }
        let old = self.snapshot(ns, snapshotter, key)?.ok_or_else(|| refuse::no_snapshot(key))?;
        if old.info.kind != SnapshotKind::Active {
            return Err(refuse::not_active(key).into());
        }
        let (parent, parent_id) = match (&old.info.parent, parent) {
            (None, Some(late)) => (Some(late.clone()), Some(self.parent(ns, snapshotter, late)?)),
            (Some(had), Some(late)) if had != late => {
                let why = format!("snapshot {key} stands on {had} and cannot be moved onto {late}");
                return Err(Refusal::failed_precondition(why).into());
            }
            (had, _) => (had.clone(), old.parent_id),
        };
        let mut labels = labels.clone();
        labels::drop_empty(&mut labels);
        labels::validate(FIELD, &labels)?;
        self.drop_snapshot(ns, snapshotter, &old)?;
        let row = SnapshotRow {
            info: SnapshotInfo {
                key: name.clone(),
                parent,
                kind: SnapshotKind::Committed,
                labels,
                created_at: self.now,
                updated_at: self.now,
            },
            id: old.id,
            parent_id,
            usage: Some(usage),
        };
        self.write_snapshot(ns, snapshotter, &row)?;
        self.unlease(&resource(snapshotter, key))?;
        self.lease(resource(snapshotter, name))?;
        let (snapshotter, key, name) = (snapshotter.clone(), key.clone(), name.clone());
        self.tell(Event::SnapshotCommitted { snapshotter, key, name });
        Ok(Outcome::Snapshot(row))
    }

    pub fn update_snapshot(
        &mut self,
        ns: &Namespace,
        snapshotter: &SnapshotterName,
        key: &SnapshotKey,
        labels: &Labels,
        mask: &[String],
    ) -> Done {
        let mut row = self.snapshot(ns, snapshotter, key)?.ok_or_else(|| refuse::no_snapshot(key))?;
        labels::apply(&mut row.info.labels, labels, mask, format_args!("snapshot {key:?}"))?;
        labels::validate(FIELD, &row.info.labels)?;
        row.info.updated_at = self.now;
        self.write_snapshot(ns, snapshotter, &row)?;
        Ok(Outcome::Snapshot(row))
    }

    pub fn remove_snapshot(&mut self, ns: &Namespace, snapshotter: &SnapshotterName, key: &SnapshotKey) -> Done {
        let row = self.snapshot(ns, snapshotter, key)?.ok_or_else(|| refuse::no_snapshot(key))?;
        let name = snapshotter.as_str();
        let children = (name, row.id, 0)..=(name, row.id, u64::MAX);
        if self.batch.tables.snapshot_children.range(children)?.next().transpose()?.is_some() {
            return Err(Refusal::failed_precondition("cannot remove snapshot with child").into());
        }
        self.drop_snapshot(ns, snapshotter, &row)?;
        self.unlease(&resource(snapshotter, key))?;
        self.tell(Event::SnapshotRemoved { snapshotter: snapshotter.clone(), key: key.clone() });
        Ok(Outcome::Snapshot(row))
    }

    pub fn snapshot(
        &mut self,
        ns: &Namespace,
        snapshotter: &SnapshotterName,
        key: &SnapshotKey,
    ) -> Done<Option<SnapshotRow>> {
        let key = (ns.as_str(), snapshotter.as_str(), key.as_str());
        let row = self.batch.tables.snapshots.get(key)?;
        Ok(row.map(|row| record::decode(row.value())).transpose()?)
    }

    /// The id of what a snapshot is to stand on.
    fn parent(&mut self, ns: &Namespace, snapshotter: &SnapshotterName, parent: &SnapshotKey) -> Done<u64> {
        let row = self.snapshot(ns, snapshotter, parent)?;
        let row = row.ok_or_else(|| refuse::no_parent(parent))?;
        if row.info.kind != SnapshotKind::Committed {
            return Err(refuse::parent_not_committed(parent).into());
        }
        Ok(row.id)
    }

    /// Writes the row and both its indexes.
    fn write_snapshot(&mut self, ns: &Namespace, snapshotter: &SnapshotterName, row: &SnapshotRow) -> Done<()> {
        self.ensure_namespace(ns)?;
        self.note(ns, || Resource::Snapshot(snapshotter.clone(), row.info.key.clone()));
        let (ns, name, key) = (ns.as_str(), snapshotter.as_str(), row.info.key.as_str());
        let bytes = record::encode(row)?;
        self.put(|t| &mut t.snapshots, (ns, name, key), bytes.as_slice())?;
        self.put(|t| &mut t.snapshot_ids, (name, row.id), (row.parent_id.unwrap_or(0), ns, key))?;
        if let Some(parent_id) = row.parent_id {
            self.put(|t| &mut t.snapshot_children, (name, parent_id, row.id), ())?;
        }
        Ok(())
    }

    /// Removes the row and both its indexes.
    fn drop_snapshot(&mut self, ns: &Namespace, snapshotter: &SnapshotterName, row: &SnapshotRow) -> Done<()> {
        let name = snapshotter.as_str();
        self.remove(|t| &mut t.snapshots, (ns.as_str(), name, row.info.key.as_str()))?;
        self.remove(|t| &mut t.snapshot_ids, (name, row.id))?;
        if let Some(parent_id) = row.parent_id {
            self.remove(|t| &mut t.snapshot_children, (name, parent_id, row.id))?;
        }
        Ok(())
    }
}

fn resource(snapshotter: &SnapshotterName, key: &SnapshotKey) -> LeaseResource {
    LeaseResource { kind: format!("snapshots/{snapshotter}"), id: key.as_str().to_owned() }
}

fn exists(what: String, snapshotter: &SnapshotterName, key: &SnapshotKey) -> Fault {
    Fault::Exists(Refusal::already_exists(what), resource(snapshotter, key))
}
