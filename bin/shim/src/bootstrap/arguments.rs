//! The command line, as Go's flag package reads it.

use std::path::PathBuf;

/// What the process was started for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Arguments {
    pub namespace: String,
    pub id: String,
    pub address: String,
    pub bundle: Option<PathBuf>,
    pub debug: bool,
    pub version: bool,
    pub info: bool,
    /// `start` or `delete`.
    pub action: String,
}

impl Arguments {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// A sentence about what is wrong with them.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                parsed.action = argument;
                break;
            };
            let (name, value) =
                name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value.to_owned())));
            if let Some(flag) = parsed.flag(name) {
                *flag = match value.as_deref() {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(other) => return Err(format!("invalid value {other:?} for flag -{name}")),
                };
                continue;
            }
            let value = value.or_else(|| rest.next()).ok_or_else(|| format!("flag -{name} needs a value"))?;
            match name {
                "namespace" => parsed.namespace = value,
                "id" => parsed.id = value,
                "address" => parsed.address = value,
                "bundle" => parsed.bundle = Some(value.into()),
                // What containerd's shims need these for is done without them here.
                "publish-binary" | "socket" | "debug-socket" => {}
                _ => return Err(format!("unknown flag -{name}")),
            }
        }
        Ok(parsed)
    }

    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "debug" => Some(&mut self.debug),
            "v" | "version" => Some(&mut self.version),
            "info" => Some(&mut self.info),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn as_containerd_calls() {
        let line = "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id web -debug start";
        let expected = Arguments {
            namespace: "default".into(),
            id: "web".into(),
            address: "/run/c.sock".into(),
            debug: true,
            action: "start".into(),
            ..Default::default()
        };
        assert_eq!(parse(line).unwrap(), expected);
        let deleted = parse("--namespace=ns --id=web -bundle /b delete").unwrap();
        assert_eq!((deleted.action.as_str(), deleted.bundle), ("delete", Some("/b".into())));
        assert!(parse("-v").unwrap().version);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("-nonsense x").unwrap_err(), "unknown flag -nonsense");
        assert_eq!(parse("-id").unwrap_err(), "flag -id needs a value");
        assert_eq!(parse("-debug=maybe").unwrap_err(), "invalid value \"maybe\" for flag -debug");
    }
}
