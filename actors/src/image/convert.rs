//! An image in another form: a part of its platforms, layers that are plain tars, OCI's media types instead of Docker's.
//!
//! ```text
//!   index -> manifest -> layers (uncompressed) -> manifest written anew -> index written anew -> named, one commit
//! ```
//!
//! What keeps its form keeps its digest, and is shared. A config is never written anew: the digests in it are those of
//! plain layers whatever the layers' form.
//!
//! # Spec
//! containerd `images/converter` and `ctr images convert`.

use super::{
    claim::Claim,
    derived,
    document::{Document, Pointer},
    resolve,
};
use crate::{
    Wharf, content,
    drivers::differ,
    image_graph::{self, Node},
    runtime::blocking,
};
use futures_util::future::{BoxFuture, try_join_all};
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Descriptor, Digest, Labels, Meta, Namespace, Platform, Refusal,
    content::ContentInfo,
    descriptor::media_type::{self, Compression},
    image::{ConvertImage, CreateImage, Image, PlatformChoice},
    labels,
};
use wharf_store::{Change, Commit, refuse};

/// What the labels begin with by which a document keeps what it points to.
const KEEPS: &str = "containerd.io/gc.ref.content";

/// Converts an image; answers the new one.
///
/// # Errors
/// `NotFound` for the image, its platforms or a blob that is not here, `InvalidArgument` for documents that cannot be
/// read, `DataLoss` for damaged layers, `Canceled`.
pub async fn convert(wharf: Wharf, meta: Meta, call: ConvertImage, cancel: CancellationToken) -> Answer<Image> {
    let mut claim = Claim::take(&wharf.journal, meta, "convert").await?;
    let source = call.source.clone();
    let done = claimed(&wharf, &mut claim, call, cancel).await;
    claim.settled(done).await.map_err(|refusal| refusal.context(format!("convert {source}")))
}

async fn claimed(wharf: &Wharf, claim: &mut Claim, call: ConvertImage, cancel: CancellationToken) -> Answer<Image> {
    let (namespace, meta) = (claim.meta().namespace()?.clone(), claim.meta().clone());
    let image = wharf.store.read()?.image(&namespace, &call.source)?.ok_or_else(|| refuse::no_image(&call.source))?;
    // The lease has all of the image by way of its target, whatever becomes of its name meanwhile.
    if !content::have(&wharf.drivers.content, &meta, &image.target.digest, Labels::new()).await? {
        return Err(refuse::no_content(&image.target.digest));
    }
    let converter = Converter { wharf, meta: &meta, namespace: &namespace, call: &call, cancel: &cancel };
    let target = converter.any(image.target, 0).await?;
    let named = CreateImage { name: call.target.clone(), target, labels: image.labels };
    let committed = claim.conclude(Commit::one(&namespace, Change::PutImage(named))).await?;
    committed.into_image().ok_or_else(|| Refusal::internal("a new image has no record"))
}

struct Converter<'a> {
    wharf: &'a Wharf,
    meta: &'a Meta,
    namespace: &'a Namespace,
    call: &'a ConvertImage,
    cancel: &'a CancellationToken,
}

