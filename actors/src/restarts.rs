//! Restart policies: hears what happens to containers that have one, and tells each one's actor.
//!
//! - Parent root; permanent; children [`RestartActor`] by (namespace, container), transient, passivated while nothing is
//!   due.
//! - Handles what it hears from the log: changes of containers' labels, ends and other moves of their tasks, ill health.
//! - Jobs: following the log, without limit.
//! - A restart reads all containers' labels and goes on with the log from there. Only the first time has the daemon just
//!   started, which is what `always` asks for.

use crate::{
    Wharf,
    bus::Bus,
    follow::{Watch, follow},
    restart::{Heard, RestartActor, RestartDeps},
    root::Fixed,
    runtime::{Actor, ChildSpec, Ctx, Handler, Plural, Router, Scoped, Supervised, Tell, child},
};
use std::{collections::HashSet, sync::Arc};
use wharf_messages::{
    Answer, ContainerId, Labels,
    event::{Event, EventRecord},
    health::HealthStatus,
    restart::STATUS_LABEL,
};
use wharf_store::{Reader, Store};

/// The actor.
pub struct Restarts {
    deps: Arc<RestartDeps>,
    bus: Bus,
    router: Router<Self>,
}

impl Restarts {
    /// Without children yet.
    #[must_use]
    pub fn new(deps: Arc<RestartDeps>, bus: Bus) -> Self {
        Self { deps, bus, router: Router::default() }
    }
}

impl Actor for Restarts {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let watch = Policies { watched: HashSet::new(), fresh: ctx.epoch() == 1 };
        follow(watch, self.deps.store.clone(), self.bus.clone(), ctx);
    }
}

impl Supervised for Restarts {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.deps), self.bus.clone());
    }
}

impl Plural for Restarts {
    type Key = Scoped<ContainerId>;
    type Child = RestartActor;
    const CHILD: &'static ChildSpec = &ChildSpec::transient("restart");

    fn router(&mut self) -> &mut Router<Self> {
        &mut self.router
    }

    fn child(&mut self, key: &Self::Key) -> RestartActor {
        RestartActor::new(Arc::clone(&self.deps), key.clone())
    }
}

/// What was heard of whose task.
type Fact = (Scoped<ContainerId>, Heard);

impl Handler<Tell<Fact>> for Restarts {
    type Result = ();

    fn handle(&mut self, tell: Tell<Fact>, ctx: &mut Ctx<Self>) {
        let (key, heard) = tell.0;
        let told = child(self, &key, ctx).and_then(|policy| policy.tell(heard));
        if let Err(refusal) = told {
            // One with a full mailbox has many looks at the rows before it, which say what this would have said.
            tracing::warn!(container = %key, %refusal, "a restart policy could not be told");
        }
    }
}

/// The containers that have a policy.
struct Policies {
    watched: HashSet<Scoped<ContainerId>>,
    fresh: bool,
}

impl Policies {
    fn note(&mut self, key: Scoped<ContainerId>, labels: &Labels) -> Option<Fact> {
        let was = if labels.contains_key(STATUS_LABEL) {
            self.watched.insert(key.clone());
            true
        } else {
            self.watched.remove(&key)
        };
        was.then_some((key, Heard::Changed))
    }
}

impl Watch for Policies {
    type Fact = Fact;

    fn scan(&mut self, reader: &Reader) -> Answer<Vec<Fact>> {
        let mut facts = Vec::new();
        for namespace in reader.namespaces()? {
            let namespace = namespace?.name;
            for container in reader.containers(&namespace)? {
                let container = container?;
                if container.labels.contains_key(STATUS_LABEL) {
                    let key = Scoped { namespace: namespace.clone(), id: container.id };
                    self.watched.insert(key.clone());
                    facts.push((key, Heard::Found { fresh: self.fresh }));
                }
            }
        }
        Ok(facts)
    }

    fn hear(&mut self, record: &EventRecord, store: &Store) -> Answer<Option<Fact>> {
        let Some(namespace) = &record.namespace else { return Ok(None) };
        let key = |id: &ContainerId| Scoped { namespace: namespace.clone(), id: id.clone() };
        let (id, heard) = match &record.event {
            // The event does not carry the labels.
            Event::ContainerCreated { id, .. } => {
                let labels = store.read()?.container(namespace, id)?.map(|container| container.labels);
                return Ok(self.note(key(id), &labels.unwrap_or_default()));
            }
            Event::ContainerUpdated { id, labels, .. } => return Ok(self.note(key(id), labels)),
            Event::ContainerDeleted { id } => {
                let key = key(id);
                return Ok(self.watched.remove(&key).then_some((key, Heard::Gone)));
            }
            Event::TaskCreated { container_id, .. } | Event::TaskDeleted { container_id, exec_id: None, .. } => {
                (container_id, Heard::Moved)
            }
            Event::TaskStarted { container_id, .. } => (container_id, Heard::Started),
            Event::TaskExited { container_id, exec_id: None, exit, .. } => (container_id, Heard::Ended(*exit)),
            Event::HealthChanged { container_id, status: HealthStatus::Unhealthy, .. } => {
                (container_id, Heard::Unhealthy)
            }
            _ => return Ok(None),
        };
        let key = key(id);
        Ok(self.watched.contains(&key).then_some((key, heard)))
    }
}

impl Fixed for Restarts {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("restarts");
    const CHILD: Option<&'static ChildSpec> = Some(<Self as Plural>::CHILD);

    fn new(wharf: &Wharf) -> Self {
        let deps = RestartDeps {
            store: wharf.store.clone(),
            journal: wharf.journal.clone(),
            tasks: wharf.actors.tasks.clone(),
            clock: wharf.clock.clone(),
            backoff: wharf.config.restart,
        };
        Self::new(Arc::new(deps), wharf.bus.clone())
    }
}
