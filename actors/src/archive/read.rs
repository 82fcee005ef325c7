//! Reading an archive: every blob goes to the sink as it comes, names and manifests are put together at the end.

use super::{IMAGE_NAME_ANNOTATION, JSON_MAX_BYTES, REF_NAME_ANNOTATION};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read},
    path::{Component, Path},
};
use wharf_messages::{
    Answer, Descriptor, Digest, Platform, Refusal,
    descriptor::media_type::{self, Compression},
};

/// More entries than any image has; an archive beyond it is hostile.
const ENTRIES_MAX: usize = 100_000;
/// What is kept of a file's begin to tell its compression.
const MAGIC_BYTES: usize = 8;

/// Where blobs go.
pub trait BlobSink {
    /// Stores `size_bytes` of `reader`, checks them against `expected`, and answers their digest.
    ///
    /// # Errors
    /// What the content store says; `FailedPrecondition` for a digest that does not match.
    fn put(&mut self, expected: Option<&Digest>, size_bytes: u64, reader: &mut dyn Read) -> Answer<Digest>;

    /// Stores a layer that is a plain tar in gzip too, if that is wanted, and answers digest and size of that.
    ///
    /// # Errors
    /// What the content store says.
    fn compressed(&mut self, _layer: &Digest) -> Answer<Option<(Digest, u64)>> {
        Ok(None)
    }
}

/// An image that an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInArchive {
    /// Its full name, if the archive knows it.
    pub name: Option<String>,
    /// Its tag, if the archive knows only that.
    pub tag: Option<String>,
    /// Its manifest or index.
    pub target: Descriptor,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its images, in the archive's order.
    pub images: Vec<ImageInArchive>,
    /// The index of all of it, stored as a blob too.
    pub index: Descriptor,
}

/// A file of a docker-save archive, by path.
#[derive(Clone)]
struct StoredFile {
    digest: Digest,
    size_bytes: u64,
    compression: Compression,
}

/// One entry of docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    manifests: Vec<JsonDescriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    config: JsonDescriptor,
    layers: Vec<JsonDescriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonDescriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<JsonPlatform>,
}

#[derive(Serialize, Deserialize)]
struct JsonPlatform {
    architecture: String,
    os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    variant: String,
}

impl JsonDescriptor {
    fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: BTreeMap::new(), platform: None }
    }
}

impl From<JsonDescriptor> for Descriptor {
    fn from(json: JsonDescriptor) -> Self {
        Self {
            platform: json.platform.map(|p| Platform::new(&p.os, &p.architecture, &p.variant)),
            annotations: json.annotations,
            ..Self::new(json.media_type, json.digest, json.size)
        }
    }
}

/// Reads an archive to its end; every blob is in the sink when it answers.
///
/// # Errors
/// `InvalidArgument` that names the entry for an archive that is cut, hostile or no image archive, and what the sink says.
pub fn read_archive(input: &mut dyn Read, sink: &mut dyn BlobSink) -> Answer<Archive> {
    let mut archive = tar::Archive::new(input);
    let mut files: HashMap<String, StoredFile> = HashMap::new();
    let mut links: HashMap<String, String> = HashMap::new();
    let (mut index, mut docker) = (None::<Vec<u8>>, None::<Vec<u8>>);
    let entries = archive.entries().map_err(|e| broken("its first entry", &e))?;
    for (count, entry) in entries.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(Refusal::resource_exhausted(format!("image archive: more than {ENTRIES_MAX} entries")));
        }
        let mut entry = entry.map_err(|e| broken("an entry", &e))?;
        let path = entry.path().map_err(|e| broken("an entry's name", &e))?.into_owned();
        let Some(name) = clean(&path) else {
            return Err(Refusal::invalid(format!("image archive: entry {path:?} leads outside")));
        };
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            // docker save links a layer that several images share; hard links count from the archive's root.
            let target =
                entry.link_name().map_err(|e| broken(&name, &e))?.map(std::borrow::Cow::into_owned).unwrap_or_default();
            let base =
                if kind.is_symlink() { Path::new(&name).parent().unwrap_or(Path::new("")) } else { Path::new("") };
            if let Some(target) = clean(&base.join(target)) {
                links.insert(name, target);
            }
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        let size_bytes = entry.size();
        match name.as_str() {
            "oci-layout" => check_layout(&bounded(&name, &mut entry, size_bytes)?)?,
            "index.json" => index = Some(bounded(&name, &mut entry, size_bytes)?),
            "manifest.json" => docker = Some(bounded(&name, &mut entry, size_bytes)?),
            // Only docker's oldest readers use it.
            "repositories" => {}
            _ => {
                let expected = blob_digest(&name)?;
                let mut peek = Peek { inner: &mut entry, begin: Vec::with_capacity(MAGIC_BYTES) };
                let digest = sink
                    .put(expected.as_ref(), size_bytes, &mut peek)
                    .map_err(|r| r.context(format!("image archive: {name}")))?;
                let compression = compression(&peek.begin);
                files.insert(name, StoredFile { digest, size_bytes, compression });
            }
        }
    }
    match (index, docker) {
        (Some(json), _) => from_layout(&json, sink),
        (None, Some(json)) => from_docker(&json, &files, &links, sink),
        (None, None) => Err(Refusal::invalid("image archive: it has neither index.json nor manifest.json")),
    }
}

