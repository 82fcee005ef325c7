//! Calls that move images: import, export, push, unpack.

use super::{
    CallIo, Serve,
    streams::{UploadReader, client_gone, shown},
};
use crate::{
    Wharf,
    image::{board::Board, claim::Claim, export, import, push, resolve},
    runtime::{blocking, waiting},
};
use std::io::{self, Write};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Call, Descriptor, Meta, RefusalKind,
    content::UpdateContent,
    gc::CollectGarbage,
    image::{ExportImages, Image, ImportImages, Progress, PushImage, ResolveImage, ResolvedImage, UnpackImage},
};
use wharf_store::{Change, Commit, refuse};

/// How much of an archive is sent at once.
const CHUNK_BYTES: usize = 256 << 10;

impl Serve for ImportImages {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Progress>) -> Answer<Vec<Image>> {
        let board = Board::default();
        let input = UploadReader::new(io.upload);
        let work = import::import(wharf.clone(), meta.clone(), self, input, board.clone(), io.cancel);
        with_room(&wharf, &meta, shown(&board, &io.items, work).await?).await
    }
}

impl Serve for PushImage {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Progress>) -> Answer<Descriptor> {
        let board = Board::default();
        tokio::select! {
            biased;
            // Dropped, the push ends where it stands; a registry forgets uploads that are not finished.
            () = io.cancel.cancelled() => Err(client_gone()),
            pushed = shown(&board, &io.items, push::push(wharf, meta, self, board.clone())) => pushed?,
        }
    }
}

impl Serve for UnpackImage {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Progress>) -> Answer<ResolvedImage> {
        let board = Board::default();
        let work = async {
            let mut claim = Claim::take(&wharf.journal, meta.clone(), "unpack").await?;
            let done = unpack(&self, &wharf, &mut claim, &board, &io.cancel).await;
            claim.settled(done).await
        };
        with_room(&wharf, &meta, shown(&board, &io.items, work).await?).await?;
        ResolveImage { name: self.name, platform: self.platform, snapshotter: self.snapshotter }
            .serve(wharf, meta, CallIo::none())
            .await
    }
}

/// Unpacks an image under a claim, and ties what was made to it.
async fn unpack(
    call: &UnpackImage,
    wharf: &Wharf,
    claim: &mut Claim,
    board: &Board,
    cancel: &CancellationToken,
) -> Answer<()> {
    let namespace = claim.meta().namespace()?.clone();
    let (reading, name, platform) = (wharf.clone(), call.name.clone(), call.platform.clone());
    let looking = namespace.clone();
    let resolved = blocking(UnpackImage::NAME, move || {
        let reader = reading.store.read()?;
        let image = reader.image(&looking, &name)?.ok_or_else(|| refuse::no_image(&name))?;
        resolve::resolve(&reading.store, &reader, &looking, &image.target, platform.as_ref())
            .map_err(|refusal| refusal.context(format!("image {name}")))
    })
    .await?;
    let snapshotter = call.snapshotter.clone();
    let labels = import::unpack_resolved(wharf, claim.meta(), snapshotter, &resolved, board, cancel).await?;
    let mut commit = Commit::new(&namespace);
    for (digest, labels) in labels {
        let mask = labels.keys().map(|key| format!("labels.{key}")).collect();
        commit = commit.change(Change::UpdateContent(UpdateContent { digest, labels, mask }));
    }
    claim.conclude(commit).await.map(|_| ())
}

/// Has what a call has brought here collected before it is answered that there is no room for it: whoever hears of that
/// finds the disk as it was before.
pub(super) async fn with_room<T>(wharf: &Wharf, meta: &Meta, done: Answer<T>) -> Answer<T> {
    if let Err(refusal) = &done
        && refusal.is(RefusalKind::ResourceExhausted)
        && let Err(left) = wharf.actors.gc.ask(meta.clone(), CollectGarbage {}).await
    {
        tracing::warn!(%left, "what a call had no room for is not collected yet");
    }
    done
}

impl Serve for ExportImages {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Vec<u8>>) -> Answer<()> {
        let namespace = meta.namespace()?.clone();
        waiting(Self::NAME, move || {
            let mut output = Chunks { items: io.items, chunk: Vec::with_capacity(CHUNK_BYTES) };
            export::export(&wharf, &namespace, &self, &mut output)?;
            output.flush().map_err(|_| client_gone())
        })
        .await
    }
}

/// A blocking writer to a client.
struct Chunks {
    items: mpsc::Sender<Vec<u8>>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.chunk.len();
        let length = room.min(bytes.len());
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
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.items.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
