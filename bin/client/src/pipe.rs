//! Bytes through the socket: whole frames out, frames in as they come.

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::io::{self, ErrorKind, IoSlice};
use tokio::{io::Interest, net::UnixStream};
use wharf_messages::{
    Answer, Refusal,
    wire::{Frame, FrameBuffer, FrameHeader, FrameKind, WireError},
};

/// Writes a frame whole. Dropping the future within a frame leaves the connection unusable.
pub(crate) async fn write_frame(stream: &UnixStream, kind: FrameKind, id: u64, body: &[u8]) -> Answer<()> {
    let header = FrameHeader { kind, id, body_bytes: body.len() }.encode()?;
    write_all(stream, &header, body).await.map_err(|error| Refusal::io("connection to wharfd", &error))
}

/// Writes two pieces, one after the other.
pub(crate) async fn write_all(stream: &UnixStream, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
    while !first.is_empty() || !second.is_empty() {
        // Without a signal: a client may well have restored SIGPIPE, and a daemon that left is an error, not its end.
        let send = || {
            let pieces = [IoSlice::new(first), IoSlice::new(second)];
            Ok(sendmsg(stream, &pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
        };
        let sent = stream.async_io(Interest::WRITABLE, send).await?;
        let of_first = sent.min(first.len());
        first = &first[of_first..];
        second = &second[sent - of_first..];
    }
    Ok(())
}

/// Reads the next frame.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(crate) async fn read_frame(stream: &UnixStream, frames: &mut FrameBuffer) -> Answer<Frame> {
    loop {
        if let Some(frame) = frames.next()? {
            return Ok(frame);
        }
        stream.readable().await.map_err(|error| Refusal::io("connection to wharfd", &error))?;
        let (space, most) = frames.space();
        match stream.try_read_buf(&mut bytes::BufMut::limit(space, most)) {
            Ok(0) if frames.is_between_frames() => return Err(Refusal::unavailable("wharfd closed the connection")),
            Ok(0) => return Err(WireError::CutOff.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(Refusal::io("connection to wharfd", &error)),
        }
    }
}