/// Images of an OCI layout: the entries of its index.
fn from_layout(json: &[u8], sink: &mut dyn BlobSink) -> Answer<Archive> {
    let index: Index = parse("index.json", json)?;
    let stored = store(json, media_type::OCI_INDEX, sink)?;
    let images = index
        .manifests
        .into_iter()
        .map(|manifest| ImageInArchive {
            name: manifest.annotations.get(IMAGE_NAME_ANNOTATION).cloned(),
            tag: manifest.annotations.get(REF_NAME_ANNOTATION).cloned(),
            target: manifest.into(),
        })
        .collect();
    Ok(Archive { images, index: stored })
}

/// Images of a docker-save archive: manifests made from its manifest.json.
fn from_docker(
    json: &[u8],
    files: &HashMap<String, StoredFile>,
    links: &HashMap<String, String>,
    sink: &mut dyn BlobSink,
) -> Answer<Archive> {
    let find = |path: &str| -> Answer<&StoredFile> {
        let mut name = clean(Path::new(path)).unwrap_or_default();
        // A link to a link is as far as docker goes; anything longer is a loop.
        for _ in 0..4 {
            if let Some(file) = files.get(&name) {
                return Ok(file);
            }
            match links.get(&name) {
                Some(target) => name = target.clone(),
                None => break,
            }
        }
        Err(Refusal::invalid(format!("image archive: manifest.json names {path:?}, which is not in it")))
    };
    let mut images = Vec::new();
    let mut manifests = Vec::new();
    for image in parse::<Vec<DockerImage>>("manifest.json", json)? {
        let config = find(&image.config)?;
        let layers = image.layers.iter().map(|layer| {
            let file = find(layer)?;
            if file.compression == Compression::None
                && let Some((digest, size_bytes)) = sink.compressed(&file.digest)?
            {
                return Ok(JsonDescriptor::new(media_type::DOCKER_LAYER_GZIP, digest, size_bytes));
            }
            let media_type = match file.compression {
                Compression::None => media_type::DOCKER_LAYER,
                Compression::Gzip => media_type::DOCKER_LAYER_GZIP,
                Compression::Zstd => media_type::DOCKER_LAYER_ZSTD,
            };
            Ok(JsonDescriptor::new(media_type, file.digest.clone(), file.size_bytes))
        });
        let layers = layers.collect::<Answer<_>>()?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::DOCKER_MANIFEST.to_owned(),
            config: JsonDescriptor::new(media_type::DOCKER_CONFIG, config.digest.clone(), config.size_bytes),
            layers,
        };
        let target = store(&encode(&manifest)?, media_type::DOCKER_MANIFEST, sink)?;
        let tags = image.repo_tags.unwrap_or_default();
        let names = if tags.is_empty() { vec![None] } else { tags.into_iter().map(Some).collect() };
        for tag in names {
            let name = tag
                .map(|tag| wharf_messages::reference::Reference::parse_familiar(&tag).map(|r| r.to_string()))
                .transpose()
                .map_err(|r| r.context("image archive: manifest.json"))?;
            let mut entry = JsonDescriptor::new(&target.media_type, target.digest.clone(), target.size_bytes);
            if let Some(name) = &name {
                entry.annotations.insert(IMAGE_NAME_ANNOTATION.to_owned(), name.clone());
            }
            manifests.push(entry);
            images.push(ImageInArchive { name, tag: None, target: target.clone() });
        }
    }
    let index = Index { schema_version: 2, media_type: Some(media_type::OCI_INDEX.to_owned()), manifests };
    let index = store(&encode(&index)?, media_type::OCI_INDEX, sink)?;
    Ok(Archive { images, index })
}

