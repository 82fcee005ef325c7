//! Garbage collection: what is kept, and why.
//!
//! What no root leads to is garbage. Roots are images, containers, live leases, what a label
//! says is one, and what is being made right now; from them references lead on, by what a thing is (an image's target, a
//! snapshot's parent) and by labels.
//!
//! # Spec
//! API reference, section 3 "GC labels" and "GC behaviour".

use crate::{
    ContainerId, Digest, ImageName, IngestRef, Labels, LeaseId, SnapshotKey, SnapshotterName, Timestamp,
    lease::EXPIRE_LABEL,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The label that makes content or a snapshot a root, whatever its value.
pub const ROOT_LABEL: &str = "containerd.io/gc.root";
/// The label by which a lease protects only what it names, not what that refers to.
pub const FLAT_LABEL: &str = "containerd.io/gc.flat";

/// Begins each label by which one thing keeps another.
const REFERENCE_PREFIX: &str = "containerd.io/gc.ref.";
/// Begins each label by which a thing asks to be kept as long as another is.
const BACK_REFERENCE_PREFIX: &str = "containerd.io/gc.bref.";

/// Something that garbage collection looks at. Namespaces keep nothing of each other's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Resource {
    /// Protects until it ends.
    Lease(LeaseId),
    /// Keeps its target.
    Image(ImageName),
    /// Keeps its snapshot. Never garbage itself.
    Container(ContainerId),
    /// A blob.
    Content(Digest),
    /// A snapshot; it keeps its parent.
    Snapshot(SnapshotterName, SnapshotKey),
    /// An unfinished blob.
    Ingest(IngestRef),
}

impl Resource {
    /// What kind of thing it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lease(_) => "lease",
            Self::Image(_) => "image",
            Self::Container(_) => "container",
            Self::Content(_) => "content",
            Self::Snapshot(..) => "snapshot",
            Self::Ingest(_) => "ingest",
        }
    }

    /// Its name; a snapshot's begins with its snapshotter.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Lease(id) => id.to_string(),
            Self::Image(name) => name.to_string(),
            Self::Container(id) => id.to_string(),
            Self::Content(digest) => digest.to_string(),
            Self::Snapshot(snapshotter, key) => format!("{snapshotter}/{key}"),
            Self::Ingest(reference) => reference.to_string(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// What a thing's labels keep. A label that names nothing possible keeps nothing.
pub fn references(labels: &Labels) -> impl Iterator<Item = Resource> {
    named(labels, REFERENCE_PREFIX)
}

/// What must be kept for a thing to be kept by its own labels' wish.
pub fn back_references(labels: &Labels) -> impl Iterator<Item = Resource> {
    named(labels, BACK_REFERENCE_PREFIX)
}

/// The value of each label `PREFIX KIND`, `PREFIX KIND.X`, `PREFIX KIND/X` (for snapshots: `snapshot.SNAPSHOTTER[/X]`).
fn named<'a>(labels: &'a Labels, prefix: &'static str) -> impl Iterator<Item = Resource> + 'a {
    let from = labels.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
    from.take_while(move |(key, _)| key.starts_with(prefix)).filter_map(move |(key, value)| {
        let rest = key.strip_prefix(prefix)?;
        if let Some(snapshotter) = rest.strip_prefix("snapshot.") {
            let snapshotter = snapshotter.split_once('/').map_or(snapshotter, |(name, _)| name);
            return Some(Resource::Snapshot(SnapshotterName::new(snapshotter).ok()?, SnapshotKey::new(value).ok()?));
        }
        match rest.split_once(['.', '/']).map_or(rest, |(kind, _)| kind) {
            "content" => Digest::new(value).ok().map(Resource::Content),
            "image" => ImageName::new(value).ok().map(Resource::Image),
            // Containers are never garbage, so only waiting for one makes sense.
            "container" if prefix == BACK_REFERENCE_PREFIX => ContainerId::new(value).ok().map(Resource::Container),
            _ => None,
        }
    })
}

/// When the labels of a lease or an image say that it ends; none if they say nothing that is a time.
#[must_use]
pub fn expires_at(labels: &Labels) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(labels.get(EXPIRE_LABEL)?)
}

