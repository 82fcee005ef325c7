//! Values whose type only the two ends know.

use serde::{Deserialize, Serialize};

/// A typed blob, as protobuf's `Any`: containerd hands options, specs, extensions and metrics around in it.
///
/// OCI runtime values are JSON under `types.containerd.io/opencontainers/runtime-spec/1/{Spec,Process,LinuxResources}`;
/// the rest is protobuf under its bare message name. Kept as it came: never decoded and encoded again on the way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Any {
    /// The type's URL.
    pub type_url: String,
    /// Its encoding.
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
}

impl Any {
    /// The URL of an OCI runtime `Spec` as JSON.
    pub const SPEC: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
    /// The URL of an OCI runtime `Process` as JSON.
    pub const PROCESS: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
    /// The URL of an OCI runtime `LinuxResources` as JSON.
    pub const RESOURCES: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

    /// A value under a type URL.
    #[must_use]
    pub fn new(type_url: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { type_url: type_url.into(), value: value.into() }
    }
}
