//! How a call of the wire is done: its context, its message, its answer.

use super::{super::native::panicked, status::status};
use crate::traces::call;
use futures_util::{FutureExt, Stream, future::BoxFuture, stream};
use std::{
    collections::VecDeque,
    future::Future,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    task::Poll,
    time::Instant,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Extensions, Request, Response, Status, metadata::MetadataMap};
use tracing::{Instrument, Span};
use wharf_actors::{
    Wharf,
    serve::{CallIo, Serve},
};
use wharf_messages::{
    Answer, CallKind, LeaseId, Meta, Namespace, Refusal, RefusalKind,
    meta::{self, Peer, TraceContext},
};

/// The header that names the namespace.
const NAMESPACE: &str = "containerd-namespace";
/// The header that names the lease.
const LEASE: &str = "containerd-lease";
/// Items that wait to be written; more make the call wait.
const ITEMS: usize = 8;
/// Objects in one message of a listing that streams.
const BATCH: usize = 100;

/// What an RPC answers.
pub type Reply<T> = Result<Response<T>, Status>;
/// What a streaming RPC answers with.
pub type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Every service of the wire, over one actor system. It holds no state of its own.
#[derive(Debug, Clone)]
pub struct Api {
    /// Who does the calls.
    pub wharf: Wharf,
    /// Cancelled when the daemon stops.
    pub stopping: CancellationToken,
}

impl Api {
    /// Does a call without anything beside it: the request becomes a call, the call's reply becomes the answer.
    pub async fn unary<C: Serve, Q, R>(
        &self,
        request: Request<Q>,
        decode: impl FnOnce(Q) -> Answer<C>,
        encode: impl FnOnce(C::Reply) -> R,
    ) -> Reply<R> {
        let meta = context(request.metadata(), request.extensions()).map_err(|refusal| status(&refusal))?;
        let call = decode(request.into_inner()).map_err(|refusal| status(&refusal))?;
        let reply = self.call(meta, call).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(encode(reply)))
    }

    /// Does a call whose reply is a list, and streams the list in batches.
    pub async fn batches<C, Q, T, R>(
        &self,
        request: Request<Q>,
        decode: impl FnOnce(Q) -> Answer<C>,
        encode: impl FnMut(Vec<T>) -> R + Send + 'static,
    ) -> Reply<Streamed<R>>
    where
        C: Serve<Reply = Vec<T>>,
        T: Send + 'static,
        R: 'static,
    {
        let listed = self.unary(request, decode, |list| list).await?.into_inner();
        let mut rest = listed.into_iter();
        let batches = std::iter::from_fn(move || {
            let batch: Vec<T> = rest.by_ref().take(BATCH).collect();
            (!batch.is_empty()).then_some(batch)
        });
        Ok(Response::new(Box::pin(stream::iter(batches.map(encode).map(Ok)))))
    }

    /// Does a call with items, and streams them. The call's own reply is not told.
    pub fn items<C, Q, R, M>(
        &self,
        request: Request<Q>,
        decode: impl FnOnce(Q) -> Answer<C>,
        mut encode: impl FnMut(C::Item) -> M + Send + 'static,
    ) -> Reply<Streamed<R>>
    where
        C: Serve,
        R: Send + 'static,
        M: IntoIterator<Item = R>,
    {
        let meta = context(request.metadata(), request.extensions()).map_err(|refusal| status(&refusal))?;
        let call = decode(request.into_inner()).map_err(|refusal| status(&refusal))?;
        let (items, mut streamed) = mpsc::channel(ITEMS);
        let (io, guard) = io(items);
        let api = self.clone();
        let serving: BoxFuture<'static, Answer<C::Reply>> = Box::pin(async move { api.perform(meta, call, io).await });
        let mut running: Option<(_, DropGuard)> = Some((serving, guard));
        let mut messages = VecDeque::new();
        Ok(Response::new(Box::pin(stream::poll_fn(move |cx| {
            loop {
                if let Some(message) = messages.pop_front() {
                    return Poll::Ready(Some(Ok(message)));
                }
                match streamed.poll_recv(cx) {
                    Poll::Ready(Some(item)) => {
                        messages.extend(encode(item));
                        continue;
                    }
                    Poll::Ready(None) if running.is_none() => return Poll::Ready(None),
                    Poll::Ready(None) | Poll::Pending => {}
                }
                let Some((serving, _)) = &mut running else { return Poll::Pending };
                let Poll::Ready(outcome) = serving.as_mut().poll(cx) else { return Poll::Pending };
                running = None;
                // What was there before the answer comes first; whoever still holds the channel holds nothing up.
                streamed.close();
                if let Err(refusal) = outcome {
                    return Poll::Ready(Some(Err(status(&refusal))));
                }
            }
        }))))
    }

    /// Does a call without anything beside it.
    ///
    /// # Cancel safety
    /// Dropping it cancels the call.
    pub async fn call<C: Serve>(&self, meta: Meta, call: C) -> Answer<C::Reply> {
        let (io, _guard) = io(mpsc::channel(1).0);
        self.perform(meta, call, io).await
    }

    /// Does a call, whatever happens to it, and traces it.
    async fn perform<C: Serve>(&self, meta: Meta, call: C, io: CallIo<C::Item>) -> Answer<C::Reply> {
        let span = call::begin(C::NAME, &meta);
        let serving = AssertUnwindSafe(call.serve(self.wharf.clone(), meta, io)).catch_unwind();
        let traced = async {
            let begun = Instant::now();
            let outcome = tokio::select! {
                outcome = serving => outcome.unwrap_or_else(|panic| Err(panicked(&*panic))),
                // Commands have a moment to end; queries are asked again of the next daemon.
                () = self.stopping.cancelled(), if C::KIND == CallKind::Query => Err(stopping(C::NAME)),
            };
            let elapsed_us = begun.elapsed().as_micros();
            match &outcome {
                Ok(_) => tracing::debug!(elapsed_us, "done"),
                Err(refusal) if refusal.is(RefusalKind::Internal) || refusal.is(RefusalKind::DataLoss) => {
                    tracing::warn!(elapsed_us, kind = ?refusal.kind, %refusal, "failed");
                }
                Err(refusal) => tracing::debug!(elapsed_us, kind = ?refusal.kind, %refusal, "refused"),
            }
            call::end(&Span::current(), &outcome);
            outcome
        };
        traced.instrument(span).await
    }

    /// Waits for something on a client's stream, unless the daemon stops.
    ///
    /// # Errors
    /// `Unavailable` when the daemon stops.
    pub async fn unless_stopping<T>(&self, what: &str, waiting: impl Future<Output = T>) -> Answer<T> {
        let mut waiting = pin!(waiting);
        tokio::select! {
            biased;
            outcome = &mut waiting => Ok(outcome),
            () = self.stopping.cancelled() => Err(stopping(what)),
        }
    }
}

