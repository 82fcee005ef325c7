//! Garbage collection as far as it is rows: mark, then sweep.
//!
//! ```text
//!   Change::BeginCollection     from here on the writer remembers what it writes: the barrier
//!   Reader::mark                a moment of all rows: roots, and what they lead to          beside the writer
//!   Change::Sweep               in one transaction: what the barrier remembers, and what that leads to, is taken off
//!                               the list; what is left goes, with its events
//! ```
//!
//! Whatever was written since the mark survives the sweep, whether or not anything refers to it: it is the next
//! collection's to judge. So the sweep reads as many rows as were written meanwhile, not as many as there are.
//!
//! **Invariants.**
//! - **GC-1** What a root led to at the moment of the sweep is not swept.
//! - **GC-2** What is swept is told in the same transaction.

mod barrier;
mod mark;

pub(crate) use barrier::Barrier;
pub use mark::Marked;
pub(crate) use mark::leased;

use crate::row::{IngestRow, SnapshotRow};
use std::{collections::BTreeSet, time::Duration};
use wharf_messages::{Digest, ImageName, LeaseId, Namespace, SnapshotterName, gc::Resource};

/// How long an unfinished blob is kept that no lease holds.
///
/// # Spec
/// API reference, section 3 "GC behaviour": unleased ingests, 24 h.
pub const INGEST_KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// What the daemon is working on without a row that says so.
pub type InUse = BTreeSet<(Namespace, Resource)>;

/// What a mark found unreachable.
#[derive(Debug, Clone, Default)]
pub struct Garbage {
    /// The number that [`Change::BeginCollection`](crate::Change::BeginCollection) answered.
    pub collection: u64,
    /// What is to go.
    pub resources: BTreeSet<(Namespace, Resource)>,
    /// What stays because of flat leases alone: should something written since lead to it as a whole, what it refers to
    /// stays too.
    pub flat: BTreeSet<(Namespace, Resource)>,
}

impl Garbage {
    /// Adds what a mark found in a namespace.
    pub fn add(&mut self, namespace: &Namespace, marked: &Marked) {
        let place = |resource: &Resource| (namespace.clone(), resource.clone());
        self.resources.extend(marked.garbage().map(place));
        self.flat.extend(marked.flat().map(place));
    }
}

/// What a sweep removed, for what must be done after it is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs: how many bytes each has, and whether no namespace has it any more, so that its file may go.
    pub contents: Vec<(Digest, u64, bool)>,
    /// Snapshots, whose folders may go.
    pub snapshots: Vec<(SnapshotterName, SnapshotRow)>,
    /// Unfinished blobs, whose folders may go.
    pub ingests: Vec<IngestRow>,
    /// Leases.
    pub leases: Vec<LeaseId>,
    /// Images.
    pub images: Vec<ImageName>,
}
