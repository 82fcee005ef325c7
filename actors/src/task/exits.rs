//! Ends of processes: watched for, put in order, committed, told.

use super::{
    TaskActor,
    machine::{ProcessId, Step},
};
use crate::{
    drivers::shim::ShimAddress,
    runtime::{Ctx, Handler, Tell},
};
use std::{sync::Arc, time::Duration};
use wharf_messages::{
    Answer, Refusal, RefusalKind, Timestamp,
    event::Event,
    task::{EXIT_UNKNOWN, Exit},
};

/// How long the first process's end waits for those of the added ones, which die with it (TASK-2).
const HOLD_LIMIT: Duration = Duration::from_secs(2);
/// How long to rest before a process is asked for again.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// How long to rest before what could not be committed is tried again.
pub(super) const COMMIT_AGAIN: Duration = Duration::from_secs(1);

/// The kernel's OOM killer struck in a task, as its shim says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomReported;

impl TaskActor {
    /// Waits for a process's end, once.
    pub(super) fn watch(&mut self, process: ProcessId, ctx: &mut Ctx<Self>) {
        let Some(shim) = self.shim.clone() else { return };
        if !self.watched.insert(process.clone()) {
            return;
        }
        let (deps, id, named) = (Arc::clone(&self.deps), self.id.clone(), process.clone());
        let work = async move {
            let (code, exited_at) = shim.wait(named.as_ref()).await?;
            // The record was written before the end was told, and knows more.
            let recorded = crate::runtime::blocking("read an exit record", move || {
                Ok(deps.shims.recorded_exit(&id, named.as_ref()))
            });
            Ok(recorded.await?.map_or(Exit { code, exited_at, oom: false }, Exit::from))
        };
        let life = self.life;
        ctx.lasting_job(
            "watch process",
            // It has nothing to put in order: told to go, it goes.
            |token| async move {
                let watched = token.cancel.run_until_cancelled(work).await;
                watched.unwrap_or_else(|| Err(Refusal::canceled("watch process")))
            },
            move |task, end, ctx| {
                if task.life != life {
                    return;
                }
                task.watched.remove(&process);
                match end {
                    Ok(exit) => task.ended(process, exit, false, ctx),
                    Err(refusal) if refusal.is(RefusalKind::Canceled) => {}
                    Err(refusal) => task.look_again(process, refusal, ctx),
                }
            },
        );
    }

    /// Watches again after a rest: a shim that lives and could not say how a process ended is asked once more.
    fn look_again(&mut self, process: ProcessId, refusal: Refusal, ctx: &mut Ctx<Self>) {
        if refusal.is(RefusalKind::Unavailable) {
            return self.listen_for_loss::<()>(&Err(refusal), ctx);
        }
        let over = matches!(self.machine.step(&process), Err(_) | Ok(Step::Stopped(_) | Step::Deleting(_)));
        if over {
            return;
        }
        tracing::warn!(task = %self.id, %refusal, "the end of a process could not be waited for, trying again");
        let life = self.life;
        ctx.later(WATCH_AGAIN, move |task, ctx| {
            if task.life == life {
                // The state first: a process that the shim has forgotten has ended.
                task.ask_again(process, ctx);
            }
        });
    }

    /// Asks the shim where a process stands, and follows that.
    pub(super) fn ask_again(&mut self, process: ProcessId, ctx: &mut Ctx<Self>) {
        let Some(shim) = self.shim.clone() else { return };
        let (named, life) = (process.clone(), self.life);
        let ask = async move {
            match shim.state(named.as_ref()).await {
                Ok(state) => Ok(Some(state)),
                Err(refusal) if refusal.is(RefusalKind::NotFound) => Ok(None),
                Err(refusal) => Err(refusal),
            }
        };
        ctx.job(
            "ask for a process",
            |_| ask,
            move |task, state, ctx| {
                if task.life != life {
                    return;
                }
                match state {
                    Ok(state) => task.reconcile(process, state, ctx),
                    Err(refusal) => task.look_again(process, refusal, ctx),
                }
            },
        );
    }

