//! A blob that is read piece by piece.

use super::Blobs;
use rustix::io::{ReadWriteFlags, preadv2};
use std::{
    fs::File,
    io::{ErrorKind, IoSliceMut},
    os::unix::fs::FileExt,
};
use wharf_messages::{Answer, Digest, Refusal};

/// A blob that is open for reading.
#[derive(Debug)]
pub struct OpenBlob {
    file: File,
    digest: Digest,
    size_bytes: u64,
}

impl Blobs {
    /// Opens a blob to be read piece by piece.
    ///
    /// # Errors
    /// As [`Blobs::read`].
    pub fn open_blob(&self, digest: &Digest) -> Answer<OpenBlob> {
        let (file, size_bytes) = self.read(digest)?;
        Ok(OpenBlob { file, digest: digest.clone(), size_bytes })
    }
}

impl OpenBlob {
    /// Its length.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What of a piece is in memory already, from its beginning on; none if its first byte is not. Does not wait for a disk.
    #[must_use]
    pub fn read_cached(&self, offset_bytes: u64, length: usize) -> Option<Vec<u8>> {
        let mut piece = vec![0; length];
        // An error, and a file system that cannot do this, are left to the read that waits.
        let read = preadv2(&self.file, &mut [IoSliceMut::new(&mut piece)], offset_bytes, ReadWriteFlags::NOWAIT);
        piece.truncate(read.unwrap_or(0));
        (!piece.is_empty()).then_some(piece)
    }

    /// Reads a piece. Blocks.
    ///
    /// # Errors
    /// `DataLoss` if the file ends before it; operating errors.
    pub fn read_piece(&self, offset_bytes: u64, length: usize) -> Answer<Vec<u8>> {
        let mut piece = vec![0; length];
        match self.file.read_exact_at(&mut piece, offset_bytes) {
            Ok(()) => Ok(piece),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(Refusal::data_loss(format!("content {}: its file is shorter than it was", self.digest)))
            }
            Err(error) => Err(Refusal::io(format_args!("read content {}", self.digest), &error)),
        }
    }
}
