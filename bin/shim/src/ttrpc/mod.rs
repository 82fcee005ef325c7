//! ttrpc, the protocol between a daemon and its shims: frames on a Unix socket, requests and responses in them.
//!
//! Spoken here by hand on the shim's own event loop: the usual implementations bring a runtime or a pool of threads,
//! either of which costs more memory than everything else in this process.

pub mod client;
pub mod connection;
pub mod frame;
pub mod status;
pub mod wire;

use protobuf::Message;
use wharf_messages::Refusal;

/// Encodes a message.
///
/// # Errors
/// Internal, if the message cannot be encoded: none of ours has required fields, so this does not happen.
pub fn encode(message: &impl Message) -> Result<Vec<u8>, Refusal> {
    message.write_to_bytes().map_err(|error| Refusal::internal(format!("cannot encode a message: {error}")))
}

/// Decodes a message that came from outside.
///
/// # Errors
/// Invalid argument, if it is not such a message.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, Refusal> {
    M::parse_from_bytes(bytes).map_err(|error| Refusal::invalid(format!("cannot decode {}: {error}", M::NAME)))
}
