//! What an image is made of: manifests, indexes and configs read, platforms chosen, chain ids computed.
//!
//! ```text
//! index -- manifests --> index | manifest        manifest -- config --> config
//!                                                         `- layers --> layer ...
//! ```
//!
//! Pure functions over bytes that somebody else has fetched and verified. What they read comes from anybody, so it is
//! bounded, and anything that two readers could understand differently is refused.
//!
//! # Spec
//! OCI image specification 1.1 (manifest.md, image-index.md, config.md "Layer ChainID"); Docker "Image Manifest Version
//! 2, Schema 2"; ambiguous documents: CVE-2021-41190.

use serde::{Deserialize, de::IgnoredAny};
use sha2::Digest as _;
use std::collections::BTreeMap;
use wharf_messages::{
    Answer, Descriptor, Digest, Labels, Platform, Refusal, descriptor::media_type, image::PlatformChoice,
};

/// The largest manifest, index or config that is read, as a registry's limit for manifests.
pub const DOCUMENT_MAX_BYTES: usize = 4 << 20;
/// How many indexes may lie above a manifest. One is usual, two are archives of several images; a path of hashes
/// cannot be a loop, but it can be long.
pub const DEPTH_MAX: usize = 8;
/// The most children of one manifest or index, and the most layers of a config. Overlayfs mounts some hundred.
pub const CHILDREN_MAX: usize = 4096;

/// A manifest or index, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// One image.
    Manifest {
        /// Its config.
        config: Descriptor,
        /// Its layers, lowest first.
        layers: Vec<Descriptor>,
    },
    /// A choice of images.
    Index {
        /// Its entries, in their order.
        manifests: Vec<Descriptor>,
    },
}

impl Node {
    /// Reads a manifest or index; the descriptor's media type says which.
    ///
    /// # Errors
    /// `InvalidArgument` that names the blob for another media type and for a document that is broken or ambiguous,
    /// `ResourceExhausted` for one beyond the limits.
    pub fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Answer<Self> {
        let bad = |why: String| Refusal::invalid(format!("manifest {}: {why}", descriptor.digest));
        let document: Document = parse_json(bytes).map_err(|e| e.context(format!("manifest {}", descriptor.digest)))?;
        if let Some(own) = document.media_type.filter(|own| !own.is_empty() && *own != descriptor.media_type) {
            return Err(bad(format!("its media type is {own:?}, its descriptor's {:?}", descriptor.media_type)));
        }
        let is_index = media_type::is_index(&descriptor.media_type);
        if !is_index && !media_type::is_manifest(&descriptor.media_type) {
            return Err(bad(format!("{:?} is no media type of a manifest or index", descriptor.media_type)));
        }
        if document.fs_layers.is_some() || document.schema_version.is_some_and(|version| version != 2) {
            return Err(bad("it is not of schema version 2".to_owned()));
        }
        match (is_index, document.config, document.layers, document.manifests) {
            (true, None, None, manifests) => Ok(Self::Index { manifests: descriptors(manifests).map_err(bad)? }),
            (true, ..) => Err(bad("an index must have neither config nor layers".to_owned())),
            (false, Some(config), layers, None) => Ok(Self::Manifest {
                config: config.into_descriptor().map_err(bad)?,
                layers: descriptors(layers).map_err(bad)?,
            }),
            (false, None, ..) => Err(bad("it has no config".to_owned())),
            (false, _, _, Some(_)) => Err(bad("an image's manifest must not have manifests".to_owned())),
        }
    }

    /// What it points to: config before layers, entries in their order.
    #[must_use]
    pub fn children(&self) -> Vec<Descriptor> {
        match self {
            Self::Manifest { config, layers } => [config].into_iter().chain(layers).cloned().collect(),
            Self::Index { manifests } => manifests.clone(),
        }
    }
}

/// What a blob points to; nothing, unread, if it is neither manifest nor index.
///
/// # Errors
/// As [`Node::parse`].
pub fn children(descriptor: &Descriptor, bytes: &[u8]) -> Answer<Vec<Descriptor>> {
    if !media_type::is_index(&descriptor.media_type) && !media_type::is_manifest(&descriptor.media_type) {
        return Ok(Vec::new());
    }
    Node::parse(descriptor, bytes).map(|node| node.children())
}

/// One level further down the graph; `depth` is how many indexes lie above.
///
/// # Errors
/// `ResourceExhausted` beyond [`DEPTH_MAX`].
pub fn descend(depth: usize) -> Answer<usize> {
    if depth >= DEPTH_MAX {
        return Err(Refusal::resource_exhausted(format!("the image's indexes are nested more than {DEPTH_MAX} deep")));
    }
    Ok(depth + 1)
}

/// The labels with which a blob holds its children against garbage collection.
///
/// # Spec
/// containerd `images.ChildGCLabels`: `config` once, layers as `l.0`, `l.1`, manifests as `m.0`, the rest by number.
#[must_use]
pub fn gc_labels(children: &[Descriptor]) -> Labels {
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut labels = Labels::new();
    for child in children {
        let kind = &child.media_type;
        let prefix = if media_type::is_manifest(kind) || media_type::is_index(kind) {
            "m."
        } else if media_type::is_layer(kind) {
            "l."
        } else {
            ""
        };
        let suffix = if media_type::is_config(kind) {
            "config".to_owned()
        } else {
            let count = counts.entry(prefix).or_default();
            *count += 1;
            format!("{prefix}{}", *count - 1)
        };
        labels.insert(format!("containerd.io/gc.ref.content.{suffix}"), child.digest.to_string());
    }
    labels
}

