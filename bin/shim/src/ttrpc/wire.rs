//! A non-blocking socket with frames on it, for either side.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::frame::{self, Decoded, Decoder};

/// How much unread data a peer may leave with us before it is cut off.
const OUT_BYTES_MAX: usize = 16 << 20;

/// The socket, what has come of the next frame, and what has not gone out yet.
#[derive(Debug)]
pub struct Wire {
    socket: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
}

impl Wire {
    /// Takes a connected socket.
    ///
    /// # Errors
    /// If it cannot be made non-blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, decoder: Decoder::default(), out: Vec::new() })
    }

    /// The socket, to be watched.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Reads what has come and puts the frames in it into `frames`.
    ///
    /// # Errors
    /// When the peer is gone. Frames that came before its end are in `frames` all the same.
    pub fn receive(&mut self, frames: &mut Vec<Decoded>) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.decoder.push(&buffer[..count]);
                    while let Some(frame) = self.decoder.next_frame() {
                        frames.push(frame);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a frame, now or as soon as the socket takes it. Gives `false`, and sends nothing, if the data is over the
    /// limit of a frame.
    ///
    /// # Errors
    /// When the peer is gone or does not read.
    pub fn send(&mut self, stream: u32, kind: u8, data: &[u8]) -> io::Result<bool> {
        if self.out.len() + data.len() > OUT_BYTES_MAX {
            return Err(io::Error::other("the peer does not read what it is sent"));
        }
        let fits = frame::append(&mut self.out, stream, kind, data);
        self.flush()?;
        Ok(fits)
    }

    /// Writes what can be written; the rest goes out when the socket is writable again.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.socket.write(&self.out[sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if sent == self.out.len() {
            self.out = Vec::new();
        } else {
            self.out.drain(..sent);
        }
        Ok(())
    }
}
