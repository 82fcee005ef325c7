//! One collection: mark beside the writer, sweep in one transaction, then delete the files of what is gone.

use super::GcDeps;
use crate::runtime::blocking;
use std::{sync::Arc, time::Instant};
use wharf_messages::{
    Answer, Digest, Refusal, RefusalKind, Timestamp,
    gc::{Collected, Resource},
};
use wharf_store::{Change, Commit, FileId, Garbage, InUse, Reader, Swept};

/// How often a collection is begun again that so much was written beside that it could not be told what it may take.
const TRIES: u32 = 3;

/// How a collection went.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What is answered to those who wait for it.
    pub collected: Collected,
    /// When the first thing ends that is kept only until then.
    pub next_end: Option<Timestamp>,
    /// What could not be deleted: no row speaks of it, and it has to be tried again.
    pub left: Option<Refusal>,
}

impl GcDeps {
    /// One moment of all rows, and what is in use then. What begins to be used later is seen by the barrier: its rows are
    /// written after the collection has begun.
    pub(super) fn moment(&self) -> Answer<(Reader, InUse)> {
        // Before the rows are read: a writer or a download that ends in between has its blob's row by then.
        let mut in_use: InUse = self.activity.young(self.clock.now());
        let written = self.content.being_written().into_iter();
        in_use.extend(written.map(|(namespace, reference)| (namespace, Resource::Ingest(reference))));
        let wanted: Vec<Digest> = self.flights.wanted();
        let reader = self.content.store.read()?;
        for namespace in reader.namespaces()? {
            let namespace = namespace?.name;
            in_use.extend(wanted.iter().map(|digest| (namespace.clone(), Resource::Content(digest.clone()))));
        }
        in_use.extend(self.snapshotters.owned_elsewhere(&reader)?);
        Ok((reader, in_use))
    }

    /// Collects. `again` when an earlier one has left files that no row speaks of.
    pub(super) async fn collect(self: Arc<Self>, again: bool) -> Answer<Outcome> {
        let began = Instant::now();
        let mut tries = 1;
        let (swept, next_end) = loop {
            match self.rows().await {
                Err(refusal) if refusal.is(RefusalKind::Aborted) && tries < TRIES => tries += 1,
                other => break other?,
            }
        };
        let mut collected = Collected {
            contents: swept.contents.len() as u64,
            snapshots: swept.snapshots.len() as u64,
            ingests: swept.ingests.len() as u64,
            leases: swept.leases.len() as u64,
            images: swept.images.len() as u64,
            freed_bytes: 0,
            elapsed_nanos: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
        };
        let deps = Arc::clone(&self);
        let files = self.pool.run("delete what was collected", move || Ok(deps.files(&swept, again)));
        let (freed_bytes, left) = files.await?;
        collected.freed_bytes = freed_bytes;
        Ok(Outcome { collected, next_end, left })
    }

    /// Marks and sweeps.
    async fn rows(&self) -> Answer<(Swept, Option<Timestamp>)> {
        let begin = Commit::default().change(Change::BeginCollection);
        let begun = self.content.journal.commit(begin).await?;
        let none = || Refusal::internal("a collection that has begun has no number");
        let collection = begun.into_collection().ok_or_else(none)?;
        let deps = self.clone();
        let (garbage, next_end) = blocking("mark", move || {
            let (reader, in_use) = deps.moment()?;
            let now = deps.clock.now();
            let (mut garbage, mut next_end) = (Garbage { collection, ..Garbage::default() }, None::<Timestamp>);
            for namespace in reader.namespaces()? {
                let namespace = namespace?.name;
                let marked = reader.mark(&namespace, now, &in_use)?;
                garbage.add(&namespace, &marked);
                next_end = next_end.into_iter().chain(marked.next_expiry()).min();
            }
            Ok((garbage, next_end))
        })
        .await?;
        if garbage.resources.is_empty() {
            return Ok((Swept::default(), next_end));
        }
        let committed = self.content.journal.commit(Commit::default().change(Change::Sweep(garbage))).await?;
        Ok((committed.into_swept().unwrap_or_default(), next_end))
    }

    /// Deletes the files of what has no row any more; answers the space that was freed, and the first thing that
    /// could not be deleted.
    fn files(&self, swept: &Swept, again: bool) -> (u64, Option<Refusal>) {
        let (mut freed_bytes, mut left) = (0, None);
        let mut freed = |freed: Answer<u64>| match freed {
            Ok(bytes) => freed_bytes += bytes,
            Err(refusal) => {
                tracing::warn!(%refusal, "a file of what was collected stays for the next time");
                left.get_or_insert(refusal);
            }
        };
        let store = &self.content.store;
        for (digest, size_bytes, _) in swept.contents.iter().filter(|(.., last)| *last) {
            freed(store.discard_blob(digest).map(|gone| if gone { *size_bytes } else { 0 }));
        }
        for row in &swept.ingests {
            freed(self.ingest(&row.file_id));
        }
        // What stands on others first, for another daemon that keeps them insists on that: it has the higher number.
        let mut snapshots: Vec<_> = swept.snapshots.iter().collect();
        snapshots.sort_by_key(|(_, row)| std::cmp::Reverse(row.id));
        for (snapshotter, row) in snapshots {
            let measured = || match row.usage {
                Some(usage) => Ok(usage),
                None => self.snapshotters.backend(snapshotter)?.usage(row.id),
            };
            // One whose folder is gone already takes no space.
            let size_bytes = measured().map_or(0, |usage| usage.size_bytes);
            freed(self.snapshotters.discard(snapshotter, row).map(|()| size_bytes));
        }
        if again {
            freed(store.sweep_content().map(|_| 0));
            freed(self.snapshotters.sweep(store).map(|()| 0));
        }
        for backend in self.snapshotters.backends() {
            freed(backend.collected().map(|()| 0));
        }
        (freed_bytes, left)
    }

    fn ingest(&self, id: &FileId) -> Answer<u64> {
        let store = &self.content.store;
        let size_bytes = store.blobs().ingest_status(id)?.map_or(0, |(size_bytes, _)| size_bytes);
        Ok(if store.discard_ingest(id)? { size_bytes } else { 0 })
    }
}
