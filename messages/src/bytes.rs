//! How byte strings are encoded: in one piece. serde's own way for a `Vec<u8>` visits every byte, which made a container's
//! spec a hundred times dearer to read than the rest of its row. The encoding is the same to the byte.
//!
//! For fields: `#[serde(with = "crate::bytes")]`.

use serde::{
    Deserializer, Serializer,
    de::{self, SeqAccess, Visitor},
};
use std::fmt;

/// Writes bytes.
///
/// # Errors
/// The serializer's own.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Reads bytes.
///
/// # Errors
/// The deserializer's own.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_byte_buf(Bytes)
}

struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    // Formats without byte strings, such as JSON, have lists of numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Any, codec};
    use serde::{Deserialize, Serialize};

    #[test]
    fn the_encoding_is_that_of_a_list_of_bytes() {
        #[derive(Serialize, Deserialize)]
        struct Plain {
            type_url: String,
            value: Vec<u8>,
        }
        for len in [0, 1, 250, 251, 252, 70_000] {
            let value: Vec<u8> = (0..len).map(|i: u32| (i % 256) as u8).collect();
            let any = Any::new("x", value.clone());
            let bytes = codec::encode(&any).unwrap();
            assert_eq!(bytes, codec::encode(&Plain { type_url: "x".to_owned(), value }).unwrap(), "{len}");
            assert_eq!(codec::decode::<Any>(&bytes).unwrap(), any);
            assert_eq!(serde_json::from_str::<Any>(&serde_json::to_string(&any).unwrap()).unwrap(), any);
        }
        // A length that is not there is an error, not an allocation.
        let hostile = [1, b'x', 253, 0, 0, 0, 0, 0, 8, 0, 0];
        assert!(codec::decode::<Any>(&hostile).is_err());
    }
}
