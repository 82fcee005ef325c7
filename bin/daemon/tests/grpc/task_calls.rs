//! The calls of the task service, and containers to make them about.

use crate::{
    client::{Channel, Daemon, origin, within},
    proto::containerd::services::{
        containers::v1::{Container, CreateContainerRequest, containers_client::ContainersClient},
        tasks::v1::{
            CheckpointTaskRequest, CloseIoRequest, CreateTaskRequest, DeleteProcessRequest, DeleteTaskRequest,
            ExecProcessRequest, GetRequest, KillRequest, ListPidsRequest, ListTasksRequest, MetricsRequest,
            PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, UpdateTaskRequest, WaitRequest,
            tasks_client::TasksClient,
        },
    },
};
use serde_json::json;
use std::{fs, time::Duration};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use wharf_grpc::Any;
use wharf_grpc::status::refusal;
use wharf_tests::{images, wait::PATIENCE};

/// How long a wait is waited for, where it may be that there is no end.
const A_WHILE: Duration = Duration::from_millis(500);
/// What containers and added processes do: nothing, until they are killed.
const SLEEP: [&str; 2] = ["sleep", "1000"];

/// A call about a container. Added processes are named, the first one by no name.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    Create,
    CreateWith {
        terminal: bool,
    },
    Start(&'static str),
    Delete,
    DeleteProcess(&'static str),
    Get(&'static str),
    List(&'static str),
    Kill(&'static str, u32),
    KillAll(u32),
    Exec(&'static str),
    /// Adds a process whose spec is this.
    ExecOf(&'static str, Given),
    ResizePty(&'static str),
    CloseIo(&'static str),
    Pause,
    Resume,
    ListPids,
    Checkpoint(Option<Given>),
    Update(Option<Given>),
    Metrics(&'static str),
    Wait(&'static str),
}

/// What is within an `Any`: its type, and its value.
pub type Given = (&'static str, &'static str);

/// A daemon's task service, and containers.
pub struct Tasks {
    tasks: TasksClient<Channel>,
    containers: ContainersClient<Channel>,
    namespace: String,
    folder: tempfile::TempDir,
    made: u32,
    ends: Vec<fs::File>,
}

impl Tasks {
    pub async fn of(daemon: &Daemon) -> Self {
        let folder = tempfile::tempdir().unwrap();
        images::fill_busybox(&folder.path().join("rootfs"));
        Self {
            tasks: TasksClient::with_origin(daemon.connect().await, origin()),
            containers: daemon.containers().await,
            namespace: daemon.namespace().to_owned(),
            folder,
            made: 0,
            ends: Vec::new(),
        }
    }

    /// A new container; its name.
    pub async fn container(&mut self, terminal: bool) -> String {
        self.made += 1;
        let id = format!("container-{}", self.made);
        let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({"type": kind}));
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": process(&SLEEP, terminal),
            "root": {"path": self.folder.path().join("rootfs")},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["ptmxmode=0666"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.namespace),
                "namespaces": namespaces,
            },
        });
        let container = Container {
            id: id.clone(),
            runtime: Some(crate::proto::containerd::services::containers::v1::container::Runtime {
                name: "io.containerd.runc.v2".to_owned(),
                options: None,
            }),
            spec: Some(any("Spec", &spec.to_string())),
            ..Container::default()
        };
        let request = within(&self.namespace, CreateContainerRequest { container: Some(container) });
        self.containers.create(request).await.unwrap();
        id
    }

    /// Pipes for a process's streams.
    fn pipes(&mut self, id: &str, process: &str) -> [String; 3] {
        let name = format!("{id}-{process}").replace('/', "-");
        ["stdin", "stdout", "stderr"].map(|stream| {
            let path = self.folder.path().join(format!("{name}-{stream}"));
            if !path.exists() {
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
                // Whoever opens an end does not wait for the other.
                self.ends.push(fs::File::options().read(true).write(true).open(&path).unwrap());
            }
            path.to_str().unwrap().to_owned()
        })
    }

    /// Makes a call; what is seen of its answer, ids and paths aside.
    pub async fn call(&mut self, id: &str, call: Call) -> Result<String, Status> {
        let limit = if matches!(call, Call::Wait(_)) { A_WHILE } else { PATIENCE };
        let (namespace, folder) = (self.namespace.clone(), self.folder.path().to_str().unwrap().to_owned());
        let plain = |text: &str| {
            let text = text.replace(&folder, "FOLDER").replace(&namespace, "NS");
            if id.is_empty() { text } else { text.replace(id, "ID") }
        };
        match timeout(limit, self.send(id, call)).await {
            Ok(Ok(seen)) => Ok(plain(&seen)),
            // As clients read it, the kind's own words at the end being one with the code.
            Ok(Err(status)) => {
                let text = refusal(&status).detail;
                let text = text.strip_suffix(": unknown").unwrap_or(&text).trim();
                Err(Status::new(status.code(), plain(text)))
            }
            Err(_) => Ok("waits".to_owned()),
        }
    }

    async fn send(&mut self, id: &str, call: Call) -> Result<String, Status> {
        let namespace = self.namespace.clone();
        let (container_id, done) = (id.to_owned(), String::new());
        macro_rules! ask {
            ($method:ident, $request:expr) => {
                self.tasks.$method(within(&namespace, $request)).await?.into_inner()
            };
        }
        Ok(match call {
            Call::Create | Call::CreateWith { .. } => {
                let terminal = matches!(call, Call::CreateWith { terminal: true });
                let [stdin, stdout, stderr] = self.pipes(id, "first");
                let request = CreateTaskRequest { container_id, stdin, stdout, stderr, terminal, ..Default::default() };
                let made = ask!(create, request);
                format!("{} {}", made.container_id, made.pid > 0)
            }
            Call::Start(exec) => {
                let exec_id = exec.to_owned();
                format!("{}", ask!(start, StartRequest { container_id, exec_id }).pid > 0)
            }
            Call::Delete => {
                let end = ask!(delete, DeleteTaskRequest { container_id });
                format!("{} {} {}", end.id, end.pid > 0, end.exit_status)
            }
            Call::DeleteProcess(exec) => {
                let end = ask!(delete_process, DeleteProcessRequest { container_id, exec_id: exec.to_owned() });
                format!("{} {} {}", end.id, end.pid > 0, end.exit_status)
            }
            Call::Get(exec) => {
                let found = ask!(get, GetRequest { container_id, exec_id: exec.to_owned() }).process.unwrap();
                let ended = found.exited_at.is_some_and(|at| at.seconds > 0);
                format!("{} {:?} {} {} {ended}", found.id, found.status(), found.pid > 0, found.exit_status)
            }
            Call::List(filter) => {
                let found = ask!(list, ListTasksRequest { filter: filter.to_owned() }).tasks;
                let own = found.iter().find(|task| task.id == id);
                own.map_or_else(|| "not listed".to_owned(), |task| format!("{:?}", task.status()))
            }
            Call::Kill(exec, signal) => {
                ask!(kill, KillRequest { container_id, exec_id: exec.to_owned(), signal, all: false });
                done
            }
            Call::KillAll(signal) => {
                ask!(kill, KillRequest { container_id, exec_id: String::new(), signal, all: true });
                done
            }
            Call::Exec(_) | Call::ExecOf(..) => {
                let (exec, spec) = match call {
                    Call::ExecOf(exec, (name, value)) => (exec, any(name, value)),
                    Call::Exec(exec) => (exec, any("Process", &process(&SLEEP, false).to_string())),
                    _ => unreachable!(),
                };
                let [stdin, stdout, stderr] = self.pipes(id, exec);
                let (exec_id, spec, terminal) = (exec.to_owned(), Some(spec), false);
                ask!(exec, ExecProcessRequest { container_id, stdin, stdout, stderr, terminal, spec, exec_id });
                done
            }
            Call::ResizePty(exec) => {
                ask!(resize_pty, ResizePtyRequest { container_id, exec_id: exec.to_owned(), width: 80, height: 24 });
                done
            }
            Call::CloseIo(exec) => {
                ask!(close_io, CloseIoRequest { container_id, exec_id: exec.to_owned(), stdin: true });
                done
            }
            Call::Pause => {
                ask!(pause, PauseTaskRequest { container_id });
                done
            }
            Call::Resume => {
                ask!(resume, ResumeTaskRequest { container_id });
                done
            }
            Call::ListPids => format!("{}", ask!(list_pids, ListPidsRequest { container_id }).processes.len()),
            Call::Checkpoint(options) => {
                let options = options.map(|(name, value)| any(name, value));
                let request = CheckpointTaskRequest { container_id, options, ..Default::default() };
                format!("{}", ask!(checkpoint, request).descriptors.len())
            }
            Call::Update(resources) => {
                let resources = resources.map(|(name, value)| any(name, value));
                ask!(update, UpdateTaskRequest { container_id, resources, ..Default::default() });
                done
            }
            Call::Metrics(filter) => {
                let found = ask!(metrics, MetricsRequest { filters: vec![filter.replace("ID", id)] }).metrics;
                format!("{:?}", found.iter().map(|metric| &metric.id).collect::<Vec<_>>())
            }
            Call::Wait(exec) => {
                let end = ask!(wait, WaitRequest { container_id, exec_id: exec.to_owned() });
                format!("{} {}", end.exit_status, end.exited_at.is_some())
            }
        })
    }

    /// Waits for the end of the first process or an added one.
    pub async fn ended(&mut self, id: &str, exec: &str) {
        let request = WaitRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        self.tasks.wait(within(&self.namespace, request)).await.unwrap();
    }

    /// Takes a container's task away, whatever it is doing.
    pub async fn remove(&mut self, id: &str) {
        let removing = async {
            while self.call(id, Call::Delete).await.is_err_and(|status| status.code() != Code::NotFound) {
                self.call(id, Call::Resume).await.ok();
                self.call(id, Call::Kill("", 9)).await.ok();
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, removing).await.unwrap_or_else(|_| panic!("{id} cannot be removed"));
    }
}

/// An OCI process.
fn process(args: &[&str], terminal: bool) -> serde_json::Value {
    json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "terminal": terminal})
}

/// A value of one of the OCI runtime's types, or of another.
fn any(name: &str, value: &str) -> Any {
    let oci = ["Spec", "Process", "LinuxResources"].contains(&name);
    let type_url =
        if oci { format!("types.containerd.io/opencontainers/runtime-spec/1/{name}") } else { name.to_owned() };
    Any { type_url, value: value.as_bytes().to_vec().into() }
}
