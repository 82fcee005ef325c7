//! Changes of blobs and ingests, as far as they are rows; the bytes are the affair of [`crate::blobs`].

use super::{
    batch::{Done, Fault, Scope},
    tables::any,
};
use crate::{change::Outcome, refuse, row::IngestRow, schema::Prefix};
use redb::ReadableTable;
use wharf_messages::{
    Digest, IngestRef, Labels, Namespace,
    content::{ContentInfo, UpdateContent},
    event::Event,
    gc::Resource,
    labels,
    lease::LeaseResource,
};

const FIELD: &str = "info.Labels";

impl Scope<'_, '_, '_> {
    pub fn create_content(&mut self, ns: &Namespace, digest: &Digest, size_bytes: u64, labels: &Labels) -> Done {
        if self.content(ns, digest)?.is_some() {
            return Err(Fault::Exists(refuse::content_exists(digest), blob(digest)));
        }
        let mut labels = labels.clone();
        labels::drop_empty(&mut labels);
        let info =
            ContentInfo { digest: digest.clone(), size_bytes, created_at: self.now, updated_at: self.now, labels };
        self.write_content(ns, &info)?;
        self.put(|t| &mut t.blobs, (digest.as_str(), ns.as_str()), size_bytes)?;
        self.lease(blob(digest))?;
        self.tell(Event::ContentCreated { digest: digest.clone(), size_bytes });
        Ok(Outcome::Content(info))
    }

    pub fn share_content(&mut self, ns: &Namespace, digest: &Digest, labels: &Labels) -> Done {
        let prefix = Prefix::new(digest.as_str());
        let first = self.batch.tables.blobs.range(prefix.two())?.next().transpose()?;
        let size_bytes = first.map(|(_, size)| size.value()).ok_or_else(|| refuse::no_content(digest))?;
        self.create_content(ns, digest, size_bytes, labels)
    }

    pub fn update_content(&mut self, ns: &Namespace, call: &UpdateContent) -> Done {
        let digest = &call.digest;
        let mut info = self.content(ns, digest)?.ok_or_else(|| refuse::no_content(digest))?;
        labels::apply(&mut info.labels, &call.labels, &call.mask, format_args!("content info {:?}", digest.as_str()))?;
        info.updated_at = self.now;
        self.write_content(ns, &info)?;
        Ok(Outcome::Content(info))
    }

    pub fn delete_content(&mut self, ns: &Namespace, digest: &Digest) -> Done {
        let info = self.content(ns, digest)?.ok_or_else(|| refuse::no_content(digest))?;
        self.remove(|t| &mut t.content, (ns.as_str(), digest.as_str()))?;
        self.remove(|t| &mut t.blobs, (digest.as_str(), ns.as_str()))?;
        self.unlease(&blob(digest))?;
        self.tell(Event::ContentDeleted { digest: digest.clone() });
        let last = !any(&self.batch.tables.blobs, Prefix::new(digest.as_str()).two())?;
        Ok(Outcome::ContentDeleted { info, last })
    }

    pub fn put_ingest(&mut self, ns: &Namespace, row: &IngestRow) -> Done {
        labels::validate(FIELD, &row.labels)?;
        let old: Option<IngestRow> = self.get2(|t| &mut t.ingests, ns, row.reference.as_str())?;
        let started_at = old.map_or(self.now, |old| old.started_at);
        let row = IngestRow { started_at, updated_at: self.now, ..row.clone() };
        self.note(ns, || Resource::Ingest(row.reference.clone()));
        self.put2(|t| &mut t.ingests, ns, row.reference.as_str(), &row)?;
        self.lease(ingest(&row.reference))?;
        Ok(Outcome::Ingest(row))
    }

    pub fn delete_ingest(&mut self, ns: &Namespace, reference: &IngestRef) -> Done {
        let row: Option<IngestRow> = self.get2(|t| &mut t.ingests, ns, reference.as_str())?;
        let row = row.ok_or_else(|| refuse::no_ingest(reference))?;
        self.remove(|t| &mut t.ingests, (ns.as_str(), reference.as_str()))?;
        self.unlease(&ingest(reference))?;
        Ok(Outcome::Ingest(row))
    }

    fn content(&mut self, ns: &Namespace, digest: &Digest) -> Done<Option<ContentInfo>> {
        self.get2(|t| &mut t.content, ns, digest.as_str())
    }

    fn write_content(&mut self, ns: &Namespace, info: &ContentInfo) -> Result<(), Fault> {
        labels::validate(FIELD, &info.labels)?;
        self.note(ns, || Resource::Content(info.digest.clone()));
        self.put2(|t| &mut t.content, ns, info.digest.as_str(), info)
    }
}

fn blob(digest: &Digest) -> LeaseResource {
    LeaseResource { kind: "content".to_owned(), id: digest.as_str().to_owned() }
}

fn ingest(reference: &IngestRef) -> LeaseResource {
    LeaseResource { kind: "ingests".to_owned(), id: reference.as_str().to_owned() }
}
