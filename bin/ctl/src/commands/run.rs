//! `run`: a container from its making to its end, in one command.

use crate::{
    commands::{
        create::{ContainerFlags, Origin},
        policy::{self, Plan},
    },
    context::Context,
    failure::{Failure, Outcome, warn},
    session::{self, Io, IoFlags, ProcessName, Session},
};
use clap::Args;
use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use wharf_client::{Client, cni::Network, spec};
use wharf_messages::{
    Answer, Any, ContainerId, Descriptor, Refusal, RefusalKind,
    container::{Container, DeleteContainer},
    task::{CreateTask, Exit, Rootfs},
};

/// Run a container from an image or a folder.
#[derive(Debug, Args)]
pub struct Run {
    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,
    /// Leave it alone once it has started
    #[arg(long, short)]
    detach: bool,
    /// Connect it by the first network that is configured in /etc/cni/net.d
    #[arg(long)]
    cni: bool,
    /// Streams.
    #[command(flatten)]
    streams: StreamFlags,
    /// The container's.
    #[command(flatten)]
    container: ContainerFlags,
}

/// Where the process's streams go.
#[derive(Debug, Args)]
pub struct StreamFlags {
    /// No input, and output goes nowhere
    #[arg(long)]
    null_io: bool,
    /// Output goes to a file (file:///path) or a program (binary:///path?key=value)
    #[arg(long, value_name = "URI")]
    log_uri: Option<String>,
    /// Where FIFOs for its streams are made
    #[arg(long, value_name = "DIR")]
    fifo_dir: Option<PathBuf>,
}

impl StreamFlags {
    /// With or without a terminal.
    #[must_use]
    pub fn with_tty(&self, tty: bool) -> IoFlags {
        IoFlags {
            tty,
            null_io: self.null_io,
            log_uri: self.log_uri.clone(),
            fifo_dir: self.fifo_dir.clone().filter(|dir| !dir.as_os_str().is_empty()),
        }
    }
}

impl Run {
    /// Runs the container.
    ///
    /// # Errors
    /// The daemon's refusal, or the container's exit code.
    pub async fn run(self, context: &Context) -> Outcome {
        if self.rm && self.detach {
            return Err(Failure::new("flags --detach and --rm cannot be specified together"));
        }
        if self.container.policy.restarts() && !self.detach {
            // In the foreground the command ends with the container, and takes its task along.
            return Err(Failure::new("flag --restart needs --detach"));
        }
        if self.cni && self.container.policy.restarts() {
            return Err(Failure::new(
                "flag --cni is this command's work, which a restart does without: not with --restart",
            ));
        }
        if self.cni && self.container.spec.net_host {
            return Err(Failure::new(
                "flag --cni needs a network of the container's own, and --net-host takes it away",
            ));
        }
        let what = self.container.what()?;
        if !self.detach {
            self.streams.with_tty(self.container.spec.tty).check_terminal()?;
        }
        let client = context.client().await?;
        let plan = Plan { started: true, log_uri: self.streams.log_uri.as_deref().filter(|uri| !uri.is_empty()) };
        let container = self.container.create(&what, plan, context, &client).await?;
        let tty = match what.origin {
            Origin::Spec(_) => wants_terminal(&container)? || self.container.spec.tty,
            _ => self.container.spec.tty,
        };
        let how = Start {
            flags: self.streams.with_tty(tty),
            detach: self.detach,
            pid_file: self.container.pid_file.as_deref(),
            options: self.container.task_options(),
            ..Start::default()
        };
        let ended = async {
            let network = if self.cni { Some(Connection::new(context, &container)?) } else { None };
            start(&client, &container, Start { network, ..how }).await
        };
        let ended = ended.await;
        if ended.is_err() && self.container.policy.restarts() {
            // Whoever is told that it did not start does not expect it to go on trying.
            policy::user_stops(&client, &container).await?;
        }
        if self.rm {
            let removed = remove(&client, container.id).await;
            // How the run failed matters more than that something is left of it, which is told besides.
            return match (ended, removed) {
                (Ok(()), removed) => removed,
                (Err(failure), Ok(())) => Err(failure),
                (Err(failure), Err(left)) => {
                    warn(left.text.unwrap_or_default());
                    Err(failure)
                }
            };
        }
        ended
    }
}

async fn remove(client: &Client, id: ContainerId) -> Outcome {
    match client.call(DeleteContainer { id, with_snapshot: true }).await {
        Err(refusal) if refusal.is(RefusalKind::NotFound) => Ok(()),
        other => Ok(other?),
    }
}

