//! Containers: routes each command to its container's actor.
//!
//! - Parent root; permanent; children [`ContainerActor`] by (namespace, id), transient, passivated when idle.
//! - Handles `containers.create|update|delete` by routing; queries are reads of the store and do not come here.
//! - No jobs; nothing to read back: the children read their own rows.

use crate::{
    Wharf,
    container::{ContainerActor, ContainerDeps},
    root::Fixed,
    runtime::{Actor, ChildSpec, Ctx, Plural, Router, Scoped, Supervised},
};
use std::sync::Arc;
use wharf_messages::{
    ContainerId,
    container::{CreateContainer, DeleteContainer, UpdateContainer},
};

/// The actor.
pub struct Containers {
    deps: Arc<ContainerDeps>,
    router: Router<Self>,
}

impl Containers {
    /// Without children yet.
    #[must_use]
    pub fn new(deps: Arc<ContainerDeps>) -> Self {
        Self { deps, router: Router::default() }
    }
}

impl Actor for Containers {
    type Context = Ctx<Self>;
}

impl Supervised for Containers {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.deps));
    }
}

impl Plural for Containers {
    type Key = Scoped<ContainerId>;
    type Child = ContainerActor;
    const CHILD: &'static ChildSpec = &ChildSpec::transient("container");

    fn router(&mut self) -> &mut Router<Self> {
        &mut self.router
    }

    fn child(&mut self, key: &Self::Key) -> ContainerActor {
        ContainerActor::new(Arc::clone(&self.deps), key.clone())
    }
}

crate::route!(Containers by container.id: CreateContainer, UpdateContainer);
crate::route!(Containers by id: DeleteContainer);

impl Fixed for Containers {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("containers");
    const CHILD: Option<&'static ChildSpec> = Some(<Self as Plural>::CHILD);

    fn new(wharf: &Wharf) -> Self {
        Self::new(Arc::new(ContainerDeps {
            store: wharf.store.clone(),
            journal: wharf.journal.clone(),
            snapshotters: wharf.drivers.snapshotters.clone(),
        }))
    }
}
