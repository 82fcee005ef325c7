//! What clients want of a task: each command asks the machine, then does its part with the shim.

use super::{
    TaskActor,
    machine::{Phase, ProcessId, Step, Verb},
};
use crate::{
    drivers::shim::{CreateProcess, Launch, Shim, ShimAddress},
    runtime::{Ask, Ctx, Handler, ReplyTo, blocking},
};
use std::{future::Future, sync::Arc};
use wharf_messages::{
    Answer, Mount, Refusal,
    event::Event,
    task::{
        CheckpointTask, CloseIo, CreateTask, ExecTask, KillTask, ListPids, PauseTask, Process, ResizePty, ResumeTask,
        Rootfs, StartTask, TaskStatus, UpdateTask, WaitTask,
    },
};
use wharf_store::{Change, TaskPhase, TaskRow, refuse};

/// What creating a task came to.
struct Made {
    address: ShimAddress,
    shim: Arc<dyn Shim>,
    rootfs: Vec<Mount>,
    pid: u32,
}

impl Handler<Ask<CreateTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<CreateTask>, ctx: &mut Ctx<Self>) {
        let Ask { call, reply, .. } = ask;
        if let Err(refusal) = self.machine.permit(&Verb::Create) {
            return reply.send(Err(refusal));
        }
        if call.checkpoint.is_some() {
            // A checkpoint in the content store would have to be unpacked first; the shim restores from a folder only.
            let path = call.checkpoint.as_ref().map(|d| d.digest.to_string()).unwrap_or_default();
            return reply
                .send(Err(Refusal::not_implemented(format!("restore task {} from {path}", self.id.container))));
        }
        let container = self
            .deps
            .store
            .read()
            .and_then(|reader| reader.container(&self.id.namespace, &self.id.container))
            .and_then(|container| {
                container.ok_or_else(|| refuse::no_container(&self.id.namespace, &self.id.container))
            });
        let container = match container {
            Ok(container) => container,
            Err(refusal) => {
                ctx.idle();
                return reply.send(Err(refusal));
            }
        };
        let Some(spec) = container.spec else {
            ctx.idle();
            return reply
                .send(Err(Refusal::failed_precondition(format!("container {} has no spec", self.id.container))));
        };
        let mut runtime = container.runtime;
        if call.options.is_some() {
            runtime.options = call.options;
        }
        let row = TaskRow {
            namespace: self.id.namespace.clone(),
            container_id: self.id.container.clone(),
            phase: TaskPhase::Creating,
            bundle: self.deps.shims.bundle_path(&self.id),
            runtime: runtime.clone(),
            shim: None,
            boot_id: self.deps.boot_id.clone(),
            rootfs: Vec::new(),
            init: super::new_row(None, call.stdio.clone()),
            execs: Vec::new(),
            created_at: self.deps.clock.now(),
        };
        self.machine.phase = Phase::Creating;
        self.machine.put(None, Step::Adding);
        self.row = Some(row.clone());
        let launch = Launch { task: self.id.clone(), runtime, runtime_path: call.runtime_path, spec_json: spec.value };
        let snapshot = container.snapshotter.zip(container.snapshot_key);
        let (rootfs, stdio) = (call.rootfs, call.stdio);
        // TASK-1: the intent first.
        self.commit_changes(vec![Change::CreateTask(row)], Vec::new(), false, ctx, move |task, committed, ctx| {
            if let Err(refusal) = committed {
                task.forget(ctx);
                return reply.send(Err(refusal));
            }
            let deps = Arc::clone(&task.deps);
            let id = task.id.clone();
            let work = async move {
                let rootfs = match (rootfs, snapshot) {
                    (Rootfs::Mounts(mounts), _) => mounts,
                    (Rootfs::Snapshot, Some((snapshotter, key))) => {
                        let deps = Arc::clone(&deps);
                        let namespace = id.namespace.clone();
                        blocking("find the root file system", move || {
                            deps.snapshotters.mounts(&deps.store.read()?, &namespace, &snapshotter, &key)
                        })
                        .await?
                    }
                    (Rootfs::Snapshot, None) => {
                        return Err(Refusal::failed_precondition(format!("container {} has no snapshot", id.container)));
                    }
                };
                let options = launch.runtime.options.clone();
                let (address, shim) = deps.shims.launch(launch).await?;
                let create = CreateProcess {
                    bundle: deps.shims.bundle_path(&id),
                    rootfs: rootfs.clone(),
                    stdio,
                    checkpoint: String::new(),
                    options,
                };
                match shim.create(create).await {
                    Ok(pid) => Ok(Made { address, shim, rootfs, pid }),
                    Err(refusal) => {
                        // Shim and bundle go before the row does (TASK-1); its refusal is what the caller needs to hear.
                        if let Err(error) = shim.shutdown().await {
                            tracing::debug!(task = %id, %error, "the shim of a task that was not made did not shut down");
                        }
                        deps.shims.clean_up(&id, Some(&address)).await?;
                        Err(refusal)
                    }
                }
            };
            ctx.job("create task", |_| work, move |task, made, ctx| task.created(made, reply, ctx));
        });
    }
}

