//! The gRPC front end at wire level: a daemon, and a client made from the same definitions.

#![allow(clippy::unwrap_used)]

mod client;
mod content;
mod events;
mod hostile;
mod snapshots;

/// What `build.rs` makes of the definitions.
#[allow(missing_docs, dead_code, unused_qualifications, clippy::all, reason = "generated")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}
