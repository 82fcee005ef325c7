//! Finding a task again: after a restart of the actor or the daemon, or when the shim's connection breaks.
//!
//! ```text
//!   row Creating -> the intent did not come to its end: clean up, remove the row
//!   row Deleting -> neither did the deletion: finish it
//!   row Live     -> other boot: everything ended with it
//!                   shim answers: take its word for each process, tell what was missed as late
//!                   shim is gone: clean up, take its records' word
//! ```

use super::{
    TaskActor,
    machine::{Phase, ProcessId, Step, Verb},
    machine_of,
};
use crate::{
    drivers::shim::{ProcessState, Shim, ShimAddress},
    runtime::Ctx,
};
use std::{sync::Arc, time::Duration};
use wharf_messages::{
    Answer, Refusal, RefusalKind,
    event::Event,
    task::{EXIT_UNKNOWN, Exit, TaskStatus},
};
use wharf_store::{Change, TaskPhase, TaskRow};

/// How long a shim may take to show that it lives; a hung one must not hold up the others or the daemon.
///
/// # Spec
/// API reference, section 3 "Shim bootstrap": Connect within 5 s.
const FIND_LIMIT: Duration = Duration::from_secs(5);

/// How long to rest before a shim that could be neither found nor cleaned up after is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The shortest and the longest rest between attempts to clean up.
const REST_MIN: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(60);

/// The rest after so many failed attempts: twice as long each time.
pub(super) fn rest_after(attempts: u32) -> Duration {
    REST_MIN.saturating_mul(2_u32.saturating_pow(attempts)).min(REST_MAX)
}

/// What looking for a shim found.
enum Found {
    /// It lives; so it says of each process.
    Alive(Arc<dyn Shim>, Vec<(ProcessId, Option<ProcessState>)>),
    /// It is gone and cleaned up after; so its records say of each process.
    Gone(Vec<(ProcessId, Exit)>),
}

impl TaskActor {
    /// Takes up the task that the row tells of.
    pub(super) fn resume(&mut self, row: TaskRow, ctx: &mut Ctx<Self>) {
        let phase = row.phase;
        let other_boot = row.boot_id != self.deps.boot_id;
        let address = row.shim.as_ref().map(ShimAddress::from);
        self.machine = machine_of(&row);
        self.row = Some(row);
        match phase {
            TaskPhase::Creating => self.undo_creation(0, ctx),
            TaskPhase::Deleting => self.delete_all(None, 0, ctx),
            TaskPhase::Live if other_boot => self.ended_with_boot(ctx),
            TaskPhase::Live => {
                // Without one its end is known already: it waits to be deleted.
                if let Some(address) = address {
                    self.recovering = true;
                    self.find_shim(address, true, ctx);
                }
            }
        }
    }

    /// Takes down what a creation left, and removes its intent. What resists is tried again, for as long as it takes:
    /// a full disk or a busy mount is no fault of this actor, nor of others.
    pub(super) fn undo_creation(&mut self, attempts: u32, ctx: &mut Ctx<Self>) {
        let address = self.row.as_ref().and_then(|row| row.shim.as_ref()).map(ShimAddress::from);
        let (deps, id) = (Arc::clone(&self.deps), self.id.clone());
        let work = async move { deps.shims.clean_up(&id, address.as_ref()).await };
        self.before_messages(ctx, work, move |task, undone, ctx| {
            if let Err(refusal) = undone {
                return task.undo_creation_later(attempts, &refusal, ctx);
            }
            let changes = vec![Change::DeleteTask(task.id.container.clone())];
            task.commit_changes(changes, Vec::new(), true, ctx, move |task, committed, ctx| match committed {
                Ok(()) => task.forget(ctx),
                Err(refusal) => task.undo_creation_later(attempts, &refusal, ctx),
            });
        });
    }

