//! Health checks: hears of the tasks of containers that have one, and tells each one's actor.
//!
//! - Parent root; permanent; children [`HealthActor`] by (namespace, container), transient, passivated while there is
//!   nothing to probe.
//! - Handles what it hears from the log: changes of containers' labels, starts and ends of their tasks.
//! - Jobs: following the log, without limit.
//! - A restart reads all containers' labels and goes on with the log from there.

use crate::{
    Wharf,
    bus::Bus,
    follow::{Watch, follow},
    health::{HealthActor, HealthDeps, Moved},
    root::Fixed,
    runtime::{Actor, ChildSpec, Ctx, Handler, Plural, Router, Scoped, Supervised, Tell, child},
};
use std::{collections::HashSet, sync::Arc};
use wharf_messages::{
    Answer, ContainerId, Labels,
    event::{Event, EventRecord},
    health::HEALTHCHECK_LABEL,
};
use wharf_store::{Reader, Store};

/// The actor.
pub struct Healths {
    deps: Arc<HealthDeps>,
    bus: Bus,
    router: Router<Self>,
}

impl Healths {
    /// Without children yet.
    #[must_use]
    pub fn new(deps: Arc<HealthDeps>, bus: Bus) -> Self {
        Self { deps, bus, router: Router::default() }
    }
}

impl Actor for Healths {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        follow(Checked::default(), self.deps.store.clone(), self.bus.clone(), ctx);
    }
}

impl Supervised for Healths {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.deps), self.bus.clone());
    }
}

impl Plural for Healths {
    type Key = Scoped<ContainerId>;
    type Child = HealthActor;
    const CHILD: &'static ChildSpec = &ChildSpec::transient("health");

    fn router(&mut self) -> &mut Router<Self> {
        &mut self.router
    }

    fn child(&mut self, key: &Self::Key) -> HealthActor {
        HealthActor::new(Arc::clone(&self.deps), key.clone())
    }
}

impl Handler<Tell<Scoped<ContainerId>>> for Healths {
    type Result = ();

    fn handle(&mut self, tell: Tell<Scoped<ContainerId>>, ctx: &mut Ctx<Self>) {
        let told = child(self, &tell.0, ctx).and_then(|health| health.tell(Moved));
        if let Err(refusal) = told {
            // One with a full mailbox has many looks at the rows before it, which say what this would have said.
            tracing::warn!(container = %tell.0, %refusal, "a health check could not be told");
        }
    }
}

/// The containers that have a health check.
#[derive(Default)]
struct Checked(HashSet<Scoped<ContainerId>>);

impl Checked {
    fn note(&mut self, key: Scoped<ContainerId>, labels: &Labels) -> Option<Scoped<ContainerId>> {
        let was = if labels.contains_key(HEALTHCHECK_LABEL) {
            self.0.insert(key.clone());
            true
        } else {
            self.0.remove(&key)
        };
        was.then_some(key)
    }
}

impl Watch for Checked {
    type Fact = Scoped<ContainerId>;

    fn scan(&mut self, reader: &Reader) -> Answer<Vec<Self::Fact>> {
        for namespace in reader.namespaces()? {
            let namespace = namespace?.name;
            for container in reader.containers(&namespace)? {
                let container = container?;
                self.note(Scoped { namespace: namespace.clone(), id: container.id }, &container.labels);
            }
        }
        Ok(self.0.iter().cloned().collect())
    }

    fn hear(&mut self, record: &EventRecord, store: &Store) -> Answer<Option<Self::Fact>> {
        let Some(namespace) = &record.namespace else { return Ok(None) };
        let key = |id: &ContainerId| Scoped { namespace: namespace.clone(), id: id.clone() };
        Ok(match &record.event {
            // The event does not carry the labels.
            Event::ContainerCreated { id, .. } => {
                let labels = store.read()?.container(namespace, id)?.map(|container| container.labels);
                self.note(key(id), &labels.unwrap_or_default())
            }
            Event::ContainerUpdated { id, labels, .. } => self.note(key(id), labels),
            Event::ContainerDeleted { id } => Some(key(id)).filter(|key| self.0.remove(key)),
            Event::TaskStarted { container_id, .. }
            | Event::TaskExited { container_id, exec_id: None, .. }
            | Event::TaskDeleted { container_id, exec_id: None, .. } => {
                Some(key(container_id)).filter(|key| self.0.contains(key))
            }
            _ => None,
        })
    }
}

impl Fixed for Healths {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("healths");
    const CHILD: Option<&'static ChildSpec> = Some(<Self as Plural>::CHILD);

    fn new(wharf: &Wharf) -> Self {
        let deps = HealthDeps {
            store: wharf.store.clone(),
            journal: wharf.journal.clone(),
            tasks: wharf.actors.tasks.clone(),
            clock: wharf.clock.clone(),
        };
        Self::new(Arc::new(deps), wharf.bus.clone())
    }
}
