//! Values whose type only the two ends know.

use crate::Refusal;
use ::bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A typed blob, as protobuf's `Any`: containerd hands options, specs, extensions and metrics around in it.
///
/// OCI runtime values are JSON under `types.containerd.io/opencontainers/runtime-spec/1/{Spec,Process,LinuxResources}`;
/// the rest is protobuf under its bare message name. Kept as it came: never decoded and encoded again on the way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Any {
    /// The type's URL.
    #[serde(deserialize_with = "crate::text::string")]
    pub type_url: String,
    /// Its encoding.
    #[serde(with = "crate::bytes::shared")]
    pub value: Bytes,
}

impl Any {
    /// The URL of an OCI runtime `Spec` as JSON.
    pub const SPEC: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
    /// The URL of an OCI runtime `Process` as JSON.
    pub const PROCESS: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
    /// The URL of an OCI runtime `LinuxResources` as JSON.
    pub const RESOURCES: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

    /// A value under a type URL.
    #[must_use]
    pub fn new(type_url: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { type_url: type_url.into(), value: Bytes::from(value.into()) }
    }

    /// The envelope as protobuf has it, for blobs that hold one: the type's URL is field 1, the value field 2.
    #[must_use]
    pub fn to_proto(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.type_url.len() + self.value.len() + 12);
        put_bytes(&mut bytes, 1, self.type_url.as_bytes());
        put_bytes(&mut bytes, 2, &self.value);
        bytes
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none, and for fields that it does not have.
    pub fn from_proto(mut bytes: &[u8]) -> Result<Self, Refusal> {
        let bad = || Refusal::invalid("it is no protobuf Any");
        let mut any = Self::default();
        while let Some((tag, rest)) = bytes.split_first() {
            let (length, rest) = varint(rest).ok_or_else(bad)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= rest.len()).ok_or_else(bad)?;
            let (value, rest) = rest.split_at(length);
            match tag {
                0x0a => any.type_url = std::str::from_utf8(value).map_err(|_| bad())?.to_owned(),
                0x12 => any.value = Bytes::copy_from_slice(value),
                _ => return Err(bad()),
            }
            bytes = rest;
        }
        Ok(any)
    }
}

/// Appends a field of bytes or text in protobuf's wire form; an empty one is left out. Fields up to 15 only.
pub fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    out.push(field << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// A number of protobuf's wire form, and what comes after it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_as_protobuf_has_it() {
        assert_eq!(Any::new("a", *b"bc").to_proto(), b"\x0a\x01a\x12\x02bc");
        assert_eq!(Any::default().to_proto(), b"");
        let long = Any::new("u", vec![7; 300]);
        assert_eq!(long.to_proto()[..7], *b"\x0a\x01u\x12\xac\x02\x07");
        for any in [Any::default(), Any::new("a", *b"bc"), long] {
            assert_eq!(Any::from_proto(&any.to_proto()).unwrap(), any);
        }
        for bad in
            [&b"\x0a"[..], b"\x0a\x05a", b"\x1a\x01a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0a\x01\xff"]
        {
            assert!(Any::from_proto(bad).is_err(), "{bad:?}");
        }
    }
}
