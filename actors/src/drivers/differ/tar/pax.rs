//! Extended headers: records that override a header's fields.

use super::Time;
use wharf_messages::{Answer, Refusal};

/// What the records of one extended header say; what they do not mention is none.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<i64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub mtime: Option<Time>,
    pub atime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// What GNU's sparse records say.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub name: Option<Vec<u8>>,
    /// Of the whole file: `GNU.sparse.realsize` or, in the older forms, `GNU.sparse.size`.
    pub real_size: Option<i64>,
    /// How many parts there are said to be.
    pub count: Option<i64>,
    /// Offsets and lengths in turn, as text: of one `GNU.sparse.map`, or of many single records.
    pub map: Vec<Vec<u8>>,
}

impl Sparse {
    /// Whether the file is sparse at all.
    pub(super) fn is_there(&self) -> bool {
        self.major.is_some() || self.count.is_some() || !self.map.is_empty()
    }
}

/// Reads the body of an extended header. `fragments` bounds the sparse map.
///
/// # Errors
/// `InvalidArgument` for records that are not well formed, `ResourceExhausted` for a sparse map over the limit.
pub(super) fn parse(mut body: &[u8], fragments: usize) -> Answer<Records> {
    let mut records = Records::default();
    let mut from_libarchive = Vec::new();
    while !body.is_empty() {
        let (key, value, rest) = record(body)?;
        body = rest;
        take(&mut records, &mut from_libarchive, key, value)?;
        if records.sparse.map.len() > fragments.saturating_mul(2) {
            return Err(Refusal::resource_exhausted(format!("sparse map over the limit of {fragments} parts")));
        }
    }
    // libarchive writes each attribute twice; star's record says it without an encoding.
    for (name, value) in from_libarchive {
        if !records.xattrs.iter().any(|(known, _)| *known == name) {
            records.xattrs.push((name, value));
        }
    }
    Ok(records)
}

/// Cuts the first record off: `LENGTH KEY=VALUE\n`, the length counting all of it.
fn record(body: &[u8]) -> Answer<(&[u8], &[u8], &[u8])> {
    let bad = || Refusal::invalid("extended header with a malformed record");
    let space = body.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
    let length = usize::try_from(decimal(&body[..space]).ok_or_else(bad)?).map_err(|_| bad())?;
    if length < space + 2 || length > body.len() || body[length - 1] != b'\n' {
        return Err(bad());
    }
    let content = &body[space + 1..length - 1];
    let equals = content.iter().position(|b| *b == b'=').ok_or_else(bad)?;
    let (key, value) = (&content[..equals], &content[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(bad());
    }
    Ok((key, value, &body[length..]))
}

fn take(records: &mut Records, from_libarchive: &mut Vec<(Vec<u8>, Vec<u8>)>, key: &[u8], value: &[u8]) -> Answer<()> {
    let bad = || Refusal::invalid(format!("extended header with a bad {}", String::from_utf8_lossy(key)));
    // An empty value takes back what an earlier record said.
    let text = || match value {
        [] => Ok(None),
        value if value.contains(&0) => Err(bad()),
        value => Ok(Some(value.to_vec())),
    };
    let number = || if value.is_empty() { Ok(None) } else { decimal(value).map(Some).ok_or_else(bad) };
    let when = || if value.is_empty() { Ok(None) } else { time(value).map(Some).ok_or_else(bad) };
    match key {
        b"path" => records.path = text()?,
        b"linkpath" => records.link = text()?,
        b"size" => records.size = number()?,
        b"uid" => records.uid = number()?,
        b"gid" => records.gid = number()?,
        b"mtime" => records.mtime = when()?,
        b"atime" => records.atime = when()?,
        b"GNU.sparse.major" => records.sparse.major = number()?,
        b"GNU.sparse.minor" => records.sparse.minor = number()?,
        b"GNU.sparse.name" => records.sparse.name = text()?,
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => records.sparse.real_size = number()?,
        b"GNU.sparse.numblocks" => records.sparse.count = number()?,
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            // They alternate, and an offset comes first.
            if records.sparse.map.len().is_multiple_of(2) != (key == b"GNU.sparse.offset") {
                return Err(bad());
            }
            records.sparse.map.push(value.to_vec());
        }
        b"GNU.sparse.map" => records.sparse.map = value.split(|b| *b == b',').map(<[u8]>::to_vec).collect(),
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                set(&mut records.xattrs, name.to_vec(), value.to_vec());
            } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                let name = url_decoded(name).ok_or_else(bad)?;
                set(from_libarchive, name, base64(value).ok_or_else(bad)?);
            }
        }
    }
    Ok(())
}

