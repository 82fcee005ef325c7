//! Every call of the vocabulary, and how each is done: decode, serve, encode.

use super::wire::Wire;
use bytes::Bytes;
use futures_util::future::try_join;
use std::{future::Future, pin::Pin, sync::Arc};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_actors::{
    Wharf,
    serve::{CallIo, Serve},
};
use wharf_messages::{
    Answer, Call, CallKind, Meta, Refusal,
    call::CallShape,
    codec,
    wire::{BODY_MAX_BYTES, FrameKind},
};

/// Items that wait to be written; more make the call wait.
const ITEMS: usize = 8;

/// Something that can do a call: the actor system, or a test's stand-in.
pub trait Does<C: Call>: Clone + Send + Sync + 'static {
    /// Does the call.
    fn does(self, call: C, meta: Meta, io: CallIo<C::Item>) -> impl Future<Output = Answer<C::Reply>> + Send;
}

/// A call on its way in.
#[derive(Debug)]
pub struct Inbound {
    /// Its id on its connection.
    pub id: u64,
    /// Who asks, and about what.
    pub meta: Meta,
    /// The encoded call.
    pub call: Bytes,
    /// Where items go.
    pub wire: Arc<Wire>,
    /// What the client uploads, if the call's shape has an upload.
    pub upload: Option<mpsc::Receiver<Answer<Bytes>>>,
    /// Cancelled when the client goes away or says so.
    pub cancel: CancellationToken,
}

/// A call being done; its output is the encoded reply.
pub type Doing = Pin<Box<dyn Future<Output = Answer<Vec<u8>>> + Send>>;

/// A row: how one call of the wire is done by a `D`.
#[derive(Debug)]
pub struct Row<D> {
    /// The call's name on the wire.
    pub name: &'static str,
    /// Whether it changes anything.
    pub kind: CallKind,
    /// What flows beside it.
    pub shape: CallShape,
    /// Does it.
    pub perform: fn(D, Inbound) -> Doing,
}

impl<D> Row<D> {
    /// The row of a call.
    #[must_use]
    pub const fn of<C: Call>() -> Self
    where
        D: Does<C>,
    {
        Self {
            name: C::NAME,
            kind: C::KIND,
            shape: C::SHAPE,
            perform: |doer, inbound| Box::pin(perform(doer, inbound)),
        }
    }
}

impl<C: Serve> Does<C> for Wharf {
    fn does(self, call: C, meta: Meta, io: CallIo<C::Item>) -> impl Future<Output = Answer<C::Reply>> + Send {
        call.serve(self, meta, io)
    }
}

macro_rules! rows {
    ($($name:literal $kind:ident $shape:ident $request:ty => $reply:ty, $item:ty;)*) => {
        /// The table of the native front end: the vocabulary's own, so a call that nobody serves does not compile.
        pub const TABLE: &[Row<Wharf>] = {
            use wharf_messages::{
                container, content, cursor, event, gc, health, image, lease, namespace, restart, snapshot, supervision, system, task,
            };
            &[$(Row::of::<$request>(),)*]
        };
    };
}
wharf_messages::for_each_call!(rows);

async fn perform<D: Does<C>, C: Call>(doer: D, inbound: Inbound) -> Answer<Vec<u8>> {
    let Inbound { id, meta, call, wire, upload, cancel } = inbound;
    let decoded: C = codec::decode(&call)?;
    drop(call);
    let upload = upload.unwrap_or_else(|| mpsc::channel(1).1);
    let (items, streamed) =
        mpsc::channel(if matches!(C::SHAPE, CallShape::Items | CallShape::UploadItems) { ITEMS } else { 1 });
    let serving = doer.does(decoded, meta, CallIo { items, upload, cancel });
    let reply = match C::SHAPE {
        CallShape::Unary | CallShape::Upload => {
            drop(streamed);
            serving.await?
        }
        CallShape::Items | CallShape::UploadItems => with_items(serving, streamed, &wire, id).await?,
    };
    encode(&reply)
}

/// Serves while passing items on. The reply comes after the last item that was there before it; whoever still holds the
/// channel then, holds nothing up.
async fn with_items<T, I: serde::Serialize>(
    serving: impl Future<Output = Answer<T>>,
    mut streamed: mpsc::Receiver<I>,
    wire: &Wire,
    id: u64,
) -> Answer<T> {
    let served = CancellationToken::new();
    let serving = async {
        let reply = serving.await;
        served.cancel();
        Ok(reply)
    };
    let passing = async {
        loop {
            let item = tokio::select! {
                item = streamed.recv() => item,
                () = served.cancelled() => {
                    streamed.close();
                    streamed.recv().await
                }
            };
            match item {
                Some(item) => wire.send(FrameKind::Item, id, &encode(&item)?).await?,
                None => return Ok::<(), Refusal>(()),
            }
        }
    };
    let (reply, ()) = try_join(serving, passing).await?;
    reply
}

/// Encodes within the frame's limit, which is the codec's own.
fn encode<T: serde::Serialize>(value: &T) -> Answer<Vec<u8>> {
    const { assert!(BODY_MAX_BYTES == codec::DECODE_MAX_BYTES) };
    codec::encode(value)
}
