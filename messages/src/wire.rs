//! The native protocol, to the byte: frames, their rules and their limits, without any I/O.
//!
//! A connection starts with a [`Hello`] from each side; after it, frames go both ways until one side closes. Requests
//! have ids, so calls share a connection and answers come in any order. All integers are little-endian.
//!
//! ```text
//! hello (8 bytes)                     frame (16 bytes, then the body)
//! 0  4  magic "WHRF"                  0  4  length of the body
//! 4  2  lowest version spoken         4  1  kind
//! 6  2  highest version spoken        5  3  zero
//!                                     8  8  id of the request it belongs to
//! ```
//!
//! Both sides compute the version from the two hellos: the highest that both speak. If there is none, each closes. The
//! client need not wait for the daemon's hello before its first request. The magic differs from HTTP/2's preface
//! (`PRI `) within four bytes, so a listener can tell by a peek which of the two protocols a connection speaks.
//!
//! | kind | name    | from   | body |
//! |------|---------|--------|------|
//! | 1    | request | client | [`RequestHead`], then the encoded call |
//! | 2    | data    | client | bytes of the call's upload, at most [`DATA_MAX_BYTES`] |
//! | 3    | end     | client | none: the upload is complete |
//! | 4    | cancel  | client | none: the answer is not wanted any more |
//! | 5    | item    | daemon | an encoded item |
//! | 6    | reply   | daemon | the encoded reply; the call is over |
//! | 7    | refused | daemon | an encoded [`Refusal`]; the call is over |
//! | 8    | ping    | either | none; the id is any |
//! | 9    | pong    | either | none; the id is the ping's |
//! | 10   | fault   | daemon | an encoded [`Refusal`]: the peer broke the protocol; the id is 0; a close follows |
//!
//! Rules: ids of requests rise strictly on a connection. Data, end and cancel for a request that is over are ignored,
//! since they may have crossed its answer; for one that never was they are a fault. A call that takes an upload and
//! loses its client before `end` is cancelled, never completed. A sender that closes its half has gone.

use crate::{Meta, Refusal, RefusalKind, codec};
use std::fmt;

/// The first four bytes from either side.
pub const MAGIC: [u8; 4] = *b"WHRF";
/// The first four bytes of an HTTP/2 connection, which is for other front ends.
pub const HTTP2_PREFACE: [u8; 4] = *b"PRI ";
/// The lowest version of the protocol that is spoken here.
pub const VERSION_MIN: u16 = 1;
/// The highest version of the protocol that is spoken here.
pub const VERSION_MAX: u16 = 1;
/// Length of a hello.
pub const HELLO_BYTES: usize = 8;
/// Length of a frame's header.
pub const HEADER_BYTES: usize = 16;
/// The longest encoded call, item or reply: what the codec would decode.
pub const BODY_MAX_BYTES: usize = codec::DECODE_MAX_BYTES;
/// The longest piece of an upload.
pub const DATA_MAX_BYTES: usize = 1 << 20;
/// The longest encoded context of a call: a namespace and a lease at their longest fit.
pub const META_MAX_BYTES: usize = 8 << 10;
/// The longest encoded refusal; a longer detail is cut.
pub const REFUSAL_MAX_BYTES: usize = 64 << 10;
/// The longest frame of all, without its header.
pub const FRAME_MAX_BYTES: usize = BODY_MAX_BYTES + META_MAX_BYTES + 3 + u8::MAX as usize;

/// What a side says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version it speaks.
    pub version_min: u16,
    /// The highest version it speaks.
    pub version_max: u16,
}

