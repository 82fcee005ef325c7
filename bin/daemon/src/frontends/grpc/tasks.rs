//! `containerd.services.tasks.v1.Tasks`.

use super::{
    api::{Api, Reply},
    convert::{any, any_in, descriptor, descriptor_in, mounts_in, optional, required, time},
    proto::containerd::{
        services::tasks::v1::{
            CheckpointTaskRequest, CheckpointTaskResponse, CloseIoRequest, CreateTaskRequest, CreateTaskResponse,
            DeleteProcessRequest, DeleteResponse, DeleteTaskRequest, ExecProcessRequest, GetRequest, GetResponse,
            KillRequest, ListPidsRequest, ListPidsResponse, ListTasksRequest, ListTasksResponse, MetricsRequest,
            MetricsResponse, PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, StartResponse,
            UpdateTaskRequest, WaitRequest, WaitResponse, tasks_server::Tasks,
        },
        types::Metric,
        v1::types::{Process as Wire, ProcessInfo, Status as WireStatus},
    },
};
use tonic::{Request, async_trait};
use wharf_messages::{
    Answer, ContainerId, ExecId, Refusal,
    task::{
        CheckpointTask, CloseIo, CreateTask, DeleteTask, DeletedProcess, ExecTask, GetMetrics, GetTask, KillTask,
        ListPids, ListTasks, PauseTask, PidInfo, Process, ResizePty, ResumeTask, Rootfs, StartTask, Stdio, TaskMetrics,
        TaskStatus, UpdateTask, WaitTask,
    },
};

/// A process. The first one has its container's id.
fn process(process: Process) -> Wire {
    let status = match process.status {
        TaskStatus::Created => WireStatus::Created,
        TaskStatus::Running => WireStatus::Running,
        TaskStatus::Stopped => WireStatus::Stopped,
        TaskStatus::Paused => WireStatus::Paused,
        TaskStatus::Pausing => WireStatus::Pausing,
        TaskStatus::Unknown => WireStatus::Unknown,
    };
    let Stdio { stdin, stdout, stderr, terminal } = process.stdio;
    let id = process.exec_id.map_or_else(|| process.container_id.to_string(), String::from);
    Wire {
        // Only its `id` is filled, as by containerd.
        container_id: String::new(),
        id,
        pid: process.pid,
        status: status.into(),
        stdin,
        stdout,
        stderr,
        terminal,
        exit_status: process.exit.map_or(0, |exit| exit.code),
        exited_at: process.exit.and_then(|exit| time(exit.exited_at)),
    }
}

/// Which process: the empty name is the task's first.
fn which(container_id: &str, exec_id: &str) -> Answer<(ContainerId, Option<ExecId>)> {
    Ok((container(container_id)?, optional(exec_id, ExecId::new)?))
}

/// Whose task: no container has a name that cannot be, and so it is not found.
fn container(id: &str) -> Answer<ContainerId> {
    ContainerId::new(id).map_err(|_| Refusal::not_found(format!("container {id:?}")))
}

fn deleted(id: String, DeletedProcess { pid, exit }: DeletedProcess) -> DeleteResponse {
    DeleteResponse { id, pid, exit_status: exit.code, exited_at: time(exit.exited_at) }
}

fn create(wire: CreateTaskRequest) -> Answer<CreateTask> {
    if !wire.task_api_address.is_empty() {
        return Err(Refusal::not_implemented(format!("task {}: a task API at an address", wire.container_id)));
    }
    let CreateTaskRequest { stdin, stdout, stderr, terminal, .. } = wire;
    Ok(CreateTask {
        container_id: container(&wire.container_id)?,
        rootfs: Rootfs::Mounts(mounts_in(wire.rootfs)),
        stdio: Stdio { stdin, stdout, stderr, terminal },
        options: wire.options.map(any_in),
        runtime_path: wire.runtime_path,
        checkpoint: wire.checkpoint.map(|checkpoint| descriptor_in("checkpoint", Some(checkpoint))).transpose()?,
    })
}

fn exec(wire: ExecProcessRequest) -> Answer<ExecTask> {
    let ExecProcessRequest { stdin, stdout, stderr, terminal, .. } = wire;
    Ok(ExecTask {
        container_id: container(&wire.container_id)?,
        exec_id: match wire.exec_id.as_str() {
            "" => return Err(Refusal::invalid("exec id cannot be empty")),
            id => ExecId::new(id).map_err(|refusal| refusal.context(format!("invalid exec id {id}")))?,
        },
        stdio: Stdio { stdin, stdout, stderr, terminal },
        spec: any_in(required("process spec", wire.spec)?),
    })
}

#[async_trait]
impl Tasks for Api {
    async fn create(&self, request: Request<CreateTaskRequest>) -> Reply<CreateTaskResponse> {
        self.unary(request, create, |made| CreateTaskResponse { container_id: made.container_id.into(), pid: made.pid })
            .await
    }

    async fn start(&self, request: Request<StartRequest>) -> Reply<StartResponse> {
        self.unary(
            request,
            |wire| {
                let (container_id, exec_id) = which(&wire.container_id, &wire.exec_id)?;
                Ok(StartTask { container_id, exec_id })
            },
            |started| StartResponse { pid: started.pid },
        )
        .await
    }