/// What unpacking and choosing need of an image's config; the rest stays in its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// The machine it is for.
    pub platform: Platform,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// `InvalidArgument` that names the blob, `ResourceExhausted` beyond the limits.
    pub fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Answer<Self> {
        let doing = || format!("image config {}", descriptor.digest);
        let json: JsonConfig = parse_json(bytes).map_err(|e| e.context(doing()))?;
        let diff_ids = json.rootfs.unwrap_or_default().diff_ids.unwrap_or_default();
        if diff_ids.len() > CHILDREN_MAX {
            return Err(Refusal::resource_exhausted(format!("{}: more than {CHILDREN_MAX} layers", doing())));
        }
        Ok(Self { platform: json.platform.into_platform(), diff_ids })
    }

    /// Checks that it speaks of as many layers as the manifest has.
    ///
    /// # Errors
    /// `InvalidArgument` with both numbers.
    pub fn check_layers(&self, layers: &[Descriptor]) -> Answer<()> {
        if self.diff_ids.len() == layers.len() {
            return Ok(());
        }
        Err(Refusal::invalid(format!(
            "the image's manifest has {} layers, its config {}",
            layers.len(),
            self.diff_ids.len()
        )))
    }
}

/// The chain id up to each layer: the name of the file system that the layers so far make.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => Digest::from_sha256(&sha2::Sha256::digest(format!("{parent} {diff_id}")).into()),
        };
        chain.push(next);
    }
    chain
}

/// The entry of an index that fits a platform best: the closest match, the first of equals; an entry that does not tell
/// its platform if none matches, for its config may.
#[must_use]
pub fn best<'a>(manifests: &'a [Descriptor], platform: &Platform) -> Option<&'a Descriptor> {
    let images =
        || manifests.iter().filter(|d| media_type::is_manifest(&d.media_type) || media_type::is_index(&d.media_type));
    images()
        .filter_map(|entry| Some((platform.accepts(entry.platform.as_ref()?)?, entry)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, entry)| entry)
        .or_else(|| images().find(|entry| entry.platform.is_none()))
}

/// The entries of an index that a choice takes, each once.
///
/// # Errors
/// `NotFound` that lists what there is for a platform that nothing fits.
pub fn select(manifests: &[Descriptor], choice: &PlatformChoice) -> Answer<Vec<Descriptor>> {
    let host;
    let wanted = match choice {
        PlatformChoice::All => return Ok(manifests.to_vec()),
        PlatformChoice::These(platforms) => platforms.as_slice(),
        PlatformChoice::Host => {
            host = [Platform::host()];
            &host
        }
    };
    let mut selected: Vec<Descriptor> = Vec::with_capacity(wanted.len());
    for platform in wanted {
        let entry = best(manifests, platform).ok_or_else(|| {
            let offered: Vec<_> =
                manifests.iter().filter_map(|d| d.platform.as_ref()).map(Platform::to_string).collect();
            Refusal::not_found(format!("manifest for platform {platform} (there are: {})", offered.join(", ")))
        })?;
        if !selected.iter().any(|other| other.digest == entry.digest) {
            selected.push(entry.clone());
        }
    }
    Ok(selected)
}

/// A manifest or an index, whichever it turns out to be. `null` is an empty list, as Go writes one; a list that is
/// there at all counts for ambiguity.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    schema_version: Option<u32>,
    config: Option<JsonDescriptor>,
    #[serde(default, deserialize_with = "present")]
    layers: Option<Option<Vec<JsonDescriptor>>>,
    #[serde(default, deserialize_with = "present")]
    manifests: Option<Option<Vec<JsonDescriptor>>>,
    fs_layers: Option<IgnoredAny>,
}

/// Tells `null` (`Some(None)`) from a missing field (`None`).
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonDescriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<JsonPlatform>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
}

#[derive(Deserialize)]
struct JsonConfig {
    #[serde(flatten)]
    platform: JsonPlatform,
    rootfs: Option<JsonRootfs>,
}

#[derive(Default, Deserialize)]
struct JsonRootfs {
    diff_ids: Option<Vec<Digest>>,
}

impl JsonPlatform {
    fn into_platform(self) -> Platform {
        let platform = Platform::new(&self.os, &self.architecture, self.variant.as_deref().unwrap_or(""));
        Platform { os_version: self.os_version.unwrap_or_default(), ..platform }
    }
}

impl JsonDescriptor {
    fn into_descriptor(self) -> Result<Descriptor, String> {
        if self.media_type.is_empty() {
            return Err(format!("{} has no media type", self.digest));
        }
        Ok(Descriptor {
            annotations: self.annotations.unwrap_or_default(),
            // A platform without an operating system says nothing.
            platform: self.platform.map(JsonPlatform::into_platform).filter(|platform| !platform.os.is_empty()),
            ..Descriptor::new(self.media_type, self.digest, self.size)
        })
    }
}

fn descriptors(list: Option<Option<Vec<JsonDescriptor>>>) -> Result<Vec<Descriptor>, String> {
    let list = list.flatten().unwrap_or_default();
    if list.len() > CHILDREN_MAX {
        return Err(format!("it has more than {CHILDREN_MAX} children"));
    }
    list.into_iter().map(JsonDescriptor::into_descriptor).collect()
}

fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Answer<T> {
    if bytes.len() > DOCUMENT_MAX_BYTES {
        return Err(Refusal::resource_exhausted(format!("larger than {DOCUMENT_MAX_BYTES} bytes")));
    }
    serde_json::from_slice(bytes).map_err(|e| Refusal::invalid(e.to_string()))
}

#[cfg(test)]
#[path = "image_graph_tests.rs"]
mod tests;
