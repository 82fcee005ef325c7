//! Calls with something flowing beside them: bytes of blobs, progress.

use super::{CallIo, Serve, transfer::with_room};
use crate::{
    Wharf,
    content::{IngestWriter, OpenIngest},
    image::{
        JoinPull,
        board::{Board, Watcher},
    },
    runtime::{blocking, waiting},
};
use bytes::Bytes;
use std::{io::Read, time::Duration};
use tokio::sync::mpsc;
use wharf_messages::{
    Answer, Call, ImageName, Meta, Refusal,
    content::{READ_CHUNK_MAX_BYTES, ReadContent, WriteContent, Written},
    image::{GetImage, Image, Progress, PullImage},
    system::BackupMetadata,
};
use wharf_store::refuse;

/// How much of a blob is read at once: several are on their way to each client who reads.
const READ_CHUNK_BYTES: usize = 256 << 10;
const _: () = assert!(READ_CHUNK_BYTES <= READ_CHUNK_MAX_BYTES);

/// The largest piece of a blob that is read where it is asked for, wherever it is: a manifest or a configuration.
const READ_HERE_MAX_BYTES: usize = 16 << 10;

/// How often a client is shown progress at the most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// What a call answers whose client went away while it was being sent something.
pub(super) fn client_gone() -> Refusal {
    Refusal::canceled("the client went away")
}

/// Shows a board to a client while `work` runs, and once more when it is over.
pub(super) async fn shown<T>(
    board: &Board,
    items: &mpsc::Sender<Progress>,
    work: impl Future<Output = T>,
) -> Answer<T> {
    async fn send(watcher: &mut Watcher, items: &mpsc::Sender<Progress>) -> Answer<()> {
        for line in watcher.look() {
            items.send(line).await.map_err(|_| client_gone())?;
        }
        Ok(())
    }
    let mut watcher = board.watch();
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                send(&mut watcher, items).await?;
                return Ok(done);
            }
            () = watcher.changed() => {
                send(&mut watcher, items).await?;
                // The bell may ring thousands of times a second; a person sees twenty.
                tokio::select! {
                    biased;
                    done = &mut work => {
                        send(&mut watcher, items).await?;
                        return Ok(done);
                    }
                    () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
                }
            }
        }
    }
}

impl Serve for PullImage {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Progress>) -> Answer<Image> {
        // Wrong references are refused before an actor is made for them.
        wharf_messages::reference::Reference::parse(&self.reference)?;
        let name = ImageName::new(&self.reference)?;
        let pulled = async {
            let join = JoinPull { name: name.clone(), call: self };
            let mut ticket = wharf.actors.images.ask(meta.clone(), join).await?;
            let board = ticket.board.clone();
            let pulled = tokio::select! {
                biased;
                // The ticket goes with the call; the last one to go cancels the pull.
                () = io.cancel.cancelled() => Err(client_gone()),
                pulled = shown(&board, &io.items, ticket.end()) => pulled?,
            };
            with_room(&wharf, &meta, pulled).await
        };
        match pulled.await {
            // Lost after it was done.
            Err(_) if wharf.store.done(meta.request_id).is_some() => {
                GetImage { name }.serve(wharf.clone(), meta, CallIo::none()).await
            }
            pulled => pulled,
        }
    }
}

impl Serve for ReadContent {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Vec<u8>>) -> Answer<()> {
        // The namespace's own row decides, not the file that another one may have.
        if wharf.store.read()?.content(meta.namespace()?, &self.digest)?.is_none() {
            return Err(refuse::no_content(&self.digest));
        }
        let mut blob = wharf.store.blobs().open_blob(&self.digest)?;
        let Self { digest, mut offset_bytes, size_bytes: wanted } = self;
        let size_bytes = blob.size_bytes();
        let rest = size_bytes.checked_sub(offset_bytes).ok_or_else(|| {
            Refusal::out_of_range(format!("offset {offset_bytes} of content {digest} with {size_bytes} bytes"))
        })?;
        let end = offset_bytes + if wanted == 0 { rest } else { wanted.min(rest) };
        while offset_bytes < end {
            // A client that does not read holds no thread, and of the channel no more than one place: places are meant for
            // small items.
            let places = io.items.max_capacity().saturating_sub(1).max(1);
            let mut places = io.items.reserve_many(places).await.map_err(|_| client_gone())?;
            let place = places.next();
            drop(places);
            let length =
                usize::try_from(end - offset_bytes).map_or(READ_CHUNK_BYTES, |left| left.min(READ_CHUNK_BYTES));
            // What is small, and what is in memory, takes less time than the way to another thread and back.
            let piece = if length <= READ_HERE_MAX_BYTES {
                blob.read_piece(offset_bytes, length)?
            } else if let Some(piece) = blob.read_cached(offset_bytes, length) {
                piece
            } else {
                let piece;
                (blob, piece) = blocking(Self::NAME, move || {
                    let piece = blob.read_piece(offset_bytes, length)?;
                    Ok((blob, piece))
                })
                .await?;
                piece
            };
            offset_bytes += piece.len() as u64;
            if let Some(place) = place {
                place.send(piece);
            }
        }
        Ok(())
    }
}

