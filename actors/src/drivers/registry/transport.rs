//! One HTTP exchange: connections, TLS, redirects, time limits, and failures in words.

use super::{
    BlobSource, Limits,
    hosts::{HostConfig, is_loopback},
    retry::{Failure, Fault},
    tls::{self, SystemRoots},
};
use bytes::{Bytes, BytesMut};
use reqwest::{
    Body, Client, Method, Request, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION},
};
use std::{
    error::Error,
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;
use wharf_messages::{Answer, Refusal, RefusalKind};

/// Redirects followed for one request, as browsers and Go's client do.
const REDIRECTS_MAX: usize = 10;
/// The headers of a response over HTTP/2; HTTP/1 is bounded by hyper (100 headers, about 400 KB).
const HEADERS_MAX_BYTES: u32 = 64 << 10;
/// Idle connections kept per server, enough for the layers of one pull.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// A body that nobody reads is read away up to here, so that its connection can be used again.
const DRAIN_MAX_BYTES: u64 = 16 << 10;

/// What is sent along.
#[derive(Clone)]
pub(super) enum Payload {
    None,
    Bytes(Bytes),
    /// A stream of known length, opened anew for every attempt.
    Blob {
        source: BlobSource,
        size_bytes: u64,
    },
}

/// One request.
pub(super) struct Exchange {
    pub(super) method: Method,
    pub(super) url: Url,
    /// For every server on the way: what is wanted.
    pub(super) headers: HeaderMap,
    /// For the origin of `url` alone: who is asking. A redirect to anywhere else does not see them.
    pub(super) private_headers: HeaderMap,
    pub(super) payload: Payload,
    /// Whether the answer is checked against a digest, so that it may come over an insecure connection.
    pub(super) is_verified: bool,
    /// Whether the log gets it at level info, headers included; otherwise it is a line at debug.
    pub(super) is_dumped: bool,
}

/// The final response, after redirects.
pub(super) struct Received {
    pub(super) response: Response,
    /// Whether another server than the one asked has answered.
    pub(super) is_elsewhere: bool,
}

/// The connections to one server and to where it sends us.
pub(super) struct Transport {
    host: HostConfig,
    limits: Limits,
    roots: Arc<SystemRoots>,
    plain: Client,
    /// Made at the first `https` URL: the system's authorities are 300 KB of memory that plain HTTP does not need.
    secure: OnceCell<Client>,
}

impl Transport {
    pub(super) fn new(host: HostConfig, limits: Limits, roots: Arc<SystemRoots>) -> Answer<Self> {
        let plain = client(&host, &limits, tls::trusting_nobody()?)?;
        Ok(Self { host, limits, roots, plain, secure: OnceCell::new() })
    }

    /// Sends a request and follows redirects; any status is a success here.
    pub(super) async fn send(&self, exchange: &Exchange) -> Result<Received, Failure> {
        let mut url = exchange.url.clone();
        let mut method = exchange.method.clone();
        for _ in 0..=REDIRECTS_MAX {
            let is_elsewhere = url.origin() != exchange.url.origin();
            let response = self.hop(exchange, &method, &url, is_elsewhere).await?;
            let Some(next) = redirect(&response, &mut method, &exchange.payload)? else {
                return Ok(Received { response, is_elsewhere });
            };
            if url.scheme() == "https" && next.scheme() == "http" && !exchange.is_verified {
                return Err(Refusal::failed_precondition(format!(
                    "{}: redirects from https to insecure {}",
                    origin(&url),
                    origin(&next)
                ))
                .into());
            }
            url = next;
            self.drain(response).await;
        }
        Err(Refusal::failed_precondition(format!("{}: more than {REDIRECTS_MAX} redirects", origin(&exchange.url)))
            .into())
    }

    async fn hop(
        &self,
        exchange: &Exchange,
        method: &Method,
        url: &Url,
        is_elsewhere: bool,
    ) -> Result<Response, Failure> {
        let mut request = Request::new(method.clone(), url.clone());
        let headers = request.headers_mut();
        headers.clone_from(&exchange.headers);
        if !is_elsewhere {
            headers.extend(exchange.private_headers.clone());
        }
        let mut limit = self.limits.response;
        match &exchange.payload {
            Payload::None => {}
            Payload::Bytes(bytes) => *request.body_mut() = Some(bytes.clone().into()),
            Payload::Blob { source, size_bytes } => {
                // The answer comes after the upload, however slow an acceptable one is.
                limit += Duration::from_secs(size_bytes / self.limits.rate_min_bytes_per_s.max(1));
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(*size_bytes));
                *request.body_mut() = Some(Body::wrap_stream(source()));
            }
        }
        let client = if url.scheme() == "https" { self.secure().await? } else { &self.plain };
        let log = Log::new(exchange.is_dumped, &request);
        let outcome = match tokio::time::timeout(limit, client.execute(request)).await {
            Ok(outcome) => outcome.map_err(|e| explain(url, &e)),
            Err(_) => Err(Failure::transient(Refusal::deadline_exceeded(format!(
                "registry {}: no answer within {limit:?}",
                origin(url)
            )))),
        };
        log.outcome(&outcome);
        outcome
    }

    async fn secure(&self) -> Result<&Client, Failure> {
        let make = || async {
            let (host, limits, roots) = (self.host.clone(), self.limits.clone(), self.roots.clone());
            let work = tokio::task::spawn_blocking(move || {
                let config = tls::client_config(&host, &roots)?;
                client(&host, &limits, config)
            });
            work.await.map_err(|e| Refusal::internal(format!("tls settings: {e}")))?
        };
        Ok(self.secure.get_or_try_init(make).await?)
    }

    /// Reads the rest of a short body, so that its connection can be used again.
    pub(super) async fn drain(&self, response: Response) {
        if content_length(response.headers()).is_some_and(|length| length <= DRAIN_MAX_BYTES) {
            // A failure only costs the connection.
            drop(self.read(response, DRAIN_MAX_BYTES).await);
        }
    }

    /// Reads the beginning of a body, as far as it comes: for errors, where less is better than another error.
    pub(super) async fn read_prefix(&self, mut response: Response, max_bytes: u64) -> Vec<u8> {
        let mut body = Vec::new();
        let read = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                let room = usize::try_from(max_bytes).unwrap_or(usize::MAX) - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() >= room {
                    break;
                }
            }
        };
        // What came within the time is what there is.
        let _ = tokio::time::timeout(self.limits.response, read).await;
        body
    }

    /// Reads a whole body of at most `max_bytes`.
    pub(super) async fn read(&self, mut response: Response, max_bytes: u64) -> Result<Bytes, Failure> {
        let url = response.url().clone();
        let read = async {
            let too_large = || {
                Refusal::resource_exhausted(format!("registry {}: the answer exceeds {max_bytes} bytes", origin(&url)))
            };
            if content_length(response.headers()).is_some_and(|length| length > max_bytes) {
                return Err(too_large().into());
            }
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(|e| explain(&url, &e))? {
                if (body.len() + chunk.len()) as u64 > max_bytes {
                    return Err(too_large().into());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        tokio::time::timeout(self.limits.response, read).await.unwrap_or_else(|_| {
            Err(Failure::transient(Refusal::deadline_exceeded(format!(
                "registry {}: the answer's body took longer than {:?}",
                origin(&url),
                self.limits.response
            ))))
        })
    }
}

fn client(host: &HostConfig, limits: &Limits, tls: rustls::ClientConfig) -> Answer<Client> {
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // Blobs must arrive as they are, whatever features of reqwest others turn on.
        .no_gzip()
        .no_zstd()
        .no_brotli()
        .no_deflate()
        .connect_timeout(host.connect_timeout.unwrap_or(limits.connect))
        .pool_idle_timeout(limits.keep)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .http2_max_header_list_size(HEADERS_MAX_BYTES);
    // The environment's proxy cannot reach this machine's own loopback.
    let builder = if is_loopback(&host.authority) { builder.no_proxy() } else { builder };
    builder.build().map_err(|e| Refusal::internal(format!("http client for registry {}: {e}", host.authority)))
}

/// Where a response sends us; `None` if it is the answer.
fn redirect(response: &Response, method: &mut Method, payload: &Payload) -> Result<Option<Url>, Failure> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match response.status() {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND if is_read => {}
        StatusCode::SEE_OTHER if is_read => {}
        StatusCode::SEE_OTHER if matches!(payload, Payload::None) => *method = Method::GET,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {}
        _ => return Ok(None),
    }
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    let text = String::from_utf8_lossy(location.as_bytes());
    resolve_location(response.url(), &text).map(Some).map_err(Failure::from)
}

/// Makes a `Location` absolute; only http and https, and never with a user in it.
pub(super) fn resolve_location(base: &Url, location: &str) -> Answer<Url> {
    let bad = |why: &str| {
        Refusal::failed_precondition(format!(
            "registry {}: unusable location {:?}: {why}",
            origin(base),
            location.chars().take(200).collect::<String>()
        ))
    };
    let mut url = base.join(location).map_err(|e| bad(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("neither http nor https"));
    }
    // reqwest would make an Authorization header of it.
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| bad("it cannot be without a user"))?;
    Ok(url)
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// A URL's host and port, for people.
pub(super) fn origin(url: &Url) -> String {
    match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or("?")),
        None => url.host_str().unwrap_or("?").to_owned(),
    }
}

