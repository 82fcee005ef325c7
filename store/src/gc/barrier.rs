//! What was written while a collection was marking.

use std::collections::BTreeSet;
use wharf_messages::{Answer, Namespace, Refusal, gc::Resource};

/// The most that is remembered: a collection that so much has passed by is given up and done again.
const WRITTEN_MAX: usize = 1 << 16;

/// Remembers what was written since a collection began.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// The collection's number.
    collection: u64,
    /// None while there is no collection, or it is given up.
    written: Option<BTreeSet<(Namespace, Resource)>>,
}

impl Barrier {
    /// Begins a collection; an earlier one that has not swept is given up.
    pub fn begin(&mut self) -> u64 {
        self.collection += 1;
        self.written = Some(BTreeSet::new());
        self.collection
    }

    /// Remembers that a row was written. That of a commit which is refused later is remembered too: it only keeps.
    pub fn note(&mut self, namespace: &Namespace, resource: impl FnOnce() -> Resource) {
        if let Some(written) = &mut self.written {
            if written.len() < WRITTEN_MAX {
                written.insert((namespace.clone(), resource()));
            } else {
                self.written = None;
            }
        }
    }

    /// What was written since the collection began. Only one sweep may ask: what is written after it is not remembered.
    ///
    /// # Errors
    /// `Aborted` if another collection began, or if too much was written.
    pub fn end(&mut self, collection: u64) -> Answer<BTreeSet<(Namespace, Resource)>> {
        let written = self.written.take_if(|_| collection == self.collection);
        written.ok_or_else(|| {
            Refusal::aborted("garbage collection: another one has begun, or too much was written meanwhile")
        })
    }
}
