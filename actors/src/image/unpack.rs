//! Unpacking an image's layers into snapshots: composed of the primitives that clients have too.
//!
//! ```text
//!   layer 1   prepare, apply, commit as chain 1
//!   layer 2                          prepare on chain 1, apply, commit as chain 2 ...
//! ```

use super::{ImageDeps, board::Board, flights::Passenger};
use crate::{drivers::differ, image_graph, runtime::blocking, snapshots::find};
use futures_util::future::BoxFuture;
use std::{io::Read, sync::Arc};
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Descriptor, Digest, Labels, Meta, Mount, Platform, Refusal, RefusalKind, SnapshotKey, SnapshotterName,
    descriptor::media_type::{self, Compression},
    image::{Progress, ProgressState},
    snapshot::{CommitSnapshot, PrepareSnapshot, RemoveSnapshot, SNAPSHOT_REF_LABEL},
};
use wharf_store::Growing;

/// Marks a snapshot that an unpacking of this daemon is filling: after a crash nobody goes on with it.
pub const UNPACKING_LABEL: &str = "io.wharf/unpacking";

/// Where a layer's bytes are.
pub enum Source {
    /// All in the content store.
    Here,
    /// On their way; the passenger keeps them coming.
    Coming(Growing, Passenger),
}

/// A layer, and how to come by its bytes when its turn has come.
pub struct Layer<'a> {
    /// The layer.
    pub descriptor: Descriptor,
    /// Asked once, just before the bytes are needed.
    pub source: Box<dyn Fn() -> BoxFuture<'a, Answer<Source>> + Send + Sync + 'a>,
}

/// One unpacking.
pub struct Unpack<'a> {
    /// The system.
    pub deps: &'a Arc<ImageDeps>,
    /// Whose.
    pub meta: &'a Meta,
    /// Where to; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// For the progress.
    pub platform: Platform,
    /// For the progress.
    pub manifest: Digest,
    /// The config blob: it gets the label that holds the last snapshot.
    pub config: Digest,
    /// The layers, lowest first.
    pub layers: Vec<Layer<'a>>,
    /// What they must turn out to be, uncompressed.
    pub diff_ids: Vec<Digest>,
    /// Where it is shown.
    pub board: &'a Board,
    /// When to give up.
    pub cancel: CancellationToken,
}

