//! Making a task: the intent, then shim and first process, then the fact.

use super::{
    RestoreTask, TaskActor, TaskDeps,
    machine::{Phase, Step, Verb},
};
use crate::{
    drivers::shim::{CHECKPOINT_FOLDER, CreateProcess, Launch, Shim, ShimAddress, TaskId, restore_path},
    runtime::{Ask, Ctx, Handler, ReplyTo, blocking},
};
use std::{path::PathBuf, sync::Arc};
use tracing::Instrument;
use wharf_failpoints::try_failpoint;
use wharf_messages::{
    Answer, Mount, Refusal, SnapshotKey, SnapshotterName,
    event::Event,
    task::{CreateTask, Process, Rootfs, Stdio},
};
use wharf_store::{Change, TaskPhase, TaskRow, refuse};

/// What creating a task came to.
struct Made {
    address: ShimAddress,
    shim: Arc<dyn Shim>,
    rootfs: Vec<Mount>,
    checkpoint: String,
    pid: u32,
}

/// Why there is no task, and what keeps something of it from going.
struct NotMade {
    refusal: Refusal,
    left: Option<Refusal>,
}

/// Launches the shim and has it make the first process.
async fn make(
    deps: &Arc<TaskDeps>,
    id: &TaskId,
    rootfs: Rootfs,
    snapshot: Option<(SnapshotterName, SnapshotKey)>,
    stdio: Stdio,
    launch: Launch,
) -> Answer<Made> {
    let rootfs = match (rootfs, snapshot) {
        (Rootfs::Mounts(mounts), _) => mounts,
        (Rootfs::Snapshot, Some((snapshotter, key))) => {
            let (deps, namespace) = (Arc::clone(deps), id.namespace.clone());
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
    let bundle = deps.shims.bundle_path(id);
    let checkpoint = match &launch.checkpoint {
        Some(_) => format!("{bundle}/{CHECKPOINT_FOLDER}"),
        None => restore_path(options.as_ref())?,
    };
    let span = tracing::trace_span!("shim launch").or_current();
    let (address, shim) = deps.shims.launch(launch).instrument(span).await?;
    let create = CreateProcess { bundle, rootfs: rootfs.clone(), stdio, checkpoint: checkpoint.clone(), options };
    try_failpoint!("task/make");
    let created = shim.create(create).await;
    try_failpoint!("task/made");
    match created {
        Ok(pid) => Ok(Made { address, shim, rootfs, checkpoint, pid }),
        Err(refusal) => {
            take_down(id, &*shim).await;
            Err(refusal.context("failed to create shim task"))
        }
    }
}

impl Handler<Ask<CreateTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<CreateTask>, ctx: &mut Ctx<Self>) {
        self.create(ask.call, None, (ask.reply, ask.meta.request_id), ctx);
    }
}

impl Handler<Ask<RestoreTask>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<RestoreTask>, ctx: &mut Ctx<Self>) {
        self.create(ask.call.create, Some(ask.call.image), (ask.reply, ask.meta.request_id), ctx);
    }
}

impl TaskActor {
    fn create(
        &mut self,
        call: CreateTask,
        checkpoint: Option<PathBuf>,
        (reply, request): (ReplyTo<Process>, u64),
        ctx: &mut Ctx<Self>,
    ) {
        if let Err(refusal) = self.machine.permit(&Verb::Create) {
            return reply.send(Err(refusal));
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
        let launch = Launch {
            task: self.id.clone(),
            runtime,
            runtime_path: call.runtime_path,
            spec_json: spec.value.into(),
            checkpoint,
        };
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
                match make(&deps, &id, rootfs, snapshot, stdio, launch).await {
                    Ok(made) => Ok(Ok(made)),
                    Err(refusal) => {
                        // Shim and bundle go before the row does (TASK-1); its refusal is what the caller needs to hear.
                        let left = deps.shims.clean_up(&id, None).await.err();
                        Ok(Err(NotMade { refusal, left }))
                    }
                }
            };
            let work = task.track(work);
            ctx.job(
                "create task",
                |_| work,
                move |task, made, ctx| match made {
                    Ok(made) => task.created(made, request, reply, ctx),
                    // A job that did not come to its end may have left anything.
                    Err(refusal) => task.unmake(refusal, reply, ctx),
                },
            );
        });
    }

    fn created(&mut self, made: Result<Made, NotMade>, request: u64, reply: ReplyTo<Process>, ctx: &mut Ctx<Self>) {
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
                    checkpoint: made.checkpoint,
                    pid: made.pid,
                };
                self.shim = Some(made.shim);
                self.commit_request(self.put_row(), vec![event], false, request, ctx, move |task, committed, ctx| {
                    match committed {
                        Ok(()) => {
                            task.watch(None, ctx);
                            reply.send(task.tell_process(&None));
                        }
                        Err(refusal) => task.unmake(refusal, reply, ctx),
                    }
                });
            }
            Err(NotMade { refusal, left: None }) => self.not_made(refusal, reply, ctx),
            Err(NotMade { refusal, left: Some(left) }) => {
                reply.send(Err(refusal));
                self.undo_creation_later(0, &left, ctx);
            }
        }
    }

    /// Takes down what was made and could not be committed.
    fn unmake(&mut self, refusal: Refusal, reply: ReplyTo<Process>, ctx: &mut Ctx<Self>) {
        self.machine.phase = Phase::Creating;
        self.machine.put(None, Step::Adding);
        let (shim, deps, id) = (self.shim.take(), Arc::clone(&self.deps), self.id.clone());
        let address = self.row.as_ref().and_then(|row| row.shim.as_ref()).map(ShimAddress::from);
        let work = self.track(async move {
            if let Some(shim) = shim {
                take_down(&id, &*shim).await;
            }
            deps.shims.clean_up(&id, address.as_ref()).await
        });
        ctx.job(
            "unmake task",
            |_| work,
            move |task, undone, ctx| match undone {
                Ok(_) => task.not_made(refusal, reply, ctx),
                Err(error) => {
                    // The row stays as an intent, which is resolved as after a restart.
                    reply.send(Err(refusal));
                    task.undo_creation_later(0, &error, ctx);
                }
            },
        );
    }

    /// Removes the intent, and says why nothing came of it.
    fn not_made(&mut self, refusal: Refusal, reply: ReplyTo<Process>, ctx: &mut Ctx<Self>) {
        let changes = vec![Change::DeleteTask(self.id.container.clone())];
        self.commit_changes(changes, Vec::new(), false, ctx, move |task, committed, ctx| {
            if let Err(error) = committed {
                reply.send(Err(refusal));
                return task.undo_creation_later(0, &error, ctx);
            }
            task.forget(ctx);
            reply.send(Err(refusal));
        });
    }
}

/// Ends a shim whose task was not made.
async fn take_down(task: &TaskId, shim: &dyn Shim) {
    // A first process that was made keeps its shim from ending.
    if let Err(error) = shim.delete(None).await {
        tracing::debug!(%task, %error, "a task that was not made has no process to delete");
    }
    if let Err(error) = shim.shutdown().await {
        tracing::debug!(%task, %error, "the shim of a task that was not made did not shut down");
    }
}
