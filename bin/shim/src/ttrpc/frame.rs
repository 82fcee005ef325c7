//! Frames: a header of ten bytes (length, stream, kind, flags; big endian) and that many bytes of data.

/// How many bytes a header has.
pub const HEADER_BYTES: usize = 10;
/// The most data a frame may carry: what every ttrpc peer accepts.
pub const DATA_BYTES_MAX: usize = 4 << 20;

/// A request.
pub const KIND_REQUEST: u8 = 1;
/// A response.
pub const KIND_RESPONSE: u8 = 2;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes of data follow.
    pub length: u32,
    /// Which call it belongs to: odd numbers, chosen by the client.
    pub stream: u32,
    /// A request, a response, or data.
    pub kind: u8,
    /// Flags of streams.
    pub flags: u8,
}

impl Header {
    fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = bytes;
        Self { length: u32::from_be_bytes([l0, l1, l2, l3]), stream: u32::from_be_bytes([s0, s1, s2, s3]), kind, flags }
    }

    fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.stream.to_be_bytes());
        bytes[8] = self.kind;
        bytes[9] = self.flags;
        bytes
    }
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole frame.
    Frame(Header, Vec<u8>),
    /// A frame whose data is over the limit. Its data is skipped as it comes; the call deserves a refusal.
    TooLong(Header),
}

/// Takes bytes as they come and gives frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    skip_bytes: usize,
}

impl Decoder {
    /// Takes some bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        let skipped = self.skip_bytes.min(bytes.len());
        self.skip_bytes -= skipped;
        bytes = &bytes[skipped..];
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is whole.
    pub fn next_frame(&mut self) -> Option<Decoded> {
        let header = Header::parse(*self.buffer.first_chunk()?);
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let rest = self.buffer.len() - HEADER_BYTES;
        if length > DATA_BYTES_MAX {
            let present = rest.min(length);
            self.consume(HEADER_BYTES + present);
            self.skip_bytes = length - present;
            return Some(Decoded::TooLong(header));
        }
        if rest < length {
            return None;
        }
        let data = self.buffer[HEADER_BYTES..HEADER_BYTES + length].to_vec();
        self.consume(HEADER_BYTES + length);
        Some(Decoded::Frame(header, data))
    }

    fn consume(&mut self, count: usize) {
        if count == self.buffer.len() {
            // An idle connection holds no buffer: a shim waits for months, and there are many of them.
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..count);
        }
    }
}

/// Appends a frame.
///
/// Data over the limit is the caller's fault and is cut off by nobody: it gives `false` and nothing is appended.
#[must_use]
pub fn append(out: &mut Vec<u8>, stream: u32, kind: u8, data: &[u8]) -> bool {
    let Ok(length) = u32::try_from(data.len()) else { return false };
    if data.len() > DATA_BYTES_MAX {
        return false;
    }
    out.reserve_exact(HEADER_BYTES + data.len());
    out.extend_from_slice(&Header { length, stream, kind, flags: 0 }.bytes());
    out.extend_from_slice(data);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u32, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(append(&mut out, stream, KIND_REQUEST, data));
        out
    }

    fn header(stream: u32, length: u32) -> Header {
        Header { length, stream, kind: KIND_REQUEST, flags: 0 }
    }

    #[test]
    fn the_header_is_as_ttrpc_draws_it() {
        assert_eq!(frame(0x0102_0305, b"ab"), [0, 0, 0, 2, 1, 2, 3, 5, 1, 0, b'a', b'b']);
    }

    #[test]
    fn frames_come_out_however_the_bytes_come_in() {
        let bytes = [frame(1, b"hello"), frame(3, b""), frame(5, &[7; 3000])].concat();
        let expected = [
            Decoded::Frame(header(1, 5), b"hello".to_vec()),
            Decoded::Frame(header(3, 0), Vec::new()),
            Decoded::Frame(header(5, 3000), vec![7; 3000]),
        ];
        for size in [1, 3, 9, 10, 11, 64, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for chunk in bytes.chunks(size) {
                decoder.push(chunk);
                while let Some(decoded) = decoder.next_frame() {
                    frames.push(decoded);
                }
            }
            assert_eq!(frames, expected, "in pieces of {size}");
            assert_eq!(decoder.buffer.capacity(), 0, "an idle decoder holds nothing");
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_told_at_once_and_skipped() {
        let length = u32::try_from(DATA_BYTES_MAX + 1).unwrap();
        let mut decoder = Decoder::default();
        decoder.push(&header(9, length).bytes());
        assert_eq!(decoder.next_frame(), Some(Decoded::TooLong(header(9, length))));
        for _ in 0..(DATA_BYTES_MAX + 1) / 4096 {
            decoder.push(&[0xff; 4096]);
            assert_eq!(decoder.next_frame(), None);
        }
        decoder.push(&[0xff]);
        decoder.push(&frame(11, b"next"));
        assert_eq!(decoder.next_frame(), Some(Decoded::Frame(header(11, 4), b"next".to_vec())));
    }

    #[test]
    fn the_largest_length_allocates_nothing() {
        let mut decoder = Decoder::default();
        decoder.push(&header(1, u32::MAX).bytes());
        decoder.push(&[0; 100]);
        assert!(matches!(decoder.next_frame(), Some(Decoded::TooLong(_))));
        assert!(decoder.buffer.capacity() < 4096);
    }

    #[test]
    fn too_much_to_send_is_refused() {
        let mut out = Vec::new();
        assert!(!append(&mut out, 1, KIND_RESPONSE, &vec![0; DATA_BYTES_MAX + 1]));
        assert!(out.is_empty());
    }
}
