//! Calls to the daemon, one at a time, without waiting.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;

use containerd_shim_protos::ttrpc::proto::KeyValue;
use containerd_shim_protos::ttrpc::{Request, Response};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use wharf_messages::Answer;

use super::frame::{self, Decoded};
use super::wire::Wire;
use super::{decode, encode, status};

/// The header that names the namespace of a call.
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    stream: u32,
}

impl Client {
    /// Connects to the server on that socket, at once or not at all.
    ///
    /// # Errors
    /// When nobody listens there, or so many wait that this would have to.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { wire: Wire::new(UnixStream::from(socket))?, stream: 0 })
    }

    /// The socket, to be watched.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        self.wire.socket()
    }

    /// Makes a call; its answer will come out of [`Client::receive`].
    ///
    /// # Errors
    /// When the server is gone.
    pub fn call(&mut self, service: &str, method: &str, namespace: &str, payload: Vec<u8>) -> io::Result<()> {
        self.stream = if self.stream == 0 { 1 } else { self.stream.wrapping_add(2) };
        let header = KeyValue { key: NAMESPACE_HEADER.into(), value: namespace.into(), ..Default::default() };
        let request = Request {
            service: service.into(),
            method: method.into(),
            payload,
            metadata: vec![header],
            ..Default::default()
        };
        let bytes = encode(&request).map_err(io::Error::other)?;
        if !self.wire.send(self.stream, frame::KIND_REQUEST, &bytes)? {
            return Err(io::Error::from(ErrorKind::FileTooLarge));
        }
        Ok(())
    }

    /// Reads what has come: the answer to the last call, if it is there.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn receive(&mut self) -> io::Result<Option<Answer<Vec<u8>>>> {
        self.wire.flush()?;
        let mut frames = Vec::new();
        let end = self.wire.receive(&mut frames);
        for frame in frames {
            if let Decoded::Frame(header, data) = frame
                && header.kind == frame::KIND_RESPONSE
                && header.stream == self.stream
            {
                return Ok(Some(decode::<Response>(&data).and_then(|response| {
                    match status::refusal(&response.status) {
                        Some(refusal) => Err(refusal),
                        None => Ok(response.payload),
                    }
                })));
            }
        }
        end.map(|()| None)
    }
}
