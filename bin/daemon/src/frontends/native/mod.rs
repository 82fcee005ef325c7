//! The native front end: frames in, calls out, and the other way round. It keeps nothing beyond a connection.
//!
//! One task a connection reads; each call is a task of its own and writes its own frames. Bounds, so that a client harms
//! only itself:
//! - calls in flight on a connection, and the bytes of their requests: one more is refused as `Unavailable`;
//! - pieces of an upload that its call has not taken: the connection is not read on, so a client with other calls to make
//!   meanwhile uploads on a connection of its own (as the client library does);
//! - items that the client has not read: their call waits;
//! - the time until the first words: then the connection is closed.
//!
//! A connection that ends (or breaks the protocol) cancels its calls: their tokens first, then their futures are dropped.

pub mod handshake;
pub mod table;
pub mod upload;
pub mod wire;

use crate::traces::call;
use bytes::Bytes;
use futures_util::FutureExt;
use std::{collections::HashMap, io::ErrorKind, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use table::{Inbound, Row};
use tokio::{
    io::Interest,
    net::UnixStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use upload::Upload;
use wharf_messages::{
    Answer, CallKind, Refusal, RefusalKind,
    call::CallShape,
    meta::Peer,
    wire::{self as protocol, Frame, FrameBuffer, FrameKind, RequestHead, Side, WireError},
};
use wire::Wire;

/// Calls in flight on one connection, unless configured otherwise.
pub const CALLS_MAX: usize = 1024;
/// Bytes that the requests in flight on one connection may have: four of the largest.
const REQUESTS_MAX_BYTES: usize = 4 * protocol::FRAME_MAX_BYTES;
/// How long commands in flight may take to be answered when the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// What a connection is served with.
#[derive(Debug)]
pub struct Service<D: 'static> {
    /// The calls there are.
    pub table: &'static [Row<D>],
    /// Who does them.
    pub doer: D,
    /// Calls in flight on one connection.
    pub calls_max: usize,
}

/// Serves a connection, on which hands were shaken, to its end.
///
/// # Errors
/// How the peer broke the protocol; it has been told.
pub async fn serve<D>(
    service: &Service<D>,
    stream: UnixStream,
    peer: Peer,
    stopping: CancellationToken,
) -> Result<(), WireError>
where
    D: Clone + Send + Sync + 'static,
{
    let wire = Arc::new(Wire::new(stream));
    let mut connection = Connection {
        service,
        wire: wire.clone(),
        peer,
        calls: HashMap::new(),
        running: JoinSet::new(),
        last_id: 0,
        requests_bytes: 0,
        stop_by: None,
    };
    let end = connection.run(&stopping).await;
    connection.cancel_all();
    drop(connection);
    if let Err(error) = end {
        // Whether it reads that is its affair.
        wire.send(FrameKind::Fault, 0, &protocol::encode_refusal(&error.into())).await.ok();
    }
    end
}

/// A call in flight.
#[derive(Debug)]
struct InFlight {
    cancel: CancellationToken,
    upload: Option<Upload>,
    kind: CallKind,
    request_bytes: usize,
}

struct Connection<'a, D: 'static> {
    service: &'a Service<D>,
    wire: Arc<Wire>,
    peer: Peer,
    calls: HashMap<u64, InFlight>,
    /// Their tasks; each gives its id. Dropped, it drops the tasks.
    running: JoinSet<u64>,
    last_id: u64,
    requests_bytes: usize,
    /// Set once the daemon stops: how long commands still have.
    stop_by: Option<Instant>,
}

/// What a connection waited for.
enum Next {
    Frame(Result<Option<Frame>, WireError>),
    Over(u64),
    Stop,
    GraceOver,
}

impl<D: Clone + Send + Sync + 'static> Connection<'_, D> {
    /// Until the client leaves, the daemon stops, or the protocol is broken.
    async fn run(&mut self, stopping: &CancellationToken) -> Result<(), WireError> {
        let mut frames = FrameBuffer::new(Side::Client);
        loop {
            // Queries are left without an answer: their clients ask the next daemon.
            if self.stop_by.is_some() && self.calls.values().all(|call| call.kind == CallKind::Query) {
                return Ok(());
            }
            let stop_by = self.stop_by;
            let next = tokio::select! {
                frame = read_frame(&self.wire.stream, &mut frames) => Next::Frame(frame),
                Some(over) = self.running.join_next() => match over {
                    Ok(id) => Next::Over(id),
                    // Panics are caught within the task, and nobody aborts one while the connection lives.
                    Err(_) => continue,
                },
                () = stopping.cancelled(), if stop_by.is_none() => Next::Stop,
                () = async { sleep_until(stop_by.unwrap_or_else(Instant::now)).await }, if stop_by.is_some() => Next::GraceOver,
            };
            match next {
                Next::Frame(Ok(Some(frame))) => self.take(frame, stopping).await?,
                Next::Frame(Ok(None)) | Next::GraceOver => return Ok(()),
                Next::Frame(Err(error)) => return Err(error),
                Next::Over(id) => self.forget(id),
                Next::Stop => self.stop_by = Some(Instant::now() + STOP_GRACE),
            }
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(call) = self.calls.remove(&id) {
            self.requests_bytes -= call.request_bytes;
        }
    }

    fn cancel_all(&mut self) {
        self.calls.values().for_each(|call| call.cancel.cancel());
    }

    async fn take(&mut self, Frame { kind, id, body }: Frame, stopping: &CancellationToken) -> Result<(), WireError> {
        match kind {
            FrameKind::Request => return self.begin(id, body).await,
            FrameKind::Ping => self.send(FrameKind::Pong, id, &[]).await,
            // An answer to a ping that this side does not send, or a frame whose direction was checked before.
            FrameKind::Pong | FrameKind::Item | FrameKind::Reply | FrameKind::Refused | FrameKind::Fault => {}
            FrameKind::Data | FrameKind::End | FrameKind::Cancel => {
                let Some(call) = self.calls.get_mut(&id) else {
                    // It may have crossed the answer, unless there never was such a call.
                    return if id == 0 || id > self.last_id {
                        Err(WireError::NoSuchRequest { kind, id })
                    } else {
                        Ok(())
                    };
                };
                match (kind, &mut call.upload) {
                    (FrameKind::Cancel, upload) => {
                        *upload = None;
                        call.cancel.cancel();
                    }
                    // What follows a cancel has crossed it.
                    _ if call.cancel.is_cancelled() => {}
                    (FrameKind::Data, Some(upload)) => {
                        // A piece that is not passed on must not be followed by others: the upload is over then.
                        let passed = tokio::select! {
                            () = upload.pass(Bytes::from(body)) => true,
                            () = hang_up(&self.wire.stream) => false,
                            () = stopping.cancelled(), if self.stop_by.is_none() => false,
                        };
                        if !passed {
                            call.upload = None;
                            call.cancel.cancel();
                        }
                    }
                    (_, Some(_)) => call.upload.take().into_iter().for_each(Upload::finish),
                    (_, None) => return Err(WireError::NoUpload { kind, id }),
                }
            }
        }
        Ok(())
    }

    /// Writes a frame of the connection's own. A failure shows when it is read next.
    async fn send(&self, kind: FrameKind, id: u64, body: &[u8]) {
        self.wire.send(kind, id, body).await.ok();
    }

    async fn begin(&mut self, id: u64, body: Vec<u8>) -> Result<(), WireError> {
        if id <= self.last_id {
            return Err(WireError::IdNotRising(id));
        }
        self.last_id = id;
        let body = Bytes::from(body);
        let (RequestHead { call: name, mut meta }, call) = RequestHead::decode(&body)?;
        meta.peer = Some(self.peer);
        match self.admit(name, body.len()) {
            Ok(row) => {
                let span = call::begin(row.name, &meta);
                let call = body.slice_ref(call);
                let (upload, uploaded) = match row.shape {
                    CallShape::Upload | CallShape::UploadItems => {
                        let (upload, uploaded) = Upload::channel();
                        (Some(upload), Some(uploaded))
                    }
                    CallShape::Unary | CallShape::Items => (None, None),
                };
                let cancel = CancellationToken::new();
                let in_flight = InFlight { cancel: cancel.clone(), upload, kind: row.kind, request_bytes: body.len() };
                self.requests_bytes += body.len();
                self.calls.insert(id, in_flight);
                let inbound = Inbound { id, meta, call, wire: self.wire.clone(), upload: uploaded, cancel };
                self.running.spawn(
                    answer(
                        (row.perform)(self.service.doer.clone(), inbound),
                        self.calls[&id].cancel.clone(),
                        self.wire.clone(),
                        id,
                    )
                    .instrument(span),
                );
            }
            Err(refusal) => self.send(FrameKind::Refused, id, &protocol::encode_refusal(&refusal)).await,
        }
        Ok(())
    }

    /// The call's row, if there is one and room for it.
    fn admit(&self, name: &str, request_bytes: usize) -> Answer<&'static Row<D>> {
        if self.stop_by.is_some() {
            return Err(Refusal::unavailable(format!("{name}: wharfd is stopping")));
        }
        if self.calls.len() >= self.service.calls_max || self.requests_bytes + request_bytes > REQUESTS_MAX_BYTES {
            return Err(Refusal::unavailable(format!(
                "{name}: {} calls with {} bytes of requests are in flight on this connection",
                self.calls.len(),
                self.requests_bytes
            )));
        }
        let row = self.service.table.iter().find(|row| row.name == name);
        row.ok_or_else(|| Refusal::not_implemented(format!("call {name:?}: unknown to this version of wharfd")))
    }
}

/// Does a call and writes its answer, whatever happens to it.
async fn answer(doing: table::Doing, cancel: CancellationToken, wire: Arc<Wire>, id: u64) -> u64 {
    let begun = Instant::now();
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(doing).catch_unwind() => outcome.unwrap_or_else(|panic| Err(panicked(&*panic))),
        () = cancel.cancelled() => Err(Refusal::canceled("the client wants no answer any more")),
    };
    let elapsed_us = begun.elapsed().as_micros();
    call::end(&Span::current(), &outcome);
    let sent = match &outcome {
        Ok(reply) => {
            tracing::debug!(elapsed_us, reply_bytes = reply.len(), "done");
            wire.send(FrameKind::Reply, id, reply).await
        }
        Err(refusal) => {
            if refusal.is(RefusalKind::Internal) || refusal.is(RefusalKind::DataLoss) {
                tracing::warn!(elapsed_us, kind = ?refusal.kind, %refusal, "failed");
            } else {
                tracing::debug!(elapsed_us, kind = ?refusal.kind, %refusal, "refused");
            }
            wire.send(FrameKind::Refused, id, &protocol::encode_refusal(refusal)).await
        }
    };
    if let Err(refusal) = sent {
        tracing::debug!(%refusal, "the answer was not delivered");
    }
    id
}

