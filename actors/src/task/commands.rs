//! What clients want of a task that is there: each command asks the machine, then does its part with the shim.

use super::{
    TaskActor,
    machine::{ProcessId, Step, Verb},
};
use crate::{
    drivers::shim::Shim,
    runtime::{Ask, Ctx, Handler, ReplyTo},
};
use std::{future::Future, sync::Arc};
use wharf_messages::{
    Answer, Refusal, RefusalKind,
    event::Event,
    task::{
        CheckpointTask, CloseIo, ExecTask, KillTask, ListPids, PauseTask, Process, ResizePty, ResumeTask, StartTask,
        TaskStatus, UpdateTask, WaitTask,
    },
};
use wharf_store::refuse;

impl TaskActor {
    /// Has a word with the shim beside other messages, and answers with what it says.
    fn word<T, F>(
        &mut self,
        verb: &Verb,
        name: &'static str,
        reply: ReplyTo<T>,
        ctx: &mut Ctx<Self>,
        say: impl FnOnce(Arc<dyn Shim>) -> F,
    ) where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        match self.machine.permit(verb).and_then(|()| self.shim()) {
            Ok(shim) => {
                let work = say(shim);
                ctx.job(
                    name,
                    |_| work,
                    |task, end, ctx| {
                        task.listen_for_loss(&end, ctx);
                        reply.send(end);
                    },
                );
            }
            Err(refusal) => reply.send(Err(refusal)),
        }
    }
}

impl Handler<Ask<StartTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<StartTask>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let process = call.exec_id;
        let shim = match self.permit(&Verb::Start(process.clone())) {
            Ok(Some(())) => self.shim(),
            Ok(None) => return reply.send(self.tell_process(&process)),
            Err(refusal) => Err(refusal),
        };
        let shim = match shim {
            Ok(shim) => shim,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        self.machine.put(process.clone(), Step::Starting);
        let named = process.clone();
        let work = self.track(async move { shim.start(named.as_ref()).await });
        ctx.job(
            "start process",
            |_| work,
            move |task, started, ctx| {
                task.listen_for_loss(&started, ctx);
                if task.machine.step(&process) != Ok(Step::Starting) {
                    // Its end was told meanwhile: its shim is gone, or its task ended.
                    let gone = || Refusal::unavailable(format!("task {} ended meanwhile", task.id.container));
                    return reply.send(Err(started.err().unwrap_or_else(gone)));
                }
                match started {
                    Ok(pid) => task.started_process(process, pid, meta.request_id, reply, ctx),
                    Err(refusal) if refusal.is(RefusalKind::DeadlineExceeded) => {
                        // It may run: what the shim says of it counts, and is told when it is known.
                        let early = task.early.remove(&process);
                        task.step(&process, Step::Created);
                        reply.send(Err(refusal));
                        match early {
                            Some(exit) => task.ended(process, exit, false, ctx),
                            None => task.ask_again(process, ctx),
                        }
                    }
                    Err(refusal) => {
                        // Its end may have been told meanwhile, as that of a command that is not there.
                        let early = task.early.remove(&process);
                        task.step(&process, Step::Created);
                        reply.send(Err(refusal));
                        if let Some(exit) = early {
                            task.ended(process, exit, false, ctx);
                        }
                    }
                }
            },
        );
    }
}

impl TaskActor {
    fn started_process(
        &mut self,
        process: ProcessId,
        pid: u32,
        request: u64,
        reply: ReplyTo<Process>,
        ctx: &mut Ctx<Self>,
    ) {
        self.step(&process, Step::Running);
        if let Some(row) = self.process_row(&process) {
            row.pid = pid;
        }
        let container_id = self.id.container.clone();
        let event = match &process {
            None => Event::TaskStarted { container_id, pid },
            Some(exec_id) => Event::TaskExecStarted { container_id, exec_id: exec_id.clone(), pid },
        };
        self.commit_answer(Verb::Start(process.clone()), request, event, ctx, move |task, committed, ctx| {
            reply.send(committed.and_then(|()| task.tell_process(&process)));
            task.watch(process.clone(), ctx);
            if let Some(exit) = task.early.remove(&process) {
                task.ended(process, exit, false, ctx);
            }
        });
    }
}

