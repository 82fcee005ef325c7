//! What runs beside the loop: a runtime's verbs, and logging binaries that get ready. And what comes after them.

use std::time::Duration;

use rustix::process::WaitStatus;
use wharf_messages::Refusal;

use crate::io::Prepared;
use crate::io::logger::Logger;
use crate::reactor::{Interest, Timer, Token};
use crate::runtime::Running;
use crate::service::{Create, StartExec};
use crate::shim::{ReplyTo, Shim};
use crate::task::process::Process;
use crate::warning;

/// How long a logging binary may take to get ready.
const LOGGER_READY: Duration = Duration::from_secs(10);

/// A verb that runs.
#[derive(Debug)]
pub struct Job {
    /// Its process.
    pub running: Running,
    /// The container's name.
    pub container: String,
    /// Who waits for it.
    pub to: ReplyTo,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a verb is for.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Purpose {
    Create(Box<Create>),
    Start,
    Restore(Box<Prepared>),
    StartExec(Box<StartExec>),
    Delete,
    Pause,
    Resume,
    Update,
    Kill,
    /// Ends what shares the container's pid namespace with others; nobody waits for it.
    KillRest,
    /// The image's path.
    Checkpoint(String),
}

impl Job {
    /// Whether it makes a process, which may end before the verb tells of it.
    #[must_use]
    pub fn makes_process(&self) -> bool {
        matches!(self.purpose, Purpose::Create(_) | Purpose::Restore(_) | Purpose::StartExec(_))
    }

    /// Whether other calls wait until it is done.
    fn takes_turn(&self) -> bool {
        !matches!(self.purpose, Purpose::Kill | Purpose::KillRest)
    }
}

/// A process that is to be made when its logging binary is ready.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Making {
    Create(Box<Create>),
    StartExec(Box<StartExec>),
}

impl Shim {
    /// Lets a verb run; its container's other calls wait.
    pub(crate) fn start_job(&mut self, job: Job) {
        if job.takes_turn()
            && let Some(container) = self.containers.get_mut(&job.container)
        {
            container.busy = true;
        }
        self.jobs.insert(job.running.pid, job);
    }

    /// Goes on after a verb.
    pub(crate) fn finish_job(&mut self, job: Job, status: WaitStatus) {
        let outcome = job.running.outcome(status);
        let (id, to) = (job.container, job.to);
        match job.purpose {
            Purpose::Create(making) => self.finish_create(*making, to, outcome),
            Purpose::Start => self.finish_start(&id, to, outcome),
            Purpose::Restore(prepared) => self.finish_restore(&id, *prepared, to, outcome),
            Purpose::StartExec(start) => self.finish_start_exec(*start, to, outcome),
            Purpose::Delete => self.finish_runtime_delete(&id, outcome),
            Purpose::Pause => self.finish_pause(&id, to, outcome),
            Purpose::Resume => self.finish_resume(&id, to, outcome),
            Purpose::Update => self.finish_update(&id, to, outcome),
            Purpose::Kill => self.finish_kill(to, outcome),
            Purpose::KillRest => {
                if let Err(refusal) = outcome {
                    warning!("the rest of container {id:?} cannot be killed: {refusal}");
                }
            }
            Purpose::Checkpoint(path) => self.finish_checkpoint(&id, path, to, outcome),
        }
    }

    /// Makes a process as soon as its logging binary is ready, or at once if it has none.
    pub(crate) fn make_when_ready(&mut self, key: u32, making: Making, to: ReplyTo) {
        let logger = self.process_by_key(key).and_then(|process| process.streams.logger.as_ref());
        let Some(logger) = logger else { return self.go_on(making, to) };
        // Cloned, for the process it belongs to is borrowed from what the reactor is part of.
        let watched = logger.ready.try_clone().and_then(|ready| {
            self.reactor.watch(&ready, Token::Logger(key), Interest::Read)?;
            Ok(ready)
        });
        match watched {
            Ok(ready) => {
                self.logger_waits.insert(key, (making, to, ready));
                self.reactor.after(LOGGER_READY, Timer::Logger(key));
            }
            Err(error) => {
                let refusal = Refusal::io("wait for the logging binary", &error);
                self.give_up(making, to, refusal);
            }
        }
    }

    /// A logging binary has news.
    pub(crate) fn logger_ready(&mut self, key: u32) {
        let is_ready = self.logger_waits.get(&key).is_some_and(|(_, _, ready)| Logger::is_ready(ready));
        if is_ready && let Some((making, to, _)) = self.logger_waits.remove(&key) {
            self.go_on(making, to);
        }
    }

    /// A logging binary has had its time, to get ready or to end.
    pub(crate) fn logger_due(&mut self, key: u32) {
        if let Some((making, to, _)) = self.logger_waits.remove(&key) {
            let seconds = LOGGER_READY.as_secs();
            let refusal = Refusal::deadline_exceeded(format!("the logging binary is not ready after {seconds} s"));
            return self.give_up(making, to, refusal);
        }
        let process = self.process_by_key(key).filter(|process| process.deletion.is_some());
        if let Some(logger) = process.and_then(|process| process.streams.logger.as_ref()) {
            logger.stop();
        }
    }

    /// A child has ended: whether it is a logging binary.
    pub(crate) fn logger_ended(&mut self, pid: i32) -> bool {
        let keys: Vec<u32> = self.keys.keys().copied().collect();
        let owner = keys.into_iter().find(|key| {
            let logger = self.process_by_key(*key).and_then(|process| process.streams.logger.as_ref());
            logger.is_some_and(|logger| logger.pid == pid)
        });
        let Some(key) = owner else { return false };
        if let Some(process) = self.process_by_key(key) {
            process.streams.logger = None;
        }
        self.advance_deletion(key);
        true
    }

    fn go_on(&mut self, making: Making, to: ReplyTo) {
        match making {
            Making::Create(create) => self.make(*create, to),
            Making::StartExec(start) => self.make_exec(*start, to),
        }
    }

    fn give_up(&mut self, making: Making, to: ReplyTo, refusal: Refusal) {
        match making {
            Making::Create(create) => self.not_created(&create.request.id, to, refusal),
            Making::StartExec(start) => self.exec_not_started(&start.container, &start.exec, to, refusal),
        }
    }

    /// The process that a timer or a relay means.
    pub(crate) fn process_by_key(&mut self, key: u32) -> Option<&mut Process> {
        let name = self.keys.get(&key)?;
        self.containers.get_mut(&name.container)?.process(&name.exec).ok()
    }
}