/// A panic in a call's own future is a bug, told and survived: actors have supervisors, a call has this.
pub fn panicked(panic: &(dyn std::any::Any + Send)) -> Refusal {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(panic = text, "a call panicked");
    Refusal::internal(format!("wharfd has a bug: {text}"))
}

/// The next frame; none when the client has left between two.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
async fn read_frame(stream: &UnixStream, frames: &mut FrameBuffer) -> Result<Option<Frame>, WireError> {
    loop {
        if let Some(frame) = frames.next()? {
            return Ok(Some(frame));
        }
        // A socket that fails is a client that has left.
        let Ok(()) = stream.readable().await else { return Ok(None) };
        let (space, most) = frames.space();
        match stream.try_read_buf(&mut bytes::BufMut::limit(space, most)) {
            Ok(0) if frames.is_between_frames() => return Ok(None),
            Ok(0) => return Err(WireError::CutOff),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Ok(None),
        }
    }
}

/// Waits until the client has closed its side, without reading what it sent before.
async fn hang_up(stream: &UnixStream) {
    // Of this interest only the closing ever comes: stream sockets of this family have no urgent data.
    while stream.ready(Interest::PRIORITY).await.is_ok_and(|ready| !ready.is_read_closed()) {}
}

#[cfg(test)]
pub mod tests;