    /// Takes a process's end in, in its place in the order.
    pub(super) fn ended(&mut self, process: ProcessId, exit: Exit, late: bool, ctx: &mut Ctx<Self>) {
        match self.machine.step(&process) {
            // Told already (TASK-3), or deleted meanwhile.
            Err(_) | Ok(Step::Stopped(_) | Step::Deleting(Some(_))) => return,
            Ok(Step::Starting) => {
                self.early.insert(process, exit);
                return;
            }
            Ok(Step::Deleting(None)) => {
                // Made, never started, and killed by its deletion, which tells of it.
                if process.is_none() {
                    self.held = Some(exit);
                }
                return;
            }
            Ok(_) => {}
        }
        if process.is_none() && !self.machine.running_execs().is_empty() {
            if self.held.replace(exit).is_none() {
                let life = self.life;
                ctx.later(HOLD_LIMIT, move |task, ctx| {
                    if task.life == life {
                        task.release(late, ctx);
                    }
                });
            }
            return;
        }
        self.commit_end(process, exit, late, ctx);
    }

    /// Tells the first process's end that was held back; added ones that have not ended by now died with it.
    fn release(&mut self, late: bool, ctx: &mut Ctx<Self>) {
        let Some(exit) = self.held else { return };
        match self.machine.running_execs().into_iter().next() {
            Some(exec) => {
                let lost = Exit { code: EXIT_UNKNOWN, exited_at: exit.exited_at, oom: false };
                let known = self.early.remove(&Some(exec.clone()));
                self.commit_end(Some(exec), known.unwrap_or(lost), late, ctx);
                ctx.later(Duration::ZERO, move |task, ctx| task.release(late, ctx));
            }
            None => {
                self.held = None;
                self.ended(None, exit, late, ctx);
            }
        }
    }

    fn commit_end(&mut self, process: ProcessId, mut exit: Exit, late: bool, ctx: &mut Ctx<Self>) {
        if exit.exited_at == Timestamp::ZERO {
            exit.exited_at = self.deps.clock.now();
        }
        let before = self.machine.step(&process).unwrap_or(Step::Running);
        self.step(&process, Step::Stopped(exit));
        let event = self.exit_event(&process, exit);
        let life = self.life;
        self.commit_changes(self.put_row(), vec![event], late, ctx, move |task, committed, ctx| {
            if let Err(refusal) = committed {
                // Nothing was told yet; the end is kept and told when the store takes it.
                tracing::warn!(task = %task.id, %refusal, "the end of a process could not be committed, trying again");
                task.step(&process, before);
                task.early.insert(process.clone(), exit);
                ctx.later(COMMIT_AGAIN, move |task, ctx| {
                    if task.life == life {
                        task.ended(process, exit, late, ctx);
                    }
                });
                return;
            }
            task.early.remove(&process);
            for waiter in task.waiters.remove(&process).unwrap_or_default() {
                waiter.send(Ok(exit));
            }
            if process.is_some()
                && task.machine.running_execs().is_empty()
                && let Some(held) = task.held.take()
            {
                task.ended(None, held, late, ctx);
            }
        });
    }

    /// The event of an end.
    pub(super) fn exit_event(&mut self, process: &ProcessId, exit: Exit) -> Event {
        Event::TaskExited {
            container_id: self.id.container.clone(),
            exec_id: process.clone(),
            pid: self.process_row(process).map_or(0, |row| row.pid),
            exit,
        }
    }

    /// Looks for the shim if an answer says that its connection is gone.
    pub(super) fn listen_for_loss<T>(&mut self, answer: &Answer<T>, ctx: &mut Ctx<Self>) {
        let lost = matches!(answer, Err(Refusal { kind: RefusalKind::Unavailable, .. }));
        let Some(address) = self.row.as_ref().and_then(|row| row.shim.as_ref()).map(ShimAddress::from) else { return };
        if !lost || self.recovering {
            return;
        }
        self.recovering = true;
        tracing::warn!(task = %self.id, "the connection to the shim broke");
        self.find_shim(address, false, ctx);
    }
}

impl Handler<Tell<OomReported>> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Tell<OomReported>, ctx: &mut Ctx<Self>) {
        if self.row.is_none() {
            return ctx.idle();
        }
        let event = Event::TaskOomKilled { container_id: self.id.container.clone() };
        let task = self.id.clone();
        self.commit(vec![event], false, ctx, move |_, committed, _| {
            if let Err(refusal) = committed {
                tracing::warn!(%task, %refusal, "an OOM notice could not be committed");
            }
        });
    }
}
