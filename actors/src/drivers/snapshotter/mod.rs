//! Snapshotters: where file systems in layers are kept, one folder a snapshot.
//!
//! Keys, parents and labels are rows of the store; a backend knows numbers. All backends pass the suite in
//! `suite.rs`.
//!
//! ```text
//!   ROOT/snapshots/7/fs      the snapshot's own files
//!   ROOT/snapshots/7/work    overlayfs only: for the kernel
//!   ROOT/new/...             being made: renamed into place when whole
//!   ROOT/trash/...           removed: deleted when there is time
//! ```

mod folders;
mod late;
mod mapped;
mod native;
mod overlayfs;
mod proxy;
mod served;
#[cfg(test)]
mod suite;

pub use native::Native;
pub use overlayfs::{Overlayfs, check as check_overlayfs};
pub use proxy::Proxy;
pub use served::Served;

use wharf_messages::{
    Answer, Labels, Mount,
    snapshot::{BACKEND_LABEL_PREFIX, SNAPSHOT_REF_LABEL, SnapshotKind, Usage},
};

/// For a backend that keeps none.
static NO_LABELS: Labels = Labels::new();

/// A snapshot's place among the others.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// Its number.
    pub id: u64,
    /// What it is.
    pub kind: SnapshotKind,
    /// The numbers of what it stands on, nearest first.
    pub ancestors: &'a [u64],
    /// The namespace of its row, for whom another daemon is asked.
    pub namespace: &'a str,
    /// Those of its labels that are a backend's affair.
    pub labels: &'a Labels,
}

impl<'a> Placement<'a> {
    /// A place in no namespace, without labels: all that is of interest to a backend with folders of its own.
    #[must_use]
    pub fn new(id: u64, kind: SnapshotKind, ancestors: &'a [u64]) -> Self {
        Self { id, kind, ancestors, namespace: "", labels: &NO_LABELS }
    }
}

/// The labels that reach a backend.
///
/// # Spec
/// containerd `snapshots.FilterInheritedLabels`.
#[must_use]
pub fn backend_labels(labels: &Labels) -> Labels {
    let reaches = |key: &str| key == SNAPSHOT_REF_LABEL || key.starts_with(BACKEND_LABEL_PREFIX);
    labels.iter().filter(|(key, _)| reaches(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What preparing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// It is there, empty over its parent.
    New,
    /// What [`SNAPSHOT_REF_LABEL`] names is there already, committed, with these labels; it has the number now.
    AlreadyHere(Labels),
}

/// A backend. Every call may block on the disk.
pub trait Snapshotter: Send + Sync {
    /// Its name: `overlayfs`.
    fn name(&self) -> &str;

    /// Whether what it keeps is another daemon's, which alone knows what it is for.
    fn is_served(&self) -> bool {
        false
    }

    /// Makes the folder of an active snapshot or a view, whole or not at all. An active one's files are given to whom
    /// its labels say, if they carry the maps of a user namespace.
    ///
    /// # Errors
    /// `AlreadyExists` for the number, `InvalidArgument` for maps of another form, and what the disk says.
    fn prepare(&self, place: &Placement<'_>) -> Answer<Prepared>;

    /// How to mount an active snapshot or a view.
    ///
    /// # Errors
    /// `FailedPrecondition` for a committed one.
    fn mounts(&self, place: &Placement<'_>) -> Answer<Vec<Mount>>;

    /// Freezes an active snapshot: what it holds is on the disk when this answers. Called again, it does no harm.
    ///
    /// # Errors
    /// What the disk says.
    fn commit(&self, place: &Placement<'_>) -> Answer<Usage>;

    /// Measures a snapshot's own files.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder.
    fn usage(&self, id: u64) -> Answer<Usage>;

    /// Moves a snapshot's folder into the trash; fine if there is none.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, id: u64) -> Answer<()>;

    /// Deletes what is in the trash.
    ///
    /// # Errors
    /// What the disk says; what could not be deleted stays for the next time.
    fn empty_trash(&self) -> Answer<()>;

    /// Told at the end of each collection: what was removed since the last one may go now.
    ///
    /// # Errors
    /// As [`Self::empty_trash`]: the collection is done again.
    fn collected(&self) -> Answer<()> {
        self.empty_trash()
    }

    /// Moves the folders that nobody knows, and what was half made, into the trash; answers their numbers.
    ///
    /// # Errors
    /// What the disk says.
    fn sweep(&self, known: &dyn Fn(u64) -> bool) -> Answer<Vec<u64>>;

    /// Whether a snapshot may be prepared without its parent and get it when it is committed: `place` has it then.
    fn late_parent(&self) -> bool {
        false
    }

    /// Whether these mounts are of a snapshot without parent that may get one when it is committed. A layer has to be
    /// applied to it with [`late_parent`](crate::drivers::differ::ApplyOptions::late_parent).
    fn awaits_parent(&self, _mounts: &[Mount]) -> bool {
        false
    }
}
