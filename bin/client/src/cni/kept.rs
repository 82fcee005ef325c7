//! What a network answered for a container, kept until the container leaves it.

use super::config::Config;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Refusal};

/// The form of the file.
///
/// # Spec
/// libcni `CNICacheV1`.
const KIND: &str = "cniCacheV1";

/// The file.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    container: String,
    interface: String,
}

impl Kept {
    pub(super) fn new(folder: &Path, network: &str, container: &str, interface: &str) -> Self {
        let path = folder.join(format!("{network}-{container}-{interface}"));
        Self { path, container: container.to_owned(), interface: interface.to_owned() }
    }

    pub(super) fn write(&self, config: &Config, answer: Value) -> Answer<()> {
        let kept = json!({
            "kind": KIND,
            "containerId": self.container,
            "config": STANDARD.encode(&config.text),
            "ifName": self.interface,
            "networkName": config.name,
            "result": answer,
        });
        let written = || {
            if let Some(folder) = self.path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
            file.write_all(kept.to_string().as_bytes())
        };
        written().map_err(|error| self.failed("keep the network's answer", &error))
    }

    /// The answer; none if nothing is kept, or in another form.
    pub(super) fn read(&self) -> Answer<Option<Value>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read the network's answer", &error)),
        };
        let kept: Option<Value> = serde_json::from_slice(&text).ok();
        let kept = kept.filter(|kept| kept["kind"] == KIND);
        Ok(kept.and_then(|kept| kept.get("result").cloned()).filter(|answer| !answer.is_null()))
    }

    pub(super) fn remove(&self) -> Answer<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("forget the network's answer", &error))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Refusal {
        Refusal::io(format!("{doing} {}", self.path.display()), error)
    }
}
