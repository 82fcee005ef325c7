//! A container's metrics, read straight from the kernel's files.

use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use wharf_messages::Answer;

use super::{Cgroup, Version, stats_v1, stats_v2};
use crate::ttrpc::encode;

impl Cgroup {
    /// The metrics, as containerd's message of the cgroups' version.
    ///
    /// # Errors
    /// Internal, if they cannot be encoded. What cannot be read is zero.
    pub fn stats(&self) -> Answer<Any> {
        let (type_url, value) = match self.version {
            Version::V1 => ("io.containerd.cgroups.v1.Metrics", encode(&stats_v1::read(self))?),
            Version::V2 => ("io.containerd.cgroups.v2.Metrics", encode(&stats_v2::read(self))?),
        };
        Ok(Any { type_url: type_url.into(), value, ..Default::default() })
    }
}

/// A file's text, empty if it is not there: controllers come and go between kernels.
pub(super) fn text(folder: Option<&Path>, name: &str) -> String {
    folder.and_then(|folder| std::fs::read_to_string(folder.join(name)).ok()).unwrap_or_default()
}

/// A file's number; `max` is the largest there is.
pub(super) fn number(folder: Option<&Path>, name: &str) -> u64 {
    parse(text(folder, name).trim())
}

/// A number as the kernel writes it.
pub(super) fn parse(text: &str) -> u64 {
    if text == "max" { u64::MAX } else { text.parse().unwrap_or(0) }
}

/// The number beside a key, in lines of key and number.
pub(super) fn lookup(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| parse(value.trim()))
    })
}

/// The sizes of huge pages that this machine has, as the kernel's file names spell them.
pub(super) fn huge_page_sizes(folder: Option<&Path>) -> Vec<String> {
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut sizes: Vec<String> = names
        .filter_map(|name| {
            let rest = name.strip_prefix("hugetlb.")?;
            let size = rest.strip_suffix(".usage_in_bytes").or_else(|| rest.strip_suffix(".current"))?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "usage_usec 12\nuser_usec 7\nmax max\n";
        assert_eq!(lookup(text, "user_usec"), Some(7));
        assert_eq!(lookup(text, "max"), Some(u64::MAX));
        assert_eq!(lookup(text, "usec"), None);
    }

    #[test]
    fn a_real_process_has_stats() {
        let cgroup = Cgroup::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let stats = cgroup.stats().unwrap();
        assert!(stats.type_url.starts_with("io.containerd.cgroups.v"));
        assert!(!stats.value.is_empty());
    }
}