fn store(json: &[u8], media_type: &str, sink: &mut dyn BlobSink) -> Answer<Descriptor> {
    let digest = sink.put(None, json.len() as u64, &mut &*json)?;
    Ok(Descriptor::new(media_type, digest, json.len() as u64))
}

fn encode<T: Serialize>(value: &T) -> Answer<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Refusal::internal(format!("encode a manifest: {e}")))
}

fn parse<'a, T: Deserialize<'a>>(name: &str, json: &'a [u8]) -> Answer<T> {
    serde_json::from_slice(json).map_err(|e| Refusal::invalid(format!("image archive: {name}: {e}")))
}

fn bounded(name: &str, entry: &mut dyn Read, size_bytes: u64) -> Answer<Vec<u8>> {
    if size_bytes > JSON_MAX_BYTES {
        return Err(Refusal::resource_exhausted(format!(
            "image archive: {name} of {size_bytes} bytes is larger than the limit of {JSON_MAX_BYTES}"
        )));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|e| broken(name, &e))?;
    if bytes.len() as u64 != size_bytes {
        return Err(Refusal::invalid(format!("image archive: {name}: it ends early")));
    }
    Ok(bytes)
}

fn check_layout(json: &[u8]) -> Answer<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let layout: Layout = parse("oci-layout", json)?;
    if layout.image_layout_version != "1.0.0" {
        return Err(Refusal::not_implemented(format!(
            "image archive: layout version {:?} (1.0.0 is known)",
            layout.image_layout_version
        )));
    }
    Ok(())
}

/// The digest that a path under `blobs/` claims; none for other paths.
fn blob_digest(name: &str) -> Answer<Option<Digest>> {
    let Some(rest) = name.strip_prefix("blobs/") else { return Ok(None) };
    let Some((algorithm, hex)) = rest.split_once('/') else { return Ok(None) };
    Digest::new(format!("{algorithm}:{hex}")).map(Some).map_err(|r| r.context(format!("image archive: {name}")))
}

