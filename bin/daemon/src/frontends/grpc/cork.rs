//! A connection's socket, which gathers what is written in a turn and sends it at once.
//!
//! HTTP/2 writes frame by frame: the answer of one small call is an acknowledged ping, headers, a message and trailers, in
//! three writes, each of which wakes the client. The protocol's own flush is therefore none here; the connection's task
//! flushes when it has nothing left to do ([`Cork::poll_flush`]).
//!
//! Readiness to be written to is only asked for when the socket has refused bytes: a socket that is always asked tells of
//! every read of the client, and each of that wakes the daemon for nothing.

use nix::sys::socket::{self, Shutdown};
use std::{
    cell::RefCell,
    io::{self, ErrorKind, IoSlice, Read, Write},
    mem,
    os::{fd::AsRawFd, unix::net::UnixStream},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// Bytes that are gathered at most: a few of the largest frames.
const GATHERED_MAX_BYTES: usize = 64 << 10;

thread_local! {
    /// Room for what is gathered, while no connection of this thread has it. Almost always each sends all it has before
    /// the next one's turn.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The socket as the protocol sees it.
#[derive(Debug)]
pub struct Corked(Cork);

/// The other handle of the same socket, of the task that flushes.
#[derive(Debug, Clone)]
pub struct Cork {
    socket: Arc<AsyncFd<UnixStream>>,
    out: Arc<Mutex<Out>>,
}

#[derive(Debug, Default)]
struct Out {
    /// What waits to be sent.
    gathered: Vec<u8>,
    /// How much of it is already sent.
    sent: usize,
    /// Tells when the socket takes bytes again, while it does not.
    full: Option<AsyncFd<UnixStream>>,
    /// How the socket broke while nobody was there to be told.
    broken: Option<io::Error>,
}

/// A socket by its two handles.
///
/// # Errors
/// What the event loop says.
pub fn cork(stream: tokio::net::UnixStream) -> io::Result<(Corked, Cork)> {
    let socket = watched(stream.into_std()?, Interest::READABLE)?;
    let cork = Cork { socket: Arc::new(socket), out: Arc::default() };
    Ok((Corked(cork.clone()), cork))
}

fn watched(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: the socket owns its descriptor, names no other, and is only ever lent from here on.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl Cork {
    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is gathered. Ready when all is sent, or when the socket is broken, which the protocol is told at its next
    /// read or write.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut out = self.out();
        let Err(error) = ready!(out.poll_flush(self.socket.get_ref(), cx)) else { return Poll::Ready(()) };
        *out = Out { broken: Some(error), ..Out::default() };
        drop(out);
        cx.waker().wake_by_ref();
        Poll::Ready(())
    }
}

impl Out {
    fn poll_flush(&mut self, mut socket: &UnixStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            if let Some(full) = &self.full {
                ready!(full.poll_write_ready(cx))?.retain_ready();
                self.full = None;
            }
            match socket.write(&self.gathered[self.sent..]) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A descriptor of its own, as each can be watched once.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.full = Some(watched(socket.try_clone()?, Interest::WRITABLE)?);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.sent = 0;
        self.gathered.clear();
        if self.gathered.capacity() > 0 {
            SPARE.set(mem::take(&mut self.gathered));
        }
        Poll::Ready(Ok(()))
    }

    fn check(&mut self) -> io::Result<()> {
        self.broken.take().map_or(Ok(()), Err)
    }
}

impl AsyncRead for Corked {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self(cork) = &*self;
        cork.out().check()?;
        let room = buf.initialize_unfilled();
        loop {
            let mut ready = ready!(cork.socket.poll_read_ready(cx))?;
            match ready.try_io(|socket| socket.get_ref().read(room)) {
                Ok(Ok(got)) => {
                    // It was all there was: the next bytes ring again.
                    if 0 < got && got < room.len() {
                        ready.clear_ready();
                    }
                    buf.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Corked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self(cork) = &*self;
        let mut out = cork.out();
        out.check()?;
        if out.gathered.len() >= GATHERED_MAX_BYTES {
            ready!(out.poll_flush(cork.socket.get_ref(), cx))?;
        }
        if out.gathered.capacity() == 0 {
            out.gathered = SPARE.take();
            out.gathered.reserve_exact(GATHERED_MAX_BYTES);
        }
        let mut taken = 0;
        for slice in slices {
            let fits = slice.len().min(GATHERED_MAX_BYTES - out.gathered.len());
            out.gathered.extend_from_slice(&slice[..fits]);
            taken += fits;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the task flushes when its turn is over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.out().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self(cork) = &*self;
        ready!(cork.out().poll_flush(cork.socket.get_ref(), cx))?;
        socket::shutdown(cork.socket.as_raw_fd(), Shutdown::Write)?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
