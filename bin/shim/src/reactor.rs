//! What wakes the shim: descriptors, through one epoll instance, and deadlines.
//!
//! Every descriptor is watched edge-triggered under a token that its owner chose, so whoever is woken reads or writes
//! until the kernel says "would block".

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

/// Who is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// A signal was delivered.
    Signals,
    /// A client connects.
    Listener,
    /// A client's connection has news.
    Connection(u32),
    /// The connection to the daemon's event service has news.
    Publisher,
    /// One end of a stream's copy can go on.
    Relay(u32),
    /// A container's cgroup tells of memory that ran out.
    Memory(u32),
    /// A logging binary says that it is ready.
    Logger(u32),
}

const KINDS: [fn(u32) -> Token; 7] = [
    |_| Token::Signals,
    |_| Token::Listener,
    Token::Connection,
    |_| Token::Publisher,
    Token::Relay,
    Token::Memory,
    Token::Logger,
];

impl Token {
    fn encode(self) -> u64 {
        let (kind, index) = match self {
            Token::Signals => (0, 0),
            Token::Listener => (1, 0),
            Token::Connection(index) => (2, index),
            Token::Publisher => (3, 0),
            Token::Relay(index) => (4, index),
            Token::Memory(index) => (5, index),
            Token::Logger(index) => (6, index),
        };
        kind << 32 | u64::from(index)
    }

    fn decode(data: u64) -> Option<Self> {
        let kind = usize::try_from(data >> 32).ok()?;
        // The low half is the index: the cut is meant.
        KINDS.get(kind).map(|make| make((data & u64::from(u32::MAX)) as u32))
    }
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The publisher tries again, or lets an idle connection go.
    Publisher,
    /// A stream that nobody reads is looked at again.
    Relay(u32),
    /// A deletion has waited long enough for output to drain, or looks at a cgroup again.
    Deletion(u32),
    /// A logging binary has had its time.
    Logger(u32),
    /// Events have had their time to leave before the process ends.
    Farewell,
}

/// What about a descriptor is watched; its end always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// That it can be read.
    Read,
    /// That it can be written.
    Write,
    /// Either.
    Both,
    /// That the kernel says so: how cgroup files tell of changes.
    Urgent,
}

/// The epoll instance and the deadlines.
pub struct Reactor {
    epoll: OwnedFd,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
}

/// What [`Reactor::wait`] found.
#[derive(Debug, Clone, Copy)]
pub enum Wake {
    /// This descriptor's owner.
    Ready(Token),
    /// This deadline.
    Due(Timer),
}

impl Reactor {
    /// A reactor that watches nothing yet.
    ///
    /// # Errors
    /// Whatever `epoll_create1(2)` answers.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, timers: BinaryHeap::new() })
    }

    /// Watches a descriptor until it is closed.
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` answers; `EPERM` for regular files, which are always ready.
    pub fn watch(&self, descriptor: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let interest = epoll::EventFlags::ET
            | match interest {
                Interest::Read => epoll::EventFlags::IN,
                Interest::Write => epoll::EventFlags::OUT,
                Interest::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
                Interest::Urgent => epoll::EventFlags::PRI,
            };
        Ok(epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(token.encode()), interest)?)
    }

    /// Asks to be woken after a while. A timer that lost its meaning is ignored by its owner when it comes.
    pub fn after(&mut self, delay: Duration, timer: Timer) {
        self.timers.push(Reverse((Instant::now() + delay, timer)));
    }

    /// Waits for something to happen, or only looks if `poll`, and puts it into `wakes`.
    ///
    /// # Errors
    /// Whatever `epoll_wait(2)` answers, but for interruptions.
    pub fn wait(&mut self, poll: bool, wakes: &mut Vec<Wake>) -> io::Result<()> {
        let now = Instant::now();
        let timeout = match self.timers.peek() {
            _ if poll => Some(Duration::ZERO),
            Some(Reverse((due, _))) => Some(due.saturating_duration_since(now)),
            None => None,
        };
        let timeout = timeout.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 32];
        let (ready, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in ready.iter() {
            let data = event.data;
            wakes.extend(Token::decode(data.u64()).map(Wake::Ready));
        }
        let now = Instant::now();
        while let Some(Reverse((due, timer))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            wakes.push(Wake::Due(timer));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Signals,
            Token::Listener,
            Token::Connection(7),
            Token::Publisher,
            Token::Relay(u32::MAX),
            Token::Memory(0),
            Token::Logger(1),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }

    #[test]
    fn a_pipe_and_a_deadline_wake() {
        let _quiet = crate::sys::testing::no_children();
        let mut reactor = Reactor::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        reactor.watch(&reader, Token::Relay(3), Interest::Read).unwrap();
        let mut wakes = Vec::new();
        rustix::io::write(&writer, b"x").unwrap();
        reactor.wait(false, &mut wakes).unwrap();
        assert!(matches!(wakes[..], [Wake::Ready(Token::Relay(3))]));
        wakes.clear();
        reactor.after(Duration::ZERO, Timer::Publisher);
        reactor.wait(false, &mut wakes).unwrap();
        assert!(matches!(wakes[..], [Wake::Due(Timer::Publisher)]));
    }
}
