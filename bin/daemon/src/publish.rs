//! `wharfd publish`: what shims and hooks run to tell the daemon of something.
//!
//! # Spec
//! containerd 1.6 `cmd/containerd/command/publish.go`.

use prost::Message;
use std::{io::Read, path::Path, time::SystemTime};
use wharf_actors::drivers::shim::{self, ShimEvent};
use wharf_messages::{Answer, Any, Namespace, Refusal};

/// The largest payload.
const PAYLOAD_MAX_BYTES: u64 = 1 << 20;

/// Hands the event on standard input to the daemon at `address`.
///
/// # Errors
/// `InvalidArgument` for what is no event, and what the daemon says.
pub fn run(address: &Path, topic: String, namespace: &str) -> Answer<()> {
    let namespace = Namespace::new(namespace)?;
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(PAYLOAD_MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Refusal::io("read the event on standard input", &error))?;
    if bytes.len() as u64 > PAYLOAD_MAX_BYTES {
        return Err(Refusal::invalid(format!("the event on standard input is larger than {PAYLOAD_MAX_BYTES} bytes")));
    }
    let any = wharf_grpc::Any::decode(bytes.as_slice())
        .map_err(|error| Refusal::invalid(format!("the event on standard input: {error}")))?;
    let payload = Any { type_url: any.type_url, value: any.value };
    let event = ShimEvent { namespace, at: SystemTime::now().into(), topic, payload };
    let mut socket = address.as_os_str().to_owned();
    socket.push(".ttrpc");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Refusal::io("start", &error))?;
    runtime.block_on(shim::forward(Path::new(&socket), event))
}
