//! `[socket]` and `[limits]`: whom the daemon serves, and how much.

use super::refuse;
use crate::frontends::native;
use serde::{Deserialize, Serialize};
use wharf_actors::config::SystemConfig;
use wharf_messages::{Answer, Refusal};

/// Whose the socket is: its mode is 0660, so its owner and its group may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Socket {
    /// Its owner; root may connect in any case.
    pub uid: u32,
    /// Its group, by name or number. Whoever is in it can become root on this machine.
    pub group: String,
}

impl Default for Socket {
    fn default() -> Self {
        Self { uid: 0, group: "0".to_owned() }
    }
}

impl Socket {
    /// The group by number.
    ///
    /// # Errors
    /// `NotFound` for a name that the system does not know.
    pub fn gid(&self) -> Answer<u32> {
        let group = &self.group;
        if let Ok(gid) = group.parse() {
            return Ok(gid);
        }
        match nix::unistd::Group::from_name(group) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) => Err(Refusal::not_found(format!("configuration: socket.group {group:?}"))),
            Err(error) => Err(Refusal::io(format!("configuration: socket.group {group:?}"), &error.into())),
        }
    }
}

/// Bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at a time.
    pub connections_max: usize,
    /// Calls in flight on one connection.
    pub calls_per_connection_max: usize,
    /// Open files that are asked of the kernel; fewer are a warning.
    pub open_files: u64,
    /// The length of an unpacked layer, holes counted; a larger one is refused.
    pub layer_max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        // A shim, its FIFOs and its events take a few files a container; a connection takes one.
        Self {
            connections_max: 4096,
            calls_per_connection_max: native::CALLS_MAX,
            open_files: 1 << 20,
            layer_max_bytes: SystemConfig::LAYER_MAX_BYTES,
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Answer<()> {
        if self.connections_max == 0 || self.calls_per_connection_max == 0 {
            return Err(refuse("limits.connections_max and limits.calls_per_connection_max must be above 0"));
        }
        Ok(())
    }
}
