//! `shim`: the calls of a container's shim, by hand. Unlike in `ctr` they go by way of the daemon, which has to know what
//! becomes of its containers.

use crate::{
    context::{Context, parse},
    failure::{Failure, Outcome},
    output::{
        self,
        json::{Object, indent},
        time::rfc3339_nano,
    },
    session::{Io, ProcessName, Session},
};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::{Path, PathBuf};
use wharf_client::Client;
use wharf_messages::{
    Any, ContainerId, ExecId, Refusal,
    system::GetDaemonInfo,
    task::{DeleteTask, ExecTask, GetTask, Process, StartTask, Stdio, TaskStatus},
};

/// What to do with whose shim.
#[derive(Debug, Args)]
pub struct Shim {
    /// The container's id
    #[arg(long, value_name = "CONTAINER")]
    id: Option<String>,
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

/// What to do with a shim.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Delete the task, or a process added to it
    Delete(Which),
    /// Add a process to the task and start it
    Exec(Exec),
    /// Start the task, or a process added to it
    Start(Which),
    /// Print the state of the task's first process
    State,
}

/// Which process.
#[derive(Debug, Args)]
struct Which {
    /// A process added to the task; its first one otherwise
    #[arg(value_name = "EXEC")]
    exec_id: Option<String>,
}

/// What to add.
#[derive(Debug, Args)]
struct Exec {
    /// The FIFO of its standard input
    #[arg(long, value_name = "PATH")]
    stdin: Option<PathBuf>,
    /// The FIFO of its standard output, or a URI as those of --log-uri
    #[arg(long, value_name = "PATH")]
    stdout: Option<PathBuf>,
    /// The FIFO of its standard error, or a URI
    #[arg(long, value_name = "PATH")]
    stderr: Option<PathBuf>,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Stay with it to its end
    #[arg(long, short)]
    attach: bool,
    /// An environment variable over the specification's; may be repeated
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// The folder it starts in; the specification's otherwise
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A file with its OCI process specification
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// Its name among the container's processes
    #[arg(value_name = "EXEC")]
    exec_id: String,
}

impl Shim {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let id = self.id.filter(|id| !id.is_empty()).ok_or_else(|| Failure::new("container id must be specified"))?;
        let container_id: ContainerId = parse(&id)?;
        let client = context.client().await?;
        let exec = |which: Which| which.exec_id.filter(|id| !id.is_empty()).map(ExecId::new).transpose();
        match self.verb {
            Verb::Start(which) => {
                let exec_id = exec(which)?;
                context.task(&client, &container_id).await?;
                client.call(StartTask { container_id, exec_id }).await?;
                Ok(())
            }
            Verb::Delete(which) => {
                let exec_id = exec(which)?;
                context.task(&client, &container_id).await?;
                let deleted = client.call(DeleteTask { container_id, exec_id }).await?;
                let code = deleted.exit.code;
                Ok(output::line(format_args!("container deleted and returned exit status {code}"))?)
            }
            Verb::State => {
                let process = context.task(&client, &container_id).await?;
                let state = client.call(GetDaemonInfo {}).await?.state;
                let namespace = context.namespace.as_str();
                let bundle = format!("{state}/io.containerd.runtime.v2.task/{namespace}/{container_id}");
                Ok(output::line(state_json(&process, &bundle)?)?)
            }
            Verb::Exec(exec) => exec.run(context, &client, container_id).await,
        }
    }
}

/// A process's state as Go's encoder writes the shim's answer.
///
/// # Spec
/// containerd `runtime/v2/task/shim.proto`, `StateResponse`; `api/types/task/task.proto`, `Status`.
fn state_json(process: &Process, bundle: &str) -> Outcome<String> {
    let status = match process.status {
        TaskStatus::Created => 1,
        TaskStatus::Running => 2,
        TaskStatus::Stopped => 3,
        TaskStatus::Paused => 4,
        TaskStatus::Pausing => 5,
        _ => 0,
    };
    let Stdio { stdin, stdout, stderr, terminal } = &process.stdio;
    let exit = process.exit.as_ref();
    // Go's own beginning of time stands for none.
    let exited_at = exit.map_or("0001-01-01T00:00:00Z".to_owned(), |exit| rfc3339_nano(exit.exited_at));
    let object = Object::new()
        .string("id", process.container_id.as_str())
        .string("bundle", bundle)
        .number_if("pid", process.pid.into())
        .number_if("status", status)
        .string_if("stdin", stdin)
        .string_if("stdout", stdout)
        .string_if("stderr", stderr)
        .flag_if("terminal", *terminal)
        .number_if("exit_status", exit.map_or(0, |exit| exit.code.into()))
        .string("exited_at", &exited_at);
    Ok(indent(object.finish().as_bytes(), "    ")?)
}

