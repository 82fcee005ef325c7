//! A container's restart policy: starts its task again as the labels wish.
//!
//! - Parent `restarts`; transient; 3 restarts in 5 s; stop budget 5 s; mailbox 64; passivated while nothing is due.
//! - States: see [`machine`]; every one of them is a row or follows from rows, so a restart reads them and goes on.
//! - Handles what `restarts` heard of its container -> `RestartScheduled`, `RestartGivenUp`; what it does with the task are
//!   commands to `tasks` like any client's, with their events.
//! - Jobs: start (delete what is left, create, start), and end (kill, wait [`END_LIMIT`], delete); a stop leaves them where
//!   they are.
//!
//! Invariants:
//! - **RESTART-1** A task is ended or started only after the row that says so is committed.
//! - **RESTART-2** The row that says that a task is being started is refused once a user has stopped it or its container
//!   is gone; a stop that comes later ends what was started.
//! - **RESTART-3** What is due is due by the clock and the row: a daemon that comes back waits for the rest of the time.
//!
//! # Spec
//! containerd `runtime/restart` for labels and streams; Docker's restart manager for backoff and for `always` after a stop.

pub mod machine;
mod work;

pub use work::wants_terminal;

use crate::{
    journal::Journal,
    runtime::{Actor, Clock, Ctx, Handle, Handler, JobToken, Scoped, Supervised, Tell},
    tasks::Tasks,
};
use machine::{Backoff, End, Look, Step, TaskNow, decide, not_started};
use std::{sync::Arc, time::Duration};
use wharf_messages::{
    Answer, ContainerId, Labels, Refusal, RefusalKind, Timestamp,
    container::{Container, UpdateContainer},
    event::Event,
    restart::{EXPLICITLY_STOPPED_LABEL, RestartPhase, RestartRecord, Wish},
    task::{Exit, TaskStatus},
};
use wharf_store::{Change, Commit, Store, TaskPhase, TaskRow};

/// How long a task that was killed may take to end before that is tried again.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long to rest before what failed for no fault of the task is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What every policy needs from the rest of the system.
pub struct RestartDeps {
    /// For reading rows.
    pub store: Store,
    /// For changing them.
    pub journal: Journal,
    /// Who ends and starts tasks.
    pub tasks: Handle<Tasks>,
    /// What time it is.
    pub clock: Clock,
    /// How long tasks rest.
    pub backoff: Backoff,
}

/// What happened to a container with a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It was there when the plural started; the first time, the daemon has just started.
    Found {
        /// Whether it has.
        fresh: bool,
    },
    /// It was made or changed.
    Changed,
    /// Its task was made or deleted.
    Moved,
    /// Its task was started.
    Started,
    /// Its task ended.
    Ended(Exit),
    /// Its task is unhealthy.
    Unhealthy,
    /// It is gone.
    Gone,
}

/// The actor.
pub struct RestartActor {
    deps: Arc<RestartDeps>,
    key: Scoped<ContainerId>,
    /// As committed.
    record: Option<RestartRecord>,
    /// What the labels wished when they were last read.
    wish: Option<Wish>,
    /// When the task was made that was last seen.
    made_at: Option<Timestamp>,
    /// How the last task ended, for when its row is gone.
    end: Option<End>,
    absent_since: Option<Timestamp>,
    client_at: Option<Timestamp>,
    fresh: bool,
    unhealthy: bool,
    /// A job is at work.
    busy: bool,
    /// Counts timers: only the last one that was set counts.
    timer: u64,
}

impl RestartActor {
    /// The actor of one container.
    #[must_use]
    pub fn new(deps: Arc<RestartDeps>, key: Scoped<ContainerId>) -> Self {
        Self {
            deps,
            key,
            record: None,
            wish: None,
            made_at: None,
            end: None,
            absent_since: None,
            client_at: None,
            fresh: false,
            unhealthy: false,
            busy: false,
            timer: 0,
        }
    }

