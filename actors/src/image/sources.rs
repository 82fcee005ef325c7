//! Where blobs came from: a label of theirs names, for a host, the repositories that are known to have them, so that a push
//! to another repository of it can mount them from there.
//!
//! # Spec
//! containerd `remotes/docker/handler.go`: the host stands there without its port, the repositories sorted.

use std::collections::BTreeSet;
use wharf_messages::{Labels, labels, reference::Reference};

/// What the label begins with; the host follows.
const PREFIX: &str = "containerd.io/distribution.source.";

/// The label of a reference's host.
#[must_use]
pub fn key(reference: &Reference) -> String {
    format!("{PREFIX}{}", reference.hostname())
}

/// The repositories that a label's value names.
#[must_use]
pub fn repositories(value: Option<&String>) -> Vec<String> {
    let names = value.map_or("", String::as_str).split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The labels of a blob that came from a reference, beside those it has; none if they say so already, or if there are too
/// many repositories for a label.
#[must_use]
pub fn noted(known: &Labels, reference: &Reference) -> Option<Labels> {
    let key = key(reference);
    let mut all: BTreeSet<_> = repositories(known.get(&key)).into_iter().collect();
    if !all.insert(reference.repository.clone()) {
        return None;
    }
    let value = all.into_iter().collect::<Vec<_>>().join(",");
    (key.len() + value.len() <= labels::LABEL_MAX_BYTES).then(|| Labels::from([(key, value)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_gather_under_the_hosts_name() {
        let at = |text: &str| Reference::parse(text).unwrap();
        let mut known = noted(&Labels::new(), &at("reg.local:5000/b/app:1")).unwrap();
        assert_eq!(known, Labels::from([("containerd.io/distribution.source.reg.local".into(), "b/app".into())]));
        assert_eq!(noted(&known, &at("reg.local/b/app:2")), None);
        known.extend(noted(&known, &at("reg.local:5001/a/app")).unwrap());
        assert_eq!(repositories(known.get(&key(&at("reg.local/x")))), ["a/app", "b/app"]);
        assert_eq!(key(&at("[::1]:5000/x")), "containerd.io/distribution.source.::1");
        let full = Labels::from([("containerd.io/distribution.source.h".into(), "r".repeat(4090))]);
        assert_eq!(noted(&full, &at("h/x")).map(drop), None);
    }
}
