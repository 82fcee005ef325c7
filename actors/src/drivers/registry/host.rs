//! One registry server: requests authorised and sent, statuses judged.

use super::{
    Limits,
    auth::{Authorizer, Purpose},
    credentials::{Credentials, DockerCredentials},
    hosts::{HostConfig, Scheme},
    retry::{Failure, Fault, is_transient, retry_after},
    tls::SystemRoots,
    transport::{Exchange, Payload, Received, Transport, origin},
};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use wharf_messages::{Answer, Refusal, RefusalKind};

/// The most of an error's body that is read, and the most that is shown.
const ERROR_MAX_BYTES: u64 = 64 << 10;
const ERROR_SHOWN_MAX_CHARS: usize = 400;

/// A registry server and what is known about it: connections, challenges, tokens, whether it speaks TLS.
pub(super) struct Host {
    config: HostConfig,
    /// With the path before the repository; `http` and `https`.
    bases: [Url; 2],
    headers: HeaderMap,
    transport: Transport,
    authorizer: Authorizer,
    is_plain: AtomicBool,
}

/// One request to a registry.
pub(super) struct Call {
    pub(super) method: Method,
    /// Where, below the registry's base.
    pub(super) place: Place,
    /// What is wanted: `Accept`, `Range` and the like.
    pub(super) headers: HeaderMap,
    /// What a token must allow.
    pub(super) scopes: Vec<String>,
    pub(super) payload: Payload,
    /// See [`Exchange::is_verified`].
    pub(super) is_verified: bool,
    /// See [`Exchange::is_dumped`].
    pub(super) is_dumped: bool,
}

/// Where a request goes.
#[derive(Clone)]
pub(super) enum Place {
    /// A path like `/library/busybox/manifests/latest`, and a query.
    Path { path: String, query: Vec<(&'static str, String)> },
    /// What a `Location` said.
    Url(Url),
}

impl Host {
    pub(super) fn new(
        config: HostConfig,
        credentials: Option<Credentials>,
        stored: Arc<DockerCredentials>,
        limits: Limits,
        roots: Arc<SystemRoots>,
    ) -> Answer<Self> {
        let base = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}{}/", config.authority, config.path))
                .map_err(|e| Refusal::invalid(format!("registry {}: {e}", config.authority)))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let bad = || Refusal::invalid(format!("registry {}: header {name:?} is not one", config.authority));
            let name = HeaderName::try_from(name).map_err(|_| bad())?;
            headers.append(name, HeaderValue::try_from(value).map_err(|_| bad())?);
        }
        Ok(Self {
            bases: [base("http")?, base("https")?],
            headers,
            is_plain: AtomicBool::new(config.scheme == Scheme::Http),
            authorizer: Authorizer::new(credentials, stored),
            transport: Transport::new(config.clone(), limits, roots)?,
            config,
        })
    }

    pub(super) fn config(&self) -> &HostConfig {
        &self.config
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    fn base(&self) -> &Url {
        &self.bases[usize::from(!self.is_plain.load(Ordering::Relaxed))]
    }

    /// Sends a request with what authorisation it takes; any status but a helpless 401 is a success here.
    pub(super) async fn send(&self, call: &Call) -> Result<Received, Failure> {
        match self.send_as(call).await {
            // Where nobody said which it is, a server that does not speak TLS is asked in plain from then on.
            Err(failure) if failure.fault == Fault::NotTls && self.config.scheme == Scheme::HttpsOrHttp => {
                self.is_plain.store(true, Ordering::Relaxed);
                self.send_as(call).await
            }
            outcome => outcome,
        }
    }

    async fn send_as(&self, call: &Call) -> Result<Received, Failure> {
        let base = self.base();
        let url = match &call.place {
            Place::Url(url) => url.clone(),
            Place::Path { path, query } => {
                let mut url = base.clone();
                url.set_path(&format!("{}{path}", self.config.path));
                if !query.is_empty() {
                    url.query_pairs_mut().extend_pairs(query);
                }
                url
            }
        };
        // A location elsewhere has its authorisation in itself.
        let is_own = url.origin() == base.origin();
        let purpose = Purpose { registry: base, scopes: &call.scopes, is_dumped: call.is_dumped };
        let authorization = if is_own { self.authorizer.header(&self.transport, &purpose).await? } else { None };
        let mut exchange = Exchange {
            method: call.method.clone(),
            url,
            headers: call.headers.clone(),
            private_headers: HeaderMap::new(),
            payload: call.payload.clone(),
            is_verified: call.is_verified,
            is_dumped: call.is_dumped,
        };
        if is_own {
            exchange.private_headers.clone_from(&self.headers);
            if let Some(header) = &authorization {
                exchange.private_headers.insert(AUTHORIZATION, header.clone());
            }
        }
        let refused = |received: &Received| {
            received.response.status() == StatusCode::UNAUTHORIZED && is_own && !received.is_elsewhere
        };
        let first = self.transport.send(&exchange).await?;
        if !refused(&first) {
            return Ok(first);
        }
        let challenge = first.response.headers();
        let answer = self.authorizer.answer(&self.transport, &purpose, challenge, authorization.as_ref()).await?;
        let Some(header) = answer else { return Ok(first) };
        self.transport.drain(first.response).await;
        exchange.private_headers.insert(AUTHORIZATION, header.clone());
        let second = self.transport.send(&exchange).await?;
        if refused(&second) {
            self.authorizer.forget(&call.scopes, Some(&header)).await;
        }
        Ok(second)
    }

    /// Sends a request and takes only a success for an answer.
    pub(super) async fn ask(&self, call: &Call) -> Result<Response, Failure> {
        let received = self.send(call).await?;
        self.judge(received.response).await
    }

    /// Turns a status that is no success into the failure it stands for.
    pub(super) async fn judge(&self, response: Response) -> Result<Response, Failure> {
        if !response.status().is_success() {
            return Err(status_failure(&self.transport, response).await);
        }
        match response.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => Err(Refusal::not_implemented(format!(
                "registry {}: sent content encoding {encoding:?}, which was not asked for",
                origin(response.url())
            ))
            .into()),
            _ => Ok(response),
        }
    }
}

