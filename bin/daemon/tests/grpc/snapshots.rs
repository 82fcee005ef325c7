//! What containerd's suite for snapshotters asks, as far as it shows at wire level; what is in the file systems is the
//! drivers' own suite's.

use crate::{
    client::{Channel, Daemon, within},
    proto::containerd::services::snapshots::v1::{
        CommitSnapshotRequest, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
        RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest, snapshots_client::SnapshotsClient,
    },
};
use tonic::Code;

/// Layers that a snapshot may stand on.
const LAYERS: usize = 128;

struct Snapshots(SnapshotsClient<Channel>);

impl Snapshots {
    async fn prepare(&mut self, key: &str, parent: &str) -> Code {
        let (snapshotter, key, parent) = ("overlayfs".to_owned(), key.to_owned(), parent.to_owned());
        let labels = Default::default();
        let request = PrepareSnapshotRequest { snapshotter, key, parent, labels };
        self.0.prepare(within("n", request)).await.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    async fn view(&mut self, key: &str, parent: &str) -> Code {
        let (snapshotter, key, parent) = ("overlayfs".to_owned(), key.to_owned(), parent.to_owned());
        let labels = Default::default();
        let request = ViewSnapshotRequest { snapshotter, key, parent, labels };
        self.0.view(within("n", request)).await.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    async fn commit(&mut self, name: &str, key: &str) -> Code {
        let (snapshotter, name, key) = ("overlayfs".to_owned(), name.to_owned(), key.to_owned());
        let request = CommitSnapshotRequest { snapshotter, name, key, ..CommitSnapshotRequest::default() };
        self.0.commit(within("n", request)).await.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    async fn remove(&mut self, key: &str) -> Code {
        let request = RemoveSnapshotRequest { snapshotter: "overlayfs".to_owned(), key: key.to_owned() };
        self.0.remove(within("n", request)).await.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    async fn mounts(&mut self, key: &str) -> Code {
        let request = MountsRequest { snapshotter: "overlayfs".to_owned(), key: key.to_owned() };
        self.0.mounts(within("n", request)).await.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    async fn stat(&mut self, key: &str) -> Result<(Kind, String), Code> {
        let request = StatSnapshotRequest { snapshotter: "overlayfs".to_owned(), key: key.to_owned() };
        let answer = self.0.stat(within("n", request)).await.map_err(|status| status.code())?;
        let info = answer.into_inner().info.unwrap();
        Ok((info.kind(), info.parent))
    }

    async fn list(&mut self, filter: &str) -> Vec<String> {
        let request = ListSnapshotsRequest { snapshotter: "overlayfs".to_owned(), filters: vec![filter.to_owned()] };
        let mut told = self.0.list(within("n", request)).await.unwrap().into_inner();
        let mut names = Vec::new();
        while let Some(batch) = told.message().await.unwrap() {
            assert!(batch.info.len() <= 100);
            names.extend(batch.info.into_iter().map(|info| info.name));
        }
        names
    }
}

#[tokio::test]
async fn snapshots_go_from_active_to_committed_and_are_removed_in_order() {
    let daemon = Daemon::start();
    let mut snapshots = Snapshots(daemon.snapshots().await);
    assert_eq!(snapshots.prepare("a", "").await, Code::Ok);
    assert_eq!(snapshots.prepare("a", "").await, Code::AlreadyExists);
    assert_eq!(snapshots.prepare("b", "a").await, Code::InvalidArgument, "a parent must be committed");
    assert_eq!(snapshots.prepare("b", "nobody").await, Code::NotFound);
    assert_eq!(snapshots.mounts("a").await, Code::Ok);
    assert_eq!(snapshots.commit("A", "a").await, Code::Ok);
    assert_eq!(snapshots.stat("a").await, Err(Code::NotFound));
    assert_eq!(snapshots.stat("A").await, Ok((Kind::Committed, String::new())));
    assert_eq!(snapshots.commit("A", "a").await, Code::NotFound, "twice");
    assert_ne!(snapshots.mounts("A").await, Code::Ok, "a committed one is not mounted");
    assert_eq!(snapshots.view("v", "A").await, Code::Ok);
    assert_eq!(snapshots.commit("V", "v").await, Code::FailedPrecondition, "a view is never committed");
    assert_eq!(snapshots.prepare("b", "A").await, Code::Ok);
    assert_eq!(snapshots.stat("b").await, Ok((Kind::Active, "A".to_owned())));
    assert_eq!(snapshots.commit("A", "b").await, Code::AlreadyExists);
    assert_eq!(snapshots.list("kind==view").await, ["v"]);
    assert_eq!(snapshots.list("parent==A").await, ["b", "v"]);
    assert_eq!(snapshots.remove("A").await, Code::FailedPrecondition, "others stand on it");
    for key in ["b", "v", "A"] {
        assert_eq!(snapshots.remove(key).await, Code::Ok, "{key}");
        assert_eq!(snapshots.remove(key).await, Code::NotFound, "{key} again");
    }
    assert!(snapshots.list("").await.is_empty());
}

#[tokio::test]
async fn many_layers() {
    let daemon = Daemon::start();
    let mut snapshots = Snapshots(daemon.snapshots().await);
    let mut parent = String::new();
    for layer in 0..LAYERS {
        let (key, name) = (format!("a{layer:03}"), format!("c{layer:03}"));
        assert_eq!(snapshots.prepare(&key, &parent).await, Code::Ok, "{layer}");
        assert_eq!(snapshots.commit(&name, &key).await, Code::Ok, "{layer}");
        parent = name;
    }
    assert_eq!(snapshots.view("top", &parent).await, Code::Ok);
    assert_eq!(snapshots.list("").await.len(), LAYERS + 1);
}

#[tokio::test]
async fn a_snapshotter_must_be_named_and_known() {
    let daemon = Daemon::start();
    let mut snapshots = daemon.snapshots().await;
    for (name, text) in [("", "snapshotter argument missing: invalid argument"), ("zfs", "zfs")] {
        let request = StatSnapshotRequest { snapshotter: name.to_owned(), key: "k".to_owned() };
        let status = snapshots.stat(within("n", request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
}