impl Hello {
    /// What this build says.
    pub const OURS: Hello = Hello { version_min: VERSION_MIN, version_max: VERSION_MAX };

    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version_min.to_le_bytes());
        bytes[6..].copy_from_slice(&self.version_max.to_le_bytes());
        bytes
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// [`WireError::NotNative`] for other first bytes, [`WireError::Hello`] for a range of versions upside down.
    pub fn decode(bytes: [u8; HELLO_BYTES]) -> Result<Self, WireError> {
        let [a, b, c, d, min_low, min_high, max_low, max_high] = bytes;
        if [a, b, c, d] != MAGIC {
            return Err(WireError::NotNative([a, b, c, d]));
        }
        let hello = Self {
            version_min: u16::from_le_bytes([min_low, min_high]),
            version_max: u16::from_le_bytes([max_low, max_high]),
        };
        if hello.version_min > hello.version_max { Err(WireError::Hello) } else { Ok(hello) }
    }

    /// The version to speak with a peer.
    ///
    /// # Errors
    /// [`WireError::Version`] if there is none that both speak.
    pub fn agree(self, peer: Hello) -> Result<u16, WireError> {
        let version = self.version_max.min(peer.version_max);
        if version < self.version_min || version < peer.version_min {
            return Err(WireError::Version { ours: self, theirs: peer });
        }
        Ok(version)
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.version_min == self.version_max {
            write!(f, "{}", self.version_max)
        } else {
            write!(f, "{} to {}", self.version_min, self.version_max)
        }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A call.
    Request = 1,
    /// A piece of a call's upload.
    Data = 2,
    /// The end of a call's upload.
    End = 3,
    /// The client does not want the answer any more.
    Cancel = 4,
    /// A piece of what a call streams.
    Item = 5,
    /// A call was done.
    Reply = 6,
    /// A call was not done.
    Refused = 7,
    /// Is somebody there?
    Ping = 8,
    /// Somebody is.
    Pong = 9,
    /// The peer broke the protocol.
    Fault = 10,
}

impl FrameKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [FrameKind; 10] = [
        Self::Request,
        Self::Data,
        Self::End,
        Self::Cancel,
        Self::Item,
        Self::Reply,
        Self::Refused,
        Self::Ping,
        Self::Pong,
        Self::Fault,
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// How long its body may be.
    #[must_use]
    pub const fn limit_bytes(self) -> usize {
        match self {
            Self::Request => FRAME_MAX_BYTES,
            Self::Item | Self::Reply => BODY_MAX_BYTES,
            Self::Data => DATA_MAX_BYTES,
            Self::Refused | Self::Fault => REFUSAL_MAX_BYTES,
            Self::End | Self::Cancel | Self::Ping | Self::Pong => 0,
        }
    }

    /// Whether that side may send it.
    #[must_use]
    pub const fn comes_from(self, side: Side) -> bool {
        match self {
            Self::Request | Self::Data | Self::End | Self::Cancel => matches!(side, Side::Client),
            Self::Item | Self::Reply | Self::Refused | Self::Fault => matches!(side, Side::Daemon),
            Self::Ping | Self::Pong => true,
        }
    }
}

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who calls.
    Client,
    /// Who answers.
    Daemon,
}

/// What stands before a frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it is.
    pub kind: FrameKind,
    /// Which request it belongs to.
    pub id: u64,
    /// How long its body is; within the kind's limit.
    pub body_bytes: usize,
}

impl FrameHeader {
    /// Its bytes.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the body is over the kind's limit.
    pub fn encode(self) -> Result<[u8; HEADER_BYTES], WireError> {
        let too_long = WireError::TooLong { kind: self.kind, body_bytes: self.body_bytes };
        if self.body_bytes > self.kind.limit_bytes() {
            return Err(too_long);
        }
        let length = u32::try_from(self.body_bytes).map_err(|_| too_long)?;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a header that came from `side`.
    ///
    /// # Errors
    /// A [`WireError`] for an unknown kind, one that this side does not send, bytes that must be zero and are not, and
    /// a length over the kind's limit.
    pub fn decode(bytes: &[u8; HEADER_BYTES], side: Side) -> Result<Self, WireError> {
        let [l0, l1, l2, l3, number, z0, z1, z2, id @ ..] = bytes;
        let kind = FrameKind::from_number(*number).ok_or(WireError::Kind(*number))?;
        if !kind.comes_from(side) {
            return Err(WireError::WrongWay(kind));
        }
        if [*z0, *z1, *z2] != [0; 3] {
            return Err(WireError::Reserved);
        }
        // On a machine whose usize is smaller than 32 bits no length fits, which is what saturating says.
        let body_bytes = usize::try_from(u32::from_le_bytes([*l0, *l1, *l2, *l3])).unwrap_or(usize::MAX);
        if body_bytes > kind.limit_bytes() {
            return Err(WireError::TooLong { kind, body_bytes });
        }
        Ok(Self { kind, id: u64::from_le_bytes(*id), body_bytes })
    }
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// Which request it belongs to.
    pub id: u64,
    /// What it carries.
    pub body: Vec<u8>,
}

/// What stands before the encoded call in a request's body: the call's name and its context.
///
/// ```text
/// 0      1  length n of the name
/// 1      n  the call's name, as in the table of calls
/// 1+n    2  length m of the context
/// 3+n    m  the encoded Meta
/// 3+n+m     the encoded call, to the end
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The call's name.
    pub call: &'a str,
    /// Its context. The peer is never on the wire.
    pub meta: Meta,
}

