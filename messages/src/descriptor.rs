//! What points to a blob.

use crate::{Digest, Platform};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A typed pointer to a blob.
///
/// # Spec
/// OCI image specification 1.1, descriptor.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the blob is; see [`media_type`].
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// Free pairs.
    pub annotations: BTreeMap<String, String>,
    /// Which machine it is for, in an index's entries.
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor without annotations or platform.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size_bytes: u64) -> Self {
        Self { media_type: media_type.into(), digest, size_bytes, annotations: BTreeMap::new(), platform: None }
    }
}

/// Media types and what they mean.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain tar.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, plain tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    /// How a layer's bytes are packed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Compression {
        /// A plain tar.
        None,
        /// RFC 1952.
        Gzip,
        /// RFC 8878.
        Zstd,
    }

    /// Whether it is a manifest of one image.
    #[must_use]
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether it is a list of manifests.
    #[must_use]
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }

    /// Whether it is an image's config.
    #[must_use]
    pub fn is_config(media_type: &str) -> bool {
        matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
    }

    /// Whether it is a file system layer.
    #[must_use]
    pub fn is_layer(media_type: &str) -> bool {
        layer_compression(media_type).is_some()
    }

    /// Whether it is a layer that must not be distributed.
    ///
    /// # Spec
    /// OCI image specification 1.1, layer.md "Non-distributable layers"; Docker's foreign layers.
    #[must_use]
    pub fn is_non_distributable(media_type: &str) -> bool {
        media_type.contains("nondistributable") || media_type.contains("rootfs.foreign")
    }

    /// How a layer of this type is packed; `None` if it is no layer. Foreign and non-distributable layers count.
    #[must_use]
    pub fn layer_compression(media_type: &str) -> Option<Compression> {
        let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.");
        let rest = docker
            .map(|rest| rest.strip_prefix("foreign.").unwrap_or(rest))
            .and_then(|rest| rest.strip_prefix("diff.tar"))
            .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"))
            .or_else(|| media_type.strip_prefix(OCI_LAYER))?;
        match rest {
            "" => Some(Compression::None),
            "+gzip" => Some(Compression::Gzip),
            "+zstd" => Some(Compression::Zstd),
            ".gzip" if docker.is_some() => Some(Compression::Gzip),
            ".zstd" if docker.is_some() => Some(Compression::Zstd),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::media_type::*;

    #[test]
    fn foreign_layers_are_known() {
        for kind in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ] {
            assert!(is_non_distributable(kind));
        }
        assert!(!is_non_distributable(OCI_LAYER));
    }

    #[test]
    fn layers_tell_their_compression() {
        assert_eq!(layer_compression(OCI_LAYER), Some(Compression::None));
        assert_eq!(layer_compression(OCI_LAYER_GZIP), Some(Compression::Gzip));
        assert_eq!(layer_compression(OCI_LAYER_ZSTD), Some(Compression::Zstd));
        assert_eq!(layer_compression(DOCKER_LAYER_GZIP), Some(Compression::Gzip));
        assert_eq!(
            layer_compression("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            Some(Compression::Gzip)
        );
        assert_eq!(
            layer_compression("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"),
            Some(Compression::Zstd)
        );
        let odd = ["application/vnd.oci.image.layer.v1.tar+xz", "application/vnd.oci.image.layer.v1.tar.gzip"];
        for other in [OCI_MANIFEST, OCI_CONFIG, "text/plain"].into_iter().chain(odd) {
            assert_eq!(layer_compression(other), None, "{other}");
        }
    }
}
