//! The first words on a connection: which protocol it speaks, and which version of ours.

use nix::sys::socket::{MsgFlags, recv};
use std::{
    io::{self, ErrorKind},
    os::fd::AsRawFd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
};
use wharf_messages::wire::{HELLO_BYTES, HTTP2_PREFACE, Hello, MAGIC, WireError};

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Frames.
    Native,
    /// gRPC, for other front ends.
    Http2,
    /// None that is known here; its first bytes.
    Other([u8; 4]),
}

/// Looks at the first four bytes and leaves them where they are, for whichever front end takes the connection.
///
/// # Errors
/// `UnexpectedEof` if there are not as many; what the socket says.
pub async fn protocol(stream: &UnixStream) -> io::Result<Protocol> {
    let peek = || {
        let mut first = [0; 4];
        match recv(stream.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            4 => Ok(first),
            // The rest is still to come; saying so makes the next look wait for it.
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    };
    Ok(match stream.async_io(Interest::READABLE, peek).await? {
        MAGIC => Protocol::Native,
        HTTP2_PREFACE => Protocol::Http2,
        other => Protocol::Other(other),
    })
}

/// Agrees on the version. The daemon's hello goes out even if there is none in common: it says which there are.
///
/// # Errors
/// The socket's; or within, how the hello was wrong.
pub async fn shake_hands(stream: &mut UnixStream) -> io::Result<Result<u16, WireError>> {
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello).await?;
    let version = Hello::decode(hello).and_then(|hello| Hello::OURS.agree(hello));
    stream.write_all(&Hello::OURS.encode()).await?;
    Ok(version)
}
