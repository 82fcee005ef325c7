//! What one platform's image is made of, as far as its blobs are here.

use crate::image_graph::{self, DOCUMENT_MAX_BYTES, ImageConfig, Node};
use wharf_messages::{Answer, Descriptor, Digest, Namespace, Platform, Refusal};
use wharf_store::{Reader, Store, refuse};

/// A manifest chosen, and what it leads to.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest.
    pub manifest: Descriptor,
    /// Its config.
    pub config: Descriptor,
    /// The config's bytes.
    pub config_json: Vec<u8>,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The machine it is for.
    pub platform: Platform,
}

impl Resolved {
    /// The name of the unpacked whole.
    ///
    /// # Errors
    /// `InvalidArgument` for an image without layers.
    pub fn chain_id(&self) -> Answer<Digest> {
        let top = image_graph::chain_ids(&self.diff_ids).pop();
        top.ok_or_else(|| Refusal::invalid(format!("the image {} has no layers", self.manifest.digest)))
    }
}

/// A manifest's, index's or config's bytes, if the namespace has the blob.
///
/// # Errors
/// `NotFound`, `DataLoss`, `ResourceExhausted` beyond the limit.
pub fn document(store: &Store, reader: &Reader, namespace: &Namespace, blob: &Descriptor) -> Answer<Vec<u8>> {
    if reader.content(namespace, &blob.digest)?.is_none() {
        return Err(refuse::no_content(&blob.digest));
    }
    store.blobs().read_all(&blob.digest, DOCUMENT_MAX_BYTES as u64)
}

/// Finds the manifest for a platform (none means this machine's) below a target, and reads its config.
///
/// # Errors
/// `NotFound` for the platform or a blob that is not here, `InvalidArgument` for documents that do not fit together.
pub fn resolve(
    store: &Store,
    reader: &Reader,
    namespace: &Namespace,
    target: &Descriptor,
    platform: Option<&Platform>,
) -> Answer<Resolved> {
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    let mut manifest = target.clone();
    let mut depth = 0;
    let (config, layers) = loop {
        match Node::parse(&manifest, &document(store, reader, namespace, &manifest)?)? {
            Node::Manifest { config, layers } => break (config, layers),
            Node::Index { manifests } => {
                depth = image_graph::descend(depth)?;
                let best = image_graph::best(&manifests, &wanted).cloned();
                manifest = best.ok_or_else(|| Refusal::not_found(format!("manifest for platform {wanted}")))?;
            }
        }
    };
    let config_json = document(store, reader, namespace, &config)?;
    let parsed = ImageConfig::parse(&config, &config_json)?;
    // An image that tells no platform until its config is read is taken as it is, unless one was asked for.
    if platform.is_some() && wanted.accepts(&parsed.platform).is_none() {
        return Err(Refusal::not_found(format!("manifest for platform {wanted} (it is for {})", parsed.platform)));
    }
    parsed.check_layers(&layers)?;
    Ok(Resolved { manifest, config, config_json, layers, diff_ids: parsed.diff_ids, platform: parsed.platform })
}