    pub(super) fn undo_creation_later(&mut self, attempts: u32, refusal: &Refusal, ctx: &mut Ctx<Self>) {
        let rest = rest_after(attempts);
        tracing::warn!(task = %self.id, %refusal, ?rest, "a task that was not made could not be cleaned up after");
        let life = self.life;
        ctx.later(rest, move |task, ctx| {
            if task.life == life {
                task.undo_creation(attempts + 1, ctx);
            }
        });
    }

    /// Looks for the shim; messages are read again when it is found or cleaned up after, if `before_messages` says so.
    pub(super) fn find_shim(&mut self, address: ShimAddress, before_messages: bool, ctx: &mut Ctx<Self>) {
        let (deps, id) = (Arc::clone(&self.deps), self.id.clone());
        let known: Vec<ProcessId> = self.machine.processes.keys().cloned().collect();
        let look = async move {
            let alive = async {
                let shim = deps.shims.reattach(&id, &address).await?;
                let mut states = Vec::with_capacity(known.len());
                for process in &known {
                    let state = match shim.state(process.as_ref()).await {
                        Ok(state) => Some(state),
                        Err(refusal) if refusal.is(RefusalKind::NotFound) => None,
                        Err(refusal) => return Err(refusal),
                    };
                    states.push((process.clone(), state));
                }
                Ok(Found::Alive(shim, states))
            };
            let why = match tokio::time::timeout(FIND_LIMIT, alive).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(refusal)) => refusal.to_string(),
                Err(_) => format!("it did not answer within {} s", FIND_LIMIT.as_secs()),
            };
            tracing::warn!(task = %id, why, "the shim is gone, cleaning up after it");
            let mut exits = Vec::with_capacity(known.len());
            for process in known.iter().filter(|process| process.is_some()) {
                let recorded = deps.shims.recorded_exit(&id, process.as_ref());
                let lost = Exit { code: EXIT_UNKNOWN, exited_at: deps.clock.now(), oom: false };
                exits.push((process.clone(), recorded.map_or(lost, Exit::from)));
            }
            // Last, because it removes the bundle, and because the first process's end is told last.
            exits.push((None, deps.shims.clean_up(&id, Some(&address)).await?));
            Ok(Found::Gone(exits))
        };
        if before_messages {
            self.before_messages(ctx, look, |task, found, ctx| task.found(found, ctx));
        } else {
            ctx.job("find shim", |_| look, |task, found, ctx| task.found(found, ctx));
        }
    }

    fn found(&mut self, found: Answer<Found>, ctx: &mut Ctx<Self>) {
        self.recovering = false;
        match found {
            Ok(Found::Alive(shim, states)) => {
                self.shim = Some(shim);
                for (process, state) in states {
                    self.reconcile(process, state, ctx);
                }
            }
            Ok(Found::Gone(exits)) => {
                self.shim = None;
                if let Some(row) = &mut self.row {
                    row.shim = None;
                }
                for (process, exit) in exits {
                    let exit = self.early.remove(&process).unwrap_or(exit);
                    self.lost(process, exit, ctx);
                }
            }
            Err(refusal) => {
                tracing::warn!(task = %self.id, %refusal, "the task's shim could not be cleaned up after, trying again");
                let life = self.life;
                ctx.later(LOOK_AGAIN, move |task, ctx| {
                    let address = task.row.as_ref().and_then(|row| row.shim.as_ref()).map(ShimAddress::from);
                    if let Some(address) = address.filter(|_| task.life == life && !task.recovering) {
                        task.recovering = true;
                        task.find_shim(address, false, ctx);
                    }
                });
            }
        }
    }

    /// Brings a process to where its shim says it is, telling what was missed.
    pub(super) fn reconcile(&mut self, process: ProcessId, state: Option<ProcessState>, ctx: &mut Ctx<Self>) {
        let Ok(step) = self.machine.step(&process) else { return };
        if matches!(step, Step::Stopped(_) | Step::Adding | Step::Starting | Step::Deleting(_)) {
            return;
        }
        let Some(state) = state else {
            // The shim has forgotten it: it was deleted behind our back, so it has ended.
            let exit = Exit { code: EXIT_UNKNOWN, exited_at: self.deps.clock.now(), oom: false };
            return self.lost(process, exit, ctx);
        };
        let ran = matches!(state.status, TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing)
            || (state.status == TaskStatus::Stopped && self.ran_before_its_end(&process, &state));
        let mut events = Vec::new();
        if step == Step::Created && ran {
            self.step(&process, Step::Running);
            if let Some(row) = self.process_row(&process) {
                row.pid = state.pid;
            }
            // Whoever asked for it has lost its answer with the daemon or the actor.
            self.unheard.push(Verb::Start(process.clone()));
            let container_id = self.id.container.clone();
            events.push(match &process {
                None => Event::TaskStarted { container_id, pid: state.pid },
                Some(exec_id) => Event::TaskExecStarted { container_id, exec_id: exec_id.clone(), pid: state.pid },
            });
        }
        if process.is_none() {
            let paused = state.status == TaskStatus::Paused;
            let container_id = self.id.container.clone();
            match (self.machine.step(&process), paused) {
                (Ok(Step::Running), true) => {
                    self.unheard.push(Verb::Pause);
                    events.push(Event::TaskPaused { container_id });
                }
                (Ok(Step::Paused), false) if state.status == TaskStatus::Running => {
                    self.unheard.push(Verb::Resume);
                    events.push(Event::TaskResumed { container_id });
                }
                _ => {}
            }
            if !events.is_empty() && state.status != TaskStatus::Stopped {
                self.machine.set_paused(paused);
                let now = self.machine.step(&None).unwrap_or(Step::Running);
                self.step(&None, now);
            }
        }
        let exit = state.exit.map(|exit| {
            // The record knows of the OOM killer, too.
            self.deps.shims.recorded_exit(&self.id, process.as_ref()).map_or(exit, Exit::from)
        });
        let follow = move |task: &mut Self, committed: Answer<()>, ctx: &mut Ctx<Self>| {
            if let Err(refusal) = committed {
                // It is kept, and told before anything else is.
                tracing::warn!(task = %task.id, %refusal, "what the task did meanwhile could not be committed");
            }
            match exit {
                Some(exit) => task.ended(process, exit, true, ctx),
                None => task.watch(process, ctx),
            }
        };
        if events.is_empty() { follow(self, Ok(()), ctx) } else { self.commit(events, true, ctx, follow) }
    }

    /// Whether a process that has ended had been started. A first process has its pid before that: one that was killed
    /// then was never started, and its record says so.
    fn ran_before_its_end(&self, process: &ProcessId, state: &ProcessState) -> bool {
        let recorded = self.deps.shims.recorded_exit(&self.id, process.as_ref());
        state.pid != 0 && recorded.is_none_or(|record| record.started)
    }

    /// Ends a process whose shim is gone or has forgotten it, whatever it was doing.
    fn lost(&mut self, process: ProcessId, exit: Exit, ctx: &mut Ctx<Self>) {
        match self.machine.step(&process) {
            Err(_) | Ok(Step::Stopped(_) | Step::Deleting(_)) => {}
            // Commands that have one in hand will hear that the shim is gone. Nobody has heard of one being added.
            Ok(Step::Adding) => drop(self.machine.processes.remove(&process)),
            Ok(Step::Starting) => {
                self.step(&process, Step::Created);
                self.ended(process, exit, true, ctx);
            }
            Ok(_) => self.ended(process, exit, true, ctx),
        }
    }

    /// Everything ended with an earlier boot: nobody saw how.
    fn ended_with_boot(&mut self, ctx: &mut Ctx<Self>) {
        self.machine.phase = Phase::Live;
        if let Some(row) = &mut self.row {
            row.boot_id.clone_from(&self.deps.boot_id);
            row.shim = None;
        }
        let exit = Exit { code: EXIT_UNKNOWN, exited_at: self.deps.clock.now(), oom: false };
        // Added ones first, the first one last (TASK-2): `None` sorts before every name.
        let known: Vec<ProcessId> = self.machine.processes.keys().rev().cloned().collect();
        for process in known {
            self.lost(process, exit, ctx);
        }
    }
}
