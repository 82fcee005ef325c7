//! A client's connection: frames in, calls out; answers in, frames out. Nothing here waits.

use std::io;
use std::os::unix::net::UnixStream;

use containerd_shim_protos::ttrpc::{Request, Response};
use wharf_messages::{Answer, Refusal};

use super::frame::{self, Decoded};
use super::wire::Wire;
use super::{decode, encode, status};

/// A call that a client made.
#[derive(Debug)]
pub struct Call {
    /// The stream that the reply goes to.
    pub stream: u32,
    /// The service and the method, and the encoded argument.
    pub request: Request,
}

/// A client.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
}

impl Connection {
    /// Takes an accepted socket.
    ///
    /// # Errors
    /// If it cannot be made non-blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self { wire: Wire::new(socket)? })
    }

    /// The socket, to be watched.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        self.wire.socket()
    }

    /// Reads what has come and puts the calls in it into `calls`; what is no call is refused here.
    ///
    /// # Errors
    /// When the client is gone or cannot be talked to any more; the connection is to be dropped then, but only after
    /// the calls that came before are handled.
    pub fn receive(&mut self, calls: &mut Vec<Call>) -> io::Result<()> {
        let mut frames = Vec::new();
        let end = self.wire.receive(&mut frames);
        for frame in frames {
            self.take(frame, calls)?;
        }
        end
    }

    fn take(&mut self, frame: Decoded, calls: &mut Vec<Call>) -> io::Result<()> {
        match frame {
            Decoded::TooLong(header) => self.reply(
                header.stream,
                Err(Refusal::resource_exhausted(format!(
                    "a message of {} bytes is over the limit of {}",
                    header.length,
                    frame::DATA_BYTES_MAX
                ))),
            ),
            Decoded::Frame(header, data) if header.kind == frame::KIND_REQUEST => {
                if header.stream % 2 == 0 {
                    return self.reply(header.stream, Err(Refusal::invalid("a client's stream number must be odd")));
                }
                match decode::<Request>(&data) {
                    Ok(request) => {
                        calls.push(Call { stream: header.stream, request });
                        Ok(())
                    }
                    Err(refusal) => self.reply(header.stream, Err(refusal)),
                }
            }
            // Data of streams that no method here opens, and responses to nothing: the end of a half-closed unary
            // call may come this way, so it is no reason to hang up.
            Decoded::Frame(..) => Ok(()),
        }
    }

    /// Answers a call.
    ///
    /// # Errors
    /// When the client cannot be talked to any more.
    pub fn reply(&mut self, stream: u32, answer: Answer<Vec<u8>>) -> io::Result<()> {
        let mut response = Response::new();
        match answer {
            Ok(payload) => response.payload = payload,
            Err(refusal) => response.status = Some(status::of(&refusal)).into(),
        }
        let bytes = encode(&response).map_err(io::Error::other)?;
        if !self.wire.send(stream, frame::KIND_RESPONSE, &bytes)? {
            return self.reply(stream, Err(Refusal::resource_exhausted("the answer is too long for one message")));
        }
        Ok(())
    }

    /// Writes what can be written; the rest goes out when the socket is writable again.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        self.wire.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Decoder;
    use super::*;
    use containerd_shim_protos::ttrpc::Code;
    use std::io::{Read, Write};

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(ours).unwrap(), theirs)
    }

    fn request_frame(stream: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(frame::append(&mut bytes, stream, frame::KIND_REQUEST, data));
        bytes
    }

    fn response(peer: &mut UnixStream) -> (u32, Response) {
        let mut header = [0; frame::HEADER_BYTES];
        peer.read_exact(&mut header).unwrap();
        let mut data = vec![0; u32::from_be_bytes(*header.first_chunk().unwrap()) as usize];
        peer.read_exact(&mut data).unwrap();
        let mut decoder = Decoder::default();
        decoder.push(&header);
        decoder.push(&data);
        match decoder.next_frame() {
            Some(Decoded::Frame(header, data)) => (header.stream, decode(&data).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_call_comes_out_and_its_reply_goes_back() {
        let _quiet = crate::sys::testing::no_children();
        let (mut connection, mut peer) = pair();
        let request = Request { service: "s".into(), method: "m".into(), payload: vec![1, 2], ..Default::default() };
        peer.write_all(&request_frame(7, &encode(&request).unwrap())).unwrap();
        let mut calls = Vec::new();
        connection.receive(&mut calls).unwrap();
        assert_eq!((calls[0].stream, calls[0].request.payload.as_slice()), (7, &[1, 2][..]));
        connection.reply(7, Ok(vec![9])).unwrap();
        let (stream, reply) = response(&mut peer);
        assert_eq!((stream, reply.payload), (7, vec![9]));
        connection.reply(9, Err(Refusal::not_found("container \"x\""))).unwrap();
        let (_, reply) = response(&mut peer);
        assert_eq!(reply.status.message, "container \"x\": not found");
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let _quiet = crate::sys::testing::no_children();
        for (stream, data) in [(2, Vec::new()), (3, vec![0xff, 0xff, 0xff])] {
            let (mut connection, mut peer) = pair();
            peer.write_all(&request_frame(stream, &data)).unwrap();
            let mut calls = Vec::new();
            connection.receive(&mut calls).unwrap();
            assert!(calls.is_empty());
            let (answered, reply) = response(&mut peer);
            assert_eq!((answered, reply.status.code.enum_value()), (stream, Ok(Code::INVALID_ARGUMENT)));
        }
    }

    #[test]
    fn calls_that_came_before_the_end_are_not_lost() {
        let _quiet = crate::sys::testing::no_children();
        let (mut connection, mut peer) = pair();
        peer.write_all(&request_frame(1, &encode(&Request::new()).unwrap())).unwrap();
        drop(peer);
        let mut calls = Vec::new();
        assert!(connection.receive(&mut calls).is_err());
        assert_eq!(calls.len(), 1);
    }
}
