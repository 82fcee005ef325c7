//! Deleting a task or one of its processes: shim first, row last (TASK-1).

use super::{
    TaskActor,
    machine::{Phase, ProcessId, Step, Verb},
    recover::rest_after,
};
use crate::{
    drivers::shim::ShimAddress,
    runtime::{Ask, Ctx, Handler, ReplyTo},
};
use std::sync::Arc;
use wharf_messages::{
    Answer, Refusal, RefusalKind, Timestamp,
    event::Event,
    task::{DeleteTask, DeletedProcess, EXIT_UNKNOWN, Exit},
};
use wharf_store::{Change, TaskPhase};

/// What a shim says of a process that it deleted: pid, code, end.
type Said = (u32, u32, Timestamp);
/// Who asked for a deletion, and by which request.
type Asker = (ReplyTo<DeletedProcess>, u64);

impl Handler<Ask<DeleteTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<DeleteTask>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let (process, request) = (call.exec_id, meta.request_id);
        if let Err(refusal) = self.machine.permit(&Verb::Delete(process.clone())) {
            return reply.send(Err(refusal));
        }
        let exit = self.machine.step(&process).ok().and_then(Step::exit);
        match process {
            Some(_) => self.delete_exec(process, exit, (reply, request), ctx),
            None => {
                self.machine.put(None, Step::Deleting(exit));
                self.machine.phase = Phase::Deleting;
                if let Some(row) = &mut self.row {
                    row.phase = TaskPhase::Deleting;
                }
                self.delete_all(Some((reply, request)), 0, ctx);
            }
        }
    }
}

impl TaskActor {
    fn delete_exec(&mut self, process: ProcessId, exit: Option<Exit>, (reply, request): Asker, ctx: &mut Ctx<Self>) {
        self.machine.put(process.clone(), Step::Deleting(exit));
        let (shim, named) = (self.shim.clone(), process.clone());
        let work = self.track(async move {
            match shim {
                Some(shim) => shim.delete(named.as_ref()).await.map(Some),
                None => Ok(None),
            }
        });
        ctx.job(
            "delete process",
            |_| work,
            move |task, deleted, ctx| {
                task.listen_for_loss(&deleted, ctx);
                let said = match deleted {
                    Ok(said) => said,
                    // Without its shim there is nothing to be told; the row goes all the same.
                    Err(refusal) if gone(&refusal) => None,
                    Err(refusal) => {
                        task.step(&process, exit.map_or(Step::Created, Step::Stopped));
                        return reply.send(Err(refusal));
                    }
                };
                let deleted = task.deleted_process(&process, exit, said);
                task.machine.processes.remove(&process);
                if let Some(row) = &mut task.row {
                    row.execs.retain(|row| row.exec_id != process);
                }
                task.early.remove(&process);
                task.unheard.retain(|verb| !matches!(verb, Verb::Start(id) if *id == process));
                let waiters = task.waiters.remove(&process).unwrap_or_default();
                let event = Event::TaskDeleted {
                    container_id: task.id.container.clone(),
                    exec_id: process,
                    pid: deleted.pid,
                    exit: deleted.exit,
                };
                task.commit_row(vec![event], false, request, ctx, move |_, committed, _| {
                    for waiter in waiters {
                        waiter.send(Ok(deleted.exit));
                    }
                    reply.send(committed.map(|()| deleted));
                });
            },
        );
    }

    /// Removes processes, shim, bundle and at last the row; answers whoever asked for it. If nobody did, it finishes what
    /// an earlier daemon began, and tries again, after `attempts` already, what does not succeed.
    pub(super) fn delete_all(&mut self, reply: Option<Asker>, attempts: u32, ctx: &mut Ctx<Self>) {
        let (shim, deps, id) = (self.shim.clone(), Arc::clone(&self.deps), self.id.clone());
        let address = self.row.as_ref().and_then(|row| row.shim.as_ref()).map(ShimAddress::from);
        let exit = self.machine.step(&None).ok().and_then(Step::exit);
        let work = async move {
            let (said, alive) = match &shim {
                None => (None, false),
                Some(shim) => match shim.delete(None).await {
                    Ok(said) => (Some(said), true),
                    // An earlier attempt came that far.
                    Err(refusal) if refusal.is(RefusalKind::NotFound) => (None, true),
                    Err(refusal) if refusal.is(RefusalKind::Unavailable) => (None, false),
                    Err(refusal) => return Err(refusal),
                },
            };
            wharf_failpoints::try_failpoint!("task/deleted");
            match &shim {
                Some(shim) if alive => {
                    shim.shutdown().await?;
                    deps.shims.remove_bundle(&id).await?;
                    Ok(said)
                }
                _ => {
                    let exit = deps.shims.clean_up(&id, address.as_ref()).await?;
                    Ok(Some((0, exit.code, exit.exited_at)))
                }
            }
        };
        let end = move |task: &mut Self, deleted: Answer<Option<Said>>, ctx: &mut Ctx<Self>| match deleted {
            Ok(said) => task.deleted(exit, said, reply, attempts, ctx),
            Err(refusal) => task.not_deleted(exit, refusal, reply, attempts, ctx),
        };
        if self.shim.is_some() {
            let work = self.track(work);
            ctx.job("delete task", |_| work, end);
        } else {
            self.before_messages(ctx, work, end);
        }
    }

