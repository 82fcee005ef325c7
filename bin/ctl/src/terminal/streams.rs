//! Our own standard streams for async code, without the threads that tokio's need and without changing their modes.
//!
//! The descriptors stay blocking, since they are shared with the shell; each read and write waits until the kernel says
//! that it will not block.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    stdio,
};
use std::{
    io,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// What a pipe that is ready takes at least without blocking (PIPE_BUF); terminals take more.
const WRITE_MAX_BYTES: usize = 4096;

/// A descriptor that can be waited for; files and /dev/null cannot, and never block.
#[derive(Debug)]
struct Ready {
    fd: BorrowedFd<'static>,
    events: Option<AsyncFd<BorrowedFd<'static>>>,
}

impl Ready {
    fn new(fd: BorrowedFd<'static>, interest: Interest) -> io::Result<Self> {
        // SAFETY: the descriptor stays the same open file while it is registered: it borrows a standard stream, which
        // nothing in this process closes or replaces.
        let events = unsafe { AsyncFd::register_with_interest(fd, interest) };
        let events = match events.map_err(io::Error::from) {
            Ok(events) => Some(events),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        Ok(Self { fd, events })
    }

    /// Does `attempt` as soon as `flags` hold for certain: what tokio remembers may be out of date.
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        flags: PollFlags,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        loop {
            let guard = match &self.events {
                None => None,
                Some(events) if flags.contains(PollFlags::IN) => Some(ready!(events.poll_read_ready(context))?),
                Some(events) => Some(ready!(events.poll_write_ready(context))?),
            };
            if let Some(mut guard) = guard
                && !is_ready(self.fd, flags)?
            {
                guard.clear_ready();
                continue;
            }
            match attempt(self.fd) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => return Poll::Ready(other.map_err(io::Error::from)),
            }
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Standard input.
#[derive(Debug)]
pub struct Input(Ready);

impl Input {
    /// Ours.
    ///
    /// # Errors
    /// If it is closed.
    pub fn stdin() -> io::Result<Self> {
        Ready::new(stdio::stdin(), Interest::READABLE).map(Self)
    }
}

impl AsyncRead for Input {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let space = buf.initialize_unfilled();
        let read = ready!(self.0.poll(context, PollFlags::IN, |fd| rustix::io::read(fd, &mut *space)));
        match read {
            Ok(count) => buf.advance(count),
            // A terminal that hung up has ended.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

/// Standard output or standard error. Once its reader has gone it swallows what comes, so that the container, which
/// would otherwise wait for room in its FIFO, goes on.
#[derive(Debug)]
pub struct Output {
    ready: Ready,
    is_closed: bool,
}

impl Output {
    /// Our standard output.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn stdout() -> io::Result<Self> {
        Self::new(stdio::stdout())
    }

    /// Our standard error.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn stderr() -> io::Result<Self> {
        Self::new(stdio::stderr())
    }

    fn new(fd: BorrowedFd<'static>) -> io::Result<Self> {
        Ok(Self { ready: Ready::new(fd, Interest::WRITABLE)?, is_closed: false })
    }
}

impl AsyncWrite for Output {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_closed {
            return Poll::Ready(Ok(bytes.len()));
        }
        let piece = &bytes[..bytes.len().min(WRITE_MAX_BYTES)];
        match ready!(self.ready.poll(context, PollFlags::OUT, |fd| rustix::io::write(fd, piece))) {
            Err(error)
                if error.kind() == io::ErrorKind::BrokenPipe
                    || error.raw_os_error() == Some(Errno::IO.raw_os_error()) =>
            {
                self.is_closed = true;
                Poll::Ready(Ok(bytes.len()))
            }
            other => Poll::Ready(other),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