    async fn delete(&self, request: Request<DeleteTaskRequest>) -> Reply<DeleteResponse> {
        self.unary(
            request,
            |wire| Ok(DeleteTask { container_id: container(&wire.container_id)?, exec_id: None }),
            // Only an added one's `id` is filled, as by containerd.
            |done| deleted(String::new(), done),
        )
        .await
    }

    async fn delete_process(&self, request: Request<DeleteProcessRequest>) -> Reply<DeleteResponse> {
        let id = request.get_ref().exec_id.clone();
        self.unary(
            request,
            |wire| {
                let container_id = container(&wire.container_id)?;
                // Without a name it would be the task as a whole.
                Ok(DeleteTask { container_id, exec_id: Some(ExecId::new(wire.exec_id)?) })
            },
            |done| deleted(id, done),
        )
        .await
    }

    async fn get(&self, request: Request<GetRequest>) -> Reply<GetResponse> {
        self.unary(
            request,
            |wire| {
                let (container_id, exec_id) = which(&wire.container_id, &wire.exec_id)?;
                Ok(GetTask { container_id, exec_id })
            },
            |found| GetResponse { process: Some(process(found)) },
        )
        .await
    }

    async fn list(&self, request: Request<ListTasksRequest>) -> Reply<ListTasksResponse> {
        self.unary(
            request,
            // containerd does not look at the filter.
            |_| Ok(ListTasks::default()),
            |found| ListTasksResponse { tasks: found.into_iter().map(process).collect() },
        )
        .await
    }

    async fn kill(&self, request: Request<KillRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| {
                let (container_id, exec_id) = which(&wire.container_id, &wire.exec_id)?;
                Ok(KillTask { container_id, exec_id, signal: wire.signal, all: wire.all })
            },
            |()| (),
        )
        .await
    }

    async fn exec(&self, request: Request<ExecProcessRequest>) -> Reply<()> {
        self.unary(request, exec, |()| ()).await
    }

    async fn resize_pty(&self, request: Request<ResizePtyRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| {
                let (container_id, exec_id) = which(&wire.container_id, &wire.exec_id)?;
                Ok(ResizePty { container_id, exec_id, width: wire.width, height: wire.height })
            },
            |()| (),
        )
        .await
    }

    async fn close_io(&self, request: Request<CloseIoRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| {
                let (container_id, exec_id) = which(&wire.container_id, &wire.exec_id)?;
                Ok(CloseIo { container_id, exec_id })
            },
            |()| (),
        )
        .await
    }

    async fn pause(&self, request: Request<PauseTaskRequest>) -> Reply<()> {
        let pause = |wire: PauseTaskRequest| Ok(PauseTask { container_id: container(&wire.container_id)? });
        self.unary(request, pause, |()| ()).await
    }

    async fn resume(&self, request: Request<ResumeTaskRequest>) -> Reply<()> {
        let resume = |wire: ResumeTaskRequest| Ok(ResumeTask { container_id: container(&wire.container_id)? });
        self.unary(request, resume, |()| ()).await
    }

    async fn list_pids(&self, request: Request<ListPidsRequest>) -> Reply<ListPidsResponse> {
        self.unary(
            request,
            |wire| Ok(ListPids { container_id: container(&wire.container_id)? }),
            |found| {
                let info = |PidInfo { pid, info }| ProcessInfo { pid, info: info.map(any) };
                ListPidsResponse { processes: found.into_iter().map(info).collect() }
            },
        )
        .await
    }

    async fn checkpoint(&self, request: Request<CheckpointTaskRequest>) -> Reply<CheckpointTaskResponse> {
        self.unary(
            request,
            |wire| {
                Ok(CheckpointTask {
                    container_id: container(&wire.container_id)?,
                    // Clients say it within the options.
                    image_path: String::new(),
                    options: wire.options.map(any_in),
                })
            },
            |made| CheckpointTaskResponse { descriptors: made.into_iter().map(descriptor).collect() },
        )
        .await
    }

    async fn update(&self, request: Request<UpdateTaskRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| {
                Ok(UpdateTask {
                    container_id: container(&wire.container_id)?,
                    resources: any_in(required("resources", wire.resources)?),
                    annotations: wire.annotations,
                })
            },
            |()| (),
        )
        .await
    }

    async fn metrics(&self, request: Request<MetricsRequest>) -> Reply<MetricsResponse> {
        self.unary(
            request,
            |wire| Ok(GetMetrics { filters: wire.filters }),
            |found| {
                let metric = |TaskMetrics { container_id, at, data }| Metric {
                    timestamp: time(at),
                    id: container_id.into(),
                    data: Some(any(data)),
                };
                MetricsResponse { metrics: found.into_iter().map(metric).collect() }
            },
        )
        .await
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Reply<WaitResponse> {
        self.unary(
            request,
            |wire| {
                let (container_id, exec_id) = which(&wire.container_id, &wire.exec_id)?;
                Ok(WaitTask { container_id, exec_id })
            },
            |exit| WaitResponse { exit_status: exit.code, exited_at: time(exit.exited_at) },
        )
        .await
    }
}