impl<'a> RequestHead<'a> {
    /// A request's body.
    ///
    /// # Errors
    /// `InvalidArgument` if name or context are longer than they may be.
    pub fn encode(&self, call: &[u8]) -> Result<Vec<u8>, Refusal> {
        let meta = codec::encode(&self.meta)?;
        let (Ok(name_length), Ok(meta_length), true) =
            (u8::try_from(self.call.len()), u16::try_from(meta.len()), meta.len() <= META_MAX_BYTES)
        else {
            return Err(Refusal::invalid(format!("call {:?}: its name or context is too long", self.call)));
        };
        let mut body = Vec::with_capacity(3 + self.call.len() + meta.len() + call.len());
        body.push(name_length);
        body.extend_from_slice(self.call.as_bytes());
        body.extend_from_slice(&meta_length.to_le_bytes());
        body.extend_from_slice(&meta);
        body.extend_from_slice(call);
        Ok(body)
    }

    /// Splits a request's body into its head and the encoded call.
    ///
    /// # Errors
    /// [`WireError::Head`] if the body is not of that form.
    pub fn decode(body: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (name_length, rest) = body.split_first().ok_or(WireError::Head)?;
        let (name, rest) = rest.split_at_checked(usize::from(*name_length)).ok_or(WireError::Head)?;
        let (meta_length, rest) = rest.split_first_chunk::<2>().ok_or(WireError::Head)?;
        let meta_length = usize::from(u16::from_le_bytes(*meta_length));
        let (meta, call) = rest.split_at_checked(meta_length).ok_or(WireError::Head)?;
        let name = std::str::from_utf8(name).map_err(|_| WireError::Head)?;
        let meta = codec::decode(meta).map_err(|_| WireError::Head)?;
        if meta_length > META_MAX_BYTES {
            return Err(WireError::Head);
        }
        Ok((Self { call: name, meta }, call))
    }
}

/// The body of a refused or fault frame.
#[must_use]
pub fn encode_refusal(refusal: &Refusal) -> Vec<u8> {
    // A refusal is two plain fields: encoding it does not fail. The room left is for the kind and the lengths.
    let most = REFUSAL_MAX_BYTES - 16;
    let encoded = if refusal.detail.len() <= most {
        codec::encode(refusal)
    } else {
        let cut = refusal.detail.floor_char_boundary(most);
        codec::encode(&Refusal { kind: refusal.kind, detail: refusal.detail[..cut].to_owned() })
    };
    encoded.unwrap_or_default()
}

