//! A process of a container: its init, or one that is executed later.

use std::os::fd::OwnedFd;

use crate::exit_record::ExitRecord;
use crate::io::Stdio;
use crate::io::console::Console;
use crate::io::logger::Logger;
use crate::shim::ReplyTo;

use super::machine::State;

/// Which process: the container's name, and the exec's, which is empty for init.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct ProcessName {
    pub container: String,
    pub exec: String,
}

impl ProcessName {
    /// The name of a container's init, or of an exec in it.
    #[must_use]
    pub fn new(container: &str, exec: &str) -> Self {
        Self { container: container.to_owned(), exec: exec.to_owned() }
    }
}

/// The live part of a process's streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// The copies of its outputs that go on.
    pub outputs: Vec<u32>,
    /// The copy into its input.
    pub input: Option<u32>,
    /// What keeps its input open while no client has it open.
    pub input_keeper: Option<OwnedFd>,
    /// A client has closed its input, perhaps before there was one.
    pub input_closed: bool,
    /// Its terminal.
    pub console: Option<Console>,
    /// The logging binary that reads its output, until that has ended.
    pub logger: Option<Logger>,
}

impl Streams {
    /// Whether everything that it wrote has reached its reader.
    #[must_use]
    pub fn are_drained(&self) -> bool {
        self.outputs.is_empty() && self.logger.is_none()
    }
}

/// A deletion that waits for something.
#[derive(Debug)]
pub struct Deletion {
    /// Who asked.
    pub reply: ReplyTo,
    /// It has waited long enough for output to drain.
    pub drained: bool,
    /// How often its cgroups were still busy.
    pub attempts: u32,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// A number for timers and relays, which no other process of this shim ever has.
    pub key: u32,
    /// Where it is in its life.
    pub state: State,
    /// Its process id, 0 while it has none.
    pub pid: i32,
    /// Its streams as the client named them.
    pub stdio: Stdio,
    /// Its streams as they are.
    pub streams: Streams,
    /// How it ended.
    pub exit: Option<ExitRecord>,
    /// Who waits for that.
    pub waiters: Vec<ReplyTo>,
    /// Who waits for its deletion.
    pub deletion: Option<Deletion>,
    /// The OCI process that an exec is to become.
    pub process_json: Vec<u8>,
}

impl Process {
    /// A process that does not run yet.
    #[must_use]
    pub fn new(key: u32, stdio: Stdio) -> Self {
        Self {
            key,
            state: State::Created,
            pid: 0,
            stdio,
            streams: Streams::default(),
            exit: None,
            waiters: Vec::new(),
            deletion: None,
            process_json: Vec::new(),
        }
    }

    /// The process id as messages have it.
    #[must_use]
    pub fn pid_u32(&self) -> u32 {
        u32::try_from(self.pid).unwrap_or(0)
    }

    /// Whether it has been started and has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid != 0 && self.state != State::Stopped
    }
}