fn set(xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>, name: Vec<u8>, value: Vec<u8>) {
    match xattrs.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => xattrs.push((name, value)),
    }
}

/// A decimal number, with a sign if need be.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction of any length; what is finer than nanoseconds is cut off.
fn time(text: &[u8]) -> Option<Time> {
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, n| nanos * 10 + u32::from(fraction.get(n).map_or(0, |digit| digit - b'0')));
    // -1.25 is 1.25 s before the epoch: a second earlier, plus 0.75.
    if whole.starts_with(b"-") && nanos > 0 {
        return Some(Time { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Time { seconds, nanos })
}

fn url_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(*byte);
        }
    }
    (!decoded.contains(&0)).then_some(decoded)
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
    // libarchive leaves the padding out; others may not.
    let unpadded = text.iter().rposition(|b| *b != b'=').map_or(0, |last| last + 1);
    STANDARD_NO_PAD.decode(&text[..unpadded]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Answer<Records> {
        let content = format!(" {key}={value}\n");
        let mut length = content.len() + 1;
        while length != length.to_string().len() + content.len() {
            length = length.to_string().len() + content.len();
        }
        parse(format!("{length}{content}").as_bytes(), 10)
    }

    #[test]
    fn times_have_nanoseconds() {
        for (text, seconds, nanos) in [
            ("1350244992.023960108", 1_350_244_992, 23_960_108),
            ("1350244992.02396010899999", 1_350_244_992, 23_960_108),
            ("1350244992.3", 1_350_244_992, 300_000_000),
            ("1350244992", 1_350_244_992, 0),
            ("-1.000000001", -2, 999_999_999),
            ("-1.0", -1, 0),
            ("-0.5", -1, 500_000_000),
        ] {
            assert_eq!(one("mtime", text).unwrap().mtime, Some(Time { seconds, nanos }), "{text}");
        }
        for bad in ["x", "1.x", ".5", "1.-1", "--1", "99999999999999999999"] {
            assert!(one("mtime", bad).is_err(), "{bad}");
        }
        assert_eq!(one("mtime", "").unwrap().mtime, None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for body in [
            &b"3 x=y\n"[..],
            b"99 x=y\n",
            b"6 xy=\n ",
            b"5 xy\n",
            b"-6 x=y\n",
            b"6 =yy\n",
            b"x",
            b"99999999999999999999999 x=y\n",
            b"6  x=y",
            b"11 path=a\0b\n",
        ] {
            assert!(parse(body, 10).is_err(), "{body:?}");
        }
        assert_eq!(parse(b"8 path=\n", 10).unwrap().path, None);
    }

    #[test]
    fn attributes_from_both_worlds() {
        let star = one("SCHILY.xattr.security.capability", "\u{1}\0x=y\n").unwrap();
        assert_eq!(star.xattrs, [(b"security.capability".to_vec(), b"\x01\0x=y\n".to_vec())]);
        let libarchive = one("LIBARCHIVE.xattr.user.a%20b", "aGVsbG8").unwrap();
        assert_eq!(libarchive.xattrs, [(b"user.a b".to_vec(), b"hello".to_vec())]);
        assert!(one("LIBARCHIVE.xattr.user.a%2", "aGVsbG8").is_err());
    }
}