impl Converter<'_> {
    /// What stands for a blob in the new image.
    fn any(&self, blob: Descriptor, depth: usize) -> BoxFuture<'_, Answer<Descriptor>> {
        Box::pin(async move {
            let kind = blob.media_type.clone();
            let mut new = if media_type::is_index(&kind) || media_type::is_manifest(&kind) {
                self.document(blob, depth).await?
            } else if media_type::is_layer(&kind) {
                self.layer(blob).await?
            } else {
                self.info(&blob.digest)?;
                blob
            };
            if is_docker(&kind) {
                match self.call.oci {
                    true => new.media_type = as_oci(&new.media_type).to_owned(),
                    // Docker's documents have none.
                    false => new.annotations.clear(),
                }
            }
            Ok(new)
        })
    }

    /// A manifest or an index: as it was if nothing below it has changed.
    async fn document(&self, blob: Descriptor, depth: usize) -> Answer<Descriptor> {
        let labels = self.info(&blob.digest)?.labels;
        let (store, namespace, reading) = (self.wharf.store.clone(), self.namespace.clone(), blob.clone());
        let bytes =
            blocking("read a manifest", move || resolve::document(&store, &store.read()?, &namespace, &reading))
                .await?;
        // Checked, bounded and unambiguous before it is taken at its word.
        let node = Node::parse(&blob, &bytes)?;
        let mut document = Document::read(&bytes)?;
        let mut changed = false;
        if self.call.oci && is_docker(&document.media_type) {
            document.media_type = as_oci(&document.media_type).to_owned();
            changed = true;
        }
        let mut children = Vec::new();
        if let Node::Index { .. } = node {
            let depth = image_graph::descend(depth)?;
            let mut kept = self.chosen(document.manifests.take().unwrap_or_default())?;
            changed |= kept.len() < node.children().len();
            for pointer in &mut kept {
                changed |= self.point(pointer, depth, &mut children).await?;
            }
            document.manifests = Some(kept);
        } else {
            let mut layers = document.layers.take().unwrap_or_default();
            // Layers are the long part, and need not wait for each other.
            let converted = try_join_all(layers.iter().map(|layer| self.any(descriptor(layer), depth))).await?;
            if let Some(config) = &mut document.config {
                changed |= self.point(config, depth, &mut children).await?;
            }
            for (pointer, new) in layers.iter_mut().zip(converted) {
                changed |= redirect(pointer, &new);
                children.push(new);
            }
            document.layers = Some(layers);
        }
        if !changed {
            return Ok(blob);
        }
        let mut labels: Labels = labels.into_iter().filter(|(key, _)| !key.starts_with(KEEPS)).collect();
        labels.extend(image_graph::gc_labels(&children));
        let bytes = document.bytes()?;
        let size_bytes = bytes.len() as u64;
        let digest = content::insert(&self.wharf.drivers.content, self.meta, bytes, None, labels).await?;
        Ok(Descriptor { digest, size_bytes, ..blob })
    }

    /// Converts what a pointer points to; tells whether it points to something else now.
    async fn point(&self, pointer: &mut Pointer, depth: usize, children: &mut Vec<Descriptor>) -> Answer<bool> {
        let new = self.any(descriptor(pointer), depth).await?;
        let changed = redirect(pointer, &new);
        children.push(new);
        Ok(changed)
    }

    /// The entries of an index that are wanted. One that does not say for which machine it is, is.
    fn chosen(&self, manifests: Vec<Pointer>) -> Answer<Vec<Pointer>> {
        let host;
        let wanted = match &self.call.platforms {
            PlatformChoice::All => return Ok(manifests),
            PlatformChoice::These(platforms) => platforms.as_slice(),
            PlatformChoice::Host => {
                host = [Platform::host()];
                &host
            }
        };
        let fits = |pointer: &Pointer| {
            let platform = pointer.platform();
            platform.is_none_or(|offered| wanted.iter().any(|wanted| wanted.accepts(&offered) == Some(0)))
        };
        let offered: Vec<_> = manifests.iter().filter_map(Pointer::platform).map(|p| p.to_string()).collect();
        let kept: Vec<_> = manifests.into_iter().filter(fits).collect();
        if kept.is_empty() {
            let wanted: Vec<_> = wanted.iter().map(Platform::to_string).collect();
            let (wanted, offered) = (wanted.join(", "), offered.join(", "));
            return Err(Refusal::not_found(format!("manifest for platform {wanted} (there are: {offered})")));
        }
        Ok(kept)
    }

    async fn layer(&self, blob: Descriptor) -> Answer<Descriptor> {
        let ContentInfo { mut labels, .. } = self.info(&blob.digest)?;
        let packed = media_type::layer_compression(&blob.media_type).unwrap_or(Compression::None);
        if !self.call.uncompress || packed == Compression::None {
            return Ok(blob);
        }
        labels.remove(labels::UNCOMPRESSED);
        let (store, cancel, digest) = (self.wharf.store.clone(), self.cancel.clone(), blob.digest.clone());
        let total_bytes_max = self.wharf.drivers.apply.limits.total_bytes;
        let placed = self.wharf.pool.run("uncompress a layer", move || {
            let (mut layer, _) = store.blobs().read(&digest)?;
            derived::write(store.blobs(), |output| {
                differ::uncompress(&mut layer, packed, output, total_bytes_max, &|| cancel.is_cancelled()).map(drop)
            })
        });
        let placed = placed.await.map_err(|refusal| refusal.context(format!("layer {}", blob.digest)))?;
        let (digest, size_bytes) = derived::keep(&self.wharf.drivers.content, self.meta, placed, labels).await?;
        Ok(Descriptor { digest, size_bytes, media_type: uncompressed(&blob.media_type).to_owned(), ..blob })
    }

    fn info(&self, digest: &Digest) -> Answer<ContentInfo> {
        self.wharf.store.read()?.content(self.namespace, digest)?.ok_or_else(|| refuse::no_content(digest))
    }
}

