//! Calls to the daemon.

use crate::{
    Dial, Items,
    connection::{Connection, Lost},
    items,
};
use bytes::Bytes;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{io::AsyncRead, sync::Mutex};
use wharf_messages::{
    Answer, Call, CallKind, LeaseId, Meta, Namespace, Refusal, RefusalKind,
    call::CallShape,
    codec,
    meta::{TraceContext, next_request_id},
    wire::RequestHead,
};

/// How long a call waits for a daemon that is being started again.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);
/// How long to rest before a call that was lost or not taken is made again, and each time after that.
const RESTS: [Duration; 4] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(500)];

/// A way to the daemon: cheap to clone, and every clone shares one connection.
///
/// Calls without streams multiplex on the shared connection. A call with a stream gets a connection of its own, so that
/// one that is slow to read or write holds up nothing else.
///
/// When the daemon was restarted, the next call connects again. A call whose answer was lost, or that met a part of the
/// daemon that is being restarted, is made again: by its request id the daemon knows what was done already.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    meta: Meta,
}

#[derive(Debug)]
struct Shared {
    dial: Dial,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Client {
    /// Connects to the daemon at an address.
    ///
    /// # Errors
    /// `Unavailable` if no daemon is there, `PermissionDenied`, `DeadlineExceeded`; `FailedPrecondition` if it speaks
    /// other versions of the protocol.
    pub async fn connect(address: impl AsRef<Path>) -> Answer<Self> {
        Self::dial(Dial::new(address)).await
    }

    /// Connects to the daemon, as told.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn dial(dial: Dial) -> Answer<Self> {
        let connection = Arc::new(Connection::new(dial.dial().await?));
        let shared = Shared { dial, connection: Mutex::new(Some(connection)) };
        Ok(Self { shared: Arc::new(shared), meta: Meta::default() })
    }

    /// The same way, for calls about objects in a namespace.
    #[must_use]
    pub fn namespace(&self, namespace: Namespace) -> Self {
        let meta = Meta { namespace: Some(namespace), ..self.meta.clone() };
        Self { shared: self.shared.clone(), meta }
    }

    /// The same way, for calls whose results a lease protects.
    #[must_use]
    pub fn lease(&self, lease: LeaseId) -> Self {
        let meta = Meta { lease: Some(lease), ..self.meta.clone() };
        Self { shared: self.shared.clone(), meta }
    }

    /// The same way, for calls that belong to a trace of the caller's.
    #[must_use]
    pub fn traced(&self, trace: Option<Box<TraceContext>>) -> Self {
        let meta = Meta { trace, ..self.meta.clone() };
        Self { shared: self.shared.clone(), meta }
    }

    /// The socket's path.
    #[must_use]
    pub fn address(&self) -> &Path {
        &self.shared.dial.address
    }

    /// How long to try to reach the daemon.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.shared.dial.timeout
    }

    /// Does a call that has no streams.
    ///
    /// # Errors
    /// The daemon's refusal; `Unavailable` if it was lost or not taken again and again.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn call<C: Call>(&self, call: C) -> Answer<C::Reply> {
        const { assert!(matches!(C::SHAPE, CallShape::Unary), "a call with a stream goes through items() or upload()") };
        let body = self.request(C::NAME, &codec::encode(&call)?)?;
        drop(call);
        codec::decode(&self.exchange(C::NAME, C::KIND, body).await?)
    }

    /// Starts a call that streams items. Dropping them cancels the call.
    ///
    /// # Errors
    /// As [`Client::connect`]; the daemon's refusal comes with the items.
    pub async fn items<C: Call>(&self, call: C) -> Answer<Items<C>> {
        const { assert!(matches!(C::SHAPE, CallShape::Items), "this call does not stream items, or wants an upload") };
        let stream = self.shared.dial.dial().await?;
        Items::start(stream, self.request(C::NAME, &codec::encode(&call)?)?, None).await
    }

    /// Does a call that takes bytes.
    ///
    /// # Errors
    /// The daemon's refusal, or the error with which `source` could not be read to its end; then nothing is committed.
    pub async fn upload<C: Call>(&self, call: C, source: impl AsyncRead + Send + 'static) -> Answer<C::Reply> {
        const { assert!(matches!(C::SHAPE, CallShape::Upload), "this call takes no upload, or streams items too") };
        let stream = self.shared.dial.dial().await?;
        let body = self.request(C::NAME, &codec::encode(&call)?)?;
        Items::<C>::start(stream, body, Some(Box::pin(source) as items::Source)).await?.reply().await
    }

    /// Starts a call that takes bytes and streams items. The upload goes on by itself while items are read.
    ///
    /// # Errors
    /// As [`Client::items`] and [`Client::upload`].
    pub async fn upload_items<C: Call>(&self, call: C, source: impl AsyncRead + Send + 'static) -> Answer<Items<C>> {
        const { assert!(matches!(C::SHAPE, CallShape::UploadItems), "this call does not both take and stream") };
        let stream = self.shared.dial.dial().await?;
        let body = self.request(C::NAME, &codec::encode(&call)?)?;
        Items::start(stream, body, Some(Box::pin(source) as items::Source)).await
    }

    fn request(&self, call: &'static str, encoded: &[u8]) -> Answer<Bytes> {
        let meta = Meta { request_id: next_request_id(), ..self.meta.clone() };
        Ok(RequestHead { call, meta }.encode(encoded)?.into())
    }

    async fn exchange(&self, name: &str, kind: CallKind, body: Bytes) -> Answer<Vec<u8>> {
        let (mut rests, mut lost) = (RESTS.into_iter(), None);
        loop {
            let connection = match (self.connection().await, lost) {
                (Ok(connection), _) => connection,
                // That nobody is there any more says less than what became of the call.
                (Err(_), Some(refusal)) | (Err(refusal), None) => return Err(refusal),
            };
            let refusal = match connection.exchange(body.clone()).await {
                Ok(Err(refusal)) if refusal.is(RefusalKind::Unavailable) => refusal,
                Ok(answer) => return answer,
                Err(Lost::Unsent) => Refusal::unavailable(format!("{name}: connection to wharfd is lost")),
                Err(Lost::Unanswered(refusal)) if kind == CallKind::Command => {
                    refusal.context(format!("{name}: the answer is lost, it may have been done"))
                }
                Err(Lost::Unanswered(refusal)) => refusal.context(name),
            };
            match rests.next() {
                Some(rest) => tokio::time::sleep(rest).await,
                None => return Err(refusal),
            }
            lost = Some(refusal);
        }
    }

    /// The shared connection; a new one if the last is over.
    async fn connection(&self) -> Answer<Arc<Connection>> {
        let mut place = self.shared.connection.lock().await;
        if let Some(connection) = place.as_ref().filter(|connection| !connection.is_over()) {
            return Ok(connection.clone());
        }
        let timeout = self.shared.dial.timeout.min(RESTART_PATIENCE);
        let dial = Dial { timeout, wait_for_daemon: true, ..self.shared.dial.clone() };
        let connection = Arc::new(Connection::new(dial.dial().await?));
        *place = Some(connection.clone());
        Ok(connection)
    }
}
