//! The client library: calls to a running `wharfd`, and what a client does on its own side of the socket.
//!
//! [`Client`] connects and calls; [`spec`] builds the OCI spec of a container; [`mount`] mounts what the daemon says to
//! mount; [`owners`] shifts a root file system's for a user namespace; [`cni`] sets up a container's network; [`apparmor`]
//! loads the default profile; [`events`] follows the log; [`fifo`] carries a container's standard streams.
//!
//! ```no_run
//! # async fn example() -> wharf_messages::Answer<()> {
//! use wharf_client::{Client, messages::{ImageName, Namespace, image::GetImage}};
//!
//! let client = Client::connect("/run/wharf/wharf.sock").await?.namespace(Namespace::new("default")?);
//! let image = client.call(GetImage { name: ImageName::new("docker.io/library/busybox:latest")? }).await?;
//! println!("{}", image.target.digest);
//! # Ok(())
//! # }
//! ```

pub mod apparmor;
pub mod client;
pub mod cni;
mod connection;
mod dial;
pub mod events;
pub mod fifo;
pub mod items;
pub mod mount;
pub mod owners;
mod pipe;
pub mod spec;

pub use client::Client;
pub use dial::Dial;
pub use events::Events;
pub use items::Items;
pub use wharf_messages as messages;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "/run/wharf/wharf.sock";
