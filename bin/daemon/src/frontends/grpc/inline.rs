//! A connection's streams, done by the connection's own task.
//!
//! Most calls are answered from memory in a few microseconds. A task a stream would have another worker woken for each, and
//! the connection woken by it: that takes longer than the call. What takes long is done elsewhere anyway, by actors and on
//! blocking threads.

use super::cork::Cork;
use crate::frontends::native::panicked;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hyper::rt::Executor;
use std::{
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

type Stream = BoxFuture<'static, ()>;

/// Where a connection leaves its new streams.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<Vec<Stream>>>);

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // A panic ends its stream and no other.
        let stream = AssertUnwindSafe(stream).catch_unwind().map(|done| {
            if let Err(panic) = done {
                // It is told; there is nobody left to answer.
                drop(panicked(&*panic));
            }
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(stream.boxed());
    }
}

/// A connection with its streams; done when the connection is. What streams are left then go with it.
#[derive(Debug)]
pub struct Inline<C> {
    /// The connection.
    pub connection: Pin<Box<C>>,
    fresh: Streams,
    open: FuturesUnordered<Stream>,
    cork: Cork,
}

impl<C> Inline<C> {
    /// Of a connection that has these streams as its executor, and whose socket is corked by this.
    pub fn new(connection: C, streams: Streams, cork: Cork) -> Self {
        Self { connection: Box::pin(connection), fresh: streams, open: FuturesUnordered::new(), cork }
    }
}

impl<C: Future> Future for Inline<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let Self { connection, fresh, open, cork } = &mut *self;
        loop {
            let end = connection.as_mut().poll(cx);
            // A stream holds its connection's executor: none may stay in there.
            open.extend(fresh.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
            if end.is_pending() {
                // The connection sends what a stream has written, and may begin another in its place.
                if let Poll::Ready(Some(())) = open.poll_next_unpin(cx) {
                    continue;
                }
            }
            // What a client does not take at once at the end is what it does not want: it has broken the protocol or left.
            let _ = cork.poll_flush(cx);
            return end;
        }
    }
}
