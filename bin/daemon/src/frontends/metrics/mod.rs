//! The metrics front end: Prometheus's text at `/v1/metrics`, at the address that the configuration names, if it names one.
//!
//! It keeps nothing: each scrape asks the tree, the journal, the bus and the tasks. It is for machines of the operator's
//! own: whoever can connect can read it, so a TCP address should be a loopback one, and a socket is the owner's and group's.

mod containers;
mod text;

use super::{listener, peer::Allowed};
use crate::config::MetricsAddress;
use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};
use text::Text;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use wharf_actors::{
    Wharf,
    serve::{CallIo, Serve},
};
use wharf_messages::{
    Answer, Meta, Namespace, Refusal,
    namespace::ListNamespaces,
    task::{GetMetrics, TaskMetrics},
};

/// Where the text is.
const PATH: &str = "/v1/metrics";
/// Connections at a time; scrapers are few.
const CONNECTIONS_MAX: usize = 16;
/// How long a client has to say what it wants.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);

/// Listens and serves until the daemon stops.
///
/// # Errors
/// If the address cannot be had.
pub async fn start(
    address: &MetricsAddress,
    allowed: Allowed,
    wharf: Wharf,
    stopping: CancellationToken,
) -> Answer<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    macro_rules! serve {
        ($listener:expr, $held:expr) => {
            tokio::spawn(async move {
                let _held = $held;
                while let Some(accepted) = stopping.run_until_cancelled($listener.accept()).await {
                    match accepted {
                        Ok((stream, _)) => {
                            if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
                                let (wharf, stopping) = (wharf.clone(), stopping.clone());
                                tokio::spawn(async move {
                                    stopping.run_until_cancelled(connection(stream, wharf)).await;
                                    drop(place);
                                });
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a scraper's connection could not be taken");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
            })
        };
    }
    match address {
        MetricsAddress::Unix(path) => {
            let (listener, file) = listener::bind(path, allowed)?;
            tracing::info!(address = %path.display(), "serving metrics");
            serve!(listener, file);
        }
        MetricsAddress::Tcp(address) => {
            let failed = |error: std::io::Error| Refusal::io(format!("serve metrics at {address}"), &error);
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            tracing::info!(address = %listener.local_addr().map_err(failed)?, "serving metrics");
            serve!(listener, ());
        }
    }
    Ok(())
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, wharf: Wharf) {
    let service = service_fn(|request| {
        let wharf = wharf.clone();
        async move { Ok::<_, Infallible>(answer(&request, wharf).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_TIMEOUT).max_buf_size(64 << 10);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a scraper's connection ended early");
    }
}

async fn answer(request: &Request<Incoming>, wharf: Wharf) -> Response<Body> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, PATH) => match collect(&wharf).await {
            Ok(text) => (StatusCode::OK, text::CONTENT_TYPE, text),
            Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{refusal}\n")),
        },
        (_, PATH) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", format!("metrics are at {PATH}\n")),
    };
    let mut response = Response::new(Body(Some(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// A body that is there as a whole.
struct Body(Option<Bytes>);

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Asks everybody.
async fn collect(wharf: &Wharf) -> Answer<String> {
    let mut text = Text::default();
    parts(&mut text, wharf);
    journal(&mut text, wharf);
    let mut behind = text.gauge("wharf_subscriber_behind_events", "Events that a subscriber has not been sent yet.");
    let subscribers = wharf.bus.subscribers();
    for (number, subscriber) in subscribers.iter().enumerate() {
        let cursor = subscriber.cursor.as_ref().map_or("", |name| name.as_str());
        behind.sample(&[("subscriber", &number.to_string()), ("cursor", cursor)], subscriber.behind);
    }
    text.gauge("wharf_subscribers", "Subscribers to the log.").sample(&[], subscribers.len());
    text.gauge("wharf_downloads_in_flight", "Blobs being downloaded.").sample(&[], wharf.drivers.flights.len());
    let started = wharf.clock.now().since(wharf.started_at).as_secs_f64();
    text.gauge("wharf_uptime_seconds", "Since the daemon started.").sample(&[], started);
    text.gauge("wharf_build_info", "The daemon's version.").sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    containers::write(&mut text, &tasks(wharf).await?);
    Ok(text.finish())
}

/// The supervision tree: parts of one kind are counted together, so that a thousand containers are one line.
fn parts(text: &mut Text, wharf: &Wharf) {
    #[derive(Default)]
    struct Kind {
        count: u64,
        waiting: u64,
        waiting_max: u32,
        restarts: u64,
    }
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    for part in wharf.tree.report() {
        let name = match part.path.split_once('/') {
            // `tasks/default/web` is a task.
            Some((plural, _)) => plural.strip_suffix('s').unwrap_or(plural),
            None => &part.path,
        };
        let kind = kinds.entry(name.to_owned()).or_default();
        kind.count += 1;
        kind.waiting += u64::from(part.mailbox_depth);
        kind.waiting_max = kind.waiting_max.max(part.mailbox_depth);
        kind.restarts += u64::from(part.restarts);
    }
    macro_rules! family {
        ($kind:ident $name:literal $help:literal $field:ident) => {
            let mut family = text.$kind($name, $help);
            for (name, kind) in &kinds {
                family.sample(&[("kind", name)], kind.$field);
            }
        };
    }
    family!(gauge "wharf_actors" "Parts of the supervision tree that live." count);
    family!(gauge "wharf_mailbox_messages" "Messages that wait in the mailboxes of all parts of a kind." waiting);
    family!(gauge "wharf_mailbox_messages_max" "Messages that wait in the fullest mailbox of a kind." waiting_max);
    family!(gauge "wharf_actor_restarts" "How often the parts that live were restarted." restarts);
}

fn journal(text: &mut Text, wharf: &Wharf) {
    let figures = wharf.journal.figures();
    let batches = figures.batch_commits.buckets();
    text.histogram("wharf_journal_batch_commits", "Commits that shared a transaction.", &batches);
    let seconds = figures.transaction_seconds.buckets();
    text.histogram("wharf_journal_transaction_seconds", "How long transactions took.", &seconds);
    text.counter("wharf_journal_refused_commits_total", "Commits that were refused.").sample(&[], figures.refused());
    text.counter(
        "wharf_journal_reopenings_total",
        "How often the database was opened again after an error of the disk.",
    )
    .sample(&[], figures.reopenings());
    let log = figures.log();
    text.gauge("wharf_log_events", "Events in the log.").sample(&[], log.events());
    text.gauge("wharf_log_bytes", "Bytes of the events in the log.").sample(&[], log.bytes);
    text.counter("wharf_log_last_seq_total", "The number of the newest event.").sample(&[], log.last.0);
    let oldest = if log.events() == 0 { 0.0 } else { wharf.clock.now().since(log.oldest_at).as_secs_f64() };
    text.gauge("wharf_log_oldest_seconds", "The age of the oldest event.").sample(&[], oldest);
}

/// The figures of every running task of every namespace.
async fn tasks(wharf: &Wharf) -> Answer<Vec<(Namespace, TaskMetrics)>> {
    let all = ListNamespaces { filters: Vec::new() };
    let mut found = Vec::new();
    for namespace in all.serve(wharf.clone(), Meta::default(), CallIo::none()).await? {
        let meta = Meta::in_namespace(namespace.name.clone());
        let metrics = GetMetrics { filters: Vec::new() }.serve(wharf.clone(), meta, CallIo::none()).await?;
        found.extend(metrics.into_iter().map(|metrics| (namespace.name.clone(), metrics)));
    }
    Ok(found)
}
