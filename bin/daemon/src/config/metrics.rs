//! `[metrics]`: where figures are served for scrapers.

use super::{ADDRESS_MAX_BYTES, refuse};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};
use wharf_messages::Answer;

/// Figures for scrapers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where they are served, at `/v1/metrics`: `127.0.0.1:1338`, or the path of a socket; empty is nowhere.
    pub address: String,
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// At a TCP address.
    Tcp(SocketAddr),
    /// At a socket.
    Unix(PathBuf),
}

impl Metrics {
    /// The address, if there is one.
    ///
    /// # Errors
    /// `InvalidArgument` if it is none of the two.
    pub fn address(&self) -> Answer<Option<MetricsAddress>> {
        let text = self.address.strip_prefix("unix://").unwrap_or(&self.address);
        if text.is_empty() {
            Ok(None)
        } else if text.starts_with('/') && text.len() <= ADDRESS_MAX_BYTES {
            Ok(Some(MetricsAddress::Unix(text.into())))
        } else if let Ok(address) = text.parse() {
            Ok(Some(MetricsAddress::Tcp(address)))
        } else {
            let what = "is neither an IP address with a port nor the absolute path of a socket";
            Err(refuse(format_args!("metrics.address {text:?} {what}")))
        }
    }
}
