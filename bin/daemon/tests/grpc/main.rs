//! The gRPC front end at wire level: a daemon, and a client made from the same definitions.

#![allow(clippy::unwrap_used)]

mod absent;
mod client;
mod content;
mod diffs;
mod events;
mod hostile;
mod layers;
mod metadata;
mod snapshots;
mod system;
mod task_calls;
mod tasks;
mod traces;

use wharf_grpc as proto;
