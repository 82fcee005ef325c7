//! The one place that knows bincode: rows in the store and frames on the native socket are encoded here.
//!
//! bincode 2.0.1 is unmaintained (RUSTSEC-2025-0141) but complete; version 3 does not exist as software. Nothing outside
//! this module names it, so it can be replaced here.

use crate::Refusal;
use ::bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// The largest value that is ever decoded: 16 MiB and a little, containerd's own limit for a message.
pub const DECODE_MAX_BYTES: usize = (16 << 20) + (64 << 10);

// The limit makes a hostile length prefix an error; without it nine bytes can ask for terabytes and abort the process.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODE_MAX_BYTES>,
> = bincode::config::standard().with_limit::<DECODE_MAX_BYTES>();

/// Encodes a value.
///
/// # Errors
/// `ResourceExhausted` if it is larger than [`DECODE_MAX_BYTES`] and so could never be decoded again.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    let bytes = bincode::serde::encode_to_vec(value, CONFIG)
        .map_err(|error| Refusal::internal(format!("encode {}: {error}", std::any::type_name::<T>())))?;
    if bytes.len() > DECODE_MAX_BYTES {
        return Err(Refusal::resource_exhausted(format!(
            "a {} of {} bytes is larger than the limit of {DECODE_MAX_BYTES}",
            short_name::<T>(),
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// Decodes a value; every byte must be used.
///
/// # Errors
/// `InvalidArgument` that says what did not fit: the bytes come from a socket or a file and are never trusted.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let bad = |why: String| Refusal::invalid(format!("decode {}: {why}", short_name::<T>()));
    match bincode::serde::decode_from_slice(bytes, CONFIG) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(bad(format!("{} bytes left over", bytes.len() - used))),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// Decodes a value whose fields of bytes may be parts of these bytes: they are then kept as long as the value is.
///
/// # Errors
/// As [`decode`].
pub fn decode_shared<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    crate::bytes::shared::within(bytes, decode)
}

fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::GetImage;

    #[test]
    fn values_come_back_and_hostile_bytes_do_not() {
        let call = GetImage { name: crate::ImageName::new("docker.io/library/busybox:latest").unwrap() };
        let bytes = encode(&call).unwrap();
        assert_eq!(decode::<GetImage>(&bytes).unwrap().name, call.name);
        assert!(decode::<GetImage>(&bytes[..5]).is_err());
        assert!(decode::<GetImage>(&[bytes.as_slice(), b"x"].concat()).is_err());
        // A length prefix of 8 TB: an error, not an allocation.
        assert!(decode::<Vec<u64>>(&[253, 0, 0, 0, 0, 0, 8, 0, 0]).is_err());
        // Identifiers keep their rules on the way in.
        assert!(decode::<crate::ContainerId>(&encode(&"../x".to_owned()).unwrap()).is_err());
    }
}
