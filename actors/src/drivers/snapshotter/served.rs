//! Snapshots that wharf keeps for another daemon, whose metadata alone knows what they are for.

use super::{Placement, Prepared, Snapshotter};
use wharf_messages::{Answer, Mount, snapshot::Usage};

/// A backend under the name by which another daemon asks for it. Its rows are in one namespace of that name, whatever
/// namespace a call comes with, and nothing but its owner removes what is in it.
pub struct Served {
    name: String,
    backend: Box<dyn Snapshotter>,
}

impl Served {
    /// A backend of its own under a name.
    #[must_use]
    pub fn new(name: &str, backend: Box<dyn Snapshotter>) -> Self {
        Self { name: name.to_owned(), backend }
    }
}

impl Snapshotter for Served {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_served(&self) -> bool {
        true
    }

    fn prepare(&self, place: &Placement<'_>) -> Answer<Prepared> {
        self.backend.prepare(place)
    }

    fn mounts(&self, place: &Placement<'_>) -> Answer<Vec<Mount>> {
        self.backend.mounts(place)
    }

    fn commit(&self, place: &Placement<'_>) -> Answer<Usage> {
        self.backend.commit(place)
    }

    fn usage(&self, id: u64) -> Answer<Usage> {
        self.backend.usage(id)
    }

    fn remove(&self, id: u64) -> Answer<()> {
        self.backend.remove(id)
    }

    fn empty_trash(&self) -> Answer<()> {
        self.backend.empty_trash()
    }

    fn sweep(&self, known: &dyn Fn(u64) -> bool) -> Answer<Vec<u64>> {
        self.backend.sweep(known)
    }

    fn late_parent(&self) -> bool {
        self.backend.late_parent()
    }

    fn awaits_parent(&self, mounts: &[Mount]) -> bool {
        self.backend.awaits_parent(mounts)
    }
}
