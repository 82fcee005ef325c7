//! The words of refusals that several places give, as containerd's clients know them.

use wharf_messages::{ContainerId, Digest, ImageName, IngestRef, LeaseId, Namespace, Refusal, SnapshotKey};

/// `image "x": not found`
#[must_use]
pub fn no_image(name: &ImageName) -> Refusal {
    Refusal::not_found(format!("image {name:?}"))
}

/// `container "x" in namespace "default": not found`
#[must_use]
pub fn no_container(namespace: &Namespace, id: &ContainerId) -> Refusal {
    Refusal::not_found(format!("container {id:?} in namespace {namespace:?}"))
}

/// `task x not found: not found`
#[must_use]
pub fn no_task(id: &ContainerId) -> Refusal {
    Refusal::not_found(format!("task {id} not found"))
}

/// `snapshot x does not exist: not found`
#[must_use]
pub fn no_snapshot(key: &SnapshotKey) -> Refusal {
    Refusal::not_found(format!("snapshot {key} does not exist"))
}

/// `content digest sha256:...: not found`
#[must_use]
pub fn no_content(digest: &Digest) -> Refusal {
    Refusal::not_found(format!("content digest {digest}"))
}

/// `reference x: not found`
#[must_use]
pub fn no_ingest(reference: &IngestRef) -> Refusal {
    Refusal::not_found(format!("reference {reference}"))
}

/// `lease "x": not found`
#[must_use]
pub fn no_lease(id: &LeaseId) -> Refusal {
    Refusal::not_found(format!("lease {id:?}"))
}

/// `namespace "x": not found`
#[must_use]
pub fn no_namespace(name: &Namespace) -> Refusal {
    Refusal::not_found(format!("namespace {name:?}"))
}

/// `content sha256:...: already exists`
#[must_use]
pub fn content_exists(digest: &Digest) -> Refusal {
    Refusal::already_exists(format!("content {digest}"))
}
