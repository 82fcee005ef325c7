//! The registries of the daemon: clients shared between requests, forgotten when idle.

use super::{
    BlobSource, BlobStream, Limits, Pushed, Registries, Registry, RegistryConfig,
    credentials::{Credentials, DockerCredentials},
    host::Host,
    hosts::{self, Capabilities, HostConfig},
    tls::SystemRoots,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::time::Instant;
use tracing::{Instrument, Span};
use wharf_messages::{Answer, Descriptor, Refusal, image::RegistryOptions, reference::Reference};

/// Makes registry clients from the daemon's configuration.
///
/// Requests under the same options share connections and tokens, until [`Limits::keep`] after the last of them.
pub struct HttpRegistries {
    shared: Arc<Shared>,
}

struct Shared {
    config: RegistryConfig,
    docker: Arc<DockerCredentials>,
    roots: Arc<SystemRoots>,
    hosts: Mutex<HashMap<Key, Entry>>,
}

/// What makes two requests alike enough to share a [`Host`].
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    config: HostConfig,
    credentials: Option<Credentials>,
}

struct Entry {
    host: Arc<Host>,
    last_use: Instant,
}

impl HttpRegistries {
    /// Registries under this configuration. Costs nothing until one is used.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        let docker = DockerCredentials {
            config: config.docker_config.clone(),
            helper_dirs: config.credential_helper_dirs.clone(),
        };
        let shared = Shared { config, docker: Arc::new(docker), roots: Arc::default(), hosts: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// How many servers are remembered with their connections and tokens.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Registries for HttpRegistries {
    fn open(&self, options: &RegistryOptions) -> Arc<dyn Registry> {
        Arc::new(HttpRegistry {
            shared: self.shared.clone(),
            options: Arc::new(options.clone()),
            is_dumped: options.http_dump,
            hosts: Arc::default(),
        })
    }
}

impl Shared {
    fn host(self: &Arc<Self>, config: HostConfig, credentials: Option<Credentials>) -> Answer<Arc<Host>> {
        let key = Key { config, credentials };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = hosts.get_mut(&key) {
            entry.last_use = Instant::now();
            return Ok(entry.host.clone());
        }
        let host = Arc::new(Host::new(
            key.config.clone(),
            key.credentials.clone(),
            self.docker.clone(),
            self.config.limits.clone(),
            self.roots.clone(),
        )?);
        if hosts.is_empty() {
            tokio::spawn(forget_idle(Arc::downgrade(self), self.config.limits.clone()));
        }
        hosts.insert(key, Entry { host: host.clone(), last_use: Instant::now() });
        Ok(host)
    }
}

/// Drops what nobody uses, and ends when nothing is left; [`Shared::host`] starts it with the first host.
async fn forget_idle(shared: Weak<Shared>, limits: Limits) {
    loop {
        tokio::time::sleep(limits.keep).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut hosts = shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, entry| {
            if Arc::strong_count(&entry.host) > 1 {
                entry.last_use = Instant::now();
            }
            entry.last_use.elapsed() < limits.keep
        });
        if hosts.is_empty() {
            hosts.shrink_to_fit();
            return;
        }
    }
}

/// The client of one request.
#[derive(Clone)]
pub(super) struct HttpRegistry {
    shared: Arc<Shared>,
    options: Arc<RegistryOptions>,
    /// See [`super::transport::Exchange::is_dumped`].
    pub(super) is_dumped: bool,
    /// Per registry, so that a pull sees one configuration from its begin to its end.
    hosts: Arc<tokio::sync::Mutex<HashMap<String, Vec<Arc<Host>>>>>,
}

impl HttpRegistry {
    pub(super) fn limits(&self) -> &Limits {
        &self.shared.config.limits
    }

    /// The servers that may be asked for something of a reference, in the order to ask them.
    pub(super) async fn hosts(&self, reference: &Reference, may: fn(Capabilities) -> bool) -> Answer<Vec<Arc<Host>>> {
        let mut known = self.hosts.lock().await;
        if !known.contains_key(&reference.host) {
            let registry = reference.host.clone();
            let options = self.options.clone();
            let dirs = match &options.hosts_dir {
                Some(dir) => vec![PathBuf::from(dir)],
                None => self.shared.config.hosts_dirs.clone(),
            };
            let configs = tokio::task::spawn_blocking(move || hosts::load(&registry, &dirs, &options))
                .await
                .map_err(|e| Refusal::internal(format!("registry configuration: {e}")))??;
            let credentials = Credentials::from_options(&self.options);
            let hosts: Answer<Vec<_>> =
                configs.into_iter().map(|config| self.shared.host(config, credentials.clone())).collect();
            known.insert(reference.host.clone(), hosts?);
        }
        let hosts = known.get(&reference.host).map(Vec::as_slice).unwrap_or_default();
        Ok(hosts.iter().filter(|host| may(host.config().capabilities)).cloned().collect())
    }
}

/// The span of a conversation with a registry, for traces alone.
fn step(name: &'static str, reference: &Reference) -> Span {
    let span = tracing::trace_span!("registry", otel.name = name, otel.kind = "client", registry = reference.host);
    span.or_current()
}

#[async_trait]
impl Registry for HttpRegistry {
    async fn resolve(&self, reference: &Reference) -> Answer<Descriptor> {
        let span = step("registry resolve", reference);
        self.resolve_anywhere(reference).instrument(span).await
    }

    async fn manifest(&self, reference: &Reference, descriptor: &Descriptor) -> Answer<Bytes> {
        let span = step("registry manifest", reference);
        self.manifest_anywhere(reference, descriptor).instrument(span).await
    }

    async fn fetch(&self, reference: &Reference, descriptor: &Descriptor, offset_bytes: u64) -> Answer<BlobStream> {
        let span = step("registry fetch", reference);
        self.clone().download(reference, descriptor, offset_bytes).instrument(span).await
    }

    async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        source: BlobSource,
    ) -> Answer<Pushed> {
        let span = step("registry push blob", reference);
        self.send_blob(reference, descriptor, mount_from, source).instrument(span).await
    }

    async fn push_manifest(&self, reference: &Reference, descriptor: &Descriptor, bytes: Bytes) -> Answer<Pushed> {
        let span = step("registry push manifest", reference);
        self.send_manifest(reference, descriptor, bytes).instrument(span).await
    }
}
