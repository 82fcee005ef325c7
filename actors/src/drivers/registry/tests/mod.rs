//! The client against Debian's docker-registry and against a server that misbehaves on demand.

mod auth;
mod blobs;
mod manifests;
mod peer;
mod real;
mod redirects;
mod server;
mod uploads;

use super::*;
use futures_util::StreamExt;
use wharf_messages::{Digest, Refusal, descriptor::media_type};

/// A registry client whose world is the test's own: no configuration of this machine, short pauses.
fn registries(limits: Limits) -> HttpRegistries {
    HttpRegistries::new(config_for(limits))
}

fn config_for(limits: Limits) -> RegistryConfig {
    RegistryConfig { hosts_dirs: Vec::new(), docker_config: None, credential_helper_dirs: Vec::new(), limits }
}

fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(20),
        response: Duration::from_secs(20),
        idle: Duration::from_secs(20),
        attempts: 3,
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        ..Limits::default()
    }
}

fn plain() -> RegistryOptions {
    RegistryOptions { plain_http: true, ..RegistryOptions::default() }
}

/// A client for servers without TLS.
fn open(options: &RegistryOptions) -> Arc<dyn Registry> {
    registries(limits()).open(options)
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    resolve::hash(wharf_messages::id::DigestAlgorithm::Sha256, bytes).unwrap()
}

/// The descriptor of a layer with this content.
fn layer(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER_GZIP, digest(bytes), bytes.len() as u64)
}

/// Bytes that no two ranges of are alike.
fn content(length: usize) -> Vec<u8> {
    (0u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

/// Reads a stream to its end or first refusal; what came before that is returned either way.
async fn collect(mut stream: BlobStream) -> (Vec<u8>, Option<Refusal>) {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => all.extend_from_slice(&chunk),
            Err(refusal) => return (all, Some(refusal)),
        }
    }
    (all, None)
}
