//! What carries a batch of spans to the collector, over HTTP.
//!
//! It is asked on the batches' own thread, outside every runtime, and has a runtime of its own: the last batch is sent when
//! the daemon's has ended.

use super::Wanted;
use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use reqwest::Client;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// What is read of an answer; the rest is nobody's.
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// How often it is told at most that batches do not arrive.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Sends batches, and tells now and then if they do not arrive.
#[derive(Debug)]
pub(super) struct Sender {
    client: Client,
    runtime: Runtime,
    lost: Mutex<Lost>,
}

/// Batches that did not arrive.
#[derive(Debug, Default)]
struct Lost {
    /// Since one did.
    batches: u64,
    told_at: Option<Instant>,
}

impl Sender {
    /// Makes one; nothing is connected yet.
    ///
    /// # Errors
    /// In words, if there is no runtime, or if the authorities cannot be read.
    pub fn new(wanted: &Wanted) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = Client::builder()
            .tls_backend_preconfigured(tls(wanted)?)
            .user_agent(concat!("wharfd/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(wanted.timeout)
            // Nobody drives a connection between two batches, so none is kept.
            .pool_max_idle_per_host(0)
            .build();
        Ok(Self {
            client: client.map_err(|error| words(&error))?,
            runtime: runtime.map_err(|error| error.to_string())?,
            lost: Mutex::default(),
        })
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
        let mut answer = self.client.execute(request.try_into()?).await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await?
            && body.len() < ANSWER_MAX_BYTES
        {
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        Ok(response)
    }

    /// Tells of a batch that did not arrive, and of the first that does again.
    fn tell(&self, problem: Option<String>) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => {
                lost.batches += 1;
                if lost.told_at.is_none_or(|told| told.elapsed() >= WARN_INTERVAL) {
                    lost.told_at = Some(Instant::now());
                    tracing::warn!(
                        problem,
                        batches = lost.batches,
                        "traces are lost, the collector does not take them"
                    );
                }
            }
            None if lost.batches > 0 => {
                tracing::info!(batches = lost.batches, "the collector takes traces again");
                lost.batches = 0;
            }
            None => {}
        }
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // An address may have secrets in it.
        let sent = self.runtime.block_on(self.exchange(request)).map_err(reqwest::Error::without_url);
        self.tell(match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(words(error)),
        });
        Ok(sent?)
    }
}

/// An error with its causes, which say what went wrong.
fn words(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// The system's authorities and the one that is named; nobody where TLS is not spoken.
fn tls(wanted: &Wanted) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if wanted.endpoint.starts_with("https://") {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &wanted.certificate {
            let unusable = |error: &dyn Error| format!("certificate authorities {path}: {error}");
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