/// Puts a failed exchange in words and says whether it is worth another try.
pub(super) fn explain(url: &Url, error: &reqwest::Error) -> Failure {
    let mut deepest: &(dyn Error + 'static) = error;
    let mut tls = None;
    let mut io_kind = None;
    loop {
        tls = deepest.downcast_ref::<rustls::Error>().cloned().or(tls);
        let io_error = deepest.downcast_ref::<io::Error>();
        io_kind = io_error.map(io::Error::kind).or(io_kind);
        // An io::Error made of another error has that one's source for its own, not that one.
        let wrapped = io_error.and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
        match wrapped.or_else(|| deepest.source()) {
            Some(cause) => deepest = cause,
            None => break,
        }
    }
    let registry = format!("registry {}", origin(url));
    let is_not_tls = matches!(tls, Some(rustls::Error::InvalidMessage(_)))
        || (url.scheme() == "https"
            && tls.is_none()
            && error.is_connect()
            && matches!(io_kind, Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)));
    if is_not_tls {
        let refusal = Refusal::unavailable(format!("{registry}: the server does not speak tls (is it plain http?)"));
        return Failure::new(Fault::NotTls, refusal);
    }
    if let Some(e) = tls {
        let hint = match e {
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
                ", the authority that signed it is not trusted"
            }
            _ => "",
        };
        return Failure::new(Fault::Connect, Refusal::unavailable(format!("{registry}: tls: {e}{hint}")));
    }
    if error.is_connect() {
        let text = match io_kind {
            _ if error.is_timeout() => "connecting timed out".to_owned(),
            Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
            _ => format!("no connection: {deepest}"),
        };
        return Failure::new(Fault::Connect, Refusal::unavailable(format!("{registry}: {text}")));
    }
    if error.is_builder() {
        return Refusal::invalid(format!("{registry}: {deepest}")).into();
    }
    let kind = if error.is_timeout() { RefusalKind::DeadlineExceeded } else { RefusalKind::Unavailable };
    Failure::transient(Refusal { kind, detail: format!("{registry}: the connection failed: {deepest}") })
}

