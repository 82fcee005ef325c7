//! The shim itself: everything it knows, and the loop that moves it.
//!
//! One thread, one loop. Nothing in it waits: calls whose answer must wait (a process's end, a runtime's verb, output
//! that drains) are parked with the address of their answer, and answered when the thing has happened.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::process::{WaitOptions, WaitStatus};
use wharf_messages::{Answer, Refusal, Timestamp};

use crate::events::Publisher;
use crate::io::relays::Relays;
use crate::jobs::{Job, Making};
use crate::reactor::{Interest, Reactor, Timer, Token, Wake};
use crate::task::container::Container;
use crate::task::process::ProcessName;
use crate::ttrpc::connection::{Call, Connection};
use crate::{debug, info, sys, warning};

/// How many clients are served at a time. A daemon is one, and tools come and go.
const CONNECTIONS_MAX: usize = 64;
/// How long the process stays to deliver its last events.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ReplyTo {
    pub connection: u32,
    pub stream: u32,
}

/// Whether the process goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Serving,
    /// Everything is done, but for events that the daemon has not acknowledged.
    Farewell,
    Over,
}

/// The shim.
pub struct Shim {
    pub(crate) namespace: String,
    pub(crate) reactor: Reactor,
    pub(crate) publisher: Publisher,
    pub(crate) relays: Relays,
    pub(crate) containers: BTreeMap<String, Container>,
    /// The verbs that run, by process id.
    pub(crate) jobs: BTreeMap<i32, Job>,
    /// Processes that ended before the verb that made them told of them.
    pub(crate) unclaimed: Vec<(i32, WaitStatus, Timestamp)>,
    /// Processes that wait for their logging binary, by key: what is to be made, for whom, and the binary's word.
    pub(crate) logger_waits: BTreeMap<u32, (Making, ReplyTo, OwnedFd)>,
    /// The processes, by the numbers that timers and relays know them by.
    pub(crate) keys: BTreeMap<u32, ProcessName>,
    next_key: u32,
    socket_path: PathBuf,
    listener: UnixListener,
    signals: OwnedFd,
    connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    life: Life,
}

