//! Writing an archive: an OCI layout that `docker load` reads too, the same bytes for the same images every time.

use super::{IMAGE_NAME_ANNOTATION, REF_NAME_ANNOTATION};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
};
use wharf_messages::{Answer, Descriptor, Digest, Refusal, reference::Reference};

/// Where blobs come from.
pub trait BlobSource {
    /// Opens a blob; answers its length and its bytes.
    ///
    /// # Errors
    /// `NotFound` if it is not here.
    fn open(&self, digest: &Digest) -> Answer<(u64, Box<dyn Read>)>;
}

/// What docker's manifest.json says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerParts {
    /// The config blob.
    pub config: Digest,
    /// The layers, lowest first.
    pub layers: Vec<Digest>,
}

/// An image to be written.
#[derive(Debug, Clone)]
pub struct ExportedImage {
    /// Its name.
    pub name: String,
    /// Its manifest or index.
    pub target: Descriptor,
    /// Every blob it needs, itself included.
    pub blobs: Vec<Descriptor>,
    /// For docker's manifest.json: what the host's platform needs, if the image has it.
    pub docker: Option<DockerParts>,
}

/// Writes images as one archive.
///
/// # Errors
/// What the source says, and `Io` refusals of the output.
pub fn write_archive(
    images: &[ExportedImage],
    docker_manifest: bool,
    source: &dyn BlobSource,
    output: &mut dyn Write,
) -> Answer<()> {
    let mut builder = tar::Builder::new(output);
    append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    // By digest: once each, and in an order that does not depend on the images'.
    let blobs: BTreeMap<&Digest, &Descriptor> = images.iter().flat_map(|i| &i.blobs).map(|b| (&b.digest, b)).collect();
    for digest in blobs.keys() {
        let (size_bytes, mut reader) = source.open(digest)?;
        let path = blob_path(digest);
        builder
            .append_data(&mut header(size_bytes), &path, &mut reader)
            .map_err(|e| Refusal::io(format!("write {path}"), &e))?;
    }
    let manifests: Vec<_> = images.iter().map(index_entry).collect();
    let index =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests });
    append(&mut builder, "index.json", index.to_string().as_bytes())?;
    if docker_manifest {
        // Several names of one image are one entry with several tags.
        let mut entries: Vec<(&DockerParts, Vec<&str>)> = Vec::new();
        for image in images {
            if let Some(docker) = &image.docker {
                match entries.iter_mut().find(|(d, _)| *d == docker) {
                    Some((_, tags)) => tags.push(&image.name),
                    None => entries.push((docker, vec![&image.name])),
                }
            }
        }
        let manifest: Vec<_> = entries
            .iter()
            .map(|(parts, tags)| {
                json!({ "Config": blob_path(&parts.config), "RepoTags": tags, "Layers": parts.layers.iter().map(blob_path).collect::<Vec<_>>() })
            })
            .collect();
        append(&mut builder, "manifest.json", Value::from(manifest).to_string().as_bytes())?;
    }
    builder.finish().map_err(|e| Refusal::io("write the archive's end", &e))
}

fn index_entry(image: &ExportedImage) -> Value {
    let mut annotations = image.target.annotations.clone();
    annotations.insert(IMAGE_NAME_ANNOTATION.to_owned(), image.name.clone());
    if let Ok(Reference { tag: Some(tag), .. }) = Reference::parse(&image.name) {
        annotations.insert(REF_NAME_ANNOTATION.to_owned(), tag);
    }
    json!({
        "mediaType": image.target.media_type,
        "digest": image.target.digest.as_str(),
        "size": image.target.size_bytes,
        "annotations": annotations,
    })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn header(size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size_bytes);
    header.set_mode(0o444);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    header
}

fn append(builder: &mut tar::Builder<&mut dyn Write>, path: &str, bytes: &[u8]) -> Answer<()> {
    builder
        .append_data(&mut header(bytes.len() as u64), path, bytes)
        .map_err(|e| Refusal::io(format!("write {path}"), &e))
}

#[cfg(test)]
mod tests {
    use super::{super::read_archive, *};
    use sha2::Digest as _;

    struct Memory(BTreeMap<Digest, Vec<u8>>);

    impl BlobSource for Memory {
        fn open(&self, digest: &Digest) -> Answer<(u64, Box<dyn Read>)> {
            let bytes = self.0.get(digest).ok_or_else(|| Refusal::not_found(format!("content {digest}")))?.clone();
            Ok((bytes.len() as u64, Box::new(std::io::Cursor::new(bytes))))
        }
    }

    impl super::super::BlobSink for Memory {
        fn put(&mut self, _: Option<&Digest>, _: u64, reader: &mut dyn Read) -> Answer<Digest> {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(|e| Refusal::io("read", &e))?;
            let digest = Digest::from_sha256(&sha2::Sha256::digest(&bytes).into());
            self.0.insert(digest.clone(), bytes);
            Ok(digest)
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_always_the_same() {
        let mut source = Memory(BTreeMap::new());
        let blob = |source: &mut Memory, text: &str| {
            super::super::BlobSink::put(source, None, 0, &mut text.as_bytes()).unwrap()
        };
        let (config, layer, manifest) =
            (blob(&mut source, "{}"), blob(&mut source, "layer"), blob(&mut source, "manifest"));
        let target = Descriptor::new(wharf_messages::descriptor::media_type::OCI_MANIFEST, manifest.clone(), 8);
        let blobs = [&config, &layer, &manifest].map(|d| Descriptor::new("x", d.clone(), 0)).to_vec();
        let image = |name: &str| ExportedImage {
            name: name.to_owned(),
            target: target.clone(),
            blobs: blobs.clone(),
            docker: Some(DockerParts { config: config.clone(), layers: vec![layer.clone()] }),
        };
        let images = [image("docker.io/library/a:1"), image("docker.io/library/a:2")];
        let write = || {
            let mut out = Vec::new();
            write_archive(&images, true, &source, &mut out).unwrap();
            out
        };
        let tar = write();
        assert_eq!(tar, write());
        let mut sink = Memory(BTreeMap::new());
        let read = read_archive(&mut tar.as_slice(), &mut sink).unwrap();
        let names: Vec<_> = read.images.iter().map(|i| i.name.clone().unwrap()).collect();
        assert_eq!(names, ["docker.io/library/a:1", "docker.io/library/a:2"]);
        assert_eq!(read.images[0].target.digest, manifest);
        assert!(source.0.keys().all(|digest| sink.0.contains_key(digest)));
    }

    #[test]
    fn a_missing_blob_is_named() {
        let digest = Digest::from_sha256(&[1; 32]);
        let target = Descriptor::new("x", digest.clone(), 1);
        let image = ExportedImage { name: "a/b:c".to_owned(), blobs: vec![target.clone()], target, docker: None };
        let refusal = write_archive(&[image], true, &Memory(BTreeMap::new()), &mut Vec::new()).unwrap_err();
        assert!(refusal.detail.contains(digest.as_str()));
    }
}
