//! A root of one's own, and short ways to fill it.
#![allow(dead_code)] // Until every test that uses them is here.

use crate::{Change, Commit, Committed, NewSnapshot, Options, ProcessRow, Store, TaskPhase, TaskRow, Writer, open};
use std::path::Path;
use tempfile::TempDir;
use wharf_messages::{
    Answer, Any, ContainerId, Descriptor, Digest, ImageName, Labels, LeaseId, Namespace, SnapshotKey, SnapshotterName,
    Timestamp,
    container::{Container, Runtime},
    image::CreateImage,
    snapshot::SnapshotKind,
    task::{Stdio, TaskStatus},
};

pub struct World {
    pub store: Store,
    pub writer: Writer,
    pub clock: i64,
    pub folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, writer) = open(folder.path(), Options::default()).unwrap();
        Self { store, writer, clock: 0, folder }
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Commits one batch; each gets a time of its own.
    pub fn batch(&mut self, batch: Vec<Commit>) -> Vec<Answer<Committed>> {
        self.clock += 1;
        self.writer.commit(batch, Timestamp(self.clock))
    }

    pub fn commit(&mut self, commit: Commit) -> Answer<Committed> {
        let mut answers = self.batch(vec![commit]);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    pub fn change(&mut self, change: Change) -> Answer<Committed> {
        self.commit(Commit::one(&ns(), change))
    }

    /// Drops everything and opens the root again.
    pub fn reopened(self) -> Self {
        let Self { store, writer, clock, folder } = self;
        drop((store, writer));
        let (store, writer) = open(folder.path(), Options::default()).unwrap();
        Self { store, writer, clock, folder }
    }
}

pub fn ns() -> Namespace {
    Namespace::new("default").unwrap()
}

pub fn overlay() -> SnapshotterName {
    SnapshotterName::new("overlayfs").unwrap()
}

pub fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

pub fn container_id(text: &str) -> ContainerId {
    ContainerId::new(text).unwrap()
}

pub fn lease_id(text: &str) -> LeaseId {
    LeaseId::new(text).unwrap()
}

/// A digest with `n` in every byte.
pub fn digest(n: u8) -> Digest {
    Digest::from_sha256(&[n; 32])
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn image(name: &str, pairs: &[(&str, &str)]) -> CreateImage {
    CreateImage {
        name: ImageName::new(name).unwrap(),
        target: Descriptor::new("application/vnd.oci.image.manifest.v1+json", digest(1), 7),
        labels: labels(pairs),
    }
}

pub fn container(id: &str) -> Container {
    Container {
        id: container_id(id),
        labels: labels(&[("app", "web")]),
        image: "busybox".to_owned(),
        runtime: Runtime::default(),
        spec: Some(Any::new(Any::SPEC, "{}")),
        snapshotter: Some(overlay()),
        snapshot_key: Some(key(id)),
        created_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
        extensions: [("x".to_owned(), Any::new("t", "1"))].into(),
        sandbox: String::new(),
    }
}

pub fn task(id: &str) -> TaskRow {
    TaskRow {
        namespace: ns(),
        container_id: container_id(id),
        phase: TaskPhase::Creating,
        bundle: format!("/run/wharf/{id}"),
        runtime: Runtime::default(),
        shim: None,
        boot_id: "b".to_owned(),
        rootfs: Vec::new(),
        init: ProcessRow { exec_id: None, pid: 0, status: TaskStatus::Created, stdio: Stdio::default(), exit: None },
        execs: Vec::new(),
        created_at: Timestamp::ZERO,
    }
}

pub fn active(name: &str, parent: Option<&str>, id: u64) -> NewSnapshot {
    NewSnapshot {
        snapshotter: overlay(),
        key: key(name),
        parent: parent.map(key),
        kind: SnapshotKind::Active,
        id,
        labels: Labels::new(),
    }
}
