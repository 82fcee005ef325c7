//! `wharfd oci-hook -- PROGRAM [ARGUMENT]...`: what OCI runtimes run as a hook in place of a program that has to be told
//! what only the runtime knows. It becomes the program, with the templates in arguments and environment filled in.
//!
//! # Spec
//! containerd 1.6 `oci-hook`: the state of OCI's runtime specification on standard input, and `{{id}}`, `{{bundle}}`,
//! `{{rootfs}}`, `{{pid}}`, `{{status}}` and `{{annotation "KEY"}}` in Go's templates. Nothing else that these can do.

use serde::Deserialize;
use std::{
    collections::HashMap,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};
use wharf_messages::{Answer, Refusal};

/// The largest state, and the largest specification.
const JSON_MAX_BYTES: u64 = 4 << 20;

/// What a hook is told of its container.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    id: String,
    status: String,
    pid: i64,
    bundle: PathBuf,
    annotations: HashMap<String, String>,
}

/// The part of the specification that is looked at.
#[derive(Debug, Deserialize)]
struct Spec {
    root: Root,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
}

/// Becomes the program.
///
/// # Errors
/// `InvalidArgument` for a state or a template of another form; what reading the specification and starting say.
pub fn run(words: &[String]) -> Answer<()> {
    let state = State::read(std::io::stdin(), "the container's state on standard input")?;
    let spec = state.bundle.join("config.json");
    let file = std::fs::File::open(&spec).map_err(|error| Refusal::io(format!("open {}", spec.display()), &error))?;
    let root = Spec::read(file, &spec.display().to_string())?.root.path;
    let values = Values { rootfs: state.bundle.join(root), state };
    let mut words = words.iter().map(|word| values.fill(word)).collect::<Answer<Vec<_>>>()?.into_iter();
    let program = words.next().ok_or_else(|| Refusal::invalid("no program is named"))?;
    if !Path::new(&program).is_absolute() {
        // As execve(2) would take it, which does not search.
        return Err(Refusal::invalid(format!("program {program:?} is no absolute path")));
    }
    let mut command = Command::new(&program);
    command.args(words);
    for (name, value) in std::env::vars_os() {
        // What is not text is not a template.
        if let Some(value) = value.to_str() {
            command.env(name, values.fill(value)?);
        }
    }
    Err(Refusal::io(format!("run {program}"), &command.exec()))
}

trait FromJson: Sized + for<'a> Deserialize<'a> {
    fn read(from: impl Read, what: &str) -> Answer<Self> {
        let mut json = Vec::new();
        let read = from.take(JSON_MAX_BYTES + 1).read_to_end(&mut json);
        read.map_err(|error| Refusal::io(format!("read {what}"), &error))?;
        if json.len() as u64 > JSON_MAX_BYTES {
            return Err(Refusal::invalid(format!("{what} is larger than {JSON_MAX_BYTES} bytes")));
        }
        serde_json::from_slice(&json).map_err(|error| Refusal::invalid(format!("{what}: {error}")))
    }
}

impl FromJson for State {}
impl FromJson for Spec {}

/// What templates can ask for.
struct Values {
    state: State,
    /// Absolute.
    rootfs: PathBuf,
}

impl Values {
    fn fill(&self, text: &str) -> Answer<String> {
        let bad = || Refusal::invalid(format!("template {text:?}: only {{{{id}}}} and its like can be filled in"));
        let (mut filled, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (asked, after) = after.split_once("}}").ok_or_else(bad)?;
            filled.push_str(before);
            filled.push_str(&self.value(asked.trim()).ok_or_else(bad)?);
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn value(&self, asked: &str) -> Option<String> {
        Some(match asked {
            "id" => self.state.id.clone(),
            "status" => self.state.status.clone(),
            "pid" => self.state.pid.to_string(),
            "bundle" => self.state.bundle.to_str()?.to_owned(),
            "rootfs" => self.rootfs.to_str()?.to_owned(),
            _ => {
                let key = asked.strip_prefix("annotation")?;
                let key = key.strip_prefix(char::is_whitespace)?.trim_start();
                let key = key.strip_prefix('"')?.strip_suffix('"').filter(|key| !key.contains(['"', '\\']))?;
                self.state.annotations.get(key).cloned().unwrap_or_default()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_with_what_the_state_says() {
        let json =
            r#"{"ociVersion":"1.0.2","id":"web","status":"creating","pid":7,"bundle":"/b","annotations":{"a":"x"}}"#;
        let state = State::read(json.as_bytes(), "state").unwrap();
        let values = Values { rootfs: "/b/rootfs".into(), state };
        for (template, text) in [
            ("", ""),
            ("plain {x}", "plain {x}"),
            ("--pid={{pid}}", "--pid=7"),
            ("{{ id }}-{{status}}: {{bundle}} {{rootfs}}", "web-creating: /b /b/rootfs"),
            (r#"{{annotation "a"}}{{annotation  "b"}}"#, "x"),
        ] {
            assert_eq!(values.fill(template).unwrap(), text);
        }
        for template in
            ["{{", "{{pid", "{{}}", "{{nothing}}", "{{annotation a}}", r#"{{annotation"a"}}"#, "{{pid | x}}"]
        {
            assert!(values.fill(template).is_err(), "{template}");
        }
        assert!(State::read(&b"nonsense"[..], "state").is_err());
        assert!(Spec::read(&b"{}"[..], "spec").is_err());
    }
}