impl Exec {
    async fn run(self, context: &Context, client: &Client, container_id: ContainerId) -> Outcome {
        let exec_id: ExecId = parse(&self.exec_id)?;
        let file = self.spec.clone().unwrap_or_default();
        let spec = std::fs::read(&file).map_err(|error| Refusal::io(format!("open {}", file.display()), &error))?;
        let spec = self.adjusted(&spec).map_err(|failure| failure.context(file.display()))?;
        let stdio = Stdio {
            stdin: text(self.stdin.as_deref())?,
            stdout: text(self.stdout.as_deref())?,
            stderr: text(self.stderr.as_deref())?,
            terminal: self.tty,
        };
        context.task(client, &container_id).await?;
        let (container, exec) = (container_id.clone(), exec_id.clone());
        client.call(ExecTask { container_id, exec_id, stdio, spec: Any::new(Any::PROCESS, spec) }).await?;
        let started = client.call(StartTask { container_id: container.clone(), exec_id: Some(exec.clone()) }).await?;
        output::line(format_args!("exec running with pid {}", started.pid))?;
        if !self.attach {
            return Ok(());
        }
        let process = client.call(GetTask { container_id: container.clone(), exec_id: Some(exec.clone()) }).await?;
        let io = Io::of_running(&process)?;
        let name = ProcessName { container_id: container, exec_id: Some(exec) };
        crate::commands::run::code(Session::new(client, name, io).attach().await?)
    }

    /// The specification with what flags say over it.
    fn adjusted(&self, spec: &[u8]) -> Outcome<Vec<u8>> {
        let bad = |why: &dyn std::fmt::Display| Failure::new(format!("it is no OCI process: {why}"));
        let mut spec: serde_json::Map<String, Value> = serde_json::from_slice(spec).map_err(|error| bad(&error))?;
        if let Some(cwd) = &self.cwd {
            spec.insert("cwd".to_owned(), cwd.as_str().into());
        }
        spec.insert("terminal".to_owned(), self.tty.into());
        if !self.env.is_empty() {
            let env = spec.entry("env").or_insert_with(|| Value::Array(Vec::new()));
            let env = env.as_array_mut().ok_or_else(|| bad(&"its env is no list"))?;
            for variable in &self.env {
                let key = variable.split('=').next().unwrap_or_default();
                env.retain(|old| old.as_str().and_then(|old| old.split('=').next()) != Some(key));
                env.push(variable.as_str().into());
            }
        }
        serde_json::to_vec(&spec).map_err(|error| bad(&error))
    }
}

/// A stream as the shim takes it.
fn text(path: Option<&Path>) -> Outcome<String> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(String::new()) };
    if let Some(uri) = path.to_str().filter(|text| text.contains("://")) {
        return Ok(uri.to_owned());
    }
    let path = std::path::absolute(path)?;
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::new(format!("path {path:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use wharf_messages::{Timestamp, task::Exit};

    #[test]
    fn a_state_is_that_of_ctr() {
        let running = Process {
            container_id: ContainerId::new("a").unwrap(),
            exec_id: None,
            pid: 7,
            status: TaskStatus::Running,
            stdio: Stdio { stdin: "/f".into(), ..Stdio::default() },
            exit: None,
        };
        assert_eq!(
            state_json(&running, "/b").unwrap(),
            "{\n    \"id\": \"a\",\n    \"bundle\": \"/b\",\n    \"pid\": 7,\n    \"status\": 2,\n    \"stdin\": \"/f\",\n    \"exited_at\": \"0001-01-01T00:00:00Z\"\n}"
        );
        let exit = Some(Exit { code: 3, exited_at: Timestamp::ZERO, oom: false });
        let stopped = Process { status: TaskStatus::Stopped, exit, ..running };
        assert!(state_json(&stopped, "/b").unwrap().contains("\"exit_status\": 3,\n    \"exited_at\": \"1970-"));
    }

    #[test]
    fn flags_go_over_the_specification() {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            exec: Exec,
        }
        let exec = Line::try_parse_from(["exec", "-e", "A=2", "--env", "B=3", "--cwd", "/srv", "x"]).unwrap().exec;
        let spec = exec.adjusted(br#"{"args":["true"],"cwd":"/","env":["A=1","C=4"]}"#).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        assert_eq!(spec["env"], serde_json::json!(["C=4", "A=2", "B=3"]));
        assert_eq!((&spec["cwd"], &spec["args"][0]), (&"/srv".into(), &"true".into()));
        assert!(exec.adjusted(b"[]").is_err());
    }
}
