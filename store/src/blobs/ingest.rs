//! Writing a blob: bytes are hashed as they come, and can go on where they stopped.

use super::{Blobs, Growing, Placed, hash::Hasher};
use crate::row::FileId;
use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::{FileExt, PermissionsExt},
    sync::Arc,
    time::SystemTime,
};
use wharf_messages::{Answer, Digest, Refusal, id::DigestAlgorithm};

/// The file in an ingest's folder.
pub(super) const DATA: &str = "data";

/// How much is read at once to rebuild a hash.
const REHASH_CHUNK_BYTES: usize = 256 << 10;

/// An ingest that is open for writing; nobody else has it.
///
/// Dropping it keeps the bytes for a later [`Blobs::resume`]; readers of its [`Growing`] are told that it was given up.
#[derive(Debug)]
pub struct IngestFile {
    blobs: Blobs,
    id: FileId,
    file: Arc<File>,
    hasher: Hasher,
    offset_bytes: u64,
    growing: Growing,
    /// Set when file and hash may differ after a failed write.
    broken: bool,
}

impl IngestFile {
    pub(super) fn new(blobs: Blobs, id: FileId, file: File, algorithm: DigestAlgorithm) -> Self {
        let file = Arc::new(file);
        let growing = Growing::new(file.clone(), 0);
        Self { blobs, id, file, hasher: Hasher::new(algorithm), offset_bytes: 0, growing, broken: false }
    }

    /// Its folder's name, for the row.
    #[must_use]
    pub fn id(&self) -> &FileId {
        &self.id
    }

    /// How many bytes it has.
    #[must_use]
    pub fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// How its growth can be followed, and its bytes read before they are all there.
    #[must_use]
    pub fn growing(&self) -> Growing {
        self.growing.clone()
    }

    /// What the bytes so far are called.
    ///
    /// # Errors
    /// None in practice: a hash always makes a digest.
    pub fn digest(&self) -> Answer<Digest> {
        self.hasher.digest()
    }

    /// Writes bytes at the end; answers the new length.
    ///
    /// # Errors
    /// `ResourceExhausted` on a full disk, and other operating errors; what was written before stays good.
    pub fn append(&mut self, bytes: &[u8]) -> Answer<u64> {
        if self.broken {
            return Err(Refusal::internal(format!("ingest {} failed before and must be opened again", self.id)));
        }
        if let Err(error) = self.file.write_all_at(bytes, self.offset_bytes) {
            // A part may have been written: the file must not be longer than what was hashed.
            self.broken = self.file.set_len(self.offset_bytes).is_err();
            return Err(self.refuse("write", &error));
        }
        // The kernel's own times are those of its last tick: a write would seem to be older than the call that asked for it.
        // Whether the time is right decides nothing.
        let _ = self.file.set_modified(SystemTime::now());
        self.hasher.update(bytes);
        self.offset_bytes += bytes.len() as u64;
        self.growing.advance(self.offset_bytes);
        Ok(self.offset_bytes)
    }

    /// Throws away what is beyond a length.
    ///
    /// # Errors
    /// `OutOfRange` for a length that it does not have, and operating errors.
    pub fn truncate(&mut self, len_bytes: u64) -> Answer<()> {
        if len_bytes > self.offset_bytes {
            let why = format!("ingest {} has {} bytes, not {len_bytes}", self.id, self.offset_bytes);
            return Err(Refusal::out_of_range(why));
        }
        if len_bytes == self.offset_bytes && !self.broken {
            return Ok(());
        }
        self.file.set_len(len_bytes).map_err(|e| self.refuse("truncate", &e))?;
        // Who read what is gone has read too much.
        self.growing.end(Err(Refusal::aborted(format!("ingest {} was truncated", self.id))));
        self.rehash(self.hasher.algorithm())
    }

    /// Verifies the whole, makes it durable and puts it in its place. `size_bytes` of 0 means not known.
    ///
    /// # Errors
    /// `FailedPrecondition` for another size or digest (the bytes stay, and can be truncated), and operating errors.
    pub fn commit(mut self, size_bytes: u64, expected: Option<&Digest>) -> Answer<Placed> {
        let placed = self.finish(size_bytes, expected);
        self.growing.end(placed.as_ref().map(|_| ()).map_err(Clone::clone));
        placed
    }

    fn finish(&mut self, size_bytes: u64, expected: Option<&Digest>) -> Answer<Placed> {
        if self.broken {
            return Err(Refusal::internal(format!("ingest {} failed before and must be opened again", self.id)));
        }
        if size_bytes != 0 && size_bytes != self.offset_bytes {
            let why = format!("unexpected commit size {}, expected {size_bytes}", self.offset_bytes);
            return Err(Refusal::failed_precondition(why));
        }
        if let Some(expected) = expected
            && expected.algorithm() != self.hasher.algorithm()
        {
            self.rehash(expected.algorithm())?;
        }
        let digest = self.digest()?;
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(Refusal::failed_precondition(format!(
                "unexpected commit digest {digest}, expected {expected}"
            )));
        }
        wharf_failpoints::try_failpoint!("blob/sync");
        self.file
            .set_permissions(Permissions::from_mode(0o444))
            .and_then(|()| self.file.sync_all())
            .map_err(|e| self.refuse("sync", &e))?;
        self.blobs.place(&self.id, digest, self.offset_bytes)
    }

    /// Reads the whole file to know its hash and its length.
    pub(super) fn rehash(&mut self, algorithm: DigestAlgorithm) -> Answer<()> {
        let mut hasher = Hasher::new(algorithm);
        let mut buffer = vec![0; REHASH_CHUNK_BYTES];
        let mut offset_bytes = 0;
        loop {
            match self.file.read_at(&mut buffer, offset_bytes) {
                Ok(0) => break,
                Ok(got) => {
                    hasher.update(&buffer[..got]);
                    offset_bytes += got as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.refuse("read", &e)),
            }
        }
        if offset_bytes != self.offset_bytes {
            self.growing = Growing::new(self.file.clone(), offset_bytes);
        }
        (self.hasher, self.offset_bytes, self.broken) = (hasher, offset_bytes, false);
        Ok(())
    }

    fn refuse(&self, doing: &str, error: &io::Error) -> Refusal {
        Refusal::io(format_args!("{doing} ingest {}", self.id), error)
    }
}

impl Drop for IngestFile {
    fn drop(&mut self) {
        // Only the first end counts: after a commit this says nothing.
        self.growing.end(Err(Refusal::aborted(format!("ingest {} was given up", self.id))));
        self.blobs.release_ingest(&self.id);
    }
}
