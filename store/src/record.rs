//! How records lie in the tables: a version byte, then the codec's encoding.
//!
//! A record's kind never changes its meaning: when a type that is stored changes shape, its `VERSION` goes up and
//! `upcast` learns to read the old one. The golden-bytes test fails for a change that forgot.

use crate::row::{IngestRow, SnapshotRow, TaskRow};
use bytes::{Buf as _, Bytes};
use serde::{Serialize, de::DeserializeOwned};
use wharf_messages::{
    Answer, Refusal, Stored, codec, container::Container, content::ContentInfo, cursor::Cursor, event::EventRecord,
    health::HealthRecord, image::Image, lease::Lease, namespace::NamespaceRecord, restart::RestartRecord,
};

/// A type that is stored.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// Its name in errors.
    const KIND: &'static str;
    /// What is written today.
    const VERSION: u8 = 1;

    /// Reads a form that was written by an older daemon.
    fn upcast(version: u8, body: &[u8]) -> Answer<Self> {
        let _ = body; // Nothing is older than the first version.
        Err(Refusal::data_loss(format!("stored {} has the unknown version {version}", Self::KIND)))
    }
}

/// Encodes a record with its version.
pub(crate) fn encode<R: Record>(record: &R) -> Answer<Vec<u8>> {
    let body = codec::encode(record).map_err(|e| e.context(format_args!("store {}", R::KIND)))?;
    let mut bytes = Vec::with_capacity(body.len() + 1);
    bytes.push(R::VERSION);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Decodes a record of any version ever written. What cannot be read is `DataLoss`: it was written by a wharf.
pub(crate) fn decode<R: Record>(bytes: &[u8]) -> Answer<R> {
    match bytes.split_first() {
        None => Err(Refusal::data_loss(format!("stored {} is empty", R::KIND))),
        Some((&version, body)) if version == R::VERSION => {
            codec::decode(body).map_err(|e| Refusal::data_loss(format!("stored {}: {}", R::KIND, e.detail)))
        }
        Some((&version, body)) => R::upcast(version, body),
    }
}

/// A record as it lies there, whatever its version is.
pub(crate) fn in_place<R: Record>(mut bytes: Bytes) -> Answer<Stored<R>> {
    if bytes.first() != Some(&R::VERSION) {
        return Stored::of(&decode::<R>(&bytes)?);
    }
    bytes.advance(1);
    Ok(Stored::new(bytes))
}

macro_rules! records {
    ($($of:ty, $kind:literal;)*) => {
        $(impl Record for $of {
            const KIND: &'static str = $kind;
        })*

        /// Every kind that is stored.
        #[cfg(test)]
        pub(crate) const KINDS: &[&str] = &[$($kind),*];

        /// Reads a record of any kind, for whether it can be read.
        #[cfg(test)]
        pub(crate) fn decode_kind(kind: &str, bytes: &[u8]) -> Answer<()> {
            match kind {
                $($kind => decode::<$of>(bytes).map(drop),)*
                other => panic!("no kind {other:?} is stored"),
            }
        }
    };
}

records! {
    EventRecord, "event";
    NamespaceRecord, "namespace";
    Image, "image";
    Container, "container";
    TaskRow, "task";
    RestartRecord, "restart";
    HealthRecord, "health";
    SnapshotRow, "snapshot";
    ContentInfo, "content";
    IngestRow, "ingest";
    Lease, "lease";
    Cursor, "cursor";
}
