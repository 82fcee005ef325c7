//! Manifests and indexes to be changed and written again, in the order in which containerd's clients write them: what is
//! converted here and there has one digest. What is not known is kept, and comes last.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use wharf_messages::{Answer, Digest, Platform, Refusal};

/// A manifest or an index.
///
/// # Spec
/// OCI image specification 1.1, `specs-go/v1` `Manifest` and `Index`: the order of the fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    schema_version: u32,
    /// What it is; empty if it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// A manifest's config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Pointer>,
    /// A manifest's layers, lowest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<Pointer>>,
    /// An index's entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<Pointer>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Pointer>,
    #[serde(default, skip_serializing_if = "empty")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What points to a blob, with all that is said there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pointer {
    /// What the blob is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    urls: Option<Vec<String>>,
    /// Free pairs.
    #[serde(default, skip_serializing_if = "empty")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Machine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A platform, as it is spelt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    architecture: String,
    os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    os_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn empty(annotations: &Option<BTreeMap<String, String>>) -> bool {
    annotations.as_ref().is_none_or(BTreeMap::is_empty)
}

impl Pointer {
    /// For which machine, if it says so.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let Machine { architecture, os, variant, .. } = self.platform.as_ref()?;
        Some(Platform::new(os, architecture, variant.as_deref().unwrap_or_default()))
    }
}

impl Document {
    /// Reads one that was checked before.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none.
    pub fn read(bytes: &[u8]) -> Answer<Self> {
        serde_json::from_slice(bytes).map_err(|error| Refusal::invalid(format!("manifest: {error}")))
    }

    /// Its bytes, as Go's encoder writes them: three characters, which only strings can have, are escaped.
    ///
    /// # Errors
    /// None in practice.
    pub fn bytes(&self) -> Answer<Vec<u8>> {
        let text =
            serde_json::to_string(self).map_err(|error| Refusal::internal(format!("encode a manifest: {error}")))?;
        Ok(text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0dc572239301f2848b23d0459af4da0d578d91f77d8f48bc168d397379f4dc3a";

    #[test]
    fn documents_are_written_as_containerds_clients_write_them() {
        let odd = format!(
            r#"{{"annotations":{{"b":"<&>"}},"manifests":[{{"platform":{{"os":"linux","variant":"v7","architecture":"arm"}},"size":7,"mine":1,"digest":"{DIGEST}","mediaType":"m"}}],"mediaType":"t","schemaVersion":2,"own":true}}"#
        );
        let document = Document::read(odd.as_bytes()).unwrap();
        assert_eq!(document.manifests.as_ref().unwrap()[0].platform().unwrap().to_string(), "linux/arm/v7");
        let text = String::from_utf8(document.bytes().unwrap()).unwrap();
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"t","manifests":[{{"mediaType":"m","digest":"{DIGEST}","size":7,"platform":{{"architecture":"arm","os":"linux","variant":"v7"}},"mine":1}}],"annotations":{{"b":"\u003c\u0026\u003e"}},"own":true}}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_manifest_keeps_its_config_before_its_layers() {
        let text =
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{DIGEST}","size":1}},"layers":[]}}"#);
        assert_eq!(Document::read(text.as_bytes()).unwrap().bytes().unwrap(), text.as_bytes());
        assert!(Document::read(b"{}").is_err());
    }
}