impl Shim {
    /// A shim that serves that socket.
    ///
    /// # Errors
    /// If the event loop cannot be set up.
    pub fn new(
        namespace: &str,
        events_address: Option<&str>,
        listener: UnixListener,
        socket_path: PathBuf,
    ) -> std::io::Result<Self> {
        let reactor = Reactor::new()?;
        let signals = sys::signal_descriptor(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT])?;
        reactor.watch(&signals, Token::Signals, Interest::Read)?;
        listener.set_nonblocking(true)?;
        reactor.watch(&listener, Token::Listener, Interest::Read)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            reactor,
            publisher: Publisher::new(events_address, namespace),
            relays: Relays::default(),
            containers: BTreeMap::new(),
            jobs: BTreeMap::new(),
            unclaimed: Vec::new(),
            logger_waits: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_key: 0,
            socket_path,
            listener,
            signals,
            connections: BTreeMap::new(),
            next_connection: 0,
            life: Life::Serving,
        })
    }

    /// Serves until the last container is gone and a client says so.
    ///
    /// # Errors
    /// If the event loop itself fails.
    pub fn run(&mut self) -> std::io::Result<()> {
        let mut wakes = Vec::new();
        while self.life != Life::Over {
            self.reactor.wait(self.relays.have_more(), &mut wakes)?;
            for wake in wakes.drain(..) {
                self.guarded(|shim| shim.handle(wake));
            }
            for relay in self.relays.take_more() {
                self.guarded(|shim| shim.pump(relay));
            }
            if self.life == Life::Farewell && self.publisher.is_idle() {
                self.life = Life::Over;
            }
        }
        if let Err(error) = std::fs::remove_file(&self.socket_path) {
            debug!("the socket {} stays: {error}", self.socket_path.display());
        }
        Ok(())
    }

    /// Does something and survives its panics: a fault in one call must not orphan every container.
    fn guarded(&mut self, action: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| action(self))) {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            warning!("a fault of the shim: {}", text.as_deref().unwrap_or("no text"));
        }
    }

    fn handle(&mut self, wake: Wake) {
        match wake {
            Wake::Ready(Token::Signals) => self.take_signals(),
            Wake::Ready(Token::Listener) => self.accept(),
            Wake::Ready(Token::Connection(id)) => self.serve(id),
            Wake::Ready(Token::Publisher) => self.publisher.ready(&mut self.reactor),
            Wake::Ready(Token::Relay(relay)) => self.pump(relay),
            Wake::Ready(Token::Memory(key)) => self.memory_ran_out(key),
            Wake::Ready(Token::Logger(key)) => self.logger_ready(key),
            Wake::Due(Timer::Publisher) => self.publisher.due(&mut self.reactor),
            Wake::Due(Timer::Relay(relay)) => {
                if let Some(ended) = self.relays.due(&mut self.reactor, relay) {
                    self.stream_ended(ended);
                }
            }
            Wake::Due(Timer::Deletion(key)) => self.deletion_due(key),
            Wake::Due(Timer::Logger(key)) => self.logger_due(key),
            Wake::Due(Timer::Farewell) => self.life = Life::Over,
        }
    }

    /// A number that no process of this shim had before.
    pub(crate) fn new_key(&mut self, container: &str, exec: &str) -> u32 {
        self.next_key = self.next_key.wrapping_add(1);
        self.keys.insert(self.next_key, ProcessName::new(container, exec));
        self.next_key
    }

    /// The container of that name, if clients may see it.
    ///
    /// # Errors
    /// Not found.
    pub(crate) fn container(&mut self, id: &str) -> Answer<&mut Container> {
        let found = self.containers.get_mut(id).filter(|container| !container.creating);
        found.ok_or_else(|| Refusal::not_found(format!("container {id:?} in namespace {:?}", self.namespace)))
    }

    fn pump(&mut self, relay: u32) {
        if let Some(ended) = self.relays.pump(&mut self.reactor, relay) {
            self.stream_ended(ended);
        }
    }

    fn take_signals(&mut self) {
        loop {
            match sys::next_signal(self.signals.as_fd()) {
                Ok(libc::SIGCHLD) => {}
                Ok(signal) if self.containers.is_empty() => {
                    info!("signal {signal} and no containers: the shim ends");
                    self.say_farewell();
                }
                Ok(signal) => info!("signal {signal} is ignored while there are containers"),
                Err(_) => break,
            }
        }
        self.reap();
    }

    /// Takes the exit status of every child that has ended.
    fn reap(&mut self) {
        let mut ended = Vec::new();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            ended.push((pid.as_raw_nonzero().get(), status));
        }
        let now = Timestamp::from(SystemTime::now());
        // Verbs first: they tell which processes the others are.
        let (verbs, others): (Vec<_>, Vec<_>) = ended.into_iter().partition(|(pid, _)| self.jobs.contains_key(pid));
        self.unclaimed.extend(others.into_iter().map(|(pid, status)| (pid, status, now)));
        for (pid, status) in verbs {
            if let Some(job) = self.jobs.remove(&pid) {
                self.guarded(|shim| shim.finish_job(job, status));
            }
        }
        self.claim_exits();
    }

    /// Matches processes that have ended with those that are known.
    pub(crate) fn claim_exits(&mut self) {
        for (pid, status, at) in std::mem::take(&mut self.unclaimed) {
            match self.find_pid(pid) {
                Some(name) => self.guarded(|shim| shim.process_ended(&name, status, at)),
                None if self.logger_ended(pid) => {}
                // It may be one that a verb has made and not told of yet. Without one it is a stranger: a process of
                // a container that lost its parent.
                None if self.jobs.values().any(Job::makes_process) => self.unclaimed.push((pid, status, at)),
                None => debug!("process {pid}, which nobody knows, has ended"),
            }
        }
    }

    fn find_pid(&mut self, pid: i32) -> Option<ProcessName> {
        self.containers.iter_mut().find_map(|(id, container)| {
            let (exec, _) = container.processes().find(|(_, process)| process.is_running() && process.pid == pid)?;
            Some(ProcessName::new(id, exec))
        })
    }

    fn accept(&mut self) {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => return warning!("a client cannot be accepted: {error}"),
            };
            if self.connections.len() >= CONNECTIONS_MAX {
                warning!("a client is turned away: {CONNECTIONS_MAX} are connected");
                continue;
            }
            self.next_connection = self.next_connection.wrapping_add(1);
            let id = self.next_connection;
            let connection = Connection::new(socket).and_then(|connection| {
                self.reactor.watch(connection.socket(), Token::Connection(id), Interest::Both)?;
                Ok(connection)
            });
            match connection {
                Ok(connection) => drop(self.connections.insert(id, connection)),
                Err(error) => warning!("a client cannot be served: {error}"),
            }
        }
    }

    fn serve(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut calls = Vec::new();
        let state = connection.flush().and_then(|()| connection.receive(&mut calls));
        for Call { stream, request } in calls {
            let to = ReplyTo { connection: id, stream };
            self.guarded(|shim| shim.dispatch(&request.service, &request.method, request.payload, to));
        }
        if state.is_err() {
            self.hang_up(id);
        }
    }

    fn hang_up(&mut self, id: u32) {
        self.connections.remove(&id);
        for container in self.containers.values_mut() {
            for (_, process) in container.processes() {
                process.waiters.retain(|waiter| waiter.connection != id);
            }
        }
    }

    /// Answers a call. A client that is gone gets no answer.
    pub(crate) fn reply(&mut self, to: ReplyTo, answer: Answer<Vec<u8>>) {
        if let Err(refusal) = &answer {
            debug!("refused: {refusal}");
        }
        if let Some(connection) = self.connections.get_mut(&to.connection)
            && let Err(error) = connection.reply(to.stream, answer)
        {
            debug!("a client is gone: {error}");
            self.hang_up(to.connection);
        }
    }

    /// Whether nobody has told it to end.
    pub(crate) fn is_serving(&self) -> bool {
        self.life == Life::Serving
    }

    /// Ends the process as soon as its events are delivered.
    pub(crate) fn say_farewell(&mut self) {
        if self.life == Life::Serving {
            self.life = Life::Farewell;
            self.reactor.after(FAREWELL, Timer::Farewell);
        }
    }
}
