//! How a network is configured: a file of a list of plugins, or of one.

use serde_json::{Map, Value};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Refusal};

/// No configuration is larger.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Since this version a plugin is told on removal what was answered when it added.
const GIVES_BACK: (u32, u32) = (0, 4);

/// A network's configuration.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) name: String,
    /// Which CNI the plugins are spoken to in; empty means the first there was.
    pub(super) version: String,
    pub(super) plugins: Vec<Plugin>,
    /// All of it, as it is kept.
    pub(super) text: Vec<u8>,
}

/// A plugin's part of it.
#[derive(Debug)]
pub(super) struct Plugin {
    pub(super) config: Map<String, Value>,
}

impl Plugin {
    /// The plugin's name.
    pub(super) fn kind(&self) -> &str {
        self.config.get("type").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Config {
    /// The first of a folder, by file name.
    pub(super) fn first_of(folder: &Path) -> Answer<Self> {
        let failed =
            |error: &io::Error| Refusal::io(format!("failed to read config file: {}", folder.display()), error);
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(|error| failed(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&error)),
        };
        let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        files.retain(|path| {
            let known = path.extension().is_some_and(|end| ["conf", "conflist", "json"].iter().any(|one| end == *one));
            known && !path.is_dir()
        });
        files.sort_unstable();
        let Some(file) = files.first() else {
            let folder = folder.display();
            return Err(Refusal::failed_precondition(format!(
                "no network config found in {folder}: cni plugin not initialized"
            )));
        };
        let is_list = file.extension().is_some_and(|end| end == "conflist");
        let text = crate::spec::read_limited(file, FILE_MAX_BYTES)?;
        Self::parse(&text, is_list).map_err(|why| {
            let what = if is_list { "CNI config list file" } else { "CNI config file" };
            Refusal::invalid(format!("failed to load {what} {}: {why}: invalid cni config", file.display()))
        })
    }

    /// Reads the text of a list of plugins, or of one.
    pub(super) fn parse(text: &[u8], is_list: bool) -> Result<Self, String> {
        let parsed = serde_json::from_slice(text).map_err(|error| format!("error parsing configuration: {error}"))?;
        let Value::Object(object) = parsed else { return Err("it is no object".to_owned()) };
        let text_of = |object: &Map<String, Value>, key: &str| match object.get(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("{key:?} is no text")),
        };
        let (name, version) = (text_of(&object, "name")?, text_of(&object, "cniVersion")?);
        // The name becomes a part of paths.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || !name.bytes().all(plain) {
            return Err(format!("invalid characters found in network name: {name:?}"));
        }
        let (plugins, text) = if is_list {
            match object.get("plugins") {
                Some(Value::Array(plugins)) if !plugins.is_empty() => (plugins.clone(), text.to_owned()),
                Some(Value::Array(_)) => return Err("no plugins in list".to_owned()),
                Some(_) => return Err("\"plugins\" is no list".to_owned()),
                None => return Err("no 'plugins' key".to_owned()),
            }
        } else {
            let list = serde_json::json!({ "name": name, "cniVersion": version, "plugins": [object] });
            (vec![Value::Object(object)], list.to_string().into_bytes())
        };
        let plugin = |plugin: Value| match plugin {
            Value::Object(config) => match text_of(&config, "type")?.as_str() {
                "" => Err("missing 'type'".to_owned()),
                kind if kind.contains('/') => Err(format!("invalid plugin name: {kind}")),
                _ => Ok(Plugin { config }),
            },
            _ => Err("a plugin's part is no object".to_owned()),
        };
        let plugins = plugins.into_iter().map(plugin).collect::<Result<_, _>>()?;
        Ok(Self { name, version, plugins, text })
    }

    /// Whether plugins are told on removal what was answered when they added.
    pub(super) fn gives_answers_back(&self) -> Answer<bool> {
        if self.version.is_empty() {
            return Ok(false);
        }
        let mut numbers = self.version.split('.').map(|part| part.parse::<u32>().ok());
        let (major, minor) = (numbers.next().flatten(), numbers.next().unwrap_or(Some(0)));
        match (major, minor) {
            (Some(major), Some(minor)) => Ok((major, minor) >= GIVES_BACK),
            _ => Err(Refusal::invalid(format!("network {}: version {:?} is none", self.name, self.version))),
        }
    }
}