/// One exchange in the log. Queries and secret headers are left out: signed URLs are credentials.
struct Log {
    is_dumped: bool,
    method: Method,
    url: Url,
    started: Instant,
}

impl Log {
    fn new(is_dumped: bool, request: &Request) -> Self {
        let mut url = request.url().clone();
        url.set_query(None);
        if is_dumped {
            tracing::info!(method = %request.method(), %url, headers = ?Shown(request.headers()), "registry request");
        }
        Self { is_dumped, method: request.method().clone(), url, started: Instant::now() }
    }

    fn outcome(&self, outcome: &Result<Response, Failure>) {
        let Self { method, url, .. } = self;
        let elapsed_ms = self.started.elapsed().as_millis();
        match outcome {
            Ok(response) if self.is_dumped => {
                let (status, headers) = (response.status().as_u16(), Shown(response.headers()));
                tracing::info!(%method, %url, status, elapsed_ms, ?headers, "registry response");
            }
            Ok(response) => {
                let status = response.status().as_u16();
                tracing::debug!(%method, %url, status, elapsed_ms, "registry response");
            }
            Err(failure) => {
                tracing::debug!(%method, %url, elapsed_ms, error = %failure.refusal, "registry request failed")
            }
        }
    }
}

struct Shown<'a>(&'a HeaderMap);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SECRET: [&str; 4] = ["authorization", "cookie", "set-cookie", "location"];
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| {
                let is_secret = SECRET.contains(&name.as_str()) || value.is_sensitive();
                (name.as_str(), if is_secret { "..." } else { value.to_str().unwrap_or("(binary)") })
            }))
            .finish()
    }
}
