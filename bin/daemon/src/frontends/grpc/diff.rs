//! `containerd.services.diff.v1.Diff`.

use super::{
    api::{Api, Reply},
    convert::{applied, descriptor, descriptor_in, mounts_in},
    proto::containerd::services::diff::v1::{
        ApplyRequest, ApplyResponse, DiffRequest, DiffResponse, diff_server::Diff,
    },
};
use tonic::{Request, async_trait};
use wharf_messages::snapshot::{ApplyDiff, MakeDiff};

#[async_trait]
impl Diff for Api {
    async fn apply(&self, request: Request<ApplyRequest>) -> Reply<ApplyResponse> {
        self.unary(
            request,
            |wire| {
                let layer = descriptor_in("diff", wire.diff)?;
                Ok(ApplyDiff { layer, mounts: mounts_in(wire.mounts), sync: wire.sync_fs })
            },
            |done| ApplyResponse { applied: Some(applied(done.diff_id, done.size_bytes)) },
        )
        .await
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Reply<DiffResponse> {
        self.unary(
            request,
            |wire| {
                Ok(MakeDiff {
                    lower: mounts_in(wire.left),
                    upper: mounts_in(wire.right),
                    media_type: wire.media_type,
                    reference: wire.r#ref,
                    labels: wire.labels,
                })
            },
            |made| DiffResponse { diff: Some(descriptor(made)) },
        )
        .await
    }
}