/// What a status that is no success means, with what the registry says about it.
pub(super) async fn status_failure(transport: &Transport, response: Response) -> Failure {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let registry = origin(response.url());
    let said = said(&transport.read_prefix(response, ERROR_MAX_BYTES).await);
    let mut detail = format!("registry {registry}: http status {status}");
    if !said.is_empty() {
        detail.push_str(": ");
        detail.push_str(&said);
    }
    let fault = if is_transient(status) { Fault::Transient } else { Fault::Final };
    Failure { refusal: Refusal { kind: kind_of(status), detail }, fault, retry_after }
}

fn kind_of(status: StatusCode) -> RefusalKind {
    match status.as_u16() {
        400 => RefusalKind::InvalidArgument,
        401 | 407 => RefusalKind::Unauthenticated,
        403 => RefusalKind::PermissionDenied,
        404 | 410 => RefusalKind::NotFound,
        405 | 501 => RefusalKind::NotImplemented,
        409 => RefusalKind::Aborted,
        413 | 429 => RefusalKind::ResourceExhausted,
        416 => RefusalKind::OutOfRange,
        408 | 425 | 500 | 502..=599 => RefusalKind::Unavailable,
        _ => RefusalKind::Unknown,
    }
}

/// The error in a registry's or a token server's own words.
///
/// # Spec
/// OCI distribution specification 1.1, "Error Codes"; RFC 6749, 5.2.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        errors: Vec<One>,
        error: Option<String>,
        error_description: Option<String>,
        details: Option<String>,
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(said) = serde_json::from_slice::<Said>(body) else {
        // An HTML page says nothing that the status does not.
        return if body.trim_ascii_start().starts_with(b"<") { String::new() } else { printable(body) };
    };
    let mut text = String::new();
    let mut add = |part: &str| {
        if !part.is_empty() {
            let separator = if text.is_empty() { "" } else { "; " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{part}");
        }
    };
    for One { code, message } in &said.errors {
        match (code.is_empty(), message.is_empty()) {
            (false, false) => add(&format!("{code}: {message}")),
            _ => add(&format!("{code}{message}")),
        }
    }
    for part in [said.error, said.error_description, said.details, said.message].into_iter().flatten() {
        add(&part);
    }
    printable(text.as_bytes())
}

/// Makes foreign text fit for a line of an error or a log.
pub(super) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut shown: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_SHOWN_MAX_CHARS).collect();
    if shown.len() < text.trim().len() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn errors_are_shown_in_the_servers_words() {
        for (body, shown) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
                "MANIFEST_UNKNOWN: manifest unknown",
            ),
            (r#"{"errors":[{"code":"A"},{"message":"b"}]}"#, "A; b"),
            (r#"{"error":"invalid_grant","error_description":"no\nsuch user"}"#, "invalid_grant; no such user"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            ("  plain \u{1b}[31mtext\n", "plain  [31mtext"),
            ("<html>x</html>", ""),
            ("", ""),
            ("{}", ""),
        ] {
            assert_eq!(said(body.as_bytes()), shown, "{body}");
        }
        let long = printable("é".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), ERROR_SHOWN_MAX_CHARS + 3);
    }
}
