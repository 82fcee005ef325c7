//! Layers into files: under way, every layer is refused until it is there.

use std::io::Read;
use wharf_messages::{Answer, Digest, Mount, Refusal, descriptor::media_type::Compression};

/// How a layer is applied.
#[derive(Debug, Default, Clone)]
pub struct ApplyOptions {}

/// What was applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The length of the uncompressed layer.
    pub size_bytes: u64,
}

/// Writes a layer's changes.
///
/// # Errors
/// `NotImplemented`, always.
pub fn apply(
    _: &mut (dyn Read + Send),
    _: Compression,
    _: &[Mount],
    _: &ApplyOptions,
    _: &(dyn Fn() -> bool + Sync),
) -> Answer<Applied> {
    Err(Refusal::not_implemented("apply a layer"))
}
