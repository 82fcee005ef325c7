//! A process of a container in the foreground: its streams are ours, our signals are its own, its end is ours.

use crate::{
    failure::{Failure, Outcome, warn},
    signals::Received,
    terminal::{self, Input, Output, RawMode},
};
use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};
use wharf_client::{
    Client,
    fifo::{self, Copying, FifoSet, Streams, Wanted},
};
use wharf_messages::{
    Answer, ContainerId, ExecId, Refusal, RefusalKind,
    task::{CloseIo, DeleteTask, Exit, KillTask, Process, ResizePty, StartTask, Stdio, WaitTask},
};

/// How long output may still come after its process was deleted. The shim lets go of it then; only a shim that died
/// on the way lets this pass.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// A process by name.
#[derive(Debug, Clone)]
pub struct ProcessName {
    /// Whose.
    pub container_id: ContainerId,
    /// Which; none is the task's first process.
    pub exec_id: Option<ExecId>,
}

impl ProcessName {
    fn text(&self) -> &str {
        self.exec_id.as_ref().map_or(self.container_id.as_str(), |id| id.as_str())
    }

    /// The call that starts it.
    #[must_use]
    pub fn start(&self) -> StartTask {
        StartTask { container_id: self.container_id.clone(), exec_id: self.exec_id.clone() }
    }

    /// The call that deletes it.
    #[must_use]
    pub fn delete(&self) -> DeleteTask {
        DeleteTask { container_id: self.container_id.clone(), exec_id: self.exec_id.clone() }
    }
}

/// Where a new process's streams are to go.
#[derive(Debug, Clone, Default)]
pub struct IoFlags {
    /// It gets a terminal.
    pub tty: bool,
    /// They are absent.
    pub null_io: bool,
    /// They go to a file or a program.
    pub log_uri: Option<String>,
    /// Where FIFOs are made.
    pub fifo_dir: Option<PathBuf>,
}

impl IoFlags {
    /// Refuses a terminal for a process in the foreground if there is none here, before anything is made.
    ///
    /// # Errors
    /// If there is none.
    pub fn check_terminal(&self) -> Outcome {
        if self.tty && !terminal::is_there() { Err(Failure::new(terminal::NONE)) } else { Ok(()) }
    }
}

/// The streams of a process that is about to be made.
#[derive(Debug)]
pub struct Io {
    stdio: Stdio,
    fifos: Option<FifoSet>,
    streams: Option<Streams>,
}

impl Io {
    /// Prepares them: FIFOs are made and opened on this side, so that nothing that comes is missed.
    ///
    /// # Errors
    /// For flags that contradict each other, and for what the file system refuses.
    pub fn prepare(flags: &IoFlags, process: &ProcessName) -> Outcome<Self> {
        let log_uri = flags.log_uri.as_deref().filter(|uri| !uri.is_empty());
        match (flags.tty, flags.null_io, log_uri) {
            (true, true, _) => Err(Failure::new("tty and null-io cannot be used together")),
            (true, _, Some(_)) => Err(Failure::new("can't use log-uri with tty")),
            (_, _, Some(_)) if flags.fifo_dir.is_some() => Err(Failure::new("can't use log-uri with fifo-dir")),
            (false, true, _) => Ok(Self { stdio: Stdio::default(), fifos: None, streams: None }),
            (false, false, Some(uri)) => {
                let uri = log_target(uri)?;
                let stdio = Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() };
                Ok(Self { stdio, fifos: None, streams: None })
            }
            (terminal, false, None) => {
                let wanted = Wanted { stdin: true, terminal };
                let dir = flags.fifo_dir.as_deref().map(std::path::absolute).transpose()?;
                let fifos = FifoSet::create(dir.as_deref(), process.text(), wanted)?;
                let streams = Some(fifos.open()?);
                Ok(Self { stdio: fifos.stdio().clone(), fifos: Some(fifos), streams })
            }
        }
    }

    /// The streams of a process that is there already.
    ///
    /// # Errors
    /// If they cannot be opened.
    pub fn of_running(process: &Process) -> Outcome<Self> {
        let streams = fifo::open(&process.stdio)?;
        Ok(Self { stdio: process.stdio.clone(), fifos: None, streams: Some(streams) })
    }

    /// What to tell the daemon.
    #[must_use]
    pub fn stdio(&self) -> Stdio {
        self.stdio.clone()
    }

    /// Leaves them to a process that goes on without us.
    pub fn leave(self) {
        if let Some(fifos) = self.fifos {
            fifos.keep();
        }
    }
}

/// A URI as the shim takes it: a plain path is a file.
fn log_target(uri: &str) -> Outcome<String> {
    if uri.contains("://") {
        return Ok(uri.to_owned());
    }
    let path = std::path::absolute(Path::new(uri))?;
    match path.to_str() {
        Some(path) => Ok(format!("file://{path}")),
        None => Err(Failure::new(format!("log-uri {uri:?} is not UTF-8"))),
    }
}