/// Reads the body of a refused or fault frame; one that cannot be read is a refusal too.
#[must_use]
pub fn decode_refusal(body: &[u8]) -> Refusal {
    codec::decode(body).unwrap_or_else(|error| error.context("the refusal itself cannot be read"))
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It speaks something else.
    #[error("first bytes {0:?} are not the native protocol's")]
    NotNative([u8; 4]),
    /// A hello that cannot be.
    #[error("the hello's lowest version is above its highest")]
    Hello,
    /// No common version.
    #[error("no common protocol version: this side speaks {ours}, the other {theirs}")]
    Version {
        /// This side's.
        ours: Hello,
        /// The other's.
        theirs: Hello,
    },
    /// An unknown kind of frame.
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    /// A kind of frame that this side does not send.
    #[error("a {0:?} frame comes from the other side only")]
    WrongWay(FrameKind),
    /// Something in the bytes that are zero.
    #[error("reserved bytes of a frame's header are not zero")]
    Reserved,
    /// Over the limit.
    #[error("a {kind:?} frame of {body_bytes} bytes is over its limit of {}", kind.limit_bytes())]
    TooLong {
        /// What it is.
        kind: FrameKind,
        /// What its header says.
        body_bytes: usize,
    },
    /// A request whose head cannot be read.
    #[error("a request's head cannot be read")]
    Head,
    /// A request with an id that is not above the last.
    #[error("request id {0} is not above the one before")]
    IdNotRising(u64),
    /// A frame for a request that never was.
    #[error("a {kind:?} frame for request {id}, which never was")]
    NoSuchRequest {
        /// What it is.
        kind: FrameKind,
        /// Which it names.
        id: u64,
    },
    /// Upload to a call that takes none, or after its end.
    #[error("a {kind:?} frame for request {id}, which takes no upload or had its end")]
    NoUpload {
        /// What it is.
        kind: FrameKind,
        /// Which it names.
        id: u64,
    },
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    CutOff,
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Refusal {
        let kind = match error {
            WireError::TooLong { .. } => RefusalKind::ResourceExhausted,
            WireError::Version { .. } => RefusalKind::FailedPrecondition,
            WireError::CutOff => RefusalKind::Unavailable,
            _ => RefusalKind::InvalidArgument,
        };
        Refusal { kind, detail: format!("protocol: {error}") }
    }
}

/// How many bytes are asked for when no frame has begun: several small frames come with one read.
const READ_AHEAD_BYTES: usize = 4 << 10;
/// A long body's buffer grows by this: what a header promises is not believed until it comes.
const GROW_BYTES: usize = 256 << 10;

/// Makes frames from bytes as they come, without reading them itself.
///
/// Ask [`FrameBuffer::space`] where to append and how much, then take frames from [`FrameBuffer::next`] until there is
/// none. It holds no memory while no frame has begun.
#[derive(Debug)]
pub struct FrameBuffer {
    from: Side,
    /// Bytes that came and are not used; the first `used` are.
    ahead: Vec<u8>,
    used: usize,
    /// A frame whose header has come and whose body has not.
    begun: Option<(FrameHeader, Vec<u8>)>,
}

impl FrameBuffer {
    /// For frames that come from that side.
    #[must_use]
    pub const fn new(from: Side) -> Self {
        Self { from, ahead: Vec::new(), used: 0, begun: None }
    }

    /// Where to append the next bytes, and how many at most.
    pub fn space(&mut self) -> (&mut Vec<u8>, usize) {
        match &mut self.begun {
            Some((header, body)) => {
                let missing = (header.body_bytes - body.len()).min(GROW_BYTES);
                body.reserve(missing);
                (body, missing)
            }
            None => {
                self.ahead.drain(..self.used);
                self.used = 0;
                self.ahead.reserve(READ_AHEAD_BYTES);
                (&mut self.ahead, READ_AHEAD_BYTES)
            }
        }
    }

    /// The next whole frame, if it has come.
    ///
    /// # Errors
    /// As [`FrameHeader::decode`]; after an error the rest of the bytes means nothing.
    #[expect(clippy::should_implement_trait, reason = "an iterator ends; this only pauses")]
    pub fn next(&mut self) -> Result<Option<Frame>, WireError> {
        if self.begun.is_none() {
            let Some(bytes) = self.ahead.get(self.used..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) else {
                if self.used == self.ahead.len() {
                    *self = Self::new(self.from);
                }
                return Ok(None);
            };
            let header = FrameHeader::decode(bytes, self.from)?;
            self.used += HEADER_BYTES;
            let here = header.body_bytes.min(self.ahead.len() - self.used);
            let body = self.ahead[self.used..self.used + here].to_vec();
            self.used += here;
            self.begun = Some((header, body));
        }
        match self.begun.take_if(|(header, body)| body.len() == header.body_bytes) {
            Some((header, body)) => Ok(Some(Frame { kind: header.kind, id: header.id, body })),
            None => Ok(None),
        }
    }

    /// Whether the bytes so far end between two frames, where a connection may close.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.begun.is_none() && self.used == self.ahead.len()
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
