//! `containerd.services.diff.v1.Diff`.

use super::{
    api::{Api, Reply},
    convert::{applied, descriptor, mounts_in, required},
    proto::containerd::{
        services::diff::v1::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse, diff_server::Diff},
        types,
    },
};
use tonic::{Request, async_trait};
use wharf_messages::{
    Answer, Descriptor, Digest, Refusal,
    snapshot::{ApplyDiff, MakeDiff},
};

#[async_trait]
impl Diff for Api {
    async fn apply(&self, request: Request<ApplyRequest>) -> Reply<ApplyResponse> {
        self.unary(
            request,
            |wire| {
                let layer = layer_in(required("diff", wire.diff)?)?;
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

/// The layer of a descriptor. As for containerd, a digest that cannot be is one that no blob has, and the blob says how long
/// it is.
fn layer_in(wire: types::Descriptor) -> Answer<Descriptor> {
    let digest = Digest::new(&wire.digest).map_err(|_| {
        Refusal::not_found(format!("failed to get reader from content store: content digest {}", wire.digest))
    })?;
    Ok(Descriptor::new(wire.media_type, digest, u64::try_from(wire.size).unwrap_or(0)))
}
