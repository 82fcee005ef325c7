//! What shims publish: the `.ttrpc` socket beside the daemon's own.
//!
//! The daemon's own transitions make the task events; of what shims say only the OOM notices and foreign topics are news.
//! Exits come by `Wait`, which cannot be missed.

use async_trait::async_trait;
use containerd_shim_protos::{
    api,
    protobuf::Message,
    shim_async::{Client, Events, EventsClient, create_events},
    ttrpc::{self, r#async::Server},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use wharf_messages::{Answer, Any, Namespace, Refusal, Timestamp};

/// The longest topic that is taken.
const TOPIC_MAX_BYTES: usize = 1024;

/// How long the daemon may take to accept an event that a program brings.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// An event from a shim, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimEvent {
    /// Where.
    pub namespace: Namespace,
    /// When, by the shim's clock.
    pub at: Timestamp,
    /// `/tasks/oom` and the like.
    pub topic: String,
    /// The payload.
    pub payload: Any,
}

/// The server of the `.ttrpc` socket. A shim's call is answered once the event was taken from the queue's other end,
/// so what a full queue makes wait is the shim, which keeps the event.
pub struct ShimEvents {
    server: Server,
}

impl ShimEvents {
    /// Listens on `path` and hands what comes to `taken`.
    ///
    /// # Errors
    /// What the socket says; a socket file that nobody listens on is replaced.
    pub async fn listen(path: &Path, taken: mpsc::Sender<ShimEvent>) -> Answer<Self> {
        let doing = || format!("listen for shims on {}", path.display());
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Refusal::io(doing(), &e)),
            _ => {}
        }
        let service = create_events(Arc::new(Service { taken }));
        let mut server = Server::new()
            .bind(&format!("unix://{}", path.display()))
            .map_err(|e| Refusal::internal(format!("{}: {e}", doing())))?
            .register_service(service);
        server.start().await.map_err(|e| Refusal::internal(format!("{}: {e}", doing())))?;
        Ok(Self { server })
    }

    /// Stops listening; connections end.
    pub async fn close(mut self) {
        // In a task of its own: the library panics if this is dropped half-way.
        let closed = tokio::spawn(async move { self.server.shutdown().await.map_err(|error| error.to_string()) });
        if let Err(error) = closed.await.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::warn!(%error, "the shims' socket did not close in order");
        }
    }
}

/// Hands an event to the daemon that listens on `path`, as a shim does.
///
/// # Errors
/// `Unavailable` if nobody listens there, `DeadlineExceeded`, and what the daemon says of the event.
pub async fn forward(path: &Path, event: ShimEvent) -> Answer<()> {
    let doing = || format!("publish {} at {}", event.topic, path.display());
    let envelope = containerd_shim_protos::shim::event::Envelope {
        timestamp: Some(super::connection::timestamp_out(event.at)).into(),
        namespace: event.namespace.to_string(),
        topic: event.topic.clone(),
        event: Some(super::connection::any(&event.payload)).into(),
        ..Default::default()
    };
    let request = api::ForwardRequest { envelope: Some(envelope).into(), ..Default::default() };
    let told = async {
        let client = Client::connect(&format!("unix://{}", path.display()))
            .await
            .map_err(|e| Refusal::unavailable(format!("nobody listens: {e}")))?;
        let context = ttrpc::context::with_duration(FORWARD_LIMIT);
        let sent = EventsClient::new(client).forward(context, &request).await;
        sent.map_err(|e| super::connection::refusal(&e))
    };
    let told = tokio::time::timeout(FORWARD_LIMIT, told).await;
    let told = told.unwrap_or_else(|_| Err(Refusal::deadline_exceeded("no answer")));
    told.map(|_| ()).map_err(|refusal| refusal.context(doing()))
}

struct Service {
    taken: mpsc::Sender<ShimEvent>,
}

#[async_trait]
impl Events for Service {
    async fn forward(
        &self,
        _ctx: &ttrpc::r#async::TtrpcContext,
        request: api::ForwardRequest,
    ) -> ttrpc::Result<api::Empty> {
        let event = parse(request).map_err(|r| status(ttrpc::Code::INVALID_ARGUMENT, &r))?;
        self.taken
            .send(event)
            .await
            .map_err(|_| status(ttrpc::Code::UNAVAILABLE, &Refusal::unavailable("the daemon is stopping")))?;
        Ok(api::Empty::default())
    }
}

fn parse(request: api::ForwardRequest) -> Answer<ShimEvent> {
    let envelope = request.envelope.into_option().ok_or_else(|| Refusal::invalid("forward without an envelope"))?;
    if !envelope.topic.starts_with('/') || envelope.topic.len() > TOPIC_MAX_BYTES {
        return Err(Refusal::invalid(format!("topic {:?} is no path", envelope.topic)));
    }
    let payload = envelope.event.into_option().ok_or_else(|| Refusal::invalid("forward without an event"))?;
    Ok(ShimEvent {
        namespace: Namespace::new(&envelope.namespace)?,
        at: super::connection::timestamp(envelope.timestamp.as_ref()),
        topic: envelope.topic,
        payload: Any { type_url: payload.type_url, value: payload.value.into() },
    })
}

/// Reads an event as a shim sends it.
///
/// # Errors
/// `InvalidArgument` for what is none.
pub fn check_event(request: &[u8]) -> Answer<ShimEvent> {
    let request = api::ForwardRequest::parse_from_bytes(request).map_err(|e| Refusal::invalid(e.to_string()))?;
    parse(request)
}

fn status(code: ttrpc::Code, refusal: &Refusal) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, refusal.to_string()))
}
