//! `tasks exec`: another process in a running container.

use crate::{
    commands::run::code,
    context::{Context, parse},
    failure::{Failure, Outcome},
    session::{self, Io, IoFlags, ProcessName, Session},
};
use clap::Args;
use std::path::{Path, PathBuf};
use wharf_client::{
    Client,
    spec::{self, ExecOptions, Users},
};
use wharf_messages::{ContainerId, ExecId, task::ExecTask};

/// Run another process in a task.
#[derive(Debug, Args)]
pub struct Exec {
    /// The folder it starts in; the container's otherwise
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// An environment variable over the container's; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Leave it alone once it has started
    #[arg(long, short)]
    detach: bool,
    /// Its name among the container's processes
    #[arg(long, value_name = "ID", required = true)]
    exec_id: String,
    /// Where FIFOs for its streams are made
    #[arg(long, value_name = "DIR")]
    fifo_dir: Option<PathBuf>,
    /// Output goes to a file (file:///path) or a program (binary:///path?key=value)
    #[arg(long, value_name = "URI")]
    log_uri: Option<String>,
    /// Who it runs as, names or numbers; the container's user otherwise
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The container's id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true)]
    command: Vec<String>,
}

impl Exec {
    /// Runs the process.
    ///
    /// # Errors
    /// The daemon's refusal, or the process's exit code.
    pub async fn run(self, context: &Context) -> Outcome {
        let id: ContainerId = parse(&self.container)?;
        let process = ProcessName { container_id: id.clone(), exec_id: Some(parse::<ExecId>(&self.exec_id)?) };
        let flags = IoFlags {
            tty: self.tty,
            null_io: false,
            log_uri: self.log_uri.clone(),
            fifo_dir: self.fifo_dir.clone().filter(|dir| !dir.as_os_str().is_empty()),
        };
        if !self.detach {
            flags.check_terminal()?;
        }
        let client = context.client().await?;
        let exec = self.call(context, &client, &process).await?;
        let io = Io::prepare(&flags, &process)?;
        let exec = ExecTask { stdio: io.stdio(), ..exec };
        client.call(exec).await?;
        if !self.detach {
            return code(Session::new(&client, process, io).start().await?);
        }
        if let Err(refusal) = client.call(process.start()).await {
            session::delete(&client, &process).await;
            return Err(refusal.into());
        }
        io.leave();
        Ok(())
    }

    /// The call, still without streams.
    async fn call(&self, context: &Context, client: &Client, process: &ProcessName) -> Outcome<ExecTask> {
        let ProcessName { container_id, exec_id } = process.clone();
        let container = context.container(client, &container_id).await?;
        let any = container.spec.ok_or_else(|| Failure::new(format!("container {container_id} has no spec")))?;
        let spec = spec::from_any(&any)?;
        let user = self.user.clone().filter(|user| !user.is_empty());
        // The running container's own files say who its users are: nothing has to be mounted for that.
        let users = if user.is_some() {
            let task = context.task(client, &container_id).await?;
            Users::of_path(Path::new(&format!("/proc/{}/root", task.pid)))?
        } else {
            Users::default()
        };
        let options = ExecOptions {
            args: self.command.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            user,
            tty: self.tty,
        };
        let spec = options.process(&spec, &users)?;
        let exec_id = exec_id.ok_or_else(|| Failure::new("exec id must be provided"))?;
        Ok(ExecTask { container_id, exec_id, stdio: wharf_messages::task::Stdio::default(), spec })
    }
}
