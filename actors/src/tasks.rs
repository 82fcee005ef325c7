//! Tasks: routes each command to its task's actor, and at the start finds the tasks of an earlier run again.
//!
//! - Parent root; permanent; children [`TaskActor`] by (namespace, container), transient, passivated when there is no task.
//! - Handles `tasks.*` of one container by routing; lists are reads. [`ShimEvent`]s are handed on: an OOM notice to its
//!   task, a topic that is none of the daemon's own to the bus.
//! - Jobs: at the start, bundles without a row are cleaned up after.
//! - A restart starts a child for every row, all at once; each has its own time limit for finding its shim.

use crate::{
    Wharf,
    drivers::shim::{ShimEvent, ShimEvents, TaskId},
    root::Fixed,
    runtime::{Actor, ChildSpec, Ctx, Handler, Plural, Router, Scoped, Supervised, Tell, blocking, child},
    task::{OomReported, Probe, ReadFigures, RestoreTask, TaskActor, TaskDeps},
};
use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, ContainerId,
    event::Event,
    task::{
        CheckpointTask, CloseIo, CreateTask, DeleteTask, ExecTask, KillTask, ListPids, PauseTask, ResizePty,
        ResumeTask, StartTask, UpdateTask, WaitTask,
    },
};
use wharf_store::Commit;

/// The actor.
pub struct Tasks {
    deps: Arc<TaskDeps>,
    router: Router<Self>,
}

impl Tasks {
    /// Without children yet.
    #[must_use]
    pub fn new(deps: Arc<TaskDeps>) -> Self {
        Self { deps, router: Router::default() }
    }

    /// Starts a child for every task there is; it finds its shim.
    fn find_tasks(&mut self, ctx: &mut Ctx<Self>) -> Answer<HashSet<TaskId>> {
        let rows = self.deps.store.read()?.all_tasks()?;
        let mut known = HashSet::new();
        for row in rows {
            let row = row?;
            let key = Scoped { namespace: row.namespace, id: row.container_id };
            child(self, &key, ctx)?;
            known.insert(TaskId { namespace: key.namespace, container: key.id });
        }
        Ok(known)
    }
}

impl Actor for Tasks {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let known = match self.find_tasks(ctx) {
            Ok(known) => known,
            Err(refusal) => return ctx.fail(format!("find the tasks: {refusal}")),
        };
        // A bundle without a row is nobody's: its row went, or its intent was never committed (TASK-1).
        let deps = Arc::clone(&self.deps);
        let sweep = async move {
            let shims = Arc::clone(&deps.shims);
            let bundles = match blocking("look for bundles", move || shims.bundles()).await {
                Ok(bundles) => bundles,
                Err(refusal) => return tracing::warn!(%refusal, "bundles without a task could not be looked for"),
            };
            for task in bundles.into_iter().filter(|task| !known.contains(task)) {
                tracing::warn!(%task, "cleaning up after a task that has no row");
                // One that resists takes space until the next start, and keeps none of the others.
                if let Err(refusal) = deps.shims.clean_up(&task, None).await {
                    tracing::warn!(%task, %refusal, "a bundle without a task could not be cleaned up after");
                }
            }
        };
        ctx.exclusive(sweep, |_, (), _| ());
    }
}

impl Supervised for Tasks {
    fn restarting(&mut self, _: &mut Self::Context) {
        // Its children end with it, whatever they have sent to the journal.
        self.deps.have_failed.store(true, Ordering::Release);
        *self = Self::new(Arc::clone(&self.deps));
    }
}

impl Plural for Tasks {
    type Key = Scoped<ContainerId>;
    type Child = TaskActor;
    const CHILD: &'static ChildSpec = &ChildSpec::transient("task");

    fn router(&mut self) -> &mut Router<Self> {
        &mut self.router
    }

    fn child(&mut self, key: &Self::Key) -> TaskActor {
        TaskActor::new(Arc::clone(&self.deps), key.namespace.clone(), key.id.clone())
    }
}

crate::route!(Tasks by container_id: CreateTask, StartTask, DeleteTask, KillTask, ExecTask, ResizePty, CloseIo, PauseTask,
    ResumeTask, ListPids, CheckpointTask, UpdateTask, WaitTask, ReadFigures, Probe, RestoreTask);

