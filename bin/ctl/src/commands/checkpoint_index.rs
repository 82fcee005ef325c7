//! The index of a checkpoint: an image of parts that are no manifests.

use crate::{
    commands::content::write_blob,
    failure::{Failure, Outcome},
    output::json::{Object, array},
};
use serde::Deserialize;
use sha2::Digest as _;
use std::collections::BTreeMap;
use wharf_client::Client;
use wharf_messages::{
    Descriptor, Digest, IngestRef, Labels, Platform, RefusalKind, content::WriteContent, descriptor::media_type,
};

/// An index.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Its parts.
    pub manifests: Vec<Descriptor>,
    /// What is said of the whole.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    manifests: Option<Vec<Part>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    media_type: String,
    digest: Digest,
    size: u64,
}

impl Index {
    /// Adds a part that is for this machine.
    pub fn add_here(&mut self, part: Descriptor) {
        self.manifests.push(Descriptor { platform: Some(Platform::host()), ..part });
    }

    /// Stores a part and adds it.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn put(&mut self, client: &Client, kind: &str, reference: &str, bytes: Vec<u8>) -> Outcome {
        let part = write(client, kind, reference, bytes, Labels::new()).await?;
        self.add_here(part);
        Ok(())
    }

    /// The first part of that kind.
    #[must_use]
    pub fn find(&self, kind: &str) -> Option<Descriptor> {
        self.manifests.iter().find(|part| part.media_type == kind).cloned()
    }

    /// Stores the index, with labels that keep its parts.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn store(&self, client: &Client, reference: &str) -> Outcome<Descriptor> {
        let parts = self.manifests.iter().enumerate();
        let labels = parts.map(|(n, part)| (format!("containerd.io/gc.ref.content.{n}"), part.digest.to_string()));
        write(client, media_type::OCI_INDEX, reference, self.json().into_bytes(), labels.collect()).await
    }

    /// Reads an index.
    ///
    /// # Errors
    /// The daemon's refusal, or if it is none.
    pub async fn load(client: &Client, target: &Descriptor) -> Outcome<Self> {
        let mut bytes = Vec::new();
        write_blob(client, target.digest.clone(), &mut bytes).await?;
        Self::read(&bytes).map_err(|failure| failure.context(format!("checkpoint {}", target.digest)))
    }

    fn read(bytes: &[u8]) -> Outcome<Self> {
        let Json { manifests, annotations } =
            serde_json::from_slice(bytes).map_err(|error| Failure::new(format!("it is no index: {error}")))?;
        let part = |part: Part| Descriptor::new(part.media_type, part.digest, part.size);
        let manifests = manifests.unwrap_or_default().into_iter().map(part).collect();
        Ok(Self { manifests, annotations: annotations.unwrap_or_default() })
    }

    /// As Go's encoder writes it.
    fn json(&self) -> String {
        let parts = self.manifests.iter().map(|part| {
            let platform = part.platform.as_ref().map(|Platform { os, architecture, variant, .. }| {
                Object::new()
                    .string("architecture", architecture)
                    .string("os", os)
                    .string_if("variant", variant)
                    .finish()
            });
            Object::new()
                .string("mediaType", &part.media_type)
                .string("digest", part.digest.as_str())
                .raw("size", &part.size_bytes.to_string())
                .map_if("annotations", &part.annotations)
                .raw_if("platform", platform)
                .finish()
        });
        let object = Object::new().raw("schemaVersion", "2").raw("manifests", &array(parts));
        object.map_if("annotations", &self.annotations).finish()
    }
}

/// Stores a blob; one that is here already is fine.
async fn write(client: &Client, kind: &str, reference: &str, bytes: Vec<u8>, labels: Labels) -> Outcome<Descriptor> {
    let digest = Digest::from_sha256(&sha2::Sha256::digest(&bytes).into());
    let size_bytes = bytes.len() as u64;
    let call = WriteContent {
        reference: IngestRef::new(reference)?,
        offset_bytes: Some(0),
        total_bytes: size_bytes,
        expected: Some(digest.clone()),
        commit: true,
        labels,
    };
    match client.upload(call, std::io::Cursor::new(bytes)).await {
        Err(refusal) if !refusal.is(RefusalKind::AlreadyExists) => Err(refusal.into()),
        _ => Ok(Descriptor::new(kind, digest, size_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_was_written() {
        let digest = Digest::from_sha256(&[7; 32]);
        let mut index = Index::default();
        index.manifests.push(Descriptor::new("a/b", digest.clone(), 3));
        index.annotations.insert("k".to_owned(), "v".to_owned());
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"a/b","digest":"{digest}","size":3}}],"annotations":{{"k":"v"}}}}"#
        );
        assert_eq!(index.json(), text);
        assert_eq!(Index::read(text.as_bytes()).unwrap(), index);
        assert_eq!(index.find("a/b").unwrap().digest, digest);
        index.add_here(Descriptor::new("c", digest, 3));
        let Platform { os, architecture, .. } = Platform::host();
        assert!(index.json().contains(&format!(r#""platform":{{"architecture":"{architecture}","os":"{os}"}}"#)));
        assert!(Index::read(b"no index").is_err() && index.find("d").is_none());
    }
}