/// Whether the container's spec asks for a terminal.
///
/// # Errors
/// If it has no OCI spec.
pub fn wants_terminal(container: &Container) -> Outcome<bool> {
    let any = container.spec.as_ref().ok_or_else(|| Failure::new(format!("container {} has no spec", container.id)))?;
    let spec = spec::from_any(any)?;
    Ok(spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false))
}

/// How a container's task is made and started.
#[derive(Debug, Default)]
pub struct Start<'a> {
    /// Where its streams go.
    pub flags: IoFlags,
    /// Not to stay to its end.
    pub detach: bool,
    /// Where its process id is written.
    pub pid_file: Option<&'a Path>,
    /// A checkpoint to start from.
    pub checkpoint: Option<Descriptor>,
    /// What the shim is told instead of what the container says.
    pub options: Option<Any>,
    /// What connects it before it starts, and is undone after its end.
    pub network: Option<Connection>,
}

/// A container's place in a network.
#[derive(Debug)]
pub struct Connection {
    network: Network,
    /// What the network calls the container.
    name: String,
}

impl Connection {
    fn new(context: &Context, container: &Container) -> Outcome<Self> {
        let name = format!("{}-{}", context.namespace, container.id);
        Ok(Self { network: Network::default_one()?, name })
    }

    /// Connects the network namespace of a process; what failed half-way is undone. Blocks, while nothing else is going
    /// on here: the task is made and not yet started.
    fn connect(&self, pid: u32) -> Answer<()> {
        self.network.add(&self.name, &format!("/proc/{pid}/ns/net")).inspect_err(|_| self.disconnect())
    }

    /// Gives back what the network keeps for the container, whose network namespace is gone or goes.
    fn disconnect(&self) {
        if let Err(refusal) = self.network.remove(&self.name) {
            warn(format!("{} stays in network: {refusal}", self.name));
        }
    }
}

/// Makes a container's task and starts it; stays to its end unless detached.
///
/// # Errors
/// The daemon's refusal (then no task is left), or the container's exit code.
pub async fn start(client: &Client, container: &Container, start: Start<'_>) -> Outcome {
    let Start { flags, detach, pid_file, checkpoint, options, network } = start;
    let process = ProcessName { container_id: container.id.clone(), exec_id: None };
    if !detach {
        flags.check_terminal()?;
    }
    let io = Io::prepare(&flags, &process)?;
    let create = CreateTask {
        container_id: container.id.clone(),
        rootfs: if container.snapshot_key.is_some() { Rootfs::Snapshot } else { Rootfs::Mounts(Vec::new()) },
        stdio: io.stdio(),
        options,
        runtime_path: String::new(),
        checkpoint,
    };
    let task = client.call(create).await?;
    let ready = || {
        pid_file.map_or(Ok(()), |path| write_pid(path, task.pid))?;
        network.as_ref().map_or(Ok(()), |network| network.connect(task.pid))
    };
    if let Err(refusal) = ready() {
        session::delete(client, &process).await;
        return Err(refusal.into());
    }
    if !detach {
        let exit = Session::new(client, process, io).start().await;
        // One that a signal made us leave, of which nothing is said, goes on and needs its network.
        if !matches!(&exit, Err(failure) if failure.text.is_none()) {
            network.iter().for_each(Connection::disconnect);
        }
        return code(exit?);
    }
    if let Err(refusal) = client.call(process.start()).await {
        session::delete(client, &process).await;
        network.iter().for_each(Connection::disconnect);
        return Err(refusal.into());
    }
    io.leave();
    Ok(())
}

/// A process's exit code as ours.
///
/// # Errors
/// For any but 0.
pub fn code(exit: Exit) -> Outcome {
    if exit.code == 0 { Ok(()) } else { Err(Failure::exit_code(exit.code)) }
}

/// Writes the process id so that a reader finds all of it or nothing.
fn write_pid(path: &Path, pid: u32) -> Result<(), Refusal> {
    let failed = |error: std::io::Error| Refusal::io(format!("write pid file {}", path.display()), &error);
    let name = path.file_name().ok_or_else(|| Refusal::invalid(format!("pid file {} has no name", path.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let unfinished = path.with_file_name(hidden);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&unfinished).map_err(failed)?;
    let written = write!(file, "{pid}").and_then(|()| file.sync_all()).and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|error| {
        // The first error is the one to tell.
        fs::remove_file(&unfinished).ok();
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_appear_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.pid");
        write_pid(&path, 4711).unwrap();
        write_pid(&path, 4712).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4712");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_pid(&dir.path().join("none/web.pid"), 1).is_err());
    }
}
