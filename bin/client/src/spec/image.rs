//! What an image says about the container made from it.

use serde::Deserialize;
use std::collections::BTreeMap;
use wharf_messages::{Answer, Refusal};

/// The label by which a container remembers its image's stop signal.
pub const STOP_SIGNAL_LABEL: &str = "io.containerd.image.config.stop-signal";

/// An image's configuration, as far as a container's spec depends on it.
///
/// # Spec
/// OCI image specification 1.1, config.md, "config".
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// `USER[:GROUP]`.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `KEY=VALUE`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// What runs.
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or what runs if there is no entrypoint.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// Where it starts.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// How it wants to be stopped.
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// Labels.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// How to see whether it is well, in Docker's form; null for none. Read by whoever wants it: one that is malformed
    /// keeps nobody from running the image.
    pub healthcheck: serde_json::Value,
}

impl ImageConfig {
    /// Reads an image's config blob (the whole of it, of which this is the part `config`).
    ///
    /// # Errors
    /// `InvalidArgument` if it is not an image config.
    pub fn parse(json: &[u8]) -> Answer<Self> {
        #[derive(Deserialize)]
        struct Blob {
            #[serde(default, deserialize_with = "null_is_default")]
            config: ImageConfig,
        }
        serde_json::from_slice::<Blob>(json)
            .map(|blob| blob.config)
            .map_err(|error| Refusal::invalid(format!("the image's config cannot be read: {error}")))
    }

    /// Entrypoint and command, one after the other.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        [self.entrypoint.as_slice(), self.cmd.as_slice()].concat()
    }
}

/// Builders of images write `null` for what is empty.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
