//! `tasks`: the running side of containers.

use crate::{
    commands::{
        checkpoint::TaskCheckpoint,
        exec::Exec,
        policy,
        run::{self, StreamFlags, code, wants_terminal},
    },
    context::{Context, parse},
    failure::{Failure, Outcome, Several, program, warn},
    metrics::Figures,
    output::{self, table::Padding, table::Table},
    session::{Io, ProcessName, Session},
    signals,
};
use clap::{Args, Subcommand, ValueEnum};
use std::{io::Write, path::PathBuf};
use wharf_client::{Client, spec::STOP_SIGNAL_LABEL};
use wharf_messages::{
    Any, ContainerId, ExecId, Refusal, RefusalKind,
    container::GetContainer,
    health::{HealthRecord, ListHealth},
    task::{
        DeleteTask, DeletedProcess, GetMetrics, KillTask, ListPids, ListTasks, PauseTask, PidInfo, Process, ResumeTask,
        TaskStatus, WaitTask,
    },
};

/// The signal that stops a container that asks for no other.
const DEFAULT_STOP_SIGNAL: &str = "SIGTERM";
/// SIGKILL.
const KILL: u32 = 9;

/// Manage tasks.
#[derive(Debug, Subcommand)]
pub enum Tasks {
    /// Take over the streams of a running task
    Attach(Name),
    /// Write a task's state away, to be restored later
    Checkpoint(TaskCheckpoint),
    /// Delete tasks that have ended
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(Delete),
    /// Run another process in a task
    Exec(Exec),
    /// List tasks
    #[command(visible_alias = "ls")]
    List(List),
    /// Send a signal
    Kill(Kill),
    /// Freeze a task
    Pause(Name),
    /// List a task's processes
    Ps(Name),
    /// Thaw a task
    Resume(Name),
    /// Start a container that is there
    Start(Start),
    /// Show what a task uses
    #[command(visible_alias = "metric")]
    Metrics(Metrics),
}

