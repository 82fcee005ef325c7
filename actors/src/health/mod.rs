//! A container's health check: runs a command in its task from time to time, and says how the task fares.
//!
//! - Parent `healths`; transient; 3 restarts in 5 s; stop budget 5 s; mailbox 64; passivated while there is nothing to probe.
//! - States: see [`machine`]; beside that it waits for the next probe or for the end of one. There is never a second probe:
//!   the next is due an interval after the end of the last.
//! - Handles what `healths` heard of its container -> `HealthChanged`.
//! - Jobs: a probe, which the task's actor ends at the check's time limit.
//! - A restart reads the row and goes on with an interval; a failing row of probes goes on where it was.
//!
//! Invariants:
//! - **HEALTH-1** A probe is no process of the log: it has no row and no events, and goes with its task.
//! - **HEALTH-2** A change of health is told after its row is committed, once.
//!
//! # Spec
//! Docker's `HEALTHCHECK`.

pub mod machine;

use crate::{
    journal::Journal,
    runtime::{Actor, Clock, Ctx, Handle, Handler, Scoped, Supervised, Tell},
    task::{Probe, Probed},
    tasks::Tasks,
};
use machine::Health;
use std::{sync::Arc, time::Duration};
use wharf_messages::{
    Answer, Any, ContainerId, Meta, Refusal, RefusalKind, Timestamp,
    container::Container,
    event::Event,
    health::{HealthCheck, HealthRecord},
    task::TaskStatus,
};
use wharf_store::{Change, Commit, Store, TaskPhase};

/// How long to rest before what could not be read or committed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What every health check needs from the rest of the system.
pub struct HealthDeps {
    /// For reading rows.
    pub store: Store,
    /// For changing them.
    pub journal: Journal,
    /// Who runs probes.
    pub tasks: Handle<Tasks>,
    /// What time it is.
    pub clock: Clock,
}

/// Something happened to a container with a health check, or to its task: the rows say what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved;

/// What the rows say.
struct Found {
    check: HealthCheck,
    container: Container,
    made_at: Timestamp,
    /// None for a task that has just started.
    record: Option<HealthRecord>,
}

/// What is probed.
struct Subject {
    check: HealthCheck,
    container: Container,
    /// When the task was made: another task has another time.
    made_at: Timestamp,
    record: HealthRecord,
}

/// The actor.
pub struct HealthActor {
    deps: Arc<HealthDeps>,
    key: Scoped<ContainerId>,
    subject: Option<Subject>,
    /// Counts subjects: what was begun for one says nothing of the next.
    life: u64,
}

impl HealthActor {
    /// The actor of one container.
    #[must_use]
    pub fn new(deps: Arc<HealthDeps>, key: Scoped<ContainerId>) -> Self {
        Self { deps, key, subject: None, life: 0 }
    }

    /// Begins to probe, goes on with it, or leaves it, as the rows say.
    fn look(&mut self, ctx: &mut Ctx<Self>) {
        let found = match self.find() {
            Ok(found) => found,
            Err(refusal) => {
                tracing::warn!(container = %self.key, %refusal, "a health check could not be looked at, trying again");
                return ctx.later(AGAIN, |health, ctx| health.look(ctx));
            }
        };
        let Some(Found { check, container, made_at, record }) = found else {
            self.life += 1;
            self.subject = None;
            return ctx.idle();
        };
        if self.subject.as_ref().is_some_and(|subject| subject.made_at == made_at && subject.check == check) {
            return;
        }
        self.life += 1;
        let known = record.is_some();
        let record = record.unwrap_or_else(|| HealthRecord {
            container_id: self.key.id.clone(),
            status: Health::STARTING.status,
            failing: Health::STARTING.failing,
            since: self.deps.clock.now(),
            last_failure: String::new(),
        });
        self.subject = Some(Subject { check, container, made_at, record: record.clone() });
        if known {
            self.probe_later(ctx);
        } else {
            self.put(record, true, ctx);
        }
    }

    /// The check, its task and how that fares, if there is something to probe.
    fn find(&self) -> Answer<Option<Found>> {
        let reader = self.deps.store.read()?;
        let (namespace, id) = (&self.key.namespace, &self.key.id);
        let Some(container) = reader.container(namespace, id)? else { return Ok(None) };
        let check = match HealthCheck::of(&container.labels) {
            Ok(check) => check,
            Err(refusal) => {
                tracing::warn!(container = %self.key, %refusal, "the container's health is not checked");
                None
            }
        };
        let alive = |status| matches!(status, TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing);
        let task = reader.task(namespace, id)?;
        let task = task.filter(|task| task.phase == TaskPhase::Live && alive(task.init.status));
        let Some((check, task)) = check.zip(task) else { return Ok(None) };
        Ok(Some(Found { check, container, made_at: task.created_at, record: reader.health(namespace, id)? }))
    }

    fn probe_later(&mut self, ctx: &mut Ctx<Self>) {
        let Some(subject) = &self.subject else { return };
        let life = self.life;
        ctx.later(subject.check.interval, move |health, ctx| {
            if health.life == life {
                health.probe(ctx);
            }
        });
    }