    /// The effects are done: the row goes, and then it is told.
    fn deleted(
        &mut self,
        told: Option<Exit>,
        said: Option<Said>,
        reply: Option<Asker>,
        attempts: u32,
        ctx: &mut Ctx<Self>,
    ) {
        let late = reply.is_none();
        let request = reply.as_ref().map_or(0, |(_, request)| *request);
        let mut events = Vec::new();
        let known = told.or(self.held);
        let deleted = self.deleted_process(&None, known, said);
        // One that was never started ends by being deleted; the log hears of its end first (TASK-2).
        if told.is_none() {
            events.push(self.exit_event(&None, deleted.exit));
        }
        events.push(Event::TaskDeleted {
            container_id: self.id.container.clone(),
            exec_id: None,
            pid: deleted.pid,
            exit: deleted.exit,
        });
        let changes = vec![Change::DeleteTask(self.id.container.clone())];
        self.commit_request(changes, events, late, request, ctx, move |task, committed, ctx| match committed {
            Ok(()) => {
                for waiter in task.waiters.remove(&None).unwrap_or_default() {
                    waiter.send(Ok(deleted.exit));
                }
                task.forget(ctx);
                if let Some((reply, _)) = reply {
                    // Whoever deletes what has not run is told of no failure, as by containerd: clients end with this code.
                    let code = if told.is_none() { 0 } else { deleted.exit.code };
                    reply.send(Ok(DeletedProcess { exit: Exit { code, ..deleted.exit }, ..deleted }));
                }
            }
            // Shim and bundle are gone, the row is not: it can be deleted again.
            Err(refusal) => {
                task.shim = None;
                if let Some(row) = &mut task.row {
                    row.shim = None;
                }
                task.not_deleted(told, refusal, reply, attempts, ctx);
            }
        });
    }

    /// It is there still, as it was.
    fn not_deleted(
        &mut self,
        exit: Option<Exit>,
        refusal: Refusal,
        reply: Option<Asker>,
        attempts: u32,
        ctx: &mut Ctx<Self>,
    ) {
        tracing::warn!(task = %self.id, %refusal, "the task could not be deleted");
        let Some((reply, _)) = reply else {
            let life = self.life;
            return ctx.later(rest_after(attempts), move |task, ctx| {
                if task.life == life {
                    task.delete_all(None, attempts + 1, ctx);
                }
            });
        };
        self.machine.phase = Phase::Live;
        if let Some(row) = &mut self.row {
            row.phase = TaskPhase::Live;
        }
        self.step(&None, exit.map_or(Step::Created, Step::Stopped));
        reply.send(Err(refusal));
    }

    /// What a deletion answers: what the row knows, else what the shim said, else that nobody knows.
    fn deleted_process(&mut self, process: &ProcessId, exit: Option<Exit>, said: Option<Said>) -> DeletedProcess {
        let now = self.deps.clock.now();
        let known = self.process_row(process).map_or(0, |row| row.pid);
        let unknown = Exit { code: EXIT_UNKNOWN, exited_at: now, oom: false };
        match (exit, said) {
            (Some(exit), Some((pid, ..))) => DeletedProcess { pid: if known == 0 { pid } else { known }, exit },
            (Some(exit), None) => DeletedProcess { pid: known, exit },
            (None, Some((pid, code, at))) => {
                let exited_at = if at.0 <= 0 { now } else { at };
                DeletedProcess { pid, exit: Exit { code, exited_at, oom: false } }
            }
            (None, None) => DeletedProcess { pid: known, exit: unknown },
        }
    }
}

/// Whether a shim's refusal means that there is nothing left to delete.
fn gone(refusal: &Refusal) -> bool {
    matches!(refusal.kind, RefusalKind::NotFound | RefusalKind::Unavailable)
}