    /// Reads the rows and does what is due. Whatever happens, this follows.
    fn look(&mut self, ctx: &mut Ctx<Self>) {
        if self.busy {
            // It follows the job's end.
            return;
        }
        self.timer += 1;
        let rows = self.deps.store.read().and_then(|reader| {
            let (namespace, id) = (&self.key.namespace, &self.key.id);
            Ok((reader.container(namespace, id)?, reader.task(namespace, id)?))
        });
        let (container, task) = match rows {
            Ok((Some(container), task)) => (container, task),
            Ok((None, _)) => {
                // Its record went with it.
                *self = Self::new(Arc::clone(&self.deps), self.key.clone());
                return ctx.idle();
            }
            Err(refusal) => return self.later(&refusal.to_string(), ctx),
        };
        self.wish = match Wish::of(&container.labels) {
            Ok(wish) => wish,
            Err(refusal) => {
                tracing::warn!(container = %self.key, %refusal, "the container is not restarted");
                None
            }
        };
        let now = self.deps.clock.now();
        let task = self.task_now(task.as_ref(), now);
        let look = Look {
            wish: self.wish.as_ref(),
            task,
            record: self.record.as_ref(),
            fresh: self.fresh,
            unhealthy: self.unhealthy,
            client_at: self.client_at,
            now,
        };
        let step = decide(&look, &self.deps.backoff);
        tracing::debug!(container = %self.key, ?task, ?step, "looked at a restart policy");
        if !matches!(step, Step::LookAgain(_)) {
            (self.fresh, self.unhealthy) = (false, false);
        }
        self.act(step, ctx);
    }

    fn task_now(&mut self, row: Option<&TaskRow>, now: Timestamp) -> TaskNow {
        let Some(row) = row else {
            return TaskNow::Absent(*self.absent_since.get_or_insert(now), self.end);
        };
        (self.absent_since, self.end, self.made_at) = (None, None, Some(row.created_at));
        match (row.phase, row.init.exit, row.init.status) {
            (TaskPhase::Creating | TaskPhase::Deleting, ..) => TaskNow::Passing,
            (_, Some(exit), _) => TaskNow::Ended(self.end_of(exit), row.created_at),
            (_, None, TaskStatus::Created) => TaskNow::Created,
            _ => TaskNow::Running,
        }
    }

    fn end_of(&self, exit: Exit) -> End {
        End { code: exit.code, at: exit.exited_at, ran: self.made_at.map(|made_at| exit.exited_at.since(made_at)) }
    }

    fn act(&mut self, step: Step, ctx: &mut Ctx<Self>) {
        match step {
            Step::Rest => ctx.idle(),
            Step::LookAgain(rest) => {
                let timer = self.timer;
                ctx.later(rest, move |policy, ctx| {
                    if policy.timer == timer {
                        policy.look(ctx);
                    }
                });
            }
            Step::Forget => self.forget(None, ctx),
            Step::Cancel(why) => self.forget(Some(why), ctx),
            Step::Stop => self.end_task(true, ctx),
            Step::End => {
                let restarts = self.wish.as_ref().map_or(0, |wish| wish.restarts);
                let record = self.record(RestartPhase::Ending, restarts, Duration::ZERO, "it is unhealthy");
                self.put(Change::PutRestart(record.clone()), record, Vec::new(), ctx);
            }
            Step::Kill => self.end_task(false, ctx),
            Step::Schedule { restarts, rest, reason } => {
                let record = self.record(RestartPhase::Waiting, restarts, rest, &reason);
                let event = Event::RestartScheduled {
                    container_id: self.key.id.clone(),
                    restarts,
                    due_at: record.due_at,
                    reason,
                };
                self.put(Change::PutRestart(record.clone()), record, vec![event], ctx);
            }
            Step::GiveUp { restarts, reason } => {
                let record = self.record(RestartPhase::GivenUp, restarts, Duration::ZERO, &reason);
                let event = Event::RestartGivenUp { container_id: self.key.id.clone(), restarts, reason };
                self.put(Change::PutRestart(record.clone()), record, vec![event], ctx);
            }
            Step::Begin { restarts } => {
                let reason = self.record.take().map_or_else(|| "there is no task".to_owned(), |record| record.reason);
                let record = self.record(RestartPhase::Starting, restarts, Duration::ZERO, &reason);
                self.put(Change::BeginRestart(record.clone()), record, Vec::new(), ctx);
            }
            Step::Start => self.start_task(ctx),
        }
    }