impl TaskActor {
    fn created(&mut self, made: Answer<Made>, reply: ReplyTo<Process>, ctx: &mut Ctx<Self>) {
        match made {
            Ok(made) => {
                self.machine.phase = Phase::Live;
                self.step(&None, Step::Created);
                let Some(row) = &mut self.row else { return };
                row.phase = TaskPhase::Live;
                row.init.pid = made.pid;
                row.rootfs = made.rootfs;
                row.shim = Some((&made.address).into());
                let event = Event::TaskCreated {
                    container_id: self.id.container.clone(),
                    bundle: row.bundle.clone(),
                    rootfs: row.rootfs.clone(),
                    stdio: row.init.stdio.clone(),
                    checkpoint: String::new(),
                    pid: made.pid,
                };
                self.shim = Some(made.shim);
                self.commit(vec![event], false, ctx, move |task, committed, ctx| {
                    task.watch(None, ctx);
                    reply.send(committed.and_then(|()| task.tell_process(&None)));
                });
            }
            Err(refusal) => {
                let id = self.id.container.clone();
                let changes = vec![Change::DeleteTask(id)];
                self.commit_changes(changes, Vec::new(), false, ctx, move |task, committed, ctx| {
                    if let Err(error) = committed {
                        // The row stays as an intent; the next start of this actor resolves it.
                        return ctx.fail(format!("remove the row of a task that was not made: {error}"));
                    }
                    task.forget(ctx);
                    reply.send(Err(refusal));
                });
            }
        }
    }

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
        let Ask { call, reply, .. } = ask;
        let process = call.exec_id;
        let shim = match self.machine.permit(&Verb::Start(process.clone())).and_then(|()| self.shim()) {
            Ok(shim) => shim,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        self.machine.put(process.clone(), Step::Starting);
        let named = process.clone();
        let work = async move { shim.start(named.as_ref()).await };
        ctx.job(
            "start process",
            |_| work,
            move |task, started, ctx| {
                task.listen_for_loss(&started, ctx);
                match started {
                    Ok(pid) => task.started_process(process, pid, reply, ctx),
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
    fn started_process(&mut self, process: ProcessId, pid: u32, reply: ReplyTo<Process>, ctx: &mut Ctx<Self>) {
        self.step(&process, Step::Running);
        if let Some(row) = self.process_row(&process) {
            row.pid = pid;
        }
        let container_id = self.id.container.clone();
        let event = match &process {
            None => Event::TaskStarted { container_id, pid },
            Some(exec_id) => Event::TaskExecStarted { container_id, exec_id: exec_id.clone(), pid },
        };
        self.commit(vec![event], false, ctx, move |task, committed, ctx| {
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
        let Ask { call, reply, .. } = ask;
        let shim = match self.machine.permit(&Verb::Exec(call.exec_id.clone())).and_then(|()| self.shim()) {
            Ok(shim) => shim,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let process = Some(call.exec_id.clone());
        self.machine.put(process.clone(), Step::Adding);
        let (exec_id, stdio) = (call.exec_id.clone(), call.stdio.clone());
        let work = async move { shim.exec(&call.exec_id, &call.stdio, &call.spec).await };
        ctx.job(
            "add process",
            |_| work,
            move |task, added, ctx| {
                task.listen_for_loss(&added, ctx);
                if let Err(refusal) = added {
                    task.machine.processes.remove(&process);
                    return reply.send(Err(refusal));
                }
                let Some(row) = &mut task.row else {
                    return reply.send(Err(refuse::no_task(&task.id.container)));
                };
                row.execs.push(super::new_row(Some(exec_id.clone()), stdio));
                task.step(&process, Step::Created);
                let event = Event::TaskExecAdded { container_id: task.id.container.clone(), exec_id };
                task.commit(vec![event], false, ctx, move |_, committed, _| reply.send(committed));
            },
        );
    }
}

impl Handler<Ask<KillTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<KillTask>, ctx: &mut Ctx<Self>) {
        let Ask { call, reply, .. } = ask;
        self.word(&Verb::Kill(call.exec_id.clone()), "kill process", reply, ctx, |shim| async move {
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
        let Ask { call, reply, .. } = ask;
        if call.image_path.is_empty() {
            let refusal = Refusal::not_implemented("checkpoint into the content store: give an image path");
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
                task.commit(vec![event], false, ctx, move |_, committed, _| reply.send(committed.map(|()| Vec::new())));
            },
        );
    }
}

impl TaskActor {
    /// Freezes or thaws, then says so.
    fn freeze(&mut self, verb: &Verb, reply: ReplyTo<()>, ctx: &mut Ctx<Self>) {
        let pause = *verb == Verb::Pause;
        let shim = match self.machine.permit(verb).and_then(|()| self.shim()) {
            Ok(shim) => shim,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let work = async move { if pause { shim.pause().await } else { shim.resume().await } };
        ctx.job(
            "freeze or thaw",
            |_| work,
            move |task, end, ctx| {
                task.listen_for_loss(&end, ctx);
                if let Err(refusal) = end {
                    return reply.send(Err(refusal));
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
                task.commit(vec![event], false, ctx, move |_, committed, _| reply.send(committed));
            },
        );
    }
}

impl Handler<Ask<PauseTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<PauseTask>, ctx: &mut Ctx<Self>) {
        self.freeze(&Verb::Pause, ask.reply, ctx);
    }
}

impl Handler<Ask<ResumeTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<ResumeTask>, ctx: &mut Ctx<Self>) {
        self.freeze(&Verb::Resume, ask.reply, ctx);
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