impl Handler<Tell<ShimEvent>> for Tasks {
    type Result = ();

    fn handle(&mut self, tell: Tell<ShimEvent>, ctx: &mut Ctx<Self>) {
        let event = tell.0;
        match event.topic.as_str() {
            "/tasks/oom" => {
                let Some(container) = container_of(&event.payload.value) else {
                    return tracing::warn!(namespace = %event.namespace, "an OOM notice without a container");
                };
                let key = Scoped { namespace: event.namespace, id: container };
                // A task that does not live any more has nobody to tell.
                if let Some(task) = self.router.get(&key)
                    && let Err(refusal) = task.tell(OomReported)
                {
                    tracing::warn!(task = %key, %refusal, "an OOM notice could not be delivered");
                }
            }
            // The daemon tells of its tasks itself, after its own commits.
            topic if topic.starts_with("/tasks/") => {}
            _ => {
                let published = Event::Published { topic: event.topic, payload: event.payload };
                let commit = Commit::new(&event.namespace).event(published);
                let journal = self.deps.journal.clone();
                ctx.concurrent(async move { journal.commit(commit).await }, |_, committed, _| {
                    if let Err(refusal) = committed {
                        tracing::warn!(%refusal, "a shim's event could not be committed");
                    }
                });
            }
        }
    }
}

/// How many events of shims may wait; a shim whose event does not fit waits with it.
const SHIM_EVENTS_WAITING: usize = 64;

/// Listens beside the daemon's socket, as `ADDRESS.ttrpc`, and hands on what shims publish until `stopping`.
///
/// # Errors
/// If the socket cannot be had; afterwards nothing ends it but `stopping`.
pub async fn serve_shims(wharf: Wharf, stopping: CancellationToken) -> Answer<()> {
    let mut path = wharf.config.address.clone().into_os_string();
    path.push(".ttrpc");
    let (taken, mut events) = mpsc::channel(SHIM_EVENTS_WAITING);
    let server = ShimEvents::listen(Path::new(&path), taken).await?;
    tokio::spawn(async move {
        while let Some(Some(event)) = stopping.run_until_cancelled(events.recv()).await {
            // A full mailbox or a restart is over in a moment; the shims wait behind the channel.
            while let Err(refusal) = wharf.actors.tasks.tell(event.clone()) {
                tracing::debug!(%refusal, "a shim's event waits");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        server.close().await;
    });
    Ok(())
}

/// The first field of containerd's task events: the container's id.
///
/// # Spec
/// containerd `api/events/task.proto`: `container_id = 1` in all of them.
fn container_of(payload: &[u8]) -> Option<ContainerId> {
    let (&tag, rest) = payload.split_first()?;
    let (&length, rest) = rest.split_first()?;
    // Field 1, length-delimited; an id is at most 76 bytes, so its length is one byte.
    (tag == 0x0a && length < 0x80)
        .then(|| rest.get(..usize::from(length)))
        .flatten()
        .and_then(|id| std::str::from_utf8(id).ok())
        .and_then(|id| ContainerId::new(id).ok())
}

impl Fixed for Tasks {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("tasks");
    const CHILD: Option<&'static ChildSpec> = Some(<Self as Plural>::CHILD);

    fn new(wharf: &Wharf) -> Self {
        Self::new(Arc::new(TaskDeps {
            store: wharf.store.clone(),
            journal: wharf.journal.clone(),
            shims: Arc::clone(&wharf.drivers.shims),
            snapshotters: wharf.drivers.snapshotters.clone(),
            clock: wharf.clock.clone(),
            boot_id: wharf.drivers.boot_id.clone(),
            have_failed: AtomicBool::new(false),
            at_work: Default::default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_read_from_an_event() {
        assert_eq!(container_of(b"\x0a\x03web"), Some(ContainerId::new("web").unwrap()));
        for other in [&b""[..], b"\x0a", b"\x0a\x09web", b"\x12\x03web", b"\x0a\x03../"] {
            assert_eq!(container_of(other), None);
        }
    }
}
