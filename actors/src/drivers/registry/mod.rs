//! Image registries over HTTP: names to digests, digests to bytes, and bytes back up.
//!
//! [`Registry`] is the port that actors see; [`HttpRegistries`] makes the real ones. What they share:
//!
//! ```text
//! HttpRegistries            the pool: one Host per (hosts.toml entry, credentials), dropped when idle
//! `- HttpRegistry           one per request: its options, and the hosts of a reference in order (mirrors first)
//!    `- Host                one registry server: authorises, sends, judges statuses
//!       |- Authorizer       challenges and tokens
//!       `- Transport        connections, TLS, redirects, time limits
//! ```
//!
//! Everything a server says is bounded before it is kept, and every wait has an end. All of it is cancelled by
//! dropping the future or the stream. Connections are driven by tasks of the tokio runtime that polls: poll these
//! futures on the shared runtime, not on an arbiter.
//!
//! # Spec
//! OCI distribution specification 1.1; Docker Registry HTTP API V2 and its token authentication; containerd
//! `hosts.toml` (docs/hosts.md) and `core/remotes/docker`.

mod auth;
mod challenge;
mod credentials;
mod download;
#[cfg(test)]
pub(crate) mod fake;
mod host;
mod hosts;
mod pool;
mod push;
mod resolve;
mod retry;
mod tls;
mod transport;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::{path::PathBuf, sync::Arc, time::Duration};
use wharf_messages::{Answer, Descriptor, image::RegistryOptions, reference::Reference};

pub use challenge::check_challenge;
pub use credentials::check_docker_config;
pub use hosts::check_hosts;
pub use pool::HttpRegistries;

/// The largest manifest or index that is taken, as containerd's limit.
pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;

/// The bytes of a blob as they come; it ends after exactly as many as asked for, or with a refusal.
pub type BlobStream = BoxStream<'static, Answer<Bytes>>;

/// Opens the stream of a blob's bytes, once for each attempt to send them.
pub type BlobSource = Arc<dyn Fn() -> BlobStream + Send + Sync>;

/// Makes registries: the port's factory.
pub trait Registries: Send + Sync {
    /// A client for one request (one pull, one push), under its options.
    fn open(&self, options: &RegistryOptions) -> Arc<dyn Registry>;
}

/// What can be asked of image registries; the reference says which one.
///
/// Transient failures have been retried, mirrors been tried and interrupted downloads been resumed before a refusal
/// comes out. The refusal's text names the registry, the object, the HTTP status and what the registry said.
///
/// # Cancel safety
/// Dropping any future or stream ends the request.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Finds what a tag or digest names.
    ///
    /// # Errors
    /// `NotFound` if no host has it, `Unauthenticated`, `PermissionDenied`, `ResourceExhausted` (rate limits),
    /// `Unavailable` (no connection, server errors), `InvalidArgument` without tag and digest.
    async fn resolve(&self, reference: &Reference) -> Answer<Descriptor>;

    /// Reads a whole manifest or index, verified against the descriptor's digest and size.
    ///
    /// # Errors
    /// As [`Registry::resolve`]; `ResourceExhausted` above [`MANIFEST_MAX_BYTES`], `FailedPrecondition` if the
    /// bytes are not those of the descriptor.
    async fn manifest(&self, reference: &Reference, descriptor: &Descriptor) -> Answer<Bytes>;

    /// Reads a blob from an offset to its end. Never yields more than the descriptor's size; does not hash, for
    /// whoever resumes has not seen the first bytes: the content store verifies the digest.
    ///
    /// # Errors
    /// As [`Registry::resolve`]; `OutOfRange` for an offset beyond the size. The stream ends after its first refusal.
    async fn fetch(&self, reference: &Reference, descriptor: &Descriptor, offset_bytes: u64) -> Answer<BlobStream>;

    /// Sends a blob, unless the registry has it or can mount it from another of its repositories.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        source: BlobSource,
    ) -> Answer<Pushed>;

    /// Sends a manifest or index, under the reference's tag if it has one, else under its digest. What it points to
    /// must be there already.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    async fn push_manifest(&self, reference: &Reference, descriptor: &Descriptor, bytes: Bytes) -> Answer<Pushed>;
}

/// How a blob or manifest came to be in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another repository.
    Mounted,
    /// Its bytes were sent.
    Sent,
}

/// The daemon's settings for all registries.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Folders with a folder per registry (`hosts.toml` or certificates in it); the first that knows the host wins.
    pub hosts_dirs: Vec<PathBuf>,
    /// Docker's `config.json` with credentials; it need not exist.
    pub docker_config: Option<PathBuf>,
    /// Where `docker-credential-NAME` programs are; empty means the daemon's PATH.
    pub credential_helper_dirs: Vec<PathBuf>,
    /// Time limits and retries.
    pub limits: Limits,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        let docker_config = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))
            .map(|dir| dir.join("config.json"));
        Self {
            hosts_dirs: vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
            docker_config,
            credential_helper_dirs: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// How long things may take and how often they are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Name lookup, TCP and TLS together; `dial_timeout` of a hosts.toml replaces it.
    pub connect: Duration,
    /// From a request sent to its answer's headers; bodies that are read whole have as long again.
    pub response: Duration,
    /// A download that brings nothing for this long is cut and resumed.
    pub idle: Duration,
    /// A download slower than this, on average over [`Limits::rate_window`], is cut and resumed.
    pub rate_min_bytes_per_s: u64,
    /// See [`Limits::rate_min_bytes_per_s`].
    pub rate_window: Duration,
    /// Attempts in a row that bring nothing, the first one included, before giving up.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each further one, give or take half.
    pub backoff: Duration,
    /// The longest pause between attempts, whatever `Retry-After` says.
    pub backoff_max: Duration,
    /// A server's connections and tokens are forgotten this long after their last use.
    pub keep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            rate_min_bytes_per_s: 1024,
            rate_window: Duration::from_secs(60),
            attempts: 6,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            keep: Duration::from_secs(30),
        }
    }
}
