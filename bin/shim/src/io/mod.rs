//! A process's standard streams: what the client named, what the process is given, and the copies in between.

pub mod console;
pub mod fifo;
pub mod logger;
pub mod relay;
pub mod relays;
pub mod uri;

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use wharf_messages::{Answer, Refusal};

use self::console::{Console, ConsoleSocket};
use self::fifo::Output;
use self::logger::Logger;
use self::relay::{Relay, Sink, Source};
use self::uri::Target;

/// The streams as the client named them.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// For whom streams are made.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The container's name.
    pub id: &'a str,
    /// The exec's name, empty for init.
    pub exec_id: &'a str,
    /// The container's namespace.
    pub namespace: &'a str,
    /// The container's bundle.
    pub bundle: &'a Path,
    /// Who is to own the pipes, so that the process can open them again as `/dev/stdout`.
    pub uid: u32,
    /// The group that is to own them.
    pub gid: u32,
}

/// What a process is started with; what is absent is `/dev/null`.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct ChildStdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Streams that are ready for a process to be started.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What the process gets.
    pub child: ChildStdio,
    /// The copy into its input.
    pub input: Option<Relay>,
    /// The copies of its outputs.
    pub outputs: Vec<Relay>,
    /// What keeps its input open while no client has it open.
    pub input_keeper: Option<OwnedFd>,
    /// The logging binary that gets its output.
    pub logger: Option<Logger>,
    /// Where the runtime will send its terminal.
    pub console_socket: Option<ConsoleSocket>,
    terminal_input: Option<OwnedFd>,
    terminal_output: Option<Sink>,
}

impl Prepared {
    /// Opens everything that the client named.
    ///
    /// # Errors
    /// Invalid argument, not found and the like, naming the path.
    pub fn open(stdio: &Stdio, context: Context<'_>) -> Answer<Self> {
        let mut prepared = Self::default();
        let input = match Target::parse(&stdio.stdin)? {
            Target::Null => None,
            Target::Fifo(path) => {
                let (reader, keeper) = fifo::open_input(&path)?;
                prepared.input_keeper = Some(keeper);
                Some(reader)
            }
            Target::File(_) | Target::Binary(..) => {
                return Err(Refusal::invalid(format!("stdin {:?}: not a fifo", stdio.stdin)));
            }
        };
        let stdout = Target::parse(&stdio.stdout)?;
        if stdio.terminal {
            prepared.console_socket = Some(ConsoleSocket::bind(context.bundle, context.exec_id)?);
            prepared.terminal_input = input;
            prepared.terminal_output = prepared.open_terminal_output(stdout, context)?;
            return Ok(prepared);
        }
        if let Some(reader) = input {
            let (theirs, ours) = pipe(context)?;
            nonblocking(&ours)?;
            prepared.child.stdin = Some(theirs);
            prepared.input = Some(Relay::new(Source::Pipe(reader), Sink::Pipe(ours)));
        }
        if let Target::Binary(binary, arguments) = &stdout {
            // One binary gets both, whatever the other stream's name says.
            let started = logger::start(binary, arguments, context.id, context.namespace)?;
            prepared.logger = Some(started.logger);
            prepared.child.stdout = Some(started.stdout);
            prepared.child.stderr = Some(started.stderr);
            return Ok(prepared);
        }
        let stderr = match Target::parse(&stdio.stderr)? {
            Target::Binary(..) => return Err(Refusal::invalid("a logging binary takes stdout and stderr together")),
            target => target,
        };
        prepared.child.stdout = prepared.add_output(stdout, context)?;
        prepared.child.stderr = prepared.add_output(stderr, context)?;
        Ok(prepared)
    }

    fn add_output(&mut self, target: Target, context: Context<'_>) -> Answer<Option<OwnedFd>> {
        let sink = match target {
            Target::Null => return Ok(None),
            Target::Fifo(path) => output_sink(&path)?,
            Target::File(path) => Sink::File(open_file(&path)?),
            Target::Binary(..) => return Err(Refusal::internal("a logging binary is started elsewhere")),
        };
        let (ours, theirs) = pipe(context)?;
        nonblocking(&ours)?;
        self.outputs.push(Relay::new(Source::Pipe(ours), sink));
        Ok(Some(theirs))
    }

    fn open_terminal_output(&mut self, target: Target, context: Context<'_>) -> Answer<Option<Sink>> {
        Ok(match target {
            Target::Null => None,
            Target::Fifo(path) => Some(output_sink(&path)?),
            Target::File(path) => Some(Sink::File(open_file(&path)?)),
            Target::Binary(binary, arguments) => {
                let started = logger::start(&binary, &arguments, context.id, context.namespace)?;
                self.logger = Some(started.logger);
                nonblocking(&started.stdout)?;
                Some(Sink::Logger(started.stdout))
            }
        })
    }

    /// Connects the terminal that the runtime has sent, if one was asked for.
    ///
    /// # Errors
    /// Internal, if it sent none.
    pub fn connect_terminal(&mut self, size: Option<(u16, u16)>, uid: u32) -> Answer<Option<Console>> {
        let Some(socket) = self.console_socket.take() else { return Ok(None) };
        let console = socket.receive()?;
        if let Some((width, height)) = size {
            console.resize(width, height)?;
        }
        if uid != 0 {
            console.give_to(uid);
        }
        // A terminal that nobody wants to see is read all the same, or its process would block.
        let sink = self.terminal_output.take().unwrap_or(Sink::Nowhere);
        self.outputs.push(Relay::new(Source::Terminal(console.master()?), sink));
        if let Some(reader) = self.terminal_input.take() {
            self.input = Some(Relay::new(Source::Pipe(reader), Sink::Terminal(console.master()?)));
        }
        Ok(Some(console))
    }
}

fn output_sink(path: &Path) -> Answer<Sink> {
    Ok(match fifo::open_output(path)? {
        Output::Fifo(fifo) => Sink::Fifo(fifo),
        Output::File(file) => Sink::File(file),
    })
}

fn open_file(path: &Path) -> Answer<OwnedFd> {
    let refuse = |error: std::io::Error| Refusal::io(format!("open log file {}", path.display()), &error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(refuse)?;
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map_err(|error| refuse(error.into()))
}

/// A pipe that belongs to the container's user: the reading end and the writing end.
fn pipe(context: Context<'_>) -> Answer<(OwnedFd, OwnedFd)> {
    let refuse = |error: rustix::io::Errno| Refusal::io("make a pipe", &error.into());
    let ends = pipe_with(PipeFlags::CLOEXEC).map_err(refuse)?;
    if context.uid != 0 || context.gid != 0 {
        // Both ends are one inode.
        let (uid, gid) = (Uid::from_raw(context.uid), Gid::from_raw(context.gid));
        rustix::fs::fchown(&ends.0, Some(uid), Some(gid)).map_err(refuse)?;
    }
    Ok(ends)
}

fn nonblocking(descriptor: &OwnedFd) -> Answer<()> {
    rustix::io::ioctl_fionbio(descriptor, true).map_err(|error| Refusal::io("set up a stream", &error.into()))
}
