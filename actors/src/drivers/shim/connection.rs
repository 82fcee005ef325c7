//! The conversation with one shim over ttrpc: Task service version 3, or 2 where that is what it speaks.

use super::{CreateProcess, ProcessState, Shim, ShimAddress, TaskId};
use async_trait::async_trait;
use containerd_shim_protos::{
    api,
    protobuf::{Message, MessageField, well_known_types},
    shim_async::Client,
    ttrpc::{self, context::Context},
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tracing::Instrument;
use wharf_messages::{
    Answer, Any, ExecId, Labels, Mount, Refusal, RefusalKind, Timestamp,
    task::{Exit, PidInfo, Stdio, TaskStatus},
};

const TASK_V3: &str = "containerd.task.v3.Task";
const TASK_V2: &str = "containerd.task.v2.Task";

/// Reaching a shim that lives.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Reading a state.
///
/// # Spec
/// API reference, section 3 "Tasks": the state query's limit is 2 s.
const QUERY_LIMIT: Duration = Duration::from_secs(2);
/// Everything that makes the runtime work; a restore from a checkpoint is the slowest.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// Deleting drains the output first, for at most 10 s.
const DELETE_LIMIT: Duration = Duration::from_secs(30);
/// # Spec
/// API reference, section 3 "Shim bootstrap": shutdown 3 s.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// A shim reached over its socket.
pub(super) struct Connection {
    client: Client,
    task: TaskId,
    /// Set once a version 3 call was answered with "not implemented".
    version_2: AtomicBool,
}

impl Connection {
    /// Connects; nothing is asked yet.
    pub(super) async fn open(task: &TaskId, address: &ShimAddress) -> Answer<Self> {
        let doing = || format!("connect to the shim of {task} at {}", address.address);
        let client = tokio::time::timeout(CONNECT_LIMIT, Client::connect(&address.address))
            .await
            .map_err(|_| Refusal::deadline_exceeded(doing()))?
            .map_err(|e| Refusal::unavailable(format!("{}: {}", doing(), words(&e))))?;
        Ok(Self { client, task: task.clone(), version_2: AtomicBool::new(address.version < 3) })
    }

    async fn call<Request: Message, Response: Message>(
        &self,
        method: &str,
        request: &Request,
        limit: Option<Duration>,
    ) -> Answer<Response> {
        let span = tracing::trace_span!("shim", otel.name = %format_args!("shim {method}"), otel.kind = "client");
        self.call_shim(method, request, limit).instrument(span.or_current()).await
    }

    async fn call_shim<Request: Message, Response: Message>(
        &self,
        method: &str,
        request: &Request,
        limit: Option<Duration>,
    ) -> Answer<Response> {
        let payload = request.write_to_bytes().map_err(|e| Refusal::internal(format!("encode {method}: {e}")))?;
        let version_2 = self.version_2.load(Ordering::Relaxed);
        match self.send(version_2, method, payload.clone(), limit).await {
            // A shim that promised version 3 and does not have it gets asked the old way from then on.
            Err(refusal) if refusal.is(RefusalKind::NotImplemented) && !version_2 => {
                let response = self.send(true, method, payload, limit).await?;
                self.version_2.store(true, Ordering::Relaxed);
                Ok(response)
            }
            other => other,
        }
    }

    async fn send<Response: Message>(
        &self,
        version_2: bool,
        method: &str,
        payload: Vec<u8>,
        limit: Option<Duration>,
    ) -> Answer<Response> {
        let mut context = limit.map_or_else(Context::default, ttrpc::context::with_duration);
        context.set("containerd-namespace-ttrpc".to_owned(), vec![self.task.namespace.as_str().to_owned()]);
        let request = ttrpc::Request {
            service: if version_2 { TASK_V2 } else { TASK_V3 }.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: context.timeout_nano,
            metadata: ttrpc::context::to_pb(context.metadata),
            ..Default::default()
        };
        let response = self.client.request(request).await.map_err(|e| refusal(&e))?;
        Response::parse_from_bytes(&response.payload).map_err(|e| {
            Refusal::internal(format!("the shim of {} answered {method} with something else: {e}", self.task))
        })
    }

    /// The serving process, as it says itself.
    pub(super) async fn shim_pid(&self) -> Answer<u32> {
        let request = api::ConnectRequest { id: self.id(), ..Default::default() };
        let response: api::ConnectResponse = self.call("Connect", &request, Some(QUERY_LIMIT)).await?;
        Ok(response.shim_pid)
    }

    fn id(&self) -> String {
        self.task.container.to_string()
    }
}

/// The shim's words for an error, without the transport's wrapping.
fn words(error: &ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Turns a ttrpc error into a refusal of the same kind.
pub(super) fn refusal(error: &ttrpc::Error) -> Refusal {
    use ttrpc::Code;
    let kind = match error {
        ttrpc::Error::RpcStatus(status) => match status.code.enum_value_or_default() {
            Code::CANCELLED => RefusalKind::Canceled,
            Code::INVALID_ARGUMENT => RefusalKind::InvalidArgument,
            Code::DEADLINE_EXCEEDED => RefusalKind::DeadlineExceeded,
            Code::NOT_FOUND => RefusalKind::NotFound,
            Code::ALREADY_EXISTS => RefusalKind::AlreadyExists,
            Code::PERMISSION_DENIED => RefusalKind::PermissionDenied,
            Code::UNAUTHENTICATED => RefusalKind::Unauthenticated,
            Code::RESOURCE_EXHAUSTED => RefusalKind::ResourceExhausted,
            Code::FAILED_PRECONDITION => RefusalKind::FailedPrecondition,
            Code::ABORTED => RefusalKind::Aborted,
            Code::OUT_OF_RANGE => RefusalKind::OutOfRange,
            Code::UNIMPLEMENTED => RefusalKind::NotImplemented,
            Code::INTERNAL => RefusalKind::Internal,
            Code::UNAVAILABLE => RefusalKind::Unavailable,
            Code::DATA_LOSS => RefusalKind::DataLoss,
            Code::OK | Code::UNKNOWN => RefusalKind::Unknown,
        },
        // The connection is gone: the shim may have died, or be about to.
        _ => RefusalKind::Unavailable,
    };
    let mut told = Refusal::told(kind, &words(error));
    if told.detail.is_empty() {
        "shim".clone_into(&mut told.detail);
    }
    told
}

/// Protobuf's `Any` of ours.
pub(super) fn any(any: &Any) -> well_known_types::any::Any {
    well_known_types::any::Any { type_url: any.type_url.clone(), value: any.value.to_vec(), ..Default::default() }
}

fn any_back(any: well_known_types::any::Any) -> Any {
    Any { type_url: any.type_url, value: any.value.into() }
}

/// Our instant of protobuf's; a missing one is zero.
pub(super) fn timestamp(time: Option<&well_known_types::timestamp::Timestamp>) -> Timestamp {
    time.map_or(Timestamp::ZERO, |t| Timestamp::from_parts(t.seconds, t.nanos))
}

/// Protobuf's instant of ours.
pub(super) fn timestamp_out(at: Timestamp) -> well_known_types::timestamp::Timestamp {
    well_known_types::timestamp::Timestamp { seconds: at.seconds(), nanos: at.nanos(), ..Default::default() }
}

fn mount(mount: &Mount) -> api::Mount {
    api::Mount {
        type_: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
        ..Default::default()
    }
}

fn exec_id(exec: Option<&ExecId>) -> String {
    exec.map(ExecId::to_string).unwrap_or_default()
}

#[async_trait]
impl Shim for Connection {
    async fn create(&self, create: CreateProcess) -> Answer<u32> {
        let request = api::CreateTaskRequest {
            id: self.id(),

            bundle: create.bundle,
            rootfs: create.rootfs.iter().map(mount).collect(),
            terminal: create.stdio.terminal,
            stdin: create.stdio.stdin,
            stdout: create.stdio.stdout,
            stderr: create.stdio.stderr,
            checkpoint: create.checkpoint,
            options: create.options.as_ref().map(any).into(),
            ..Default::default()
        };
        let response: api::CreateTaskResponse = self.call("Create", &request, Some(COMMAND_LIMIT)).await?;
        Ok(response.pid)
    }

    async fn start(&self, exec: Option<&ExecId>) -> Answer<u32> {
        let request = api::StartRequest { id: self.id(), exec_id: exec_id(exec), ..Default::default() };
        let response: api::StartResponse = self.call("Start", &request, Some(COMMAND_LIMIT)).await?;
        Ok(response.pid)
    }

    async fn state(&self, exec: Option<&ExecId>) -> Answer<ProcessState> {
        let request = api::StateRequest { id: self.id(), exec_id: exec_id(exec), ..Default::default() };
        let state: api::StateResponse = self.call("State", &request, Some(QUERY_LIMIT)).await?;
        let status = match state.status.enum_value_or_default() {
            api::Status::CREATED => TaskStatus::Created,
            api::Status::RUNNING => TaskStatus::Running,
            api::Status::STOPPED => TaskStatus::Stopped,
            api::Status::PAUSED => TaskStatus::Paused,
            api::Status::PAUSING => TaskStatus::Pausing,
            api::Status::UNKNOWN => TaskStatus::Unknown,
        };
        let exit = (status == TaskStatus::Stopped).then(|| Exit {
            code: state.exit_status,
            exited_at: timestamp(state.exited_at.as_ref()),
            oom: false,
        });
        let stdio = Stdio { stdin: state.stdin, stdout: state.stdout, stderr: state.stderr, terminal: state.terminal };
        Ok(ProcessState { pid: state.pid, status, stdio, exit })
    }

    async fn wait(&self, exec: Option<&ExecId>) -> Answer<(u32, Timestamp)> {
        let request = api::WaitRequest { id: self.id(), exec_id: exec_id(exec), ..Default::default() };
        let response: api::WaitResponse = self.call("Wait", &request, None).await?;
        Ok((response.exit_status, timestamp(response.exited_at.as_ref())))
    }

    async fn delete(&self, exec: Option<&ExecId>) -> Answer<(u32, u32, Timestamp)> {
        let request = api::DeleteRequest { id: self.id(), exec_id: exec_id(exec), ..Default::default() };
        let response: api::DeleteResponse = self.call("Delete", &request, Some(DELETE_LIMIT)).await?;
        Ok((response.pid, response.exit_status, timestamp(response.exited_at.as_ref())))
    }

    async fn exec(&self, exec: &ExecId, stdio: &Stdio, spec: &Any) -> Answer<()> {
        let request = api::ExecProcessRequest {
            id: self.id(),
            exec_id: exec.to_string(),
            terminal: stdio.terminal,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            spec: MessageField::some(any(spec)),
            ..Default::default()
        };
        self.call("Exec", &request, Some(COMMAND_LIMIT)).await.map(|_: api::Empty| ())
    }

    async fn kill(&self, exec: Option<&ExecId>, signal: u32, all: bool) -> Answer<()> {
        let request = api::KillRequest { id: self.id(), exec_id: exec_id(exec), signal, all, ..Default::default() };
        self.call("Kill", &request, Some(COMMAND_LIMIT)).await.map(|_: api::Empty| ())
    }

    async fn pause(&self) -> Answer<()> {
        let request = api::PauseRequest { id: self.id(), ..Default::default() };
        self.call("Pause", &request, Some(COMMAND_LIMIT)).await.map(|_: api::Empty| ())
    }

    async fn resume(&self) -> Answer<()> {
        let request = api::ResumeRequest { id: self.id(), ..Default::default() };
        self.call("Resume", &request, Some(COMMAND_LIMIT)).await.map(|_: api::Empty| ())
    }

    async fn resize(&self, exec: Option<&ExecId>, width: u32, height: u32) -> Answer<()> {
        let request =
            api::ResizePtyRequest { id: self.id(), exec_id: exec_id(exec), width, height, ..Default::default() };
        self.call("ResizePty", &request, Some(QUERY_LIMIT)).await.map(|_: api::Empty| ())
    }

    async fn close_io(&self, exec: Option<&ExecId>) -> Answer<()> {
        let request = api::CloseIORequest { id: self.id(), exec_id: exec_id(exec), stdin: true, ..Default::default() };
        self.call("CloseIO", &request, Some(COMMAND_LIMIT)).await.map(|_: api::Empty| ())
    }

    async fn pids(&self) -> Answer<Vec<PidInfo>> {
        let request = api::PidsRequest { id: self.id(), ..Default::default() };
        let response: api::PidsResponse = self.call("Pids", &request, Some(QUERY_LIMIT)).await?;
        let info = |p: api::ProcessInfo| PidInfo { pid: p.pid, info: p.info.into_option().map(any_back) };
        Ok(response.processes.into_iter().map(info).collect())
    }

    async fn stats(&self) -> Answer<Any> {
        let request = api::StatsRequest { id: self.id(), ..Default::default() };
        let response: api::StatsResponse = self.call("Stats", &request, Some(QUERY_LIMIT)).await?;
        response
            .stats
            .into_option()
            .map(any_back)
            .ok_or_else(|| Refusal::internal(format!("the shim of {} answered without figures", self.task)))
    }

    async fn update(&self, resources: &Any, annotations: &Labels) -> Answer<()> {
        let request = api::UpdateTaskRequest {
            id: self.id(),
            resources: MessageField::some(any(resources)),
            annotations: annotations.clone().into_iter().collect(),
            ..Default::default()
        };
        self.call("Update", &request, Some(COMMAND_LIMIT)).await.map(|_: api::Empty| ())
    }

    async fn checkpoint(&self, path: &str, options: Option<&Any>) -> Answer<()> {
        let request = api::CheckpointTaskRequest {
            id: self.id(),
            path: path.to_owned(),
            options: options.map(any).into(),
            ..Default::default()
        };
        self.call("Checkpoint", &request, Some(COMMAND_LIMIT)).await.map(|_: api::Empty| ())
    }

    async fn shutdown(&self) -> Answer<()> {
        let request = api::ShutdownRequest { id: self.id(), ..Default::default() };
        match self.call("Shutdown", &request, Some(SHUTDOWN_LIMIT)).await.map(|_: api::Empty| ()) {
            // It may be gone before its answer is out.
            Err(refusal) if refusal.is(RefusalKind::Unavailable) => Ok(()),
            other => other,
        }
    }
}
