//! How messages are written: into room that is there. A list of a thousand containers has megabytes, and a buffer that
//! grows while it is written copies them again and again.

use prost::Message;
use std::marker::PhantomData;
use tonic::{
    Status,
    codec::{BufferSettings, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Bytes of messages that go together: when there are so many, a stream gives what it has.
const TOGETHER_BYTES: usize = 32 << 10;
/// The room that an answer begins with.
const ROOM_BYTES: usize = 8 << 10;
/// What lies before each message.
const PREFIX_BYTES: usize = 5;

/// protobuf's encoding, of messages of type `T` one way and `U` the other.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> tonic::codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Roomy<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Roomy<T> {
        Roomy { together: 0, room: ROOM_BYTES, of: PhantomData }
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::default())
    }
}

/// Writes messages of type `T`. The first gets room of its length, as it may be the only one; with a second there is
/// room for all that go together.
#[derive(Debug)]
pub struct Roomy<T> {
    /// Bytes of those that go together.
    together: usize,
    /// Bytes of the room that is left.
    room: usize,
    of: PhantomData<T>,
}

impl<T: Message> Encoder for Roomy<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let length = message.encoded_len();
        if self.room < length {
            let first = self.together == 0 && self.room > 0;
            self.room = length + if first { 0 } else { TOGETHER_BYTES - self.together };
            buf.reserve(self.room);
        }
        message.encode_raw(buf);
        self.together += PREFIX_BYTES + length;
        self.room = self.room.saturating_sub(PREFIX_BYTES + length);
        if self.together >= TOGETHER_BYTES {
            // These are given; the next begin anew.
            (self.together, self.room) = (0, 0);
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ROOM_BYTES, TOGETHER_BYTES)
    }
}
