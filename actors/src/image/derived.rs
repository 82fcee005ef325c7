//! Blobs that are made of others here: written, put in their place, and made a namespace's under the claim of who makes
//! them.

use crate::{content::ContentDeps, drivers::differ};
use std::io::{self, BufWriter, Write};
use wharf_messages::{Answer, Digest, Labels, Meta, RefusalKind, id::DigestAlgorithm};
use wharf_store::{Blobs, Change, Commit, IngestFile, Placed};

/// How much is gathered before it is written.
const CHUNK_BYTES: usize = 256 << 10;

/// Writes a blob's bytes by `fill`; nothing is left of one that fails. Blocks.
///
/// # Errors
/// What `fill` and the disk say.
pub fn write(blobs: &Blobs, fill: impl FnOnce(&mut dyn Write) -> Answer<()>) -> Answer<Placed> {
    let mut file = blobs.begin(DigestAlgorithm::Sha256)?;
    let id = file.id().clone();
    let mut output = BufWriter::with_capacity(CHUNK_BYTES, Appending(&mut file));
    let filled = fill(&mut output).and_then(|()| output.flush().map_err(differ::refusal));
    drop(output);
    let placed = match filled {
        Ok(()) => file.commit(0, None),
        Err(refusal) => {
            drop(file);
            Err(refusal)
        }
    };
    if placed.is_err() {
        // No row speaks of it, and the disk may be full.
        blobs.discard_ingest(&id, || Ok(true))?;
    }
    placed
}

/// Makes a blob in its place the namespace's and the lease's; one that is here already is fine. Answers its name and its
/// length.
///
/// # Errors
/// What the journal says.
pub async fn keep(deps: &ContentDeps, meta: &Meta, placed: Placed, labels: Labels) -> Answer<(Digest, u64)> {
    let (digest, size_bytes) = (placed.digest().clone(), placed.size_bytes());
    let created = Change::CreateContent { digest: digest.clone(), size_bytes, labels };
    let committed = deps.journal.commit(Commit::one(meta.namespace()?, created).leased(meta.lease.clone())).await;
    // Until here only this kept the file from a sweep.
    drop(placed);
    match committed {
        Err(refusal) if !refusal.is(RefusalKind::AlreadyExists) => Err(refusal),
        _ => Ok((digest, size_bytes)),
    }
}

/// A blocking writer to the end of a file.
struct Appending<'a>(&'a mut IngestFile);

impl Write for Appending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The refusal keeps its kind on its way through writers that know only I/O errors.
        self.0.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