    fn record(&self, phase: RestartPhase, restarts: u32, rest: Duration, reason: &str) -> RestartRecord {
        let now = self.deps.clock.now();
        let (container_id, reason) = (self.key.id.clone(), reason.to_owned());
        RestartRecord { container_id, phase, restarts, due_at: now.plus(rest), since: now, reason }
    }

    /// Commits what was decided, then goes on from there (RESTART-1).
    fn put(&mut self, change: Change, record: RestartRecord, events: Vec<Event>, ctx: &mut Ctx<Self>) {
        let mut changes = Vec::new();
        if record.phase == RestartPhase::Waiting && self.wish.as_ref().is_some_and(|wish| wish.stopped_by_user) {
            // What the daemon starts again is no longer stopped by a user.
            changes.push(Change::UpdateContainer(self.label(EXPLICITLY_STOPPED_LABEL, "false")));
        }
        changes.push(change);
        self.commit(changes, events, Some(record), ctx);
    }

    fn forget(&mut self, why: Option<&str>, ctx: &mut Ctx<Self>) {
        let given_up = why.map(|why| Event::RestartGivenUp {
            container_id: self.key.id.clone(),
            restarts: self.record.as_ref().map_or(0, |record| record.restarts),
            reason: why.to_owned(),
        });
        let changes = vec![Change::DeleteRestart(self.key.id.clone())];
        self.commit(changes, given_up.into_iter().collect(), None, ctx);
    }

    fn commit(&mut self, changes: Vec<Change>, events: Vec<Event>, record: Option<RestartRecord>, ctx: &mut Ctx<Self>) {
        let commit = Commit { changes, events, ..Commit::new(&self.key.namespace) };
        let journal = self.deps.journal.clone();
        ctx.exclusive(async move { journal.commit(commit).await }, move |policy, committed, ctx| match committed {
            Ok(_) => {
                policy.record = record;
                policy.look(ctx);
            }
            Err(refusal) if matches!(refusal.kind, RefusalKind::FailedPrecondition | RefusalKind::NotFound) => {
                // RESTART-2: it was overtaken; the rows say by what.
                tracing::debug!(container = %policy.key, %refusal, "a restart was overtaken");
                policy.reload(ctx);
            }
            Err(refusal) => policy.later(&refusal.to_string(), ctx),
        });
    }

    /// Reads the record again, and looks.
    fn reload(&mut self, ctx: &mut Ctx<Self>) {
        match self.deps.store.read().and_then(|reader| reader.restart(&self.key.namespace, &self.key.id)) {
            Ok(record) => {
                self.record = record;
                self.look(ctx);
            }
            Err(refusal) => self.later(&refusal.to_string(), ctx),
        }
    }

    fn later(&mut self, why: &str, ctx: &mut Ctx<Self>) {
        tracing::warn!(container = %self.key, why, "a restart policy could not be followed, trying again");
        self.timer += 1;
        let timer = self.timer;
        ctx.later(AGAIN, move |policy, ctx| {
            if policy.timer == timer {
                policy.reload(ctx);
            }
        });
    }

    fn label(&self, key: &str, value: &str) -> UpdateContainer {
        let labels: Labels = [(key.to_owned(), value.to_owned())].into();
        let container = Container {
            id: self.key.id.clone(),
            labels,
            image: String::new(),
            runtime: Default::default(),
            spec: None,
            snapshotter: None,
            snapshot_key: None,
            created_at: Timestamp::ZERO,
            updated_at: Timestamp::ZERO,
            extensions: Default::default(),
            sandbox: String::new(),
        };
        UpdateContainer { container, mask: vec![format!("labels.{key}")] }
    }

