//! A call in flight that streams: items as they come, then the reply.

use crate::pipe;
use bytes::Bytes;
use std::{marker::PhantomData, pin::Pin, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::UnixStream,
    sync::oneshot,
    task::AbortHandle,
};
use wharf_messages::{
    Answer, Call, Refusal, codec,
    wire::{self, DATA_MAX_BYTES, Frame, FrameBuffer, FrameKind, Side},
};

/// Where an upload's bytes come from.
pub(crate) type Source = Pin<Box<dyn AsyncRead + Send>>;

/// The only request on a connection of its own.
const ID: u64 = 1;

/// A call in flight, on a connection of its own. Dropping it closes the connection and so cancels the call.
#[derive(Debug)]
pub struct Items<C: Call> {
    stream: Arc<UnixStream>,
    frames: FrameBuffer,
    /// The answer, once it has come.
    answer: Option<Answer<Vec<u8>>>,
    upload: Option<Upload>,
    call: PhantomData<fn() -> C>,
}

/// The task that writes an upload, and how it failed if it did.
#[derive(Debug)]
struct Upload {
    task: AbortHandle,
    failed: oneshot::Receiver<Refusal>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<C: Call> Items<C> {
    pub(crate) async fn start(stream: UnixStream, body: Bytes, source: Option<Source>) -> Answer<Self> {
        pipe::write_frame(&stream, FrameKind::Request, ID, &body).await?;
        let stream = Arc::new(stream);
        let upload = source.map(|source| {
            let (fail, failed) = oneshot::channel();
            let task = tokio::spawn(upload(stream.clone(), source, fail)).abort_handle();
            Upload { task, failed }
        });
        Ok(Self { stream, frames: FrameBuffer::new(Side::Daemon), answer: None, upload, call: PhantomData })
    }

    /// The next item; none when the call is over and [`Items::reply`] has its answer.
    ///
    /// # Errors
    /// `InvalidArgument` for an item that cannot be read.
    ///
    /// # Cancel safety
    /// No item is lost when the future is dropped.
    pub async fn next(&mut self) -> Answer<Option<C::Item>> {
        while self.answer.is_none() {
            match pipe::read_frame(&self.stream, &mut self.frames).await {
                Ok(Frame { kind: FrameKind::Item, body, .. }) => return Ok(Some(codec::decode(&body)?)),
                Ok(Frame { kind: FrameKind::Reply, body, .. }) => self.finish(Ok(body)),
                Ok(Frame { kind: FrameKind::Refused | FrameKind::Fault, body, .. }) => {
                    self.finish(Err(wire::decode_refusal(&body)));
                }
                // A ping on a connection whose call is streaming needs no pong: the stream says as much.
                Ok(_) => {}
                Err(refusal) => self.finish(Err(refusal.context(C::NAME))),
            }
        }
        Ok(None)
    }

    /// The reply, after the items that nobody asked for were passed over.
    ///
    /// # Errors
    /// The daemon's refusal; `Unavailable` if the connection was lost; the error of an upload's source.
    pub async fn reply(mut self) -> Answer<C::Reply> {
        while self.next().await?.is_some() {}
        match self.answer.take() {
            Some(answer) => codec::decode(&answer?),
            None => Err(Refusal::internal(format!("{}: its answer was taken before", C::NAME))),
        }
    }

    fn finish(&mut self, answer: Answer<Vec<u8>>) {
        // What went wrong with the source explains the refusal that the cancelled call ends with.
        let source_failed = self.upload.take().and_then(|mut upload| upload.failed.try_recv().ok());
        self.answer = Some(source_failed.map_or(answer, Err));
    }
}

/// Writes the upload to its end; a source that fails cancels the call.
async fn upload(stream: Arc<UnixStream>, mut source: Source, fail: oneshot::Sender<Refusal>) {
    let mut piece = Vec::with_capacity(DATA_MAX_BYTES / 4);
    loop {
        piece.clear();
        let (kind, last) = match source.read_buf(&mut piece).await {
            Ok(0) => (FrameKind::End, true),
            Ok(_) => (FrameKind::Data, false),
            Err(error) => {
                // Nobody is there to be told if the caller has just left.
                fail.send(Refusal::io("upload", &error)).ok();
                return wrote(pipe::write_frame(&stream, FrameKind::Cancel, ID, &[]).await);
            }
        };
        let written = pipe::write_frame(&stream, kind, ID, &piece).await;
        if last || written.is_err() {
            return wrote(written);
        }
    }
}

/// A write that failed has lost the connection, which the reader of the answer learns for itself.
fn wrote(_: Answer<()>) {}
