//! Whether namespaces have the blobs that others have.
//!
//! # Spec
//! containerd `metadata/content.go`: the sharing policies, and the label by which a namespace shares whatever the policy.

use wharf_messages::{Answer, Digest};
use wharf_store::Reader;

/// The label of a namespace whose blobs others may have without bringing their bytes, whatever the policy.
pub(super) const SHAREABLE_LABEL: &str = "containerd.io/namespace.shareable";

/// Whether a namespace that names a blob's digest has it, because another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Yes: nothing is brought twice.
    #[default]
    Shared,
    /// Only what namespaces have that are labelled as shareable: whoever knows a digest alone does not get its bytes.
    Isolated,
}

impl Sharing {
    /// The length of a blob that a namespace may have for the asking.
    pub(super) fn offered(self, reader: &Reader, digest: &Digest) -> Answer<Option<u64>> {
        let size_bytes = reader.blob(digest)?;
        if self == Self::Shared || size_bytes.is_none() {
            return Ok(size_bytes);
        }
        for owner in reader.blob_namespaces(digest)? {
            let labels = reader.namespace(&owner)?.map(|record| record.labels).unwrap_or_default();
            if labels.get(SHAREABLE_LABEL).is_some_and(|value| value == "true") {
                return Ok(size_bytes);
            }
        }
        Ok(None)
    }
}