impl Serve for BackupMetadata {
    async fn serve(self, wharf: Wharf, _: Meta, io: CallIo<Vec<u8>>) -> Answer<()> {
        waiting("system.backup", move || {
            let mut file = wharf.store.backup()?;
            loop {
                let mut chunk = vec![0; READ_CHUNK_MAX_BYTES];
                let read = file.read(&mut chunk).map_err(|e| Refusal::io("read the backup", &e))?;
                if read == 0 {
                    return Ok(());
                }
                chunk.truncate(read);
                io.items.blocking_send(chunk).map_err(|_| client_gone())?;
            }
        })
        .await
    }
}

/// Opens an ingest for a caller who writes it piece by piece.
///
/// # Errors
/// `AlreadyExists` if the expected blob is here, also by way of another namespace; `Unavailable` while another has the
/// reference.
async fn open_ingest(wharf: &Wharf, meta: Meta, open: OpenIngest) -> Answer<IngestWriter> {
    if let Some(expected) = &open.expected {
        // Makes another namespace's blob this one's, too. Whatever is here the actor refuses, and leases.
        crate::content::have(&wharf.drivers.content, &meta, expected, open.labels.clone()).await?;
    }
    wharf.actors.content.ask(meta, open).await
}

impl Serve for WriteContent {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<()>) -> Answer<Written> {
        let open = OpenIngest {
            reference: self.reference.clone(),
            total_bytes: self.total_bytes,
            expected: self.expected.clone(),
            labels: self.labels.clone(),
            shares: false,
        };
        let mut writer = open_ingest(&wharf, meta, open).await?;
        seek(&mut writer, &self).await?;
        // A client that goes away ends the upload with an error: what has come is kept for it to go on with.
        writer.write_all(io.upload).await?;
        if !self.commit {
            return Ok(Written { offset_bytes: writer.offset_bytes()?, digest: None });
        }
        let info = writer.commit(self.total_bytes, self.expected, self.labels).await?;
        Ok(Written { offset_bytes: info.size_bytes, digest: Some(info.digest) })
    }
}

/// Brings an ingest to where the client wants to go on.
async fn seek(writer: &mut IngestWriter, call: &WriteContent) -> Answer<()> {
    let now = writer.offset_bytes()?;
    match call.offset_bytes {
        None => Ok(()),
        Some(0) => writer.truncate(0).await,
        Some(offset) if offset == now => Ok(()),
        Some(offset) => Err(Refusal::out_of_range(format!("ref {} is at offset {now}, not {offset}", call.reference))),
    }
}

/// A blocking reader over a client's upload.
pub(super) struct UploadReader {
    upload: mpsc::Receiver<Answer<Bytes>>,
    chunk: Bytes,
}

impl UploadReader {
    /// Over an upload.
    pub(super) fn new(upload: mpsc::Receiver<Answer<Bytes>>) -> Self {
        Self { upload, chunk: Bytes::new() }
    }
}

impl Read for UploadReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.upload.blocking_recv() {
                Some(Ok(chunk)) => self.chunk = chunk,
                // The refusal keeps its kind on its way through readers that know only I/O errors.
                Some(Err(refusal)) => return Err(std::io::Error::other(refusal)),
                None => return Ok(0),
            }
        }
        let length = buf.len().min(self.chunk.len());
        buf[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}
