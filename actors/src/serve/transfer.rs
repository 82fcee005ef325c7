//! Calls that move images: import, export, unpack.

use super::{
    CallIo, Serve,
    streams::{UploadReader, client_gone, shown},
};
use crate::{
    Wharf,
    image::{board::Board, claim::Claim, export, import, resolve},
    runtime::blocking,
};
use std::io::{self, Write};
use tokio::sync::mpsc;
use wharf_messages::{
    Answer, Call, Meta,
    content::UpdateContent,
    image::{ExportImages, Image, ImportImages, Progress, ResolveImage, ResolvedImage, UnpackImage},
};
use wharf_store::{Change, Commit, refuse};

/// How much of an archive is sent at once.
const CHUNK_BYTES: usize = 256 << 10;

impl Serve for ImportImages {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Progress>) -> Answer<Vec<Image>> {
        let board = Board::default();
        let input = UploadReader::new(io.upload);
        shown(&board, &io.items, import::import(wharf, meta, self, input, board.clone(), io.cancel)).await?
    }
}

impl Serve for UnpackImage {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Progress>) -> Answer<ResolvedImage> {
        let board = Board::default();
        let work = async {
            let namespace = meta.namespace()?.clone();
            let mut claim = Claim::take(&wharf.journal, meta.clone(), "unpack").await?;
            let (reading, name, platform) = (wharf.clone(), self.name.clone(), self.platform.clone());
            let resolved = blocking(Self::NAME, move || {
                let reader = reading.store.read()?;
                let image = reader.image(&namespace, &name)?.ok_or_else(|| refuse::no_image(&name))?;
                resolve::resolve(&reading.store, &reader, &namespace, &image.target, platform.as_ref())
                    .map_err(|refusal| refusal.context(format!("image {name}")))
            })
            .await?;
            let snapshotter = self.snapshotter.clone();
            let labels =
                import::unpack_resolved(&wharf, claim.meta(), snapshotter, &resolved, &board, &io.cancel).await?;
            let mut commit = Commit::new(meta.namespace()?);
            for (digest, labels) in labels {
                let mask = labels.keys().map(|key| format!("labels.{key}")).collect();
                commit = commit.change(Change::UpdateContent(UpdateContent { digest, labels, mask }));
            }
            claim.conclude(commit).await.map(|_| ())
        };
        shown(&board, &io.items, work).await??;
        ResolveImage { name: self.name, platform: self.platform, snapshotter: self.snapshotter }
            .serve(wharf, meta, CallIo::none())
            .await
    }
}

impl Serve for ExportImages {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Vec<u8>>) -> Answer<()> {
        let namespace = meta.namespace()?.clone();
        blocking(Self::NAME, move || {
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
