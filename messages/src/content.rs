//! Content: blobs by digest, and the ingests that become blobs.

use crate::{Digest, IngestRef, Labels, Timestamp};
use serde::{Deserialize, Serialize};

/// The longest chunk that a read hands out at once.
///
/// # Spec
/// API reference, section 3 "Content": chunks of at most 1 MiB.
pub const READ_CHUNK_MAX_BYTES: usize = 1 << 20;

/// A blob as one namespace sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentInfo {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// When this namespace got it.
    pub created_at: Timestamp,
    /// When its labels last changed.
    pub updated_at: Timestamp,
    /// This namespace's labels.
    pub labels: Labels,
}

/// Reads about one blob. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetContent {
    /// Its name.
    pub digest: Digest,
}

/// Changes a blob's labels; nothing else of it can change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateContent {
    /// Its name.
    pub digest: Digest,
    /// New labels; an empty value deletes the label.
    pub labels: Labels,
    /// `labels` or `labels.KEY`; empty replaces all. Anything else is `InvalidArgument`.
    pub mask: Vec<String>,
}

/// Reads about blobs, by digest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListContent {
    /// containerd filters on `digest` and `labels`.
    pub filters: Vec<String>,
}

/// Takes a blob from the namespace. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteContent {
    /// Its name.
    pub digest: Digest,
}

/// Reads a blob's bytes. Items: bytes, at most [`READ_CHUNK_MAX_BYTES`] each.
///
/// Refused with `NotFound`, or `OutOfRange` for an offset beyond the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadContent {
    /// Its name.
    pub digest: Digest,
    /// Where to start.
    pub offset_bytes: u64,
    /// How many; 0 means to the end.
    pub size_bytes: u64,
}

/// Writes a blob: the call's uploaded bytes go to the ingest `reference` from `offset_bytes` on.
///
/// The reference is locked while the call lives. If the upload ends without `commit`, or the caller goes away, the
/// ingest stays and can be resumed. Refused with `Unavailable` while another has the reference, `AlreadyExists` if the
/// expected digest is here, `OutOfRange` for an offset that is neither 0 nor the current one, `FailedPrecondition` for
/// a size or digest that does not match at commit, `InvalidArgument`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WriteContent {
    /// The ingest's name.
    pub reference: IngestRef,
    /// Where the upload starts; 0 throws away what was there; none means where the ingest stands.
    pub offset_bytes: Option<u64>,
    /// The expected length; 0 if not known.
    pub total_bytes: u64,
    /// What it must turn out to be.
    pub expected: Option<Digest>,
    /// Whether the end of the upload commits.
    pub commit: bool,
    /// Labels for the blob.
    pub labels: Labels,
}

/// How far a write came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Bytes in the ingest, or the blob's length after a commit.
    pub offset_bytes: u64,
    /// The blob's name after a commit.
    pub digest: Option<Digest>,
}

/// An unfinished blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestStatus {
    /// Its name.
    pub reference: IngestRef,
    /// Bytes so far.
    pub offset_bytes: u64,
    /// Bytes expected; 0 if not known.
    pub total_bytes: u64,
    /// What it is expected to be.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When bytes last came.
    pub updated_at: Timestamp,
}

/// Reads about one ingest. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetIngest {
    /// Its name.
    pub reference: IngestRef,
}

/// Reads about ingests, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListIngests {
    /// containerd filters on `ref`.
    pub filters: Vec<String>,
}

/// Throws an ingest away. Refused with `NotFound`, or `Unavailable` while somebody writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AbortIngest {
    /// Its name.
    pub reference: IngestRef,
}
