//! Calls that turn layers into files and files into layers.
//!
//! A layer that is made flows from the differ, on the pool, through a bounded channel into an ingest; nothing of it is
//! held but the chunks on their way.

use super::{CallIo, Serve};
use crate::{
    Wharf,
    content::{IngestWriter, OpenIngest},
    drivers::differ::{self, DiffOptions, Diffed},
    names,
};
use bytes::{Bytes, BytesMut};
use std::io::{self, Write};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Descriptor, Digest, IngestRef, Labels, Meta, Mount, Refusal, RefusalKind,
    content::{AbortIngest, UpdateContent},
    descriptor::media_type::{self, Compression},
    labels,
    snapshot::{AppliedDiff, ApplyDiff, MakeDiff},
};
use wharf_store::{Change, Commit};

/// How much of a layer is handed on at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks on their way into the ingest.
const CHUNKS: usize = 4;

impl Serve for ApplyDiff {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<()>) -> Answer<AppliedDiff> {
        let namespace = meta.namespace()?.clone();
        let options = wharf.drivers.apply_options(&self.mounts, self.sync);
        let store = wharf.store.clone();
        let apply = move || {
            let (digest, media_type) = (&self.layer.digest, &self.layer.media_type);
            // The namespace's own row decides, not the file that another one may have.
            if store.read()?.content(&namespace, digest)?.is_none() {
                return Err(wharf_store::refuse::no_content(digest).context("failed to get reader from content store"));
            }
            let (mut file, _) = store.blobs().read(digest)?;
            let no_layer = || format!("failed to get stream processor for {media_type}: no processor for media-type");
            let packed = media_type::layer_compression(media_type).ok_or_else(|| Refusal::unknown(no_layer()))?;
            let applied = differ::apply(&mut file, packed, &self.mounts, &options, &|| io.cancel.is_cancelled())
                .map_err(without_kind)?;
            Ok(AppliedDiff { diff_id: applied.diff_id, size_bytes: applied.size_bytes })
        };
        wharf.pool.run("apply a layer", apply).await
    }
}

impl Serve for MakeDiff {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<()>) -> Answer<Descriptor> {
        let Self { lower, upper, media_type, reference, labels } = self;
        let media_type = if media_type.is_empty() { media_type::OCI_LAYER_GZIP.to_owned() } else { media_type };
        let compression = diff_compression(&media_type)
            .ok_or_else(|| Refusal::not_implemented(format!("unsupported diff media type: {media_type}")))?;
        let fresh = reference.is_empty();
        let reference = IngestRef::new(if fresh { format!("diff-{}", names::random()) } else { reference })?;
        let made = make(&wharf, &meta, &reference, Source { lower, upper, compression }, labels, &io.cancel).await;
        if made.is_err() && fresh && meta.namespace.is_some() {
            // Nobody could go on with it: nobody knows its name, and a layer cannot be made from its middle.
            let abort = AbortIngest { reference: reference.clone() };
            if let Err(refusal) = wharf.actors.content.ask(Meta { request_id: 0, ..meta }, abort).await
                && !refusal.is(RefusalKind::NotFound)
            {
                tracing::warn!(%reference, %refusal, "the ingest of a layer that was not made stays");
            }
        }
        let (digest, size_bytes) = made?;
        Ok(Descriptor::new(media_type, digest, size_bytes))
    }
}

/// How a layer that is to be made is packed; `None` for types that none is made of, among them some that are applied.
///
/// # Spec
/// containerd `diff/walking` (1.6), and zstd of later releases.
fn diff_compression(media_type: &str) -> Option<Compression> {
    let made = [media_type::OCI_LAYER, media_type::OCI_LAYER_GZIP, media_type::OCI_LAYER_ZSTD];
    if made.contains(&media_type) { media_type::layer_compression(media_type) } else { None }
}

/// What is wrong with a layer or with mounts, as containerd tells it: in words, without a kind. Clients would take
/// `NotFound` for the blob's, and ask a registry for it. What may go well another time stays what it is.
fn without_kind(refusal: Refusal) -> Refusal {
    use RefusalKind::{Aborted, Canceled, DeadlineExceeded, ResourceExhausted, Unavailable};
    match refusal.kind {
        Aborted | Canceled | DeadlineExceeded | ResourceExhausted | Unavailable => refusal,
        _ => Refusal::unknown(refusal.detail),
    }
}

