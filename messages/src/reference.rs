//! Names of images in registries.

use crate::{Digest, Refusal};
use std::fmt;

/// The longest repository path of a reference, in bytes (host included).
///
/// # Spec
/// distribution `reference.NameTotalLengthMax`.
const REPOSITORY_MAX_BYTES: usize = 255;

/// Where an image is in which registry: `host/repository[:tag][@digest]`, fully spelt.
///
/// containerd's references are explicit: there is no default host and no default tag. [`Reference::parse_familiar`]
/// is what people type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `docker.io`, `127.0.0.1:5000`, `[::1]:5000`.
    pub host: String,
    /// `library/busybox`.
    pub repository: String,
    /// `latest`; containerd calls tag and digest together the object.
    pub tag: Option<String>,
    /// Pins the content.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The host without its port, as Go's `URL.Hostname` has it: an IPv6 address stands without its brackets, too.
    #[must_use]
    pub fn hostname(&self) -> &str {
        match self.host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => self.host.split_once(':').map_or(&self.host, |(name, _)| name),
        }
    }

    /// Parses a fully spelt reference.
    ///
    /// # Errors
    /// `InvalidArgument` that says which part breaks which rule.
    ///
    /// # Spec
    /// distribution `reference/regexp.go`; containerd `reference.Parse` (a host is required).
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = |why: &str| Refusal::invalid(format!("image reference {text:?}: {why}"));
        if text.contains("://") {
            return Err(bad("must not have a scheme"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(Digest::new(digest).map_err(|e| e.context(format!("image reference {text:?}")))?))
            }
            None => (text, None),
        };
        let (host, rest) = name
            .split_once('/')
            .ok_or_else(|| bad("a registry host is required, as in docker.io/library/busybox:latest"))?;
        // A colon after the last slash starts the tag; one before it was the host's port.
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        if !host_fits(host) {
            return Err(bad("the registry host is not a host name or address with an optional port"));
        }
        if host.len() + 1 + repository.len() > REPOSITORY_MAX_BYTES {
            return Err(bad("the repository's name is longer than 255 characters"));
        }
        if repository.is_empty() || !repository.split('/').all(component_fits) {
            return Err(bad(
                "each part of the repository must be lowercase letters and digits joined by single separators (. _ __ -)",
            ));
        }
        if let Some(tag) = tag
            && !tag_fits(tag)
        {
            return Err(bad("the tag must be up to 128 letters, digits, _ . - and not start with . or -"));
        }
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), tag: tag.map(str::to_owned), digest })
    }

    /// Parses what a person types: `busybox` is `docker.io/library/busybox:latest`.
    ///
    /// # Errors
    /// As [`Reference::parse`].
    ///
    /// # Spec
    /// distribution `reference.ParseDockerRef` (normalize.go).
    pub fn parse_familiar(text: &str) -> Result<Self, Refusal> {
        let first = text.split(['/', '@']).next().unwrap_or("");
        let has_host = text.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        let spelt = match (has_host, text.contains('/')) {
            (true, _) => text.to_owned(),
            (false, true) => format!("docker.io/{text}"),
            (false, false) => format!("docker.io/library/{text}"),
        };
        let mut reference = Self::parse(&spelt)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".to_owned());
        }
        Ok(reference)
    }

    /// `host/repository`, without tag and digest.
    #[must_use]
    pub fn locator(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn host_fits(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // The last colon of a bare IPv6 address inside brackets is no port's.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_fits = port.is_none_or(|p| !p.is_empty() && p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()));
    let name_fits = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(v6) => !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    port_fits && name_fits
}

fn component_fits(part: &str) -> bool {
    let mut rest = part;
    let alnum = |s: &str| s.bytes().take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).count();
    loop {
        let n = alnum(rest);
        if n == 0 {
            return false;
        }
        rest = &rest[n..];
        if rest.is_empty() {
            return true;
        }
        let separator = match rest.as_bytes() {
            [b'_', b'_', ..] => 2,
            [b'.' | b'_', ..] => 1,
            [b'-', ..] => rest.bytes().take_while(|b| *b == b'-').count(),
            _ => return false,
        };
        rest = &rest[separator..];
    }
}

fn tag_fits(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelt_references_come_apart() {
        let r = Reference::parse("127.0.0.1:5000/app/nginx-like:latest").unwrap();
        assert_eq!(
            (r.host.as_str(), r.repository.as_str(), r.tag.as_deref()),
            ("127.0.0.1:5000", "app/nginx-like", Some("latest"))
        );
        let hex = "a".repeat(64);
        let text = format!("[::1]:5000/a__b/c-d:v1@sha256:{hex}");
        assert_eq!(Reference::parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn familiar_names_get_their_host_and_tag() {
        for (typed, spelt) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("me/app", "docker.io/me/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("quay.io/me/app:v1", "quay.io/me/app:v1"),
        ] {
            assert_eq!(Reference::parse_familiar(typed).unwrap().to_string(), spelt);
        }
    }

    #[test]
    fn wrong_references_are_refused() {
        for bad in [
            "",
            "busybox",
            "docker.io/",
            "docker.io/A",
            "docker.io/a:",
            "docker.io/a//b",
            "docker.io/../a",
            "http://docker.io/a",
            "docker.io/a:-x",
            "docker.io/a@sha256:00",
            "-x/a",
            "a:b:c/d",
            "host/a___b",
            "host/a_",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
