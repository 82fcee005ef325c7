//! What a client may name for a stream: nothing, a FIFO's path, `fifo://`, `file://` or `binary://`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use wharf_messages::{Answer, Refusal};

/// Where a stream goes, or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: `/dev/null`.
    Null,
    /// A FIFO that the client made.
    Fifo(PathBuf),
    /// A file that output is appended to.
    File(PathBuf),
    /// A logging binary, with its arguments.
    Binary(PathBuf, Vec<OsString>),
}

impl Target {
    /// Reads a stream's name.
    ///
    /// # Errors
    /// Invalid argument for an unknown scheme or a path that is not absolute.
    pub fn parse(name: &str) -> Answer<Self> {
        if name.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = name.split_once("://") else { return absolute(name, name).map(Self::Fifo) };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = absolute(name, path)?;
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" => Ok(Self::Binary(path, arguments(query))),
            _ => Err(Refusal::invalid(format!("unknown stdio scheme {scheme:?} in {name:?}"))),
        }
    }
}

fn absolute(name: &str, path: &str) -> Answer<PathBuf> {
    let path = PathBuf::from(unescape(path));
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Refusal::invalid(format!("stdio {name:?}: the path is not absolute")))
    }
}

/// The query as arguments: each key, followed by its value if it has one.
fn arguments(query: &str) -> Vec<OsString> {
    let mut arguments = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let plain = pair.replace('+', " ");
        match plain.split_once('=') {
            Some((key, value)) => arguments.extend([unescape(key), unescape(value)]),
            None => arguments.push(unescape(&plain)),
        }
    }
    arguments
}

fn unescape(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let binary = |args: &[&str]| Target::Binary("/bin/log".into(), args.iter().map(OsString::from).collect());
        let cases = [
            ("", Some(Target::Null)),
            ("/run/x-stdout", Some(Target::Fifo("/run/x-stdout".into()))),
            ("fifo:///run/x", Some(Target::Fifo("/run/x".into()))),
            ("file:///var/log/a%20b", Some(Target::File("/var/log/a b".into()))),
            ("binary:///bin/log", Some(binary(&[]))),
            ("binary:///bin/log?--to=%2Ftmp&-v&a=b+c", Some(binary(&["--to", "/tmp", "-v", "a", "b c"]))),
            ("relative", None),
            ("file://relative", None),
            ("tcp://1.2.3.4/x", None),
        ];
        for (name, expected) in cases {
            assert_eq!(Target::parse(name).ok(), expected, "{name}");
        }
    }
}
