//! `-v` and `-info`: what this shim is.

use std::io::{self, Read, Write};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use wharf_messages::{Answer, Refusal};

use crate::ttrpc::{decode, encode};

/// What is read of options, at most.
const INPUT_BYTES_MAX: u64 = 10 << 20;

/// The name under which containerd finds this program when it is installed as `containerd-shim-wharf-v2`.
const NAME: &str = "io.containerd.wharf.v2";

/// Prints the version.
pub fn version() {
    println!("wharf-shim {}", env!("CARGO_PKG_VERSION"));
}

/// Prints a `RuntimeInfo`, with the options on standard input in it.
///
/// # Errors
/// What the daemon should tell.
pub fn info() -> Answer<()> {
    let mut bytes = Vec::new();
    io::stdin()
        .take(INPUT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Refusal::io("read the options on standard input", &error))?;
    let options = if bytes.is_empty() { None } else { Some(decode::<Any>(&bytes)?) };
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..Default::default() };
    let info =
        RuntimeInfo { name: NAME.into(), version: Some(version).into(), options: options.into(), ..Default::default() };
    io::stdout().write_all(&encode(&info)?).map_err(|error| Refusal::io("answer the daemon", &error))
}