/// A path within the archive, without `.` and leading `/`; none if it leads outside.
fn clean(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::CurDir | Component::RootDir => {}
            Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn compression(begin: &[u8]) -> Compression {
    match begin {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

fn broken(what: &str, error: &io::Error) -> Refusal {
    // A refusal that came through the reader (a client that went away) keeps its kind.
    match error.get_ref().and_then(|e| e.downcast_ref::<Refusal>()) {
        Some(refusal) => refusal.clone(),
        None => Refusal::invalid(format!("image archive: {what}: {error}")),
    }
}

/// Passes bytes on and keeps the first few.
struct Peek<'a> {
    inner: &'a mut dyn Read,
    begin: Vec<u8>,
}

impl Read for Peek<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let missing = MAGIC_BYTES.saturating_sub(self.begin.len());
        self.begin.extend(buf.iter().take(n.min(missing)));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    /// Keeps blobs in memory.
    #[derive(Default)]
    struct Memory(BTreeMap<Digest, Vec<u8>>);

    impl BlobSink for Memory {
        fn put(&mut self, expected: Option<&Digest>, size_bytes: u64, reader: &mut dyn Read) -> Answer<Digest> {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(|e| Refusal::io("read", &e))?;
            if bytes.len() as u64 != size_bytes {
                return Err(Refusal::failed_precondition("it ends early"));
            }
            let digest = Digest::from_sha256(&sha2::Sha256::digest(&bytes).into());
            if expected.is_some_and(|e| *e != digest) {
                return Err(Refusal::failed_precondition("wrong digest"));
            }
            self.0.insert(digest.clone(), bytes);
            Ok(digest)
        }
    }

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn digest_of(bytes: &[u8]) -> Digest {
        Digest::from_sha256(&sha2::Sha256::digest(bytes).into())
    }

    #[test]
    fn a_layout_gives_the_images_of_its_index() {
        let blob = b"{\"a manifest\":1}";
        let digest = digest_of(blob);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{},
                "annotations":{{"org.opencontainers.image.ref.name":"v1","io.containerd.image.name":"docker.io/library/a:v1"}}}}]}}"#,
            media_type::OCI_MANIFEST,
            blob.len()
        );
        let tar = archive(&[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            (&format!("blobs/sha256/{}", digest.hex()), blob),
            ("./index.json", index.as_bytes()),
        ]);
        let mut sink = Memory::default();
        let read = read_archive(&mut tar.as_slice(), &mut sink).unwrap();
        assert_eq!(read.images.len(), 1);
        assert_eq!(read.images[0].name.as_deref(), Some("docker.io/library/a:v1"));
        assert_eq!(read.images[0].tag.as_deref(), Some("v1"));
        assert_eq!(read.images[0].target.digest, digest);
        assert!(sink.0.contains_key(&digest) && sink.0.contains_key(&read.index.digest));
    }

    #[test]
    fn a_docker_archive_gets_manifests_made() {
        let gzip: &[u8] = b"\x1f\x8b\x08 pretend";
        let manifest = br#"[{"Config":"c.json","RepoTags":["busybox:1","me/app:2"],"Layers":["a/layer.tar","b.tar"]}]"#;
        let mut builder = tar::Builder::new(archive(&[("c.json", b"{}"), ("a/layer.tar", b"plain"), ("z.tar", gzip)]));
        // The builder appends behind the end marker of the first archive unless that is cut off.
        let mut bytes = std::mem::take(builder.get_mut());
        bytes.truncate(bytes.len() - 1024);
        let mut builder = tar::Builder::new(bytes);
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "b.tar", "./z.tar").unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(manifest.len() as u64);
        header.set_cksum();
        builder.append_data(&mut header, "manifest.json", &manifest[..]).unwrap();
        let tar = builder.into_inner().unwrap();
        let mut sink = Memory::default();
        let read = read_archive(&mut tar.as_slice(), &mut sink).unwrap();
        let names: Vec<_> = read.images.iter().map(|i| i.name.clone().unwrap()).collect();
        assert_eq!(names, ["docker.io/library/busybox:1", "docker.io/me/app:2"]);
        let made: Manifest = serde_json::from_slice(&sink.0[&read.images[0].target.digest]).unwrap();
        assert_eq!(made.layers[0].media_type, media_type::DOCKER_LAYER);
        assert_eq!(made.layers[1].media_type, media_type::DOCKER_LAYER_GZIP);
        assert_eq!(made.layers[1].digest, digest_of(gzip));
    }

    #[test]
    fn hostile_and_broken_archives_are_refused_by_name() {
        let wrong = "0".repeat(64);
        let evil_name = {
            // The tar crate does not write such names, so the header is patched.
            let mut tar = archive(&[("xx/evil", b"x")]);
            tar[..7].copy_from_slice(b"../evil");
            let sum: u32 = tar[..148].iter().chain(&tar[156..512]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
            tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            tar
        };
        let mut cut = archive(&[("index.json", &[b' '; 4000])]);
        cut.truncate(2000);
        for (tar, words) in [
            (archive(&[]), "neither index.json nor manifest.json"),
            (archive(&[(&format!("blobs/sha256/{wrong}"), b"x")]), "wrong digest"),
            (archive(&[("blobs/sha256/short", b"x")]), "wrong length"),
            (archive(&[("index.json", b"{")]), "index.json"),
            (archive(&[("oci-layout", br#"{"imageLayoutVersion":"9"}"#)]), "layout version"),
            (archive(&[("manifest.json", br#"[{"Config":"no.json"}]"#)]), "no.json"),
            (evil_name, "leads outside"),
            (cut, "index.json"),
            (vec![7; 4096], "entry"),
        ] {
            let refusal = read_archive(&mut tar.as_slice(), &mut Memory::default()).unwrap_err();
            assert!(refusal.detail.contains(words), "{refusal} should tell of {words}");
        }
    }
}
