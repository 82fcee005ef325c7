//! A root of one's own, and short ways to fill it.
use crate::{
    Change, Commit, Committed, NewSnapshot, OpenError, Options, ProcessRow, Store, TaskPhase, TaskRow, Writer, open,
};
use crate::{
    database,
    disk::Disk,
    open::{lock, open_on},
};
use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use wharf_messages::{
    Answer, Any, ContainerId, Descriptor, Digest, ImageName, Labels, LeaseId, Namespace, SnapshotKey, SnapshotterName,
    Timestamp,
    container::{Container, Runtime},
    health::{HealthRecord, HealthStatus},
    image::CreateImage,
    restart::{RestartPhase, RestartRecord},
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

    /// A root whose database is in memory: the same code, without waiting for a disk.
    pub fn in_memory() -> Self {
        let folder = folder_in_memory();
        let (store, writer) = open_in_memory(folder.path(), Arc::new(Memory::default())).unwrap();
        Self { store, writer, clock: 0, folder }
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

/// A folder in memory, where the system has one: for tests whose subject is not the disk.
pub fn folder_in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Opens a root whose database is on the given disk, filling it if it is empty.
pub fn open_in_memory(root: &Path, disk: Arc<dyn Disk>) -> Result<(Store, Writer), OpenError> {
    if disk.len().unwrap() == 0 {
        database::create(&disk, Options::default(), root)?;
    }
    open_on(root, Options::default(), disk, lock(root)?)
}

/// A disk that never fails and forgets nothing.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    /// A disk on which somebody wrote before.
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes))
    }

    /// What is on it.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Disk for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let bytes = self.0.lock().unwrap();
        out.copy_from_slice(bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
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

/// The second restart of `web`, which is due.
pub fn restart() -> RestartRecord {
    RestartRecord {
        container_id: container_id("web"),
        phase: RestartPhase::Waiting,
        restarts: 2,
        due_at: Timestamp(8),
        since: Timestamp(7),
        reason: "it ended with 1".to_owned(),
    }
}

/// How the task of `web` fares.
pub fn health(status: HealthStatus) -> HealthRecord {
    HealthRecord {
        container_id: container_id("web"),
        status,
        failing: 1,
        since: Timestamp(5),
        last_failure: "it ended with 1".to_owned(),
    }
}