    /// Deletes what is left of the task, makes another one and starts it.
    fn start_task(&mut self, ctx: &mut Ctx<Self>) {
        self.busy = true;
        let (deps, key) = (Arc::clone(&self.deps), self.key.clone());
        ctx.job(
            "restart task",
            |token| until_told(token, work::start(deps, key)),
            |policy, started, ctx| {
                policy.busy = false;
                // It was not a client that deleted what was there.
                policy.absent_since = Some(Timestamp::ZERO);
                match started {
                    Ok(()) => policy.look(ctx),
                    // Its actor was restarted, or the daemon is stopping: no fault of the task.
                    Err(refusal) if refusal.is(RefusalKind::Unavailable) => policy.later(&refusal.to_string(), ctx),
                    Err(refusal) => policy.not_started(&refusal.to_string(), ctx),
                }
            },
        );
    }

    fn not_started(&mut self, reason: &str, ctx: &mut Ctx<Self>) {
        tracing::warn!(container = %self.key, reason, "the task could not be started again");
        // Its labels may say another thing by now; if they are gone, so is the container.
        let labels = self.deps.store.read().and_then(|reader| reader.container(&self.key.namespace, &self.key.id));
        let wish = labels.and_then(|container| container.map_or(Ok(None), |container| Wish::of(&container.labels)));
        match wish {
            Ok(Some(wish)) if wish.running && !wish.stopped_by_user => {
                let reason = format!("it could not be started: {reason}");
                let step = not_started(&wish, &reason, self.deps.clock.now(), &self.deps.backoff);
                self.wish = Some(wish);
                self.act(step, ctx);
            }
            _ => self.look(ctx),
        }
    }

    /// Kills the task and waits for its end.
    fn end_task(&mut self, delete: bool, ctx: &mut Ctx<Self>) {
        self.busy = true;
        let (deps, key) = (Arc::clone(&self.deps), self.key.clone());
        ctx.job(
            "end task",
            move |token| until_told(token, work::end(deps, key, delete)),
            |policy, ended, ctx| {
                policy.busy = false;
                match ended {
                    Ok(()) => policy.look(ctx),
                    Err(refusal) => policy.later(&refusal.to_string(), ctx),
                }
            },
        );
    }
}

impl Actor for RestartActor {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match self.deps.store.read().and_then(|reader| reader.restart(&self.key.namespace, &self.key.id)) {
            Ok(record) => self.record = record,
            Err(refusal) => return ctx.fail(format!("read the restart of {}: {refusal}", self.key)),
        }
        // A first incarnation was started for a message, which says why.
        if ctx.epoch() > 1 {
            self.look(ctx);
        }
    }
}

impl Supervised for RestartActor {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.deps), self.key.clone());
    }
}

impl Handler<Tell<Heard>> for RestartActor {
    type Result = ();

    fn handle(&mut self, tell: Tell<Heard>, ctx: &mut Ctx<Self>) {
        match tell.0 {
            Heard::Found { fresh } => self.fresh = fresh,
            Heard::Changed => self.client_was_here(),
            Heard::Ended(exit) => self.end = Some(self.end_of(exit)),
            // Whatever a client had to do, it has done.
            Heard::Started => self.client_at = None,
            Heard::Unhealthy => self.unhealthy = true,
            Heard::Moved | Heard::Gone => {}
        }
        self.look(ctx);
    }
}

impl RestartActor {
    /// Gives a client that changed what is wished for a container its time, unless it was this actor that did.
    fn client_was_here(&mut self) {
        let labels = self.deps.store.read().and_then(|reader| reader.container(&self.key.namespace, &self.key.id));
        // What cannot be read is found out by the look that follows.
        let Ok(Some(container)) = labels else { return };
        let now = Wish::of(&container.labels).ok().flatten();
        let wishes = |wish: &Option<Wish>| wish.as_ref().map(|wish| (wish.running, wish.policy, wish.stopped_by_user));
        if self.wish.is_none() || wishes(&self.wish) != wishes(&now) {
            self.client_at = Some(self.deps.clock.now());
        }
    }
}

/// What the jobs answer.
type Worked = Answer<()>;

/// Leaves work where it is when the incarnation ends: what was asked for is done all the same, and the row says how to go on.
async fn until_told(token: JobToken, work: impl Future<Output = Worked>) -> Worked {
    let worked = token.cancel.run_until_cancelled(work).await;
    worked.unwrap_or_else(|| Err(Refusal::unavailable("the daemon is stopping")))
}

#[cfg(test)]
mod tests;
