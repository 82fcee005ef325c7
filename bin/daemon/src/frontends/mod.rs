//! How the world talks to the actors: one listener, and behind it a front end for each protocol.

pub mod grpc;
pub mod listener;
pub mod metrics;
pub mod native;
pub mod peer;
pub mod threads;