/// A container's name.
#[derive(Debug, Args)]
pub struct Name {
    /// Its id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Which to delete, and how.
#[derive(Debug, Args)]
pub struct Delete {
    /// Kill those that run
    #[arg(long, short)]
    force: bool,
    /// Only this process that was added to the task
    #[arg(long, value_name = "ID")]
    exec_id: Option<String>,
    /// Their ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// How to list.
#[derive(Debug, Args)]
pub struct List {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
}

/// What to send to whom.
#[derive(Debug, Args)]
pub struct Kill {
    /// A name or number; the container's stop signal otherwise
    #[arg(long, short, value_name = "SIGNAL")]
    signal: Option<String>,
    /// To this process that was added to the task
    #[arg(long, value_name = "ID")]
    exec_id: Option<String>,
    /// To every process of the container
    #[arg(long, short)]
    all: bool,
    /// Its id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// What to start, and how.
#[derive(Debug, Args)]
pub struct Start {
    /// Streams.
    #[command(flatten)]
    streams: StreamFlags,
    /// Where the process id is written
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Leave it alone once it has started
    #[arg(long, short)]
    detach: bool,
    /// Its id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// What to show, and how.
#[derive(Debug, Args)]
pub struct Metrics {
    /// A choice as a table, or all as JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
    /// Its id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// How metrics are shown.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Tasks {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal, or the exit code of a process in the foreground.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Attach(name) => attach(context, &parse(&name.container)?).await,
            Self::Checkpoint(checkpoint) => checkpoint.run(context).await,
            Self::Delete(delete) => delete.run(context).await,
            Self::Exec(exec) => exec.run(context).await,
            Self::List(list) => {
                let client = context.client().await?;
                let tasks = client.call(ListTasks::default()).await?;
                let mut out = output::stdout();
                if list.quiet {
                    tasks.iter().try_for_each(|task| writeln!(out, "{}", task.container_id))?;
                } else {
                    let health = if program() == "ctr" { Vec::new() } else { client.call(ListHealth {}).await? };
                    rows(&tasks, &health).write(&mut out)?;
                }
                Ok(out.flush()?)
            }
            Self::Kill(kill) => kill.run(context).await,
            Self::Pause(name) => {
                let container_id: ContainerId = parse(&name.container)?;
                let client = context.client().await?;
                let paused = client.call(PauseTask { container_id: container_id.clone() }).await;
                explain(context, &client, &container_id, paused).await
            }
            Self::Resume(name) => {
                let container_id: ContainerId = parse(&name.container)?;
                let client = context.client().await?;
                let resumed = client.call(ResumeTask { container_id: container_id.clone() }).await;
                explain(context, &client, &container_id, resumed).await
            }
            Self::Ps(name) => {
                let container_id: ContainerId = parse(&name.container)?;
                let client = context.client().await?;
                let pids = client.call(ListPids { container_id: container_id.clone() }).await;
                let pids = explain(context, &client, &container_id, pids).await?;
                let mut out = output::stdout();
                processes(&pids).write(&mut out)?;
                Ok(out.flush()?)
            }
            Self::Start(start) => start.run(context).await,
            Self::Metrics(metrics) => metrics.run(context).await,
        }
    }
}

/// Turns "not found" into which of container and task is missing, and where another is.
///
/// # Errors
/// What the answer says.
pub async fn explain<T>(
    context: &Context,
    client: &Client,
    id: &ContainerId,
    answer: wharf_messages::Answer<T>,
) -> Outcome<T> {
    match answer {
        Err(refusal) if refusal.is(RefusalKind::NotFound) => {
            context.task(client, id).await?;
            Err(refusal.into())
        }
        other => Ok(other?),
    }
}

async fn attach(context: &Context, id: &ContainerId) -> Outcome {
    let client = context.client().await?;
    let task = context.task(&client, id).await?;
    let io = Io::of_running(&task)?;
    let process = ProcessName { container_id: id.clone(), exec_id: None };
    code(Session::new(&client, process, io).attach().await?)
}

/// One more column than ctr has where a task has a health check.
fn rows(tasks: &[Process], health: &[HealthRecord]) -> Table {
    let mut table = Table::wide();
    if !health.is_empty() {
        table.row(["TASK", "PID", "STATUS", "HEALTH"]);
        for task in tasks {
            let runs = matches!(task.status, TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing);
            let known = health.iter().find(|health| runs && health.container_id == task.container_id);
            let health = known.map_or("-", |health| health.status.as_str());
            table.line([task.container_id.as_str(), &task.pid.to_string(), task.status.as_str(), health]);
        }
        return table;
    }
    table.row(["TASK", "PID", "STATUS"]);
    for task in tasks {
        // The last column stays open, as in ctr.
        table.line([task.container_id.as_str(), &task.pid.to_string(), task.status.as_str()]);
    }
    table
}

fn processes(pids: &[PidInfo]) -> Table {
    let mut table = Table::new(1, Padding::Spaces(4));
    table.line(["PID", "INFO"]);
    for PidInfo { pid, info } in pids {
        table.line([pid.to_string(), info.as_ref().map_or("-".to_owned(), details)]);
    }
    table
}

/// What the shim says of a process, in the form in which `ctr` (a Go program) prints it.
fn details(info: &Any) -> String {
    // A message with one field, a string: tag, length, text.
    match (info.type_url.as_str(), &info.value[..]) {
        ("containerd.runc.v1.ProcessDetails", [10, length, text @ ..]) if usize::from(*length) == text.len() => {
            format!("&ProcessDetails{{ExecID:{},XXX_unrecognized:[],}}", String::from_utf8_lossy(text))
        }
        (url, _) => url.to_owned(),
    }
}

impl Delete {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        if let Some(exec_id) = &self.exec_id {
            let container_id: ContainerId = parse(&self.containers[0])?;
            let deleted = self.delete(context, &client, container_id, Some(parse(exec_id)?)).await?;
            return code(deleted.exit);
        }
        let mut several = Several::default();
        for text in &self.containers {
            let deleted = async { self.delete(context, &client, parse(text)?, None).await };
            several.note(deleted.await.map(|deleted| {
                if deleted.exit.code != 0 {
                    warn(format!("task {text} exit with non-zero exit code {}", deleted.exit.code));
                }
            }));
        }
        several.end()
    }

