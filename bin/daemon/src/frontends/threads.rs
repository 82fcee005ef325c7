//! The threads that serve connections.
//!
//! Each has an event loop of its own, and a connection stays with its thread. On an event loop that several threads share,
//! each small call would have a second thread woken to look whether there is more to do: that cost a client as much as the
//! call itself.

use std::{
    io,
    num::NonZero,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use wharf_messages::{Answer, Refusal};

/// More would be idle: what is heavy is done elsewhere.
const THREADS_MAX: usize = 4;
/// The most threads of each for short blocking work, and how long an unused one of them stays.
const BLOCKING_THREADS_MAX: usize = 16;
const BLOCKING_THREAD_IDLE: Duration = Duration::from_secs(2);

/// The threads. Dropping it ends them; what they still serve is dropped with them.
#[derive(Debug)]
pub struct Threads {
    loops: Vec<Handle>,
    stop: CancellationToken,
    joins: Vec<JoinHandle<()>>,
}

impl Threads {
    /// As many as this machine has processors, up to a few.
    ///
    /// # Errors
    /// If the system has no thread or no event loop to give.
    pub fn start() -> Answer<Self> {
        let count = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        let mut threads = Self { loops: Vec::new(), stop: CancellationToken::new(), joins: Vec::new() };
        for _ in 0..count {
            threads.add().map_err(|error| Refusal::io("start a thread for connections", &error))?;
        }
        Ok(threads)
    }

    /// The caller's own event loop, whose clock a test may hold.
    #[cfg(test)]
    pub fn here() -> Self {
        Self { loops: vec![Handle::current()], stop: CancellationToken::new(), joins: Vec::new() }
    }

    fn add(&mut self) -> io::Result<()> {
        let event_loop = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_keep_alive(BLOCKING_THREAD_IDLE)
            .thread_name("front-blocking")
            .enable_all()
            .build()?;
        self.loops.push(event_loop.handle().clone());
        let stop = self.stop.clone();
        let run = move || {
            event_loop.block_on(stop.cancelled());
            // Blocking work that has begun is not waited for, as on the shared event loop.
            event_loop.shutdown_background();
        };
        self.joins.push(thread::Builder::new().name("front".to_owned()).spawn(run)?);
        Ok(())
    }

    /// Names their event loops in turn.
    pub fn in_turn(&self) -> impl FnMut() -> Handle + Send + use<> {
        let (loops, mut next) = (self.loops.clone(), 0);
        move || {
            next = (next + 1) % loops.len();
            loops[next].clone()
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
        for join in self.joins.drain(..) {
            // A panic was told by its hook; there is nothing to add.
            drop(join.join());
        }
    }
}