/// A process in the foreground.
pub struct Session<'a> {
    client: &'a Client,
    process: ProcessName,
    io: Io,
}

impl<'a> Session<'a> {
    /// Of a process whose streams are prepared.
    #[must_use]
    pub fn new(client: &'a Client, process: ProcessName, io: Io) -> Self {
        Self { client, process, io }
    }

    /// Starts the process and stays with it to its end.
    ///
    /// # Errors
    /// The daemon's refusal to start it. The process is deleted in any case.
    pub async fn start(self) -> Outcome<Exit> {
        let start = self.client.call(self.process.start());
        self.stay(true, async { start.await.map(drop) }).await
    }

    /// Stays with a process that runs already.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub async fn attach(self) -> Outcome<Exit> {
        self.stay(false, std::future::ready(Ok(()))).await
    }

    /// `made`: the process was made for this session, so it goes if the session cannot begin.
    async fn stay(self, made: bool, start: impl Future<Output = Answer<()>>) -> Outcome<Exit> {
        let Self { client, process, io } = self;
        let terminal = io.stdio.terminal;
        let raw_mode = if terminal { Some(RawMode::enter()) } else { None };
        let ready =
            raw_mode.transpose().and_then(|raw| Ok((raw, Foreground::new(client, &process, io.streams, terminal)?)));
        let (raw_mode, mut foreground) = match ready {
            Ok(ready) => ready,
            Err(failure) => {
                if made {
                    delete(client, &process).await;
                }
                return Err(failure);
            }
        };
        let exit = foreground.until_exit(start).await;
        if matches!(exit, Err(End::Left(_))) {
            // Nothing is deleted: the container goes on, and can be attached to again.
            if let Some(fifos) = io.fifos {
                fifos.keep();
            }
            return exit.map_err(End::into_failure);
        }
        let deleted = foreground.delete_and_drain().await;
        drop(raw_mode);
        // The FIFOs go last, when nobody needs them any more.
        drop(io.fifos);
        match exit {
            Ok(exit) => {
                deleted?;
                Ok(exit)
            }
            Err(end) => Err(end.into_failure()),
        }
    }
}

/// Why there is no exit to report.
enum End {
    /// The call failed.
    Failed(Refusal),
    /// A signal told this client, not the process, to go.
    Left(u32),
}

impl End {
    fn into_failure(self) -> Failure {
        match self {
            Self::Failed(refusal) => refusal.into(),
            Self::Left(signal) => Failure::exit_code(128 + signal),
        }
    }
}

/// Deletes a process that could not be started, on the way to telling why.
pub async fn delete(client: &Client, process: &ProcessName) {
    if let Err(refusal) = client.call(process.delete()).await
        && !refusal.is(RefusalKind::NotFound)
    {
        warn(format!("task {} is left over: {refusal}", process.container_id));
    }
}

struct Foreground<'a> {
    client: &'a Client,
    process: &'a ProcessName,
    copying: Option<Copying>,
    resizes: Received,
    leave_by: Received,
    pass_on: Received,
}

impl<'a> Foreground<'a> {
    fn new(client: &'a Client, process: &'a ProcessName, streams: Option<Streams>, terminal: bool) -> Outcome<Self> {
        let copying = match streams {
            // A standard input that is closed is one that has ended. With a terminal nothing comes by standard error; each
            // descriptor can be waited for once, so output's is not taken twice.
            Some(streams) => Some(streams.copy(Input::stdin().ok(), Output::stdout()?, Output::stderr()?)),
            None => None,
        };
        Ok(Self {
            client,
            process,
            copying,
            resizes: if terminal { Received::resizes()? } else { Received::none() },
            leave_by: if terminal { Received::to_leave_by()? } else { Received::none() },
            pass_on: if terminal { Received::none() } else { Received::to_pass_on()? },
        })
    }

    /// Starts the process, and passes on what happens here until it has ended.
    async fn until_exit(&mut self, start: impl Future<Output = Answer<()>>) -> Result<Exit, End> {
        let ProcessName { container_id, exec_id } = self.process.clone();
        // Asked together with the start, which saves a round trip for processes that end at once.
        let mut exited = std::pin::pin!(self.client.call(WaitTask { container_id, exec_id }));
        let mut start = std::pin::pin!(start);
        let mut is_started = false;
        let mut input_ended = false;
        let mut exit: Option<Answer<Exit>> = None;
        // A task has its terminal before it starts and so its size from the first instruction on; an added process
        // gets one when it starts.
        self.resize().await;
        loop {
            if is_started && let Some(exit) = exit.take() {
                return exit.map_err(End::Failed);
            }
            tokio::select! {
                biased;
                started = &mut start, if !is_started => {
                    started.map_err(End::Failed)?;
                    is_started = true;
                    if self.process.exec_id.is_some() {
                        self.resize().await;
                    }
                }
                ended = &mut exited, if exit.is_none() => exit = Some(ended),
                signal = self.pass_on.next(), if is_started => self.kill(signal).await,
                _ = self.resizes.next() => self.resize().await,
                signal = self.leave_by.next() => return Err(End::Left(signal)),
                ended = next_input_end(&mut self.copying), if is_started && !input_ended => {
                    input_ended = true;
                    if let Err(refusal) = ended {
                        warn(refusal);
                    }
                    self.close_input().await;
                    // A shim that closes its own end leaves it to the FIFO to end: ours was the last one open.
                    if let Some(copying) = &mut self.copying {
                        copying.close_input();
                    }
                }
            }
        }
    }