impl Unpack<'_> {
    /// Unpacks what is not unpacked yet; answers labels for the blobs that took part.
    ///
    /// # Errors
    /// `InvalidArgument` for a layer that is not what the config says, refusals of the differ and the snapshots. A
    /// failed layer leaves nothing; those before it stay, for the next time.
    pub async fn run(self) -> Answer<Vec<(Digest, Labels)>> {
        let chain = image_graph::chain_ids(&self.diff_ids);
        let Some(top) = chain.last().cloned() else { return Ok(Vec::new()) };
        let snapshotter = self.resolve_snapshotter().await?;
        let done = self.already_there(&snapshotter, &chain).await?;
        if done < chain.len() {
            self.say(ProgressState::Unpacking);
        }
        let mut labels = Vec::new();
        for (n, layer) in self.layers.iter().enumerate() {
            let (diff_id, chain_id) = (&self.diff_ids[n], &chain[n]);
            if n >= done {
                let parent = n.checked_sub(1).map(|below| &chain[below]);
                self.layer(&snapshotter, layer, diff_id, chain_id, parent).await?;
            }
            let label = ("containerd.io/uncompressed".to_owned(), diff_id.to_string());
            labels.push((layer.descriptor.digest.clone(), Labels::from([label])));
        }
        let held = (format!("containerd.io/gc.ref.snapshot.{snapshotter}"), top.to_string());
        labels.push((self.config.clone(), Labels::from([held])));
        self.say(ProgressState::Unpacked);
        Ok(labels)
    }

    async fn resolve_snapshotter(&self) -> Answer<SnapshotterName> {
        let (deps, named) = (Arc::clone(self.deps), self.snapshotter.clone());
        let namespace = self.meta.namespace()?.clone();
        blocking("resolve the snapshotter", move || {
            deps.snapshotters.resolve(&deps.content.store.read()?, &namespace, named.as_ref())
        })
        .await
    }

    /// How many layers from below are unpacked already.
    async fn already_there(&self, snapshotter: &SnapshotterName, chain: &[Digest]) -> Answer<usize> {
        let (store, snapshotter, chain) = (self.deps.content.store.clone(), snapshotter.clone(), chain.to_vec());
        let namespace = self.meta.namespace()?.clone();
        blocking("look for unpacked layers", move || {
            let reader = store.read()?;
            for n in (0..chain.len()).rev() {
                if reader.snapshot(&namespace, &snapshotter, &SnapshotKey::new(chain[n].as_str())?)?.is_some() {
                    return Ok(n + 1);
                }
            }
            Ok(0)
        })
        .await
    }

    async fn layer(
        &self,
        snapshotter: &SnapshotterName,
        layer: &Layer<'_>,
        diff_id: &Digest,
        chain_id: &Digest,
        parent: Option<&Digest>,
    ) -> Answer<()> {
        if self.cancel.is_cancelled() {
            return Err(Refusal::canceled("unpack"));
        }
        let compression = media_type::layer_compression(&layer.descriptor.media_type).ok_or_else(|| {
            Refusal::invalid(format!("{} is no layer ({})", layer.descriptor.digest, layer.descriptor.media_type))
        })?;
        let name = SnapshotKey::new(chain_id.as_str())?;
        let key = SnapshotKey::new(format!("extract-{} {chain_id}", crate::names::random()))?;
        let prepare = PrepareSnapshot {
            snapshotter: Some(snapshotter.clone()),
            key: key.clone(),
            parent: parent.map(|parent| SnapshotKey::new(parent.as_str())).transpose()?,
            labels: Labels::from([
                (SNAPSHOT_REF_LABEL.to_owned(), chain_id.to_string()),
                (UNPACKING_LABEL.to_owned(), layer.descriptor.digest.to_string()),
            ]),
        };
        let mounts = match self.deps.snapshots.ask(self.meta.clone(), prepare).await {
            // Somebody else has unpacked it meanwhile, or the snapshotter has it from elsewhere.
            Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => {
                return self.check_there(snapshotter, &name).await;
            }
            other => other?,
        };
        wharf_failpoints::try_failpoint!("unpack/fill");
        let filled = self.fill(layer, compression, mounts, diff_id).await;
        let committed = match filled {
            Ok(()) => {
                let commit = CommitSnapshot {
                    snapshotter: Some(snapshotter.clone()),
                    name: name.clone(),
                    key: key.clone(),
                    labels: Labels::new(),
                    parent: None,
                };
                self.deps.snapshots.ask(self.meta.clone(), commit).await
            }
            Err(refusal) => Err(refusal.context(format!("unpack layer {}", layer.descriptor.digest))),
        };
        wharf_failpoints::try_failpoint!("unpack/layer");
        let Err(refusal) = committed else { return Ok(()) };
        let remove = RemoveSnapshot { snapshotter: Some(snapshotter.clone()), key };
        if let Err(left) = self.deps.snapshots.ask(self.meta.clone(), remove).await {
            tracing::warn!(%left, "a half-unpacked snapshot stays until the next start");
        }
        if refusal.is(RefusalKind::AlreadyExists) { self.check_there(snapshotter, &name).await } else { Err(refusal) }
    }

    async fn check_there(&self, snapshotter: &SnapshotterName, name: &SnapshotKey) -> Answer<()> {
        let (store, snapshotter, name) = (self.deps.content.store.clone(), snapshotter.clone(), name.clone());
        let namespace = self.meta.namespace()?.clone();
        blocking("look for a layer", move || find(&store.read()?, &namespace, &snapshotter, &name).map(|_| ())).await
    }

    /// Writes a layer's files and checks that they are what the config says.
    async fn fill(
        &self,
        layer: &Layer<'_>,
        compression: Compression,
        mounts: Vec<Mount>,
        diff_id: &Digest,
    ) -> Answer<()> {
        let source = (layer.source)().await?;
        let (store, digest) = (self.deps.content.store.clone(), layer.descriptor.digest.clone());
        let (cancel, options) = (self.cancel.clone(), self.deps.apply.clone());
        // The passenger stays aboard until the last byte is read, or nobody wants them any more.
        let (growing, passenger) = match source {
            Source::Here => (None, None),
            Source::Coming(growing, passenger) => (Some(growing), Some(passenger)),
        };
        let applied = self.deps.pool.run("unpack layer", move || {
            let mut reader: Box<dyn Read + Send> = match growing {
                Some(growing) => Box::new(growing.reader()),
                None => Box::new(store.blobs().read(&digest)?.0),
            };
            differ::apply(&mut *reader, compression, &mounts, &options, &|| cancel.is_cancelled())
        });
        tokio::pin!(applied);
        let applied = tokio::select! {
            applied = &mut applied => applied?,
            () = self.cancel.cancelled() => {
                // It may be waiting for bytes of a download that only goes on for its sake.
                drop(passenger);
                applied.await?
            }
        };
        if applied.diff_id != *diff_id {
            return Err(Refusal::invalid(format!(
                "its uncompressed digest is {}, the image's config says {diff_id}",
                applied.diff_id
            )));
        }
        Ok(())
    }

    fn say(&self, state: ProgressState) {
        self.board.put(Progress {
            reference: format!("unpack-{}", self.manifest),
            state,
            offset_bytes: 0,
            total_bytes: 0,
            digest: Some(self.manifest.clone()),
            platform: Some(self.platform.clone()),
        });
    }
}