/// What a layer is made of.
struct Source {
    lower: Vec<Mount>,
    upper: Vec<Mount>,
    compression: Compression,
}

/// Makes a layer and commits it; answers its digest and size.
async fn make(
    wharf: &Wharf,
    meta: &Meta,
    reference: &IngestRef,
    source: Source,
    mut labels: Labels,
    cancel: &CancellationToken,
) -> Answer<(Digest, u64)> {
    let (chunks, coming) = mpsc::channel(CHUNKS);
    let compressed = source.compression != Compression::None;
    let (made, written) = tokio::join!(pack(wharf, source, chunks, cancel), fill(wharf, meta, reference, coming));
    // Where the ingest failed the differ only knows that nobody listens.
    let writer = written?;
    let Diffed { diff_id, .. } = made?;
    if compressed {
        // Whatever the caller believes.
        labels.insert(labels::UNCOMPRESSED.to_owned(), diff_id.to_string());
    }
    let (digest, size_bytes) = (writer.digest()?, writer.offset_bytes()?);
    let committed = writer.commit(size_bytes, Some(digest.clone()), labels.clone()).await;
    match committed.map_err(|refusal| refusal.context("failed to commit")) {
        Ok(_) => {}
        // The same layer was made before: what is asked of it now holds for it too.
        Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => {
            let mask = labels.keys().map(|key| format!("labels.{key}")).collect::<Vec<_>>();
            if !mask.is_empty() {
                let update = UpdateContent { digest: digest.clone(), labels, mask };
                let commit = Commit::one(meta.namespace()?, Change::UpdateContent(update));
                wharf.journal.commit(commit).await?;
            }
        }
        Err(refusal) => return Err(refusal),
    }
    Ok((digest, size_bytes))
}

/// Writes a layer that comes through a channel into an ingest. It is opened for the first bytes: where there are none, since
/// mounts fail, the reference is left as it was.
async fn fill(
    wharf: &Wharf,
    meta: &Meta,
    reference: &IngestRef,
    mut coming: mpsc::Receiver<Answer<Bytes>>,
) -> Answer<IngestWriter> {
    let first = coming.recv().await.unwrap_or_else(|| Err(Refusal::internal("the differ ended without a word")))?;
    let open = OpenIngest {
        reference: reference.clone(),
        total_bytes: 0,
        expected: None,
        labels: Labels::new(),
        shares: false,
    };
    let opened = wharf.actors.content.ask(meta.clone(), open).await;
    let mut writer = opened.map_err(|refusal| refusal.context("failed to open writer"))?;
    // A layer is not made from its middle.
    writer.truncate(0).await?;
    writer.write(vec![first]).await?;
    writer.write_all(coming).await?;
    Ok(writer)
}

/// Packs a layer into a channel, on the pool.
async fn pack(
    wharf: &Wharf,
    source: Source,
    chunks: mpsc::Sender<Answer<Bytes>>,
    cancel: &CancellationToken,
) -> Answer<Diffed> {
    let options = DiffOptions { scratch: wharf.drivers.apply.scratch.clone(), ..DiffOptions::default() };
    let (failed, cancel) = (chunks.clone(), cancel.clone());
    let made = wharf.pool.run("make a layer", move || {
        let Source { lower, upper, compression } = source;
        let mut output = Chunks { chunks, chunk: BytesMut::with_capacity(CHUNK_BYTES) };
        let diffed = differ::diff(&lower, &upper, &mut output, compression, &options, &|| cancel.is_cancelled())
            .map_err(without_kind)?;
        output.flush().map_err(|e| Refusal::io("write the layer", &e))?;
        Ok(diffed)
    });
    let made = made.await;
    if let Err(refusal) = &made {
        // The end of the channel alone would look like the end of the layer. Nobody listens any more if writing failed.
        failed.send(Err(refusal.clone())).await.ok();
    }
    made
}

/// A blocking writer into a channel.
struct Chunks {
    chunks: mpsc::Sender<Answer<Bytes>>,
    chunk: BytesMut,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        if self.chunk.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, BytesMut::with_capacity(CHUNK_BYTES)).freeze();
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests;
