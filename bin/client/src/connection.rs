//! One connection that many calls share: requests go out as they come, answers come back by id.

use crate::pipe;
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::AbortHandle,
};
use wharf_messages::{
    Answer, Refusal,
    wire::{self, Frame, FrameBuffer, FrameKind, Side},
};

/// Requests that wait to be written; more make their callers wait.
const OUTGOING: usize = 16;

/// Why an exchange had no answer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Nothing of it can have reached the daemon.
    Unsent,
    /// It may have been done, or not.
    Unanswered(Refusal),
}

type Waiting = HashMap<u64, oneshot::Sender<Answer<Vec<u8>>>>;

#[derive(Debug)]
struct Outgoing {
    kind: FrameKind,
    id: u64,
    body: Bytes,
}

/// What the callers and the two tasks share.
#[derive(Debug, Default)]
struct State {
    last_id: u64,
    waiting: Waiting,
    /// Why the connection is over, once it is.
    over: Option<Refusal>,
}

/// A connection in use. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    state: Arc<Mutex<State>>,
    outgoing: mpsc::Sender<Outgoing>,
    tasks: [AbortHandle; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

// The state is plain data and valid between any two statements, so a panic elsewhere does not spoil it.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Takes over a stream on which hands were shaken.
    pub(crate) fn new(stream: UnixStream) -> Self {
        let stream = Arc::new(stream);
        let state = Arc::new(Mutex::new(State::default()));
        let (outgoing, incoming) = mpsc::channel(OUTGOING);
        let writer = tokio::spawn(write(stream.clone(), incoming, state.clone()));
        let reader = tokio::spawn(read(stream, outgoing.clone(), state.clone()));
        Self { state, outgoing, tasks: [writer.abort_handle(), reader.abort_handle()] }
    }

    /// Whether it is known to be over.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).over.is_some()
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub(crate) async fn exchange(&self, body: Bytes) -> Result<Answer<Vec<u8>>, Lost> {
        let place = self.outgoing.reserve().await.map_err(|_| Lost::Unsent)?;
        let (waiter, answer) = oneshot::channel();
        let id = {
            // Ids rise on the wire because they are given and queued under one lock.
            let mut state = lock(&self.state);
            if state.over.is_some() {
                return Err(Lost::Unsent);
            }
            state.last_id += 1;
            let id = state.last_id;
            state.waiting.insert(id, waiter);
            place.send(Outgoing { kind: FrameKind::Request, id, body });
            id
        };
        let _cancel = CancelOnDrop { connection: self, id };
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                let over = lock(&self.state).over.clone();
                Err(Lost::Unanswered(over.unwrap_or_else(|| Refusal::unavailable("connection to wharfd was closed"))))
            }
        }
    }
}

/// Tells the daemon that a call's answer is not wanted any more, unless it came.
struct CancelOnDrop<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if lock(&self.connection.state).waiting.remove(&self.id).is_none() {
            return;
        }
        let cancel = Outgoing { kind: FrameKind::Cancel, id: self.id, body: Bytes::new() };
        if let Err(mpsc::error::TrySendError::Full(cancel)) = self.connection.outgoing.try_send(cancel) {
            let outgoing = self.connection.outgoing.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                // The send fails only with the connection, which cancels the call as well.
                runtime.spawn(async move { outgoing.send(cancel).await.is_ok() });
            }
        }
    }
}

async fn write(stream: Arc<UnixStream>, mut incoming: mpsc::Receiver<Outgoing>, state: Arc<Mutex<State>>) {
    while let Some(Outgoing { kind, id, body }) = incoming.recv().await {
        if let Err(refusal) = pipe::write_frame(&stream, kind, id, &body).await {
            return end(&state, refusal);
        }
    }
}

async fn read(stream: Arc<UnixStream>, outgoing: mpsc::Sender<Outgoing>, state: Arc<Mutex<State>>) {
    let mut frames = FrameBuffer::new(Side::Daemon);
    loop {
        let Frame { kind, id, body } = match pipe::read_frame(&stream, &mut frames).await {
            Ok(frame) => frame,
            Err(refusal) => return end(&state, refusal),
        };
        let answer = match kind {
            FrameKind::Reply => Ok(body),
            FrameKind::Refused => Err(wire::decode_refusal(&body)),
            FrameKind::Fault => return end(&state, wire::decode_refusal(&body)),
            FrameKind::Ping => {
                let pong = Outgoing { kind: FrameKind::Pong, id, body: Bytes::new() };
                if outgoing.send(pong).await.is_err() {
                    return;
                }
                continue;
            }
            // Only calls with streams have items, and those have connections of their own.
            _ => continue,
        };
        if let Some(waiter) = lock(&state).waiting.remove(&id) {
            // Nobody waits any more if the caller has just left.
            waiter.send(answer).ok();
        }
    }
}

/// Marks the connection as over; whoever waits learns it as its waiter is dropped.
fn end(state: &Mutex<State>, refusal: Refusal) {
    let mut state = lock(state);
    state.over.get_or_insert(refusal);
    state.waiting.clear();
}
