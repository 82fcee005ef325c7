//! One 512-byte header block.

use super::{BLOCK_BYTES, Time};
use wharf_messages::{Answer, Refusal};

/// A header block.
pub(super) type Block = [u8; BLOCK_BYTES];

/// Who wrote it, which decides what the bytes behind the common fields mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Unix V7: nothing behind.
    V7,
    /// POSIX: a prefix of the path.
    Ustar,
    /// Schilling's star: a shorter prefix, then times.
    Star,
    /// GNU: times and sparse maps.
    Gnu,
}

/// The fields that every dialect has, and what its own add.
#[derive(Debug)]
pub(super) struct Header {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub type_flag: u8,
    pub mode: u32,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    pub mtime: Time,
    pub atime: Option<Time>,
    pub device: (i64, i64),
    pub dialect: Dialect,
}

/// Reads a header block.
///
/// # Errors
/// `InvalidArgument` for a wrong checksum or a field that is no number.
pub(super) fn parse(block: &Block) -> Answer<Header> {
    if !checksum_matches(block) {
        return Err(Refusal::invalid("no tar header (its checksum is wrong)"));
    }
    let dialect = dialect(block);
    let number = |range: std::ops::Range<usize>, what: &str| {
        parse_number(&block[range]).ok_or_else(|| Refusal::invalid(format!("tar header with a bad {what}")))
    };
    let mut path = text(&block[..100]).to_vec();
    let mut atime = None;
    let mut device = (0, 0);
    if dialect != Dialect::V7 {
        device = (number(329..337, "device number")?, number(337..345, "device number")?);
    }
    let prefix: &[u8] = match dialect {
        Dialect::V7 => b"",
        Dialect::Ustar => text(&block[345..500]),
        Dialect::Star => {
            atime = Some(seconds(number(476..488, "access time")?));
            text(&block[345..476])
        }
        Dialect::Gnu => match (gnu_time(&block[345..357]), gnu_time(&block[357..369])) {
            (Some(accessed), Some(_)) => {
                atime = accessed;
                b""
            }
            // Go before 1.8 wrote the prefix of a ustar path here; layers of that time are still around.
            _ => text(&block[345..500]),
        },
    };
    if !prefix.is_empty() {
        path = [prefix, b"/", &path].concat();
    }
    Ok(Header {
        path,
        link: text(&block[157..257]).to_vec(),
        type_flag: block[156],
        mode: u32::try_from(number(100..108, "mode")? & 0o7777).unwrap_or_default(),
        uid: number(108..116, "owner")?,
        gid: number(116..124, "group")?,
        size: number(124..136, "size")?,
        mtime: seconds(number(136..148, "time")?),
        atime,
        device,
        dialect,
    })
}

fn seconds(seconds: i64) -> Time {
    Time { seconds, nanos: 0 }
}

/// A time that GNU writes only sometimes: none if it is no number.
#[allow(clippy::option_option)]
fn gnu_time(field: &[u8]) -> Option<Option<Time>> {
    if field[0] == 0 { Some(None) } else { parse_number(field).map(|n| Some(seconds(n))) }
}

fn dialect(block: &Block) -> Dialect {
    match (&block[257..263], &block[263..265]) {
        (b"ustar\0", _) if &block[508..512] == b"tar\0" => Dialect::Star,
        (b"ustar\0", _) => Dialect::Ustar,
        (b"ustar ", b" \0") => Dialect::Gnu,
        _ => Dialect::V7,
    }
}

/// The checksum is the sum of all bytes, its own field taken as spaces; some old writers summed signed bytes.
fn checksum_matches(block: &Block) -> bool {
    let Some(expected) = parse_octal(&block[148..156]) else { return false };
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (n, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&n) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    expected == unsigned || expected == signed
}

/// What comes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits, or base-256 if the first bit is set.
pub(super) fn parse_number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => parse_base256(field),
        _ => parse_octal(field),
    }
}

/// Big-endian two's complement; the first bit only marks the form, the second is the sign.
fn parse_base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] | 0x80 } else { field[0] & 0x7f };
    let mut value = i128::from(first.cast_signed());
    for byte in &field[1..] {
        value = (value << 8) | i128::from(*byte);
        // Twelve bytes at most, so the sum itself cannot overflow; what does not fit is told early.
        if i64::try_from(value).is_err() {
            return None;
        }
    }
    i64::try_from(value).ok()
}

fn parse_octal(field: &[u8]) -> Option<i64> {
    let skip = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !skip(b)).unwrap_or(field.len());
    let digits = text(&field[start..]).trim_ascii_end();
    if digits.is_empty() {
        return Some(0);
    }
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_both_forms() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"00008\0\0\0", None),
            (b"-000012\0", None),
            (b"\x80\0\0\0\0\0\0\x05", Some(5)),
            (b"\x80\0\0\0\0\0\x01\0\0\0\0\0", Some(1 << 40)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(parse_number(field), expected, "{field:?}");
        }
    }

    #[test]
    fn a_block_of_anything_is_no_header() {
        assert!(parse(&[b'x'; BLOCK_BYTES]).is_err());
        assert!(parse(&[0; BLOCK_BYTES]).is_err());
    }
}