fn descriptor(pointer: &Pointer) -> Descriptor {
    let Pointer { media_type, digest, size, annotations, .. } = pointer.clone();
    Descriptor { annotations: annotations.unwrap_or_default(), ..Descriptor::new(media_type, digest, size) }
}

/// Makes a pointer point to a blob; tells whether it has changed.
fn redirect(pointer: &mut Pointer, to: &Descriptor) -> bool {
    if descriptor(pointer) == *to {
        return false;
    }
    pointer.media_type.clone_from(&to.media_type);
    pointer.digest = to.digest.clone();
    pointer.size = to.size_bytes;
    pointer.annotations = Some(to.annotations.clone());
    true
}

fn is_docker(kind: &str) -> bool {
    kind.starts_with("application/vnd.docker.")
}

/// OCI's media type for one of Docker's.
fn as_oci(kind: &str) -> &str {
    match kind {
        media_type::DOCKER_LIST => media_type::OCI_INDEX,
        media_type::DOCKER_MANIFEST => media_type::OCI_MANIFEST,
        media_type::DOCKER_CONFIG => media_type::OCI_CONFIG,
        layer => match (media_type::layer_compression(layer), media_type::is_non_distributable(layer)) {
            (Some(Compression::None), false) => media_type::OCI_LAYER,
            (Some(Compression::Gzip), false) => media_type::OCI_LAYER_GZIP,
            (Some(Compression::Zstd), false) => media_type::OCI_LAYER_ZSTD,
            (Some(Compression::None), true) => "application/vnd.oci.image.layer.nondistributable.v1.tar",
            (Some(Compression::Gzip), true) => "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            (Some(Compression::Zstd), true) => "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            (None, _) => layer,
        },
    }
}

/// The media type of a layer that is a plain tar now.
fn uncompressed(layer: &str) -> &str {
    ["+gzip", "+zstd", ".gzip", ".zstd"].iter().find_map(|packed| layer.strip_suffix(packed)).unwrap_or(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_have_their_counterparts() {
        for (docker, oci) in [
            (media_type::DOCKER_LIST, media_type::OCI_INDEX),
            (media_type::DOCKER_MANIFEST, media_type::OCI_MANIFEST),
            (media_type::DOCKER_CONFIG, media_type::OCI_CONFIG),
            (media_type::DOCKER_LAYER_GZIP, media_type::OCI_LAYER_GZIP),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            ),
            ("application/vnd.docker.plugin.v1+json", "application/vnd.docker.plugin.v1+json"),
        ] {
            assert_eq!(as_oci(docker), oci);
        }
        assert_eq!(uncompressed(media_type::DOCKER_LAYER_GZIP), media_type::DOCKER_LAYER);
        assert_eq!(uncompressed(media_type::OCI_LAYER_ZSTD), media_type::OCI_LAYER);
        assert_eq!(uncompressed(media_type::OCI_LAYER), media_type::OCI_LAYER);
    }
}
