//! The writing side of a connection, shared by its calls.

use std::io::{self, IoSlice};
use tokio::{
    net::UnixStream,
    sync::{Mutex, MutexGuard},
};
use wharf_messages::{
    Answer, Refusal,
    wire::{FrameHeader, FrameKind},
};

/// A connection's socket, with its frames kept whole.
///
/// A call may be dropped while it writes. What is left of its frame stays here and goes before the next, so the peer never
/// sees half of one.
#[derive(Debug)]
pub struct Wire {
    /// For reading; nobody but [`Wire::send`] writes.
    pub stream: UnixStream,
    rest: Mutex<Vec<u8>>,
}

impl Wire {
    /// Takes a socket over.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, rest: Mutex::new(Vec::new()) }
    }

    /// Writes a frame; waits while the peer does not read.
    ///
    /// # Errors
    /// `ResourceExhausted` for a body over the limit of its kind, of which nothing is sent; what the socket says.
    ///
    /// # Cancel safety
    /// When the future is dropped, the frame is sent whole (the rest with the next frame) or not at all.
    pub async fn send(&self, kind: FrameKind, id: u64, body: &[u8]) -> Answer<()> {
        let header = FrameHeader { kind, id, body_bytes: body.len() }.encode()?;
        let mut rest = self.rest.lock().await;
        let lost = |error: io::Error| Refusal::io("the client's connection", &error);
        while !rest.is_empty() {
            let sent = self.write(&rest, &[]).await.map_err(lost)?;
            rest.drain(..sent);
        }
        let mut frame = Begun { rest, header: &header, body };
        while !frame.is_sent() {
            let sent = self.write(frame.header, frame.body).await.map_err(lost)?;
            frame.advance(sent);
        }
        Ok(())
    }

    async fn write(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.writable().await?;
            match self.stream.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                outcome => return outcome,
            }
        }
    }
}

/// A frame being written: what is left of its header and of its body.
struct Begun<'a> {
    rest: MutexGuard<'a, Vec<u8>>,
    header: &'a [u8],
    body: &'a [u8],
}

impl Begun<'_> {
    fn is_sent(&self) -> bool {
        self.header.is_empty() && self.body.is_empty()
    }

    fn advance(&mut self, sent: usize) {
        let of_header = sent.min(self.header.len());
        self.header = &self.header[of_header..];
        self.body = &self.body[sent - of_header..];
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        // Nothing of it was sent as long as the header is whole.
        if self.header.len() < wharf_messages::wire::HEADER_BYTES {
            self.rest.extend_from_slice(self.header);
            self.rest.extend_from_slice(self.body);
        }
    }
}
