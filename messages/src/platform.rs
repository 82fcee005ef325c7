//! Which machine an image is for, and which of several fits this one best.

use crate::Refusal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An operating system and a processor, in normalised form (`linux/arm64`, not `Linux/aarch64`).
///
/// # Spec
/// OCI image specification 1.1, image-index.md "platform"; normalisation and matching as containerd `platforms`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, as Go's GOOS.
    pub os: String,
    /// `amd64`, as Go's GOARCH.
    pub architecture: String,
    /// `v7` for 32-bit arm and the like; empty where it is the default.
    pub variant: String,
    /// Windows builds use it; empty elsewhere.
    pub os_version: String,
}

impl Platform {
    /// A platform from the spelling anybody uses; the result is normalised.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.to_ascii_lowercase().as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "386", _) => ("386", String::new()),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", if v == "v1" { String::new() } else { v.to_owned() }),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", String::new()),
            ("aarch64" | "arm64", v) => ("arm64", v.to_owned()),
            ("armhf", _) => ("arm", "v7".to_owned()),
            ("armel", _) => ("arm", "v6".to_owned()),
            ("arm", "" | "7") => ("arm", "v7".to_owned()),
            ("arm", v @ ("5" | "6" | "8")) => ("arm", format!("v{v}")),
            (other, v) => {
                return Self { os, architecture: other.to_owned(), variant: v.to_owned(), os_version: String::new() };
            }
        };
        Self { os, architecture: architecture.to_owned(), variant, os_version: String::new() }
    }

    /// The platform of this process's machine.
    #[must_use]
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// Parses `os`, `arch`, `os/arch` or `os/arch/variant`; what is missing is the host's.
    ///
    /// # Errors
    /// `InvalidArgument` if it has empty or odd parts, or a single part that is neither a known os nor architecture.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = || Refusal::invalid(format!("platform {text:?}: expected os, arch, os/arch or os/arch/variant"));
        let parts: Vec<_> = text.split('/').collect();
        let fits =
            |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if !parts.iter().all(fits) {
            return Err(bad());
        }
        let host = Self::host();
        match parts.as_slice() {
            [one] => {
                let one = Self::new(one, one, "");
                if KNOWN_OS.contains(&one.os.as_str()) {
                    Ok(Self { os: one.os, ..host })
                } else if KNOWN_ARCHITECTURES.contains(&one.architecture.as_str()) {
                    Ok(Self {
                        os: host.os,
                        architecture: one.architecture,
                        variant: one.variant,
                        os_version: String::new(),
                    })
                } else {
                    Err(Refusal::invalid(format!("platform {text:?}: unknown operating system or architecture")))
                }
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(bad()),
        }
    }

    /// How well an image for `offered` runs on this platform: 0 is exact, larger is worse, `None` does not run.
    ///
    /// amd64 also runs 386; arm vN runs down to v5; arm64 runs arm v8 and below.
    #[must_use]
    pub fn accepts(&self, offered: &Platform) -> Option<u8> {
        let offered = Self::new(&offered.os, &offered.architecture, &offered.variant);
        if self.os != offered.os {
            return None;
        }
        let arm = |p: &Platform| p.variant.strip_prefix('v').and_then(|v| v.parse::<u8>().ok());
        let micro = |p: &Platform| if p.variant.is_empty() { Some(1) } else { arm(p) };
        match (self.architecture.as_str(), offered.architecture.as_str()) {
            ("amd64", "amd64") => micro(self)?.checked_sub(micro(&offered)?),
            ("amd64", "386") => Some(50),
            ("arm", "arm") => arm(self)?.checked_sub(arm(&offered)?).filter(|_| arm(&offered) >= Some(5)),
            ("arm64", "arm64") => {
                let level = |p: &Platform| if p.variant.is_empty() { Some(8) } else { arm(p) };
                level(self)?.checked_sub(level(&offered)?)
            }
            ("arm64", "arm") => 8u8.checked_sub(arm(&offered)?).filter(|_| arm(&offered) >= Some(5)).map(|d| d + 50),
            (a, b) if a == b && self.variant == offered.variant => Some(0),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

const KNOWN_OS: [&str; 8] = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "plan9"];
const KNOWN_ARCHITECTURES: [&str; 12] =
    ["amd64", "386", "arm", "arm64", "ppc64", "ppc64le", "mips", "mipsle", "mips64", "mips64le", "s390x", "riscv64"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_normalised() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AArch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), normal);
        }
        for bad in ["", "/", "linux/", "a/b/c/d", "nonsense", "linux/am d64"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_best_fit_has_the_lowest_distance() {
        let p = |text: &str| Platform::parse(text).unwrap();
        assert_eq!(p("linux/amd64").accepts(&p("linux/amd64")), Some(0));
        assert!(p("linux/amd64").accepts(&p("linux/386")) > Some(0));
        assert_eq!(p("linux/amd64").accepts(&p("linux/arm64")), None);
        assert_eq!(p("linux/amd64").accepts(&p("linux/amd64/v3")), None);
        assert_eq!(p("linux/arm/v7").accepts(&p("linux/arm/v6")), Some(1));
        assert_eq!(p("linux/arm/v6").accepts(&p("linux/arm/v7")), None);
        assert!(p("linux/arm64").accepts(&p("linux/arm/v7")).is_some());
        assert_eq!(p("linux/amd64").accepts(&p("windows/amd64")), None);
    }
}
