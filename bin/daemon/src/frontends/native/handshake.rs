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
    Ok(match peek(stream).await? {
        MAGIC => Protocol::Native,
        HTTP2_PREFACE => Protocol::Http2,
        other => Protocol::Other(other),
    })
}

/// Waits until HTTP/2's whole preface is there, leaves it where it is, and answers whether it is one.
///
/// # Errors
/// As [`protocol`].
///
/// # Spec
/// RFC 9113, section 3.4.
pub async fn http2_preface(stream: &UnixStream) -> io::Result<bool> {
    Ok(&peek(stream).await? == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
}

/// Waits for the first `N` bytes, and leaves them where they are.
async fn peek<const N: usize>(stream: &UnixStream) -> io::Result<[u8; N]> {
    let look = || {
        let mut first = [0; N];
        match recv(stream.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            seen if seen == N => Ok(first),
            // The rest is still to come; saying so makes the next look wait for it.
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    };
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        match stream.try_io(Interest::READABLE, look) {
            // An end that was there before the look: no rest will come, and the socket stays ready for ever.
            Err(error) if error.kind() == ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            looked => return looked,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The half that sends, and what the other half makes of it.
    fn heard() -> (UnixStream, tokio::task::JoinHandle<io::Result<Protocol>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, tokio::spawn(async move { protocol(&theirs).await }))
    }

    #[tokio::test]
    async fn words_that_come_one_by_one_are_waited_for() {
        let (mut ours, looking) = heard();
        for byte in MAGIC {
            tokio::task::yield_now().await;
            ours.write_all(&[byte]).await.unwrap();
        }
        assert_eq!(looking.await.unwrap().unwrap(), Protocol::Native);
    }

    #[tokio::test]
    async fn too_few_bytes_and_an_end_are_an_end() {
        for length in 0..4 {
            for hangs_up in [false, true] {
                let (mut ours, looking) = heard();
                ours.write_all(&MAGIC[..length]).await.unwrap();
                tokio::task::yield_now().await;
                ours.shutdown().await.unwrap();
                let kept = (!hangs_up).then_some(ours);
                assert_eq!(looking.await.unwrap().unwrap_err().kind(), ErrorKind::UnexpectedEof, "{length} bytes");
                drop(kept);
            }
        }
        // All there before the end is enough.
        let (mut ours, looking) = heard();
        ours.write_all(&HTTP2_PREFACE).await.unwrap();
        drop(ours);
        assert_eq!(looking.await.unwrap().unwrap(), Protocol::Http2);
    }
}
