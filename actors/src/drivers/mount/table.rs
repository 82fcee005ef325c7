//! What is mounted, as the kernel tells.

use std::{ffi::OsString, io, os::unix::ffi::OsStringExt, path::PathBuf};

/// One mount of this process's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Where it is.
    pub path: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// The mount's own options, then the file system's.
    pub options: Vec<String>,
}

/// Everything that is mounted, in the order in which it was.
///
/// # Errors
/// What the kernel says.
///
/// # Spec
/// proc_pid_mountinfo(5).
pub fn mount_points() -> io::Result<Vec<MountPoint>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// Reads a line: `36 35 98:0 /root /path rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`.
fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|b| *b == b' ');
    let path = unescaped(fields.nth(4)?);
    let options = fields.next()?;
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescaped(field)).into_owned();
    let (kind, source, more) = (text(fields.next()?), text(fields.next()?), fields.next()?);
    Some(MountPoint {
        path: OsString::from_vec(path).into(),
        kind,
        source,
        options: [options, more].iter().flat_map(|list| list.split(|b| *b == b',')).map(text).collect(),
    })
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match rest.get(1..4).and_then(code) {
            Some(byte) if *first == b'\\' => {
                text.push(byte);
                rest = &rest[4..];
            }
            _ => {
                text.push(*first);
                rest = after;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn lines_are_read_and_escapes_undone() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402\134 rw,noatime master:1 shared:2 - overlay a\011b rw,lowerdir=/l";
        let point = parse(line).unwrap();
        assert_eq!(point.path.as_os_str().as_bytes(), br"/mnt 2\");
        assert_eq!((&*point.kind, &*point.source), ("overlay", "a\tb"));
        assert_eq!(point.options, ["rw", "noatime", "rw", "lowerdir=/l"]);
        assert!(parse(b"").is_none() && parse(b"36 35 98:0 / /x rw").is_none());
        assert!(mount_points().unwrap().iter().any(|point| point.path.as_os_str() == "/"));
    }
}
