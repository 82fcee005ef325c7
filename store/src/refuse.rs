//! The words of refusals that several places give, as containerd's clients know them.

use wharf_messages::{ContainerId, CursorName, Digest, ImageName, IngestRef, LeaseId, Namespace, Refusal, SnapshotKey};

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

/// `parent snapshot x does not exist: not found`
#[must_use]
pub fn no_parent(key: &SnapshotKey) -> Refusal {
    Refusal::not_found(format!("parent snapshot {key} does not exist"))
}

/// `failed to create snapshot: parent "x" is not committed snapshot: invalid argument`
#[must_use]
pub fn parent_not_committed(key: &SnapshotKey) -> Refusal {
    Refusal::invalid(format!("failed to create snapshot: parent {key:?} is not committed snapshot"))
}

/// `failed to commit snapshot: snapshot "x" is not active: failed precondition`
#[must_use]
pub fn not_active(key: &SnapshotKey) -> Refusal {
    Refusal::failed_precondition(format!("failed to commit snapshot: snapshot {key:?} is not active"))
}

/// `failed to get active mount: requested snapshot x not active or view: failed precondition`
#[must_use]
pub fn no_mounts(key: &SnapshotKey) -> Refusal {
    let why = format!("failed to get active mount: requested snapshot {key} not active or view");
    Refusal::failed_precondition(why)
}

/// `content digest sha256:...: not found`
#[must_use]
pub fn no_content(digest: &Digest) -> Refusal {
    Refusal::not_found(format!("content digest {digest}"))
}

/// `cursor "x": not found`
#[must_use]
pub fn no_cursor(name: &CursorName) -> Refusal {
    Refusal::not_found(format!("cursor {name:?}"))
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