    async fn delete(
        &self,
        context: &Context,
        client: &Client,
        container_id: ContainerId,
        exec_id: Option<ExecId>,
    ) -> Outcome<DeletedProcess> {
        if exec_id.is_none()
            && program() != "ctr"
            && let Ok(container) = client.call(GetContainer { id: container_id.clone() }).await
        {
            policy::user_stops(client, &container).await?;
        }
        if self.force {
            kill_and_wait(client, &container_id, exec_id.as_ref()).await?;
        }
        let delete = DeleteTask { container_id: container_id.clone(), exec_id };
        explain(context, client, &container_id, client.call(delete).await).await
    }
}

/// Kills a process and waits until it has ended; one that is not there or not started needs neither.
async fn kill_and_wait(client: &Client, container_id: &ContainerId, exec_id: Option<&ExecId>) -> Outcome {
    let (container_id, exec_id) = (container_id.clone(), exec_id.cloned());
    let get = wharf_messages::task::GetTask { container_id: container_id.clone(), exec_id: exec_id.clone() };
    match client.call(get).await {
        Ok(process) if matches!(process.status, TaskStatus::Created | TaskStatus::Stopped) => return Ok(()),
        Ok(_) => {}
        Err(refusal) if refusal.is(RefusalKind::NotFound) => return Ok(()),
        Err(refusal) => return Err(refusal.into()),
    }
    // Everything in the container goes with its first process.
    let all = exec_id.is_none();
    let kill = KillTask { container_id: container_id.clone(), exec_id: exec_id.clone(), signal: KILL, all };
    match client.call(kill).await {
        Err(refusal) if !refusal.is(RefusalKind::NotFound) => return Err(refusal.into()),
        _ => {}
    }
    match client.call(WaitTask { container_id, exec_id }).await {
        Err(refusal) if !refusal.is(RefusalKind::NotFound) => Err(refusal.into()),
        _ => Ok(()),
    }
}

impl Kill {
    async fn run(self, context: &Context) -> Outcome {
        if self.all && self.exec_id.is_some() {
            return Err(Failure::new("specify an exec-id or all; not both"));
        }
        let container_id: ContainerId = parse(&self.container)?;
        let exec_id = self.exec_id.as_deref().filter(|id| !id.is_empty()).map(ExecId::new).transpose()?;
        let asked =
            self.signal.filter(|signal| !signal.is_empty()).map(|signal| signals::parse(&signal)).transpose()?;
        let client = context.client().await?;
        let signal = match asked {
            Some(signal) => signal,
            None => {
                let container = context.container(&client, &container_id).await?;
                let name = container.labels.get(STOP_SIGNAL_LABEL).map_or(DEFAULT_STOP_SIGNAL, String::as_str);
                signals::parse(name)?
            }
        };
        let mut cancelled = false;
        if exec_id.is_none() && program() != "ctr" {
            // One that is not there is told of by the signal's refusal.
            if let Ok(container) = client.call(GetContainer { id: container_id.clone() }).await
                && policy::is_stop(&container, signal, |name| signals::parse(name).ok())
            {
                cancelled = policy::user_stops(&client, &container).await?;
            }
        }
        let kill = KillTask { container_id: container_id.clone(), exec_id, signal, all: self.all };
        match client.call(kill).await {
            // Between two lives there is nobody to signal; that there will be no other life is what was wanted.
            Err(Refusal { kind: RefusalKind::NotFound | RefusalKind::FailedPrecondition, .. }) if cancelled => Ok(()),
            killed => explain(context, &client, &container_id, killed).await,
        }
    }
}

impl Start {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let container = context.container(&client, &parse(&self.container)?).await?;
        let flags = self.streams.with_tty(wants_terminal(&container)?);
        policy::user_starts(&client, &container, flags.log_uri.as_deref()).await?;
        let pid_file = self.pid_file.as_deref();
        let how = run::Start { flags, detach: self.detach, pid_file, ..run::Start::default() };
        run::start(&client, &container, how).await
    }
}

impl Metrics {
    async fn run(self, context: &Context) -> Outcome {
        let id: ContainerId = parse(&self.container)?;
        let client = context.client().await?;
        let metrics = client.call(GetMetrics { filters: vec![format!("id=={id}")] }).await?;
        let Some(metrics) = metrics.into_iter().find(|metrics| metrics.container_id == id) else {
            let task = context.task(&client, &id).await?;
            let status = task.status.as_str().to_lowercase();
            return Err(Failure::new(format!("no metrics for container {id}: its task is {status}")));
        };
        let figures = Figures::read(&metrics)?;
        let mut out = output::stdout();
        match self.format {
            Format::Table => figures.table().write(&mut out)?,
            Format::Json => writeln!(out, "{}", figures.json()?)?,
        }
        Ok(out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::{Timestamp, health::HealthStatus, task::Stdio};

    #[test]
    fn rows_are_those_of_ctr() {
        let task = Process {
            container_id: ContainerId::new("d1").unwrap(),
            exec_id: None,
            pid: 22430,
            status: TaskStatus::Running,
            stdio: Stdio::default(),
            exit: None,
        };
        let mut out = Vec::new();
        rows(std::slice::from_ref(&task), &[]).write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "TASK    PID      STATUS    \nd1      22430    RUNNING\n");
        let health = HealthRecord {
            container_id: task.container_id.clone(),
            status: HealthStatus::Unhealthy,
            failing: 3,
            since: Timestamp::ZERO,
            last_failure: String::new(),
        };
        let stopped =
            Process { status: TaskStatus::Stopped, container_id: ContainerId::new("d2").unwrap(), ..task.clone() };
        let mut out = Vec::new();
        rows(&[task, stopped], &[health]).write(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "TASK    PID      STATUS     HEALTH    \nd1      22430    RUNNING    unhealthy\nd2      22430    STOPPED    -\n"
        );
    }

    #[test]
    fn processes_are_those_of_ctr() {
        let exec = Any::new("containerd.runc.v1.ProcessDetails", *b"\x0a\x02e2");
        let pids = [PidInfo { pid: 22430, info: None }, PidInfo { pid: 22533, info: Some(exec) }];
        let mut out = Vec::new();
        processes(&pids).write(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "PID      INFO\n22430    -\n22533    &ProcessDetails{ExecID:e2,XXX_unrecognized:[],}\n"
        );
    }
}
