//! Images: routes each command to its image's actor.
//!
//! - Parent root; permanent; children [`ImageActor`] by (namespace, name), transient, passivated when idle.
//! - Handles `images.create|update|delete` and [`JoinPull`] by routing; queries, import and export do not come here.
//! - Jobs: at the start, half-unpacked snapshots of an earlier run are removed, and its jobs' leases ended.

use crate::{
    Wharf,
    image::{ImageActor, ImageDeps, JoinPull, claim, unpack::UNPACKING_LABEL},
    root::Fixed,
    runtime::{Actor, ChildSpec, Ctx, Plural, Router, Scoped, Supervised, blocking},
};
use std::sync::Arc;
use wharf_messages::{
    Answer, ImageName, Meta,
    image::{CreateImage, DeleteImage, UpdateImage},
    snapshot::{RemoveSnapshot, SnapshotKind},
};

/// The actor.
pub struct Images {
    deps: Arc<ImageDeps>,
    router: Router<Self>,
    /// Set once what an earlier run left has been looked for: a restart of this actor has live unpackings beside it.
    swept: bool,
}

impl Images {
    /// Without children yet.
    #[must_use]
    pub fn new(deps: Arc<ImageDeps>) -> Self {
        Self { deps, router: Router::default(), swept: false }
    }
}

impl Actor for Images {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        // Before the first message: afterwards such snapshots are this run's own.
        ctx.exclusive(sweep(Arc::clone(&self.deps)), |_, swept, _| {
            if let Err(refusal) = swept {
                tracing::warn!(%refusal, "what jobs of an earlier run left could not be removed");
            }
        });
    }
}

/// Removes the snapshots that an unpacking of an earlier run was filling, and ends the leases of its jobs.
async fn sweep(deps: Arc<ImageDeps>) -> Answer<()> {
    claim::sweep(&deps.content.store, &deps.content.journal).await?;
    let looking = Arc::clone(&deps);
    let left = blocking("look for half-unpacked snapshots", move || {
        let reader = looking.content.store.read()?;
        let mut left = Vec::new();
        for namespace in reader.namespaces()? {
            let namespace = namespace?.name;
            for snapshotter in looking.snapshotters.names() {
                for row in reader.snapshots(&namespace, snapshotter)? {
                    let info = row?.info;
                    if info.kind == SnapshotKind::Active && info.labels.contains_key(UNPACKING_LABEL) {
                        left.push((namespace.clone(), snapshotter.clone(), info.key));
                    }
                }
            }
        }
        Ok(left)
    })
    .await?;
    for (namespace, snapshotter, key) in left {
        let remove = RemoveSnapshot { snapshotter: Some(snapshotter), key };
        deps.snapshots.ask(Meta::in_namespace(namespace), remove).await?;
    }
    Ok(())
}

impl Supervised for Images {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self { swept: self.swept, ..Self::new(Arc::clone(&self.deps)) };
    }
}

impl Plural for Images {
    type Key = Scoped<ImageName>;
    type Child = ImageActor;
    const CHILD: &'static ChildSpec = &ChildSpec::transient("image");

    fn router(&mut self) -> &mut Router<Self> {
        &mut self.router
    }

    fn child(&mut self, key: &Self::Key) -> ImageActor {
        ImageActor::new(Arc::clone(&self.deps), key.clone())
    }
}

crate::route!(Images by name: CreateImage, UpdateImage, DeleteImage, JoinPull);

impl Fixed for Images {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("images");
    const CHILD: Option<&'static ChildSpec> = Some(<Self as Plural>::CHILD);

    fn new(wharf: &Wharf) -> Self {
        Self::new(wharf.image_deps())
    }
}
