//! Identifiers, parsed once: a value of one of these types has passed its rules.

use crate::{Refusal, text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr, sync::Arc};

/// The longest identifier (containers, namespaces, execs), in bytes.
///
/// # Spec
/// containerd `identifiers.maxLength` (1.6).
pub const IDENTIFIER_MAX_BYTES: usize = 76;

/// The longest name of an image, snapshot key, ingest reference or lease, in bytes. Ours: containerd sets none, and
/// a key in the store must not be unbounded.
pub const NAME_MAX_BYTES: usize = 4096;

/// Checks containerd's identifier rule: alphanumeric runs joined by single `.`, `_` or `-`, at most 76 bytes.
fn check_identifier(what: &str, s: &str) -> Result<(), Refusal> {
    if s.is_empty() {
        return Err(Refusal::invalid(format!("{what} must not be empty")));
    }
    if s.len() > IDENTIFIER_MAX_BYTES {
        return Err(Refusal::invalid(format!(
            "identifier {s:?} greater than maximum length ({IDENTIFIER_MAX_BYTES} characters)"
        )));
    }
    // A separator is allowed only between two alphanumerics, so "must start/end with" and "no two in a row" are one rule.
    let bytes = s.as_bytes();
    let fits = bytes.iter().enumerate().all(|(i, b)| match b {
        b'.' | b'_' | b'-' => {
            i > 0 && i + 1 < bytes.len() && bytes[i - 1].is_ascii_alphanumeric() && bytes[i + 1].is_ascii_alphanumeric()
        }
        b => b.is_ascii_alphanumeric(),
    });
    if fits {
        Ok(())
    } else {
        Err(Refusal::invalid(format!("identifier {s:?} must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$")))
    }
}

/// Checks a free-form name: not empty, bounded, no control characters.
fn check_name(what: &str, s: &str) -> Result<(), Refusal> {
    if s.is_empty() {
        return Err(Refusal::invalid(format!("{what} must not be empty")));
    }
    if s.len() > NAME_MAX_BYTES {
        return Err(Refusal::invalid(format!("{what} is {} bytes long, the limit is {NAME_MAX_BYTES}", s.len())));
    }
    if s.chars().any(char::is_control) {
        return Err(Refusal::invalid(format!("{what} {s:?} must not contain control characters")));
    }
    Ok(())
}

/// Encodes what is an `Arc<str>` with rules as its text.
macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text::parse(deserializer, |text| Self::new(text))
            }
        }
    };
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $check:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses it.
            ///
            /// # Errors
            /// `InvalidArgument` that names the rule it breaks.
            pub fn new(s: impl AsRef<str>) -> Result<Self, Refusal> {
                let s = s.as_ref();
                $check($what, s)?;
                Ok(Self(s.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        as_text!($name);

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl FromStr for $name {
            type Err = Refusal;
            fn from_str(s: &str) -> Result<Self, Refusal> {
                Self::new(s)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

ids! {
    /// A namespace: containers, images, tasks and the rest of one client live apart from another's.
    Namespace, "namespace", check_identifier;
    /// A container's name within its namespace; its task has the same.
    ContainerId, "container id", check_identifier;
    /// The name of a process added to a task; the empty one of the wire (the task's first process) is `None` here.
    ExecId, "exec id", check_identifier;
    /// An image's name within its namespace: usually a reference, but any name a client likes.
    ImageName, "image name", check_name;
    /// A snapshot's key within its namespace and snapshotter.
    SnapshotKey, "snapshot key", check_name;
    /// The name of a snapshotter, such as `overlayfs`.
    SnapshotterName, "snapshotter", check_identifier;
    /// The name of an unfinished blob within its namespace, locked while it is written.
    IngestRef, "ingest reference", check_name;
    /// The name of a lease within its namespace.
    LeaseId, "lease id", check_name;
    /// The name of a cursor on the log.
    CursorName, "cursor name", check_identifier;
}

/// The hash algorithms of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DigestAlgorithm {
    /// 32 bytes; what everybody uses and what wharf makes.
    Sha256,
    /// 64 bytes; verified when it is given.
    Sha512,
}

impl DigestAlgorithm {
    /// Its name in a digest's text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How long its value is, in hex characters.
    #[must_use]
    pub const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The name of a blob: `sha256:` and 64 lowercase hex characters (or `sha512:` and 128).
///
/// # Spec
/// OCI image specification 1.1, descriptor.md, "Digests".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Arc<str>);

impl Digest {
    /// Parses it.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown algorithm, a wrong length or anything but lowercase hex.
    pub fn new(s: impl AsRef<str>) -> Result<Self, Refusal> {
        let s = s.as_ref();
        let bad = |why: &str| Refusal::invalid(format!("digest {:?} {why}", s.chars().take(160).collect::<String>()));
        let (algorithm, value) = s.split_once(':').ok_or_else(|| bad("must be algorithm:hex"))?;
        let algorithm = match algorithm {
            "sha256" => DigestAlgorithm::Sha256,
            "sha512" => DigestAlgorithm::Sha512,
            _ => return Err(bad("has an unsupported algorithm (sha256 and sha512 are known)")),
        };
        if value.len() != algorithm.hex_len() {
            return Err(bad("has the wrong length"));
        }
        if !value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("must be lowercase hex"));
        }
        Ok(Self(s.into()))
    }

    /// Makes a sha256 digest from the hash's 32 bytes.
    #[must_use]
    pub fn from_sha256(hash: &[u8; 32]) -> Self {
        let mut s = String::with_capacity(7 + 64);
        s.push_str("sha256:");
        for byte in hash {
            s.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            s.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        Self(s.into())
    }

    /// The text, `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> DigestAlgorithm {
        if self.0.starts_with("sha512:") { DigestAlgorithm::Sha512 } else { DigestAlgorithm::Sha256 }
    }

    /// The hex value after the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0[7..]
    }
}

as_text!(Digest);

impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.0.as_ref().to_owned()
    }
}

impl FromStr for Digest {
    type Err = Refusal;
    fn from_str(s: &str) -> Result<Self, Refusal> {
        Self::new(s)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_containerds_rule() {
        for good in ["a", "default", "k8s.io", "a-b_c.d", "0", &"x".repeat(76)] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "-a", "a-", "a..b", "a/b", "../x", "a b", "ä", "a\0", &"x".repeat(77)] {
            assert_eq!(ContainerId::new(bad).unwrap_err().kind, crate::RefusalKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn digests_are_exact() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = Digest::new(format!("sha256:{hex}")).unwrap();
        assert_eq!((digest.hex(), digest.algorithm()), (hex, DigestAlgorithm::Sha256));
        for bad in
            ["", "sha256", "sha256:", "md5:00", &format!("sha256:{}", hex.to_uppercase()), &format!("sha256:{hex}0")]
        {
            assert!(Digest::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sha256_bytes_become_their_text() {
        let digest = Digest::from_sha256(&[0xab; 32]);
        assert_eq!(digest.hex(), "ab".repeat(32));
        assert_eq!(Digest::new(digest.as_str()).unwrap(), digest);
    }
}