    fn probe(&mut self, ctx: &mut Ctx<Self>) {
        let Some(subject) = &self.subject else { return };
        let process = process(&subject.container, &subject.check);
        let (deps, meta) = (Arc::clone(&self.deps), Meta::in_namespace(self.key.namespace.clone()));
        let (container_id, time_limit, life) = (self.key.id.clone(), subject.check.timeout, self.life);
        ctx.job(
            "probe task",
            // A daemon that stops does not wait for a probe: the next one makes another.
            |token| async move {
                let probe = deps.tasks.ask(meta, Probe { container_id, process: process?, time_limit });
                let probed = token.cancel.run_until_cancelled(probe).await;
                probed.unwrap_or_else(|| Err(Refusal::canceled("probe task")))
            },
            move |health, probed, ctx| {
                if health.life == life {
                    health.probed(probed, ctx);
                } else {
                    health.look(ctx);
                }
            },
        );
    }

    fn probed(&mut self, probed: Answer<Probed>, ctx: &mut Ctx<Self>) {
        let Some(subject) = &self.subject else { return };
        let failure = match probed {
            Ok(Probed::Exited(0)) => None,
            Ok(Probed::Exited(code)) => Some(format!("it ended with {code}")),
            Ok(Probed::TimedOut) => Some(format!("it took longer than {} ms", subject.check.timeout.as_millis())),
            // It is frozen or at its end, or its actor was restarted: that says nothing of its health.
            Err(Refusal {
                kind:
                    RefusalKind::FailedPrecondition
                    | RefusalKind::NotFound
                    | RefusalKind::Unavailable
                    | RefusalKind::Canceled,
                ..
            }) => return self.probe_later(ctx),
            Err(refusal) => Some(format!("it could not be run: {refusal}")),
        };
        let before = Health { status: subject.record.status, failing: subject.record.failing };
        let age = self.deps.clock.now().since(subject.made_at);
        let after = before.after(failure.is_none(), age < subject.check.start_period, subject.check.retries);
        if after == before && (failure.is_none() || failure.as_ref() == Some(&subject.record.last_failure)) {
            return self.probe_later(ctx);
        }
        let changed = after.status != before.status;
        let mut record = subject.record.clone();
        (record.status, record.failing) = (after.status, after.failing);
        if changed {
            record.since = self.deps.clock.now();
        }
        if let Some(failure) = failure {
            record.last_failure = failure;
        }
        self.put(record, changed, ctx);
    }

    /// Commits how the task fares, tells of a change, and goes on.
    fn put(&mut self, record: HealthRecord, changed: bool, ctx: &mut Ctx<Self>) {
        let event =
            Event::HealthChanged { container_id: self.key.id.clone(), status: record.status, failing: record.failing };
        let commit = Commit {
            changes: vec![Change::PutHealth(record.clone())],
            events: if changed { vec![event] } else { Vec::new() },
            ..Commit::new(&self.key.namespace)
        };
        let (journal, life) = (self.deps.journal.clone(), self.life);
        ctx.exclusive(async move { journal.commit(commit).await }, move |health, committed, ctx| match committed {
            Ok(_) => {
                if let Some(subject) = &mut health.subject {
                    subject.record = record;
                }
                health.probe_later(ctx);
            }
            // Its task is gone: there is nobody to be well any more.
            Err(refusal) if refusal.is(RefusalKind::NotFound) => {
                health.subject = None;
                health.look(ctx);
            }
            Err(refusal) => {
                tracing::warn!(container = %health.key, %refusal, "a task's health could not be committed, trying again");
                ctx.later(AGAIN, move |health, ctx| {
                    if health.life == life {
                        health.put(record, changed, ctx);
                    }
                });
            }
        });
    }
}

/// The check's command as a process of the container: who it is and what it may are the first process's.
fn process(container: &Container, check: &HealthCheck) -> Answer<Any> {
    let spec = container.spec.as_ref().ok_or_else(|| Refusal::invalid("there is none"));
    spec.and_then(|spec| process_of(&spec.value, check.command().unwrap_or_default()))
        .map_err(|refusal| refusal.context(format!("spec of container {}", container.id)))
}

/// A command as a process of the container that a spec is of, without a terminal.
///
/// # Errors
/// `InvalidArgument` for what is no spec, or one without a process.
pub fn process_of(spec_json: &[u8], command: Vec<String>) -> Answer<Any> {
    let bad = |error: serde_json::Error| Refusal::invalid(error.to_string());
    let mut spec: serde_json::Value = serde_json::from_slice(spec_json).map_err(bad)?;
    let process = spec.get_mut("process").and_then(serde_json::Value::as_object_mut);
    let process = process.ok_or_else(|| Refusal::invalid("it has no process"))?;
    process.insert("args".to_owned(), command.into());
    process.insert("terminal".to_owned(), false.into());
    process.remove("commandLine");
    Ok(Any::new(Any::PROCESS, serde_json::to_vec(process).map_err(bad)?))
}

impl Actor for HealthActor {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // A first incarnation was started for a message, which has the same effect.
        if ctx.epoch() > 1 {
            self.look(ctx);
        }
    }
}

impl Supervised for HealthActor {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.deps), self.key.clone());
    }
}

impl Handler<Tell<Moved>> for HealthActor {
    type Result = ();

    fn handle(&mut self, _: Tell<Moved>, ctx: &mut Ctx<Self>) {
        self.look(ctx);
    }
}

#[cfg(test)]
mod tests;