fn stopping(what: &str) -> Refusal {
    Refusal::unavailable(format!("{what}: wharfd is stopping"))
}

/// What flows beside a call; the guard cancels it.
fn io<I>(items: mpsc::Sender<I>) -> (CallIo<I>, DropGuard) {
    let cancel = CancellationToken::new();
    let guard = cancel.clone().drop_guard();
    (CallIo { items, upload: mpsc::channel(1).1, cancel }, guard)
}

/// The context of a call: from headers, and from whom the connection is.
///
/// # Errors
/// `InvalidArgument` for a namespace or a lease that cannot be one.
pub fn context(metadata: &MetadataMap, extensions: &Extensions) -> Answer<Meta> {
    let header = |name: &str| {
        let Some(value) = metadata.get(name) else { return Ok("") };
        value.to_str().map_err(|_| Refusal::invalid(format!("header {name} has other than ASCII characters")))
    };
    let namespace = super::convert::optional(header(NAMESPACE)?, |text| {
        Namespace::new(text).map_err(|refusal| refusal.context("namespace validation"))
    })?;
    let lease = super::convert::optional(header(LEASE)?, LeaseId::new)?;
    // What is no text is no trace: it is the call that counts.
    let words = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    let trace = TraceContext::new(words("traceparent"), words("tracestate"));
    let peer = extensions.get::<Peer>().copied();
    Ok(Meta { namespace, lease, request_id: meta::next_request_id(), trace, peer })
}