    async fn kill(&self, signal: u32) {
        let ProcessName { container_id, exec_id } = self.process.clone();
        match self.client.call(KillTask { container_id, exec_id, signal, all: false }).await {
            Ok(()) => {}
            // It has just ended by itself.
            Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
            Err(refusal) => warn(format!("forward signal {signal}: {refusal}")),
        }
    }

    async fn close_input(&self) {
        let ProcessName { container_id, exec_id } = self.process.clone();
        match self.client.call(CloseIo { container_id, exec_id }).await {
            Ok(()) => {}
            Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
            Err(refusal) => warn(format!("close standard input: {refusal}")),
        }
    }

    /// Gives the process's terminal the size of ours.
    async fn resize(&self) {
        if self.resizes.is_empty() {
            return;
        }
        let ProcessName { container_id, exec_id } = self.process.clone();
        let size = match terminal::size() {
            Ok(size) => size,
            Err(error) => return warn(format!("resize pty: {error}")),
        };
        let (width, height) = (u32::from(size.ws_col), u32::from(size.ws_row));
        match self.client.call(ResizePty { container_id, exec_id, width, height }).await {
            Ok(()) => {}
            // It has just ended by itself.
            Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
            Err(refusal) => warn(format!("resize pty: {refusal}")),
        }
    }

    /// Deletes the process and passes on the last of its output, which ends when the shim lets go of it.
    async fn delete_and_drain(&mut self) -> Answer<()> {
        let mut deleted = std::pin::pin!(self.client.call(self.process.delete()));
        let mut is_drained = self.copying.is_none();
        let answer = loop {
            tokio::select! {
                answer = &mut deleted => break answer.map(drop),
                ended = next_output_end(&mut self.copying), if !is_drained => {
                    is_drained = true;
                    if let Err(refusal) = ended {
                        warn(refusal);
                    }
                }
            }
        };
        if !is_drained {
            match tokio::time::timeout(LAST_OUTPUT, next_output_end(&mut self.copying)).await {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => warn(refusal),
                Err(_) => warn("the container's output did not end: some of it may be missing"),
            }
        }
        match answer {
            // Somebody else was faster: gone is gone.
            Err(refusal) if refusal.is(RefusalKind::NotFound) => Ok(()),
            other => other,
        }
    }
}

async fn next_input_end(copying: &mut Option<Copying>) -> Answer<()> {
    match copying {
        Some(copying) => copying.input_ended().await,
        None => std::future::pending().await,
    }
}

async fn next_output_end(copying: &mut Option<Copying>) -> Answer<()> {
    match copying {
        Some(copying) => copying.output_ended().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ProcessName {
        ProcessName { container_id: ContainerId::new("web").unwrap(), exec_id: None }
    }

    #[test]
    fn log_uris_are_uris_or_paths() {
        assert_eq!(log_target("binary:///usr/bin/logger?id=1").unwrap(), "binary:///usr/bin/logger?id=1");
        assert_eq!(log_target("/var/log/web").unwrap(), "file:///var/log/web");
        assert!(log_target("web.log").unwrap().starts_with("file:///"));
    }

    #[tokio::test]
    async fn flags_for_streams_exclude_each_other() {
        let null = IoFlags { null_io: true, ..IoFlags::default() };
        assert_eq!(Io::prepare(&null, &name()).unwrap().stdio(), Stdio::default());
        let log = IoFlags { log_uri: Some("/var/log/web".into()), ..IoFlags::default() };
        assert_eq!(Io::prepare(&log, &name()).unwrap().stdio().stderr, "file:///var/log/web");
        for (flags, complaint) in [
            (IoFlags { tty: true, ..null.clone() }, "tty and null-io cannot be used together"),
            (IoFlags { tty: true, ..log.clone() }, "can't use log-uri with tty"),
            (IoFlags { fifo_dir: Some("/tmp".into()), ..log.clone() }, "can't use log-uri with fifo-dir"),
        ] {
            assert_eq!(Io::prepare(&flags, &name()).unwrap_err().text.as_deref(), Some(complaint));
        }
    }

    #[tokio::test]
    async fn fifos_are_named_after_the_process_and_go_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let flags = IoFlags { fifo_dir: Some(dir.path().to_owned()), ..IoFlags::default() };
        let io = Io::prepare(&flags, &name()).unwrap();
        assert!(io.stdio().stdout.ends_with("/web-stdout") && io.stdio().stdin.ends_with("/web-stdin"));
        drop(io);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let io = Io::prepare(&flags, &name()).unwrap();
        io.leave();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
