//! containerd's gRPC API: the messages, both ends of the services, and how they say what wharf's vocabulary says.
//!
//! The daemon's front end serves them; drivers call other daemons by them. Nothing here does I/O.

pub mod codec;
pub mod convert;
pub mod status;

/// What `build.rs` makes of the definitions in `proto/`.
#[allow(missing_docs, dead_code, unused_qualifications, clippy::all, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

/// protobuf's `Any`, with its bytes as they came: a list of containers passes them on without a copy.
///
/// # Spec
/// protobuf, `google/protobuf/any.proto`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Any {
    /// The type's URL.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Its encoding.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: bytes::Bytes,
}

pub use generated::{containerd, google, grpc};

/// The definitions themselves, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
