//! What the system tests stand on: real daemons on private folders, real registries, images, terminals.
//!
//! Everything here is made to be run many at a time, cleans up after itself whether a test passes, fails or panics,
//! and panics with the whole story when something is not as it should be: it is test code, and a test wants to know.
//!
//! - [`Daemon`] is a `wharfd`; [`Containerd`] is Debian's, for comparisons.
//! - [`Collector`] takes the daemon's traces.
//! - [`Registry`] is Debian's `docker-registry`; [`hostile::HostileRegistry`] answers as no registry should.
//! - [`images`] are made once and kept under `.cache/`.
//! - [`Docker`] is Debian's dockerd on either; [`go::flow`] is a program on containerd's client library.
//! - [`Pty`] drives a program on a real terminal.

#![allow(clippy::unwrap_used)]

pub mod cgroups;
pub mod collector;
pub mod command;
pub mod containerd;
pub mod daemon;
pub mod dir;
pub mod docker;
pub mod failpoints;
pub mod go;
pub mod hostile;
pub mod images;
pub mod leftovers;
pub mod order;
pub mod paths;
pub mod process;
pub mod pty;
pub mod registry;
pub mod wait;

pub use collector::Collector;
pub use command::{Args, Output};
pub use containerd::Containerd;
pub use daemon::Daemon;
pub use dir::TestDir;
pub use docker::Docker;
pub use failpoints::Failpoints;
pub use pty::Pty;
pub use registry::Registry;
pub use wait::{eventually, unique, until_still};
