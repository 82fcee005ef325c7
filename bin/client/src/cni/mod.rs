//! A container's network by the plugins of CNI, as a client sets it up: programs that are told in their environment what
//! to do with a network namespace and by standard input how, and that answer on standard output.
//!
//! Everything here blocks; from async code, call it by `spawn_blocking`.
//!
//! ```no_run
//! # fn example(pid: u32) -> wharf_messages::Answer<()> {
//! use wharf_client::cni::Network;
//!
//! let network = Network::default_one()?;
//! network.add("default-web", &format!("/proc/{pid}/ns/net"))?;
//! // ... and when the container has ended:
//! network.remove("default-web")
//! # }
//! ```
//!
//! # Spec
//! CNI specification 1.0.0; what `ctr` 1.6 chooses: the first configuration by name, its interface `eth0`, where plugins
//! are looked for. What a network answered is kept where libcni keeps it, in libcni's form, so that either client can
//! remove what the other has added.

mod config;
mod kept;
mod plugin;

use config::Config;
use kept::Kept;
use plugin::{Call, Command};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use wharf_messages::{Answer, Refusal};

/// Where networks are configured.
const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// Where plugins are looked for, in this order; the second is Debian's.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// What answers are kept below.
const KEPT: &str = "/var/lib/cni/results";
/// What the network's interface is called within a container.
const INTERFACE: &str = "eth0";
/// How plugins say that there is nothing to remove.
const GONE: [&str; 2] = ["no such file or directory", "not found"];

/// A configured network.
#[derive(Debug)]
pub struct Network {
    config: Config,
    plugins: Vec<PathBuf>,
    kept: PathBuf,
}

impl Network {
    /// The network that is used when none is named: the first of those that are configured, by file name.
    ///
    /// # Errors
    /// `FailedPrecondition` if there is none, `InvalidArgument` for a configuration that is none.
    pub fn default_one() -> Answer<Self> {
        Self::first_of(Path::new(CONFIGURATIONS), &PLUGINS.map(PathBuf::from), Path::new(KEPT))
    }

    fn first_of(configurations: &Path, plugins: &[PathBuf], kept: &Path) -> Answer<Self> {
        let config = Config::first_of(configurations)?;
        Ok(Self { config, plugins: plugins.to_owned(), kept: kept.to_owned() })
    }

    /// Connects a network namespace, each plugin with what the one before it answered.
    ///
    /// # Errors
    /// `NotFound` for a plugin that is not there, and what plugins say. Some have done their part then: call
    /// [`Network::remove`].
    pub fn add(&self, container: &str, namespace: &str) -> Answer<()> {
        let mut answer = None;
        for plugin in &self.config.plugins {
            let call = self.call(Command::Add, container, namespace);
            let said = call.run(plugin.kind(), &self.input(plugin, answer.take()));
            let said = said.map_err(|refusal| refusal.context(failed(plugin, "add")))?;
            let mut said = match serde_json::from_slice(&said) {
                Ok(Value::Object(said)) => said,
                Ok(Value::Null) => Map::new(),
                Ok(_) => return Err(Refusal::invalid(format!("plugin {}: its answer is no object", plugin.kind()))),
                Err(error) => return Err(Refusal::invalid(format!("plugin {}: its answer: {error}", plugin.kind()))),
            };
            // One that does not say which version it speaks speaks the configuration's.
            if said.get("cniVersion").and_then(Value::as_str).is_none_or(str::is_empty) {
                said.insert("cniVersion".to_owned(), self.config.version.clone().into());
            }
            answer = Some(Value::Object(said));
        }
        self.kept(container).write(&self.config, answer.unwrap_or_default())
    }

    /// Takes away what [`Network::add`] made, by the plugins in reverse; the network namespace may be gone. Fine if there
    /// is nothing.
    ///
    /// # Errors
    /// As [`Network::add`]: the first one, after all plugins had their turn.
    pub fn remove(&self, container: &str) -> Answer<()> {
        let kept = self.kept(container);
        let answer = if self.config.gives_answers_back()? { kept.read()? } else { None };
        let mut first = Ok(());
        for plugin in self.config.plugins.iter().rev() {
            let call = self.call(Command::Delete, container, "");
            match call.run(plugin.kind(), &self.input(plugin, answer.clone())) {
                Ok(_) => {}
                // Plugins do not agree on what to say of a namespace that is gone, or of what was removed already.
                Err(refusal)
                    if refusal.is(plugin::FAILED) && GONE.iter().any(|words| refusal.detail.contains(words)) => {}
                Err(refusal) => first = first.and(Err(refusal.context(failed(plugin, "delete")))),
            }
        }
        // What is kept serves who tries again.
        first.and_then(|()| kept.remove())
    }

    fn call<'a>(&'a self, command: Command, container: &'a str, namespace: &'a str) -> Call<'a> {
        Call { command, container, namespace, interface: INTERFACE, folders: &self.plugins }
    }

    /// What a plugin reads: its part of the configuration, under the network's name and version.
    fn input(&self, plugin: &config::Plugin, answer: Option<Value>) -> Value {
        let mut input = plugin.config.clone();
        input.insert("name".to_owned(), self.config.name.clone().into());
        input.insert("cniVersion".to_owned(), self.config.version.clone().into());
        if let Some(answer) = answer {
            input.insert("prevResult".to_owned(), answer);
        }
        Value::Object(input)
    }

    fn kept(&self, container: &str) -> Kept {
        Kept::new(&self.kept, &self.config.name, container, INTERFACE)
    }
}

fn failed(plugin: &config::Plugin, doing: &str) -> String {
    format!("plugin type={:?} failed ({doing})", plugin.kind())
}

#[cfg(test)]
mod tests;