/// Why something is kept, or is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It is kept for its own sake: an image's name, a container, a lease without end.
    Itself,
    /// Its label says so.
    Labelled,
    /// It is kept until then: a lease, an image with an end, an unfinished blob.
    Until(Timestamp),
    /// The daemon is working on it, or a container is about to get it.
    InUse,
    /// Something that is kept refers to it.
    Referred {
        /// What refers to it.
        by: Resource,
        /// The root that leads there.
        root: Resource,
    },
    /// Nothing leads to it: it would go.
    Unreferenced,
    /// Its time was over then: it would go.
    Expired(Timestamp),
}

/// What a collection would do with one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// With which.
    pub resource: Resource,
    /// How many bytes it takes, as far as rows say: those of a blob, or of a committed snapshot.
    pub size_bytes: u64,
    /// Why it is kept, or is not.
    pub reason: Reason,
}

impl Verdict {
    /// Whether it would go.
    #[must_use]
    pub fn is_garbage(&self) -> bool {
        matches!(self.reason, Reason::Unreferenced | Reason::Expired(_))
    }
}

/// Removes, in every namespace, what nothing keeps, and answers when its files are gone too. What was unreferenced when
/// the call came is judged by this collection, not by one that was under way.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CollectGarbage {}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Blobs whose bytes went, and blobs that some namespaces know no longer.
    pub contents: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Unfinished blobs.
    pub ingests: u64,
    /// Leases that had ended.
    pub leases: u64,
    /// Images that had ended.
    pub images: u64,
    /// The space that was given back by all of them, in bytes.
    pub freed_bytes: u64,
    /// How long marking and sweeping took, in nanoseconds; deleting files comes after it.
    pub elapsed_nanos: u64,
}

/// Tells of each thing in the namespace whether a collection would take it, and why. Items: [`Verdict`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExplainGarbage {}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_refer_as_containerd_reads_them() {
        let digest = |n: u8| Digest::from_sha256(&[n; 32]);
        let texts: Vec<String> = (0..4).map(|n| digest(n).to_string()).collect();
        let all = labels(&[
            ("containerd.io/gc.ref.content", &texts[0]),
            ("containerd.io/gc.ref.content.l.0", &texts[1]),
            ("containerd.io/gc.ref.content/x", &texts[2]),
            ("containerd.io/gc.ref.contents", &texts[3]),
            ("containerd.io/gc.ref.content.bad", "no digest"),
            ("containerd.io/gc.ref.snapshot.overlayfs", "a"),
            ("containerd.io/gc.ref.snapshot.native/1", "b"),
            ("containerd.io/gc.ref.snapshot.", "c"),
            ("containerd.io/gc.ref.image.base", "docker.io/library/a:1"),
            ("containerd.io/gc.ref.container", "c1"),
            ("containerd.io/gc.bref.container", "c2"),
            ("containerd.io/gc.bref.snapshot.overlayfs", "d"),
            ("containerd.io/gc.root", "true"),
            ("other", &texts[0]),
        ]);
        let mut found: Vec<String> = references(&all).map(|resource| resource.to_string()).collect();
        found.sort_unstable();
        let content = |n: usize| format!("content {}", texts[n]);
        let mut expected = vec![content(0), content(1), content(2)];
        expected
            .extend(["image docker.io/library/a:1", "snapshot native/b", "snapshot overlayfs/a"].map(str::to_owned));
        expected.sort_unstable();
        assert_eq!(found, expected);
        let back: Vec<String> = back_references(&all).map(|resource| resource.to_string()).collect();
        assert_eq!(back, ["container c2", "snapshot overlayfs/d"]);
    }

    #[test]
    fn an_end_that_is_no_time_is_none() {
        assert_eq!(expires_at(&labels(&[(EXPIRE_LABEL, "1970-01-01T00:01:00Z")])), Some(Timestamp::from_parts(60, 0)));
        assert_eq!(expires_at(&labels(&[(EXPIRE_LABEL, "tomorrow")])), None);
        assert_eq!(expires_at(&Labels::new()), None);
    }
}
