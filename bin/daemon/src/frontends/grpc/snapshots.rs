//! `containerd.services.snapshots.v1.Snapshots`.

use super::{
    api::{Api, Reply, Streamed},
    convert::{mounts, optional, paths, required, size, time},
    proto::containerd::services::snapshots::v1::{
        CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest,
        MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest,
        StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse,
        ViewSnapshotRequest, ViewSnapshotResponse, snapshots_server::Snapshots,
    },
};
use tonic::{Request, async_trait};
use wharf_messages::{
    Answer, Refusal, SnapshotKey, SnapshotterName,
    snapshot::{
        CleanupSnapshots, CommitSnapshot, GetSnapshotMounts, GetSnapshotUsage, ListSnapshots, PrepareSnapshot,
        RemoveSnapshot, SnapshotInfo, SnapshotKind, StatSnapshot, UpdateSnapshot, ViewSnapshot,
    },
};

fn info(info: SnapshotInfo) -> Info {
    let kind = match info.kind {
        SnapshotKind::View => Kind::View,
        SnapshotKind::Active => Kind::Active,
        SnapshotKind::Committed => Kind::Committed,
    };
    Info {
        name: info.key.into(),
        parent: info.parent.map(String::from).unwrap_or_default(),
        kind: kind.into(),
        created_at: time(info.created_at),
        updated_at: time(info.updated_at),
        labels: info.labels,
    }
}

/// The snapshotter of a request. The namespace's default is the client's to look up, as with containerd.
fn snapshotter(name: &str) -> Answer<Option<SnapshotterName>> {
    if name.is_empty() {
        return Err(Refusal::invalid("snapshotter argument missing"));
    }
    SnapshotterName::new(name).map(Some)
}

#[async_trait]
impl Snapshots for Api {
    async fn prepare(&self, request: Request<PrepareSnapshotRequest>) -> Reply<PrepareSnapshotResponse> {
        self.unary(
            request,
            |wire| {
                Ok(PrepareSnapshot {
                    snapshotter: snapshotter(&wire.snapshotter)?,
                    key: SnapshotKey::new(wire.key)?,
                    parent: optional(&wire.parent, SnapshotKey::new)?,
                    labels: wire.labels,
                })
            },
            |made| PrepareSnapshotResponse { mounts: mounts(made) },
        )
        .await
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Reply<ViewSnapshotResponse> {
        self.unary(
            request,
            |wire| {
                Ok(ViewSnapshot {
                    snapshotter: snapshotter(&wire.snapshotter)?,
                    key: SnapshotKey::new(wire.key)?,
                    parent: optional(&wire.parent, SnapshotKey::new)?,
                    labels: wire.labels,
                })
            },
            |made| ViewSnapshotResponse { mounts: mounts(made) },
        )
        .await
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Reply<MountsResponse> {
        self.unary(
            request,
            |wire| {
                let snapshotter = snapshotter(&wire.snapshotter)?;
                Ok(GetSnapshotMounts { snapshotter, key: SnapshotKey::new(wire.key)? })
            },
            |found| MountsResponse { mounts: mounts(found) },
        )
        .await
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| {
                Ok(CommitSnapshot {
                    snapshotter: snapshotter(&wire.snapshotter)?,
                    name: SnapshotKey::new(wire.name)?,
                    key: SnapshotKey::new(wire.key)?,
                    labels: wire.labels,
                    parent: optional(&wire.parent, SnapshotKey::new)?,
                })
            },
            |()| (),
        )
        .await
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| {
                let snapshotter = snapshotter(&wire.snapshotter)?;
                Ok(RemoveSnapshot { snapshotter, key: SnapshotKey::new(wire.key)? })
            },
            |()| (),
        )
        .await
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Reply<StatSnapshotResponse> {
        self.unary(
            request,
            |wire| {
                let snapshotter = snapshotter(&wire.snapshotter)?;
                Ok(StatSnapshot { snapshotter, key: SnapshotKey::new(wire.key)? })
            },
            |found| StatSnapshotResponse { info: Some(info(found)) },
        )
        .await
    }

    async fn update(&self, request: Request<UpdateSnapshotRequest>) -> Reply<UpdateSnapshotResponse> {
        self.unary(
            request,
            |wire| {
                let Info { name, labels, .. } = required("info", wire.info)?;
                Ok(UpdateSnapshot {
                    snapshotter: snapshotter(&wire.snapshotter)?,
                    key: SnapshotKey::new(name)?,
                    labels,
                    mask: paths(wire.update_mask),
                })
            },
            |changed| UpdateSnapshotResponse { info: Some(info(changed)) },
        )
        .await
    }

    type ListStream = Streamed<ListSnapshotsResponse>;

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Reply<Self::ListStream> {
        self.batches(
            request,
            |wire| Ok(ListSnapshots { snapshotter: snapshotter(&wire.snapshotter)?, filters: wire.filters }),
            |batch: Vec<SnapshotInfo>| ListSnapshotsResponse { info: batch.into_iter().map(info).collect() },
        )
        .await
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Reply<UsageResponse> {
        self.unary(
            request,
            |wire| {
                let snapshotter = snapshotter(&wire.snapshotter)?;
                Ok(GetSnapshotUsage { snapshotter, key: SnapshotKey::new(wire.key)? })
            },
            |usage| UsageResponse { size: size(usage.size_bytes), inodes: size(usage.inodes) },
        )
        .await
    }

    async fn cleanup(&self, request: Request<CleanupRequest>) -> Reply<()> {
        self.unary(request, |wire| Ok(CleanupSnapshots { snapshotter: snapshotter(&wire.snapshotter)? }), |()| ()).await
    }
}
