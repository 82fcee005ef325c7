//! Changes of namespaces.

use super::{
    batch::{Done, Scope},
    tables::any,
};
use crate::{change::Outcome, record, refuse, schema::Prefix};
use redb::ReadableTable;
use wharf_messages::{
    Labels, Namespace, Refusal,
    event::Event,
    labels,
    namespace::{CreateNamespace, NamespaceRecord, UpdateNamespace},
};

const FIELD: &str = "namespace.Labels";

impl Scope<'_, '_, '_> {
    pub fn create_namespace(&mut self, call: &CreateNamespace) -> Done {
        if self.namespace(&call.name)?.is_some() {
            return Err(Refusal::already_exists(format!("namespace {:?}", call.name)).into());
        }
        self.write_namespace(&call.name, call.labels.clone()).map(Outcome::Namespace)
    }

    pub fn update_namespace(&mut self, call: &UpdateNamespace) -> Done {
        let Some(mut record) = self.namespace(&call.name)? else {
            let mut fresh = Labels::new();
            labels::apply(&mut fresh, &call.labels, &call.mask, format_args!("namespace {:?}", call.name))?;
            return self.write_namespace(&call.name, fresh).map(Outcome::Namespace);
        };
        labels::apply(&mut record.labels, &call.labels, &call.mask, format_args!("namespace {:?}", call.name))?;
        labels::validate(FIELD, &record.labels)?;
        let bytes = record::encode(&record)?;
        self.put(|t| &mut t.namespaces, call.name.as_str(), bytes.as_slice())?;
        let event = Event::NamespaceUpdated { name: call.name.clone(), labels: record.labels.clone() };
        self.events.push((Some(call.name.clone()), event));
        Ok(Outcome::Namespace(record))
    }

    pub fn delete_namespace(&mut self, name: &Namespace) -> Done {
        if self.namespace(name)?.is_none() {
            return Err(refuse::no_namespace(name).into());
        }
        let rest = self.what_remains(name)?;
        if !rest.is_empty() {
            return Err(Refusal::failed_precondition(format!(
                "namespace {name:?} must be empty, but it still has {}",
                rest.join(", ")
            ))
            .into());
        }
        self.drop_leases_and_ingests(name)?;
        self.remove(|t| &mut t.namespaces, name.as_str())?;
        self.events.push((Some(name.clone()), Event::NamespaceDeleted { name: name.clone() }));
        Ok(Outcome::Done)
    }

    /// Makes the namespace's row, if this is the first write in it.
    pub fn ensure_namespace(&mut self, name: &Namespace) -> Done<()> {
        if self.batch.tables.namespaces.get(name.as_str())?.is_none() {
            self.write_namespace(name, Labels::new())?;
        }
        Ok(())
    }

    fn namespace(&mut self, name: &Namespace) -> Done<Option<NamespaceRecord>> {
        let row = self.batch.tables.namespaces.get(name.as_str())?;
        Ok(row.map(|row| record::decode(row.value())).transpose()?)
    }

    fn write_namespace(&mut self, name: &Namespace, mut labels: Labels) -> Done<NamespaceRecord> {
        labels::drop_empty(&mut labels);
        labels::validate(FIELD, &labels)?;
        let record = NamespaceRecord { name: name.clone(), labels };
        let bytes = record::encode(&record)?;
        self.put(|t| &mut t.namespaces, name.as_str(), bytes.as_slice())?;
        let event = Event::NamespaceCreated { name: name.clone(), labels: record.labels.clone() };
        self.events.push((Some(name.clone()), event));
        Ok(record)
    }

    /// What keeps a namespace from being deleted, in containerd's words.
    fn what_remains(&mut self, name: &Namespace) -> Done<Vec<String>> {
        let prefix = Prefix::new(name.as_str());
        let tables = &self.batch.tables;
        let mut rest = Vec::new();
        for (table, what) in
            [(&tables.images, "images"), (&tables.content, "blobs"), (&tables.containers, "containers")]
        {
            if any(table, prefix.two())? {
                rest.push(what.to_owned());
            }
        }
        // From each snapshotter's first snapshot on to the next snapshotter: one step each, however many snapshots.
        let mut from = String::new();
        loop {
            let end = prefix.three().end;
            let mut range = tables.snapshots.range((name.as_str(), from.as_str(), "")..end)?;
            let Some(row) = range.next() else { break };
            let snapshotter = row?.0.value().1.to_owned();
            rest.push(format!("snapshots on {snapshotter:?} snapshotter"));
            from = crate::schema::after(&snapshotter);
        }
        Ok(rest)
    }

    /// Leases and ingests go with their namespace, as in containerd; an ingest's file is swept.
    fn drop_leases_and_ingests(&mut self, name: &Namespace) -> Done<()> {
        let prefix = Prefix::new(name.as_str());
        let names = |range: redb::Range<'_, crate::schema::Key2, crate::schema::Bytes>| {
            range.map(|row| Ok(row?.0.value().1.to_owned())).collect::<Result<Vec<String>, redb::StorageError>>()
        };
        let leases = names(self.batch.tables.leases.range(prefix.two())?)?;
        let ingests = names(self.batch.tables.ingests.range(prefix.two())?)?;
        for lease in leases {
            self.drop_lease(name, &lease)?;
        }
        for ingest in ingests {
            self.remove(|t| &mut t.ingests, (name.as_str(), ingest.as_str()))?;
        }
        Ok(())
    }
}
