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

/// For fields of bytes that are not copied where what is read can be shared ([`crate::codec::decode_shared`]).
///
/// `#[serde(with = "crate::bytes::shared")]`.
pub mod shared {
    use super::{Deserializer, SeqAccess, Serializer, Visitor, de, fmt};
    use ::bytes::Bytes;
    use std::cell::RefCell;

    thread_local! {
        /// What is being decoded on this thread, if it can be shared.
        static SOURCE: RefCell<Option<Bytes>> = const { RefCell::new(None) };
    }

    /// Decodes something of these bytes; what it has of bytes may be parts of them.
    pub(crate) fn within<T>(source: &Bytes, decode: impl FnOnce(&[u8]) -> T) -> T {
        /// Lets go of the source, even in a panic.
        struct Within;
        impl Drop for Within {
            fn drop(&mut self) {
                SOURCE.take();
            }
        }
        SOURCE.set(Some(source.clone()));
        let _within = Within;
        decode(source)
    }

    /// The part of the source that these bytes are, or a copy.
    fn share(bytes: &[u8]) -> Bytes {
        SOURCE.with_borrow(|source| match source {
            Some(source)
                if source.as_ptr_range().start <= bytes.as_ptr()
                    && bytes.as_ptr_range().end <= source.as_ptr_range().end =>
            {
                source.slice_ref(bytes)
            }
            _ => Bytes::copy_from_slice(bytes),
        })
    }

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
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_bytes(Shared)
    }

    struct Shared;

    impl<'de> Visitor<'de> for Shared {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Bytes, E> {
            Ok(share(bytes))
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }

        // Formats without byte strings, such as JSON, have lists of numbers.
        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Bytes, A::Error> {
            super::Bytes.visit_seq(seq).map(Bytes::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Any, codec};
    use ::bytes::Bytes;
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
        assert!(codec::decode_shared::<Any>(&hostile.to_vec().into()).is_err());
    }

    #[test]
    fn bytes_are_parts_of_what_can_be_shared_and_copies_of_what_cannot() {
        let any = Any::new("x", vec![7; 5_000]);
        let source = Bytes::from(codec::encode(&any).unwrap());
        let lies_in_source = |any: &Any| source.as_ptr_range().contains(&any.value.as_ptr());
        let shared: Any = codec::decode_shared(&source).unwrap();
        assert!(shared == any && lies_in_source(&shared));
        // Neither the next that is decoded, nor one within, is taken for a part of it.
        let copied: Any = codec::decode(&source).unwrap();
        assert!(copied == any && !lies_in_source(&copied));
        let other = codec::encode(&any).unwrap();
        let nested: Any = super::shared::within(&source, |_| codec::decode(&other)).unwrap();
        assert!(nested == any && !lies_in_source(&nested));
    }
}