impl Handler<Ask<ExecTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<ExecTask>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let shim = match self.permit(&Verb::Exec(call.exec_id.clone())) {
            Ok(Some(())) => self.shim(),
            Ok(None) => return reply.send(Ok(())),
            Err(refusal) => Err(refusal),
        };
        let shim = match shim {
            Ok(shim) => shim,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let process = Some(call.exec_id.clone());
        self.machine.put(process.clone(), Step::Adding);
        let (exec_id, stdio) = (call.exec_id.clone(), call.stdio.clone());
        let work = async move {
            match shim.exec(&call.exec_id, &call.stdio, &call.spec).await {
                // The row does not know it: an attempt whose answer was lost had it added, and nobody has heard of it.
                Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => {
                    shim.delete(Some(&call.exec_id)).await?;
                    shim.exec(&call.exec_id, &call.stdio, &call.spec).await
                }
                added => added,
            }
        };
        let work = self.track(work);
        ctx.job(
            "add process",
            |_| work,
            move |task, added, ctx| {
                task.listen_for_loss(&added, ctx);
                let there = task.machine.step(&process) == Ok(Step::Adding);
                if let Err(refusal) = added {
                    if there {
                        task.machine.processes.remove(&process);
                    }
                    return reply.send(Err(refusal));
                }
                let Some(row) = task.row.as_mut().filter(|_| there) else {
                    return reply.send(Err(refuse::no_task(&task.id.container)));
                };
                row.execs.push(super::new_row(Some(exec_id.clone()), stdio));
                task.step(&process, Step::Created);
                let verb = Verb::Exec(exec_id.clone());
                let event = Event::TaskExecAdded { container_id: task.id.container.clone(), exec_id };
                task.commit_answer(verb, meta.request_id, event, ctx, move |_, committed, _| reply.send(committed));
            },
        );
    }
}

impl Handler<Ask<KillTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<KillTask>, ctx: &mut Ctx<Self>) {
        let Ask { call, reply, .. } = ask;
        let verb = if call.all && call.exec_id.is_none() { Verb::KillAll } else { Verb::Kill(call.exec_id.clone()) };
        self.word(&verb, "kill process", reply, ctx, |shim| async move {
            shim.kill(call.exec_id.as_ref(), call.signal, call.all).await
        });
    }
}

impl Handler<Ask<ResizePty>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<ResizePty>, ctx: &mut Ctx<Self>) {
        let Ask { call, reply, .. } = ask;
        self.word(&Verb::Talk(call.exec_id.clone()), "resize terminal", reply, ctx, |shim| async move {
            shim.resize(call.exec_id.as_ref(), call.width, call.height).await
        });
    }
}

impl Handler<Ask<CloseIo>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<CloseIo>, ctx: &mut Ctx<Self>) {
        let Ask { call, reply, .. } = ask;
        self.word(&Verb::Talk(call.exec_id.clone()), "close input", reply, ctx, |shim| async move {
            shim.close_io(call.exec_id.as_ref()).await
        });
    }
}

impl Handler<Ask<ListPids>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<ListPids>, ctx: &mut Ctx<Self>) {
        self.word(&Verb::Reach, "list processes", ask.reply, ctx, |shim| async move { shim.pids().await });
    }
}

impl Handler<Ask<super::ReadFigures>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<super::ReadFigures>, ctx: &mut Ctx<Self>) {
        self.word(&Verb::Reach, "read figures", ask.reply, ctx, |shim| async move { shim.stats().await });
    }
}

impl Handler<Ask<UpdateTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<UpdateTask>, ctx: &mut Ctx<Self>) {
        let Ask { call, reply, .. } = ask;
        self.word(&Verb::Reach, "update resources", reply, ctx, |shim| async move {
            shim.update(&call.resources, &call.annotations).await
        });
    }
}

