//! The sweep of a garbage collection: what a mark found unreachable goes, unless something was written since that leads
//! to it.

use super::batch::{Done, Fault, Scope};
use crate::{
    change::Outcome,
    gc::{Garbage, Swept, leased},
    row::{IngestRow, SnapshotRow},
    schema::Prefix,
};
use redb::ReadableTable;
use std::{cmp::Reverse, collections::BTreeSet};
use wharf_messages::{
    Labels, Namespace, RefusalKind,
    container::Container,
    content::ContentInfo,
    gc::{self, Resource},
    image::Image,
    lease::LeaseResource,
};

type Place = (Namespace, Resource);

/// A row as the sweep sees it.
#[derive(Default)]
struct Edges {
    refers: Vec<Resource>,
    back: Vec<Resource>,
}

impl Edges {
    fn of(labels: &Labels) -> Self {
        Self { refers: gc::references(labels).collect(), back: gc::back_references(labels).collect() }
    }
}

impl Scope<'_, '_, '_> {
    pub fn sweep(&mut self, garbage: &Garbage) -> Done {
        let written = self.batch.barrier.end(garbage.collection)?;
        let doomed = self.still_garbage(garbage.clone(), written)?;
        let mut swept = Swept::default();
        let (mut snapshots, mut rest) = (Vec::new(), Vec::new());
        for (ns, resource) in doomed {
            match resource {
                Resource::Snapshot(snapshotter, key) => {
                    let Some(row) = self.snapshot(&ns, &snapshotter, &key)? else { continue };
                    let mut height = 0;
                    let mut parent = row.parent_id;
                    while let Some(id) = parent {
                        height += 1;
                        let below = self.batch.tables.snapshot_ids.get((snapshotter.as_str(), id))?;
                        parent = below.map(|below| below.value().0).filter(|id| *id != 0);
                    }
                    snapshots.push((height, ns, snapshotter, key));
                }
                other => rest.push((ns, other)),
            }
        }
        // Those that stand on others first.
        snapshots.sort_by_key(|(height, ..)| Reverse(*height));
        for (_, ns, snapshotter, key) in snapshots {
            self.namespace = Some(ns.clone());
            let removed = self.remove_snapshot(&ns, &snapshotter, &key);
            if let Some(Outcome::Snapshot(row)) = unless_kept(removed)? {
                swept.snapshots.push((snapshotter, row));
            }
        }
        for (ns, resource) in rest {
            self.namespace = Some(ns.clone());
            let removed = match &resource {
                Resource::Lease(id) => self.delete_lease(&ns, id),
                Resource::Image(name) => self.delete_image(&ns, name),
                Resource::Content(digest) => self.delete_content(&ns, digest),
                Resource::Ingest(reference) => self.delete_ingest(&ns, reference),
                Resource::Container(_) | Resource::Snapshot(..) => continue,
            };
            match unless_kept(removed)? {
                Some(Outcome::Lease(lease)) => swept.leases.push(lease.id),
                Some(Outcome::Image(image)) => swept.images.push(image.name),
                Some(Outcome::ContentDeleted { info, last }) => {
                    swept.contents.push((info.digest, info.size_bytes, last));
                }
                Some(Outcome::Ingest(row)) => swept.ingests.push(row),
                _ => {}
            }
        }
        Ok(Outcome::Swept(swept))
    }

    /// Takes off the list what was written since the mark, and what that leads to.
    fn still_garbage(&mut self, found: Garbage, written: BTreeSet<Place>) -> Done<BTreeSet<Place>> {
        let Garbage { resources: mut garbage, mut flat, .. } = found;
        let mut to_visit: Vec<Place> = written.into_iter().collect();
        let mut back: Option<Vec<(Place, Place)>> = None;
        for place in &to_visit {
            garbage.remove(place);
            flat.remove(place);
        }
        while let Some(place) = to_visit.pop() {
            let Some(edges) = self.edges(&place)? else { continue };
            let mut reached: Vec<Place> = edges.refers.into_iter().map(|to| (place.0.clone(), to)).collect();
            // Who waits for what is kept is looked for once, and only if something was written meanwhile.
            let waiting = match &mut back {
                Some(back) => back,
                none => none.insert(self.back_references(&garbage)?),
            };
            reached.extend(waiting.iter().filter(|(target, _)| *target == place).map(|(_, from)| from.clone()));
            for place in reached {
                // What was kept flat is looked at again when it is reached as a whole.
                if garbage.remove(&place) || flat.remove(&place) {
                    to_visit.push(place);
                }
            }
        }
        Ok(garbage)
    }

    /// Which of these asks to be kept as long as what: the latter first.
    fn back_references(&mut self, places: &BTreeSet<Place>) -> Done<Vec<(Place, Place)>> {
        let mut back = Vec::new();
        for place in places {
            for target in self.edges(place)?.unwrap_or_default().back {
                back.push(((place.0.clone(), target), place.clone()));
            }
        }
        Ok(back)
    }

    /// What a thing refers to, as its row says now; nothing if it has none.
    fn edges(&mut self, (ns, resource): &Place) -> Done<Option<Edges>> {
        Ok(match resource {
            Resource::Lease(id) => {
                let prefix = Prefix::new(id.as_str());
                let mut edges = Edges::default();
                for row in self.batch.tables.lease_resources.range(prefix.four_in(ns.as_str()))? {
                    let key = row?.0;
                    let (_, _, kind, id) = key.value();
                    edges.refers.extend(leased(&LeaseResource { kind: kind.to_owned(), id: id.to_owned() }));
                }
                Some(edges)
            }
            Resource::Image(name) => self.get2::<Image>(|t| &mut t.images, ns, name.as_str())?.map(|image| {
                let mut edges = Edges::of(&image.labels);
                edges.refers.push(Resource::Content(image.target.digest));
                edges
            }),
            Resource::Container(id) => {
                self.get2::<Container>(|t| &mut t.containers, ns, id.as_str())?.map(|container| {
                    let mut edges = Edges::of(&container.labels);
                    if let (Some(snapshotter), Some(key)) = (container.snapshotter, container.snapshot_key) {
                        edges.refers.push(Resource::Snapshot(snapshotter, key));
                    }
                    edges
                })
            }
            Resource::Content(digest) => self
                .get2::<ContentInfo>(|t| &mut t.content, ns, digest.as_str())?
                .map(|content| Edges::of(&content.labels)),
            Resource::Snapshot(snapshotter, key) => self.snapshot(ns, snapshotter, key)?.map(|row: SnapshotRow| {
                let mut edges = Edges::of(&row.info.labels);
                edges.refers.extend(row.info.parent.map(|key| Resource::Snapshot(snapshotter.clone(), key)));
                edges
            }),
            Resource::Ingest(reference) => {
                self.get2::<IngestRow>(|t| &mut t.ingests, ns, reference.as_str())?.map(|row| Edges {
                    refers: row.expected.map(Resource::Content).into_iter().collect(),
                    back: Vec::new(),
                })
            }
        })
    }
}

/// What was removed. What is gone already, and a snapshot that something stands on, is not this sweep's affair; both
/// are refused before anything is changed.
fn unless_kept(removed: Done) -> Done<Option<Outcome>> {
    match removed {
        Ok(outcome) => Ok(Some(outcome)),
        Err(Fault::Refused(refusal))
            if refusal.is(RefusalKind::NotFound) || refusal.is(RefusalKind::FailedPrecondition) =>
        {
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}