impl Handler<Ask<CheckpointTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<CheckpointTask>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        if call.image_path.is_empty() {
            // The content store is the affair of whoever asks: the runtime writes into folders only.
            let refusal = Refusal::invalid("a checkpoint needs a folder to be written to");
            return reply.send(Err(refusal));
        }
        let shim = match self.machine.permit(&Verb::Reach).and_then(|()| self.shim()) {
            Ok(shim) => shim,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let path = call.image_path.clone();
        let work = async move { shim.checkpoint(&call.image_path, call.options.as_ref()).await };
        ctx.job(
            "checkpoint task",
            |_| work,
            move |task, end, ctx| {
                task.listen_for_loss(&end, ctx);
                if let Err(refusal) = end {
                    return reply.send(Err(refusal));
                }
                let event = Event::TaskCheckpointed { container_id: task.id.container.clone(), checkpoint: path };
                task.commit_row(vec![event], false, meta.request_id, ctx, move |_, committed, _| {
                    reply.send(committed.map(|()| Vec::new()));
                });
            },
        );
    }
}

impl TaskActor {
    /// Freezes or thaws, then says so.
    fn freeze(&mut self, verb: Verb, request: u64, reply: ReplyTo<()>, ctx: &mut Ctx<Self>) {
        let pause = verb == Verb::Pause;
        let shim = match self.permit(&verb) {
            Ok(Some(())) => self.shim(),
            Ok(None) => return reply.send(Ok(())),
            Err(refusal) => Err(refusal),
        };
        let shim = match shim {
            Ok(shim) => shim,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let work = async move { if pause { shim.pause().await } else { shim.resume().await } };
        let work = self.track(work);
        ctx.job(
            "freeze or thaw",
            |_| work,
            move |task, end, ctx| {
                task.listen_for_loss(&end, ctx);
                if let Err(refusal) = end {
                    return reply.send(Err(refusal));
                }
                if !matches!(task.machine.step(&None), Ok(Step::Running | Step::Paused)) {
                    // It ended meanwhile, and that was told.
                    return reply.send(Ok(()));
                }
                task.machine.set_paused(pause);
                let (from, to) = if pause {
                    (TaskStatus::Running, TaskStatus::Paused)
                } else {
                    (TaskStatus::Paused, TaskStatus::Running)
                };
                if let Some(row) = &mut task.row {
                    for process in std::iter::once(&mut row.init).chain(&mut row.execs) {
                        if process.status == from {
                            process.status = to;
                        }
                    }
                }
                let container_id = task.id.container.clone();
                let event =
                    if pause { Event::TaskPaused { container_id } } else { Event::TaskResumed { container_id } };
                task.commit_answer(verb, request, event, ctx, move |_, committed, _| reply.send(committed));
            },
        );
    }
}

impl Handler<Ask<PauseTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<PauseTask>, ctx: &mut Ctx<Self>) {
        self.freeze(Verb::Pause, ask.meta.request_id, ask.reply, ctx);
    }
}

impl Handler<Ask<ResumeTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<ResumeTask>, ctx: &mut Ctx<Self>) {
        self.freeze(Verb::Resume, ask.meta.request_id, ask.reply, ctx);
    }
}

impl Handler<Ask<WaitTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<WaitTask>, ctx: &mut Ctx<Self>) {
        let Ask { call, reply, .. } = ask;
        let process = call.exec_id;
        if let Err(refusal) = self.machine.permit(&Verb::Wait(process.clone())) {
            if self.row.is_none() {
                ctx.idle();
            }
            return reply.send(Err(refusal));
        }
        match self.machine.step(&process).ok().and_then(Step::exit) {
            Some(exit) => reply.send(Ok(exit)),
            None => {
                let waiters = self.waiters.entry(process).or_default();
                // Those who went away leave with the next one who comes.
                waiters.retain(|waiter| !waiter.is_closed());
                waiters.push(reply);
            }
        }
    }
}
