//! Writing an archive: ustar headers, with extended headers for what they cannot say.

use super::{BLOCK_BYTES, Entry, Kind, header::Block};
use std::io::{self, Write};

/// The largest number that fits eight bytes of octal digits with their end.
const SHORT_MAX: u64 = 0o7_777_777;
/// The same for twelve bytes.
const LONG_MAX: u64 = 0o77_777_777_777;

/// Writes an archive to a stream; the same members make the same bytes.
pub struct Writer<W> {
    output: W,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// A writer at the start of an archive.
    pub fn new(output: W) -> Self {
        Self { output, padding: 0 }
    }

    /// Begins a member; if it is a file, exactly as many bytes as it says have to be written next.
    ///
    /// # Errors
    /// What the stream says.
    pub fn member(&mut self, entry: &Entry) -> io::Result<()> {
        self.pad()?;
        let records = records(entry);
        if !records.is_empty() {
            let mut name = b"PaxHeaders.0/".to_vec();
            let path = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
            let base = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            name.extend(base.iter().take(80));
            let extended = Entry { path: name, kind: Kind::File, ..blank(records.len() as u64) };
            self.output.write_all(&header(&extended, b'x'))?;
            self.output.write_all(&records)?;
            self.padding = records.len().wrapping_neg() % BLOCK_BYTES;
            self.pad()?;
        }
        self.output.write_all(&header(entry, flag(entry.kind)))?;
        let length = usize::try_from(entry.size_bytes % BLOCK_BYTES as u64).unwrap_or_default();
        self.padding = length.wrapping_neg() % BLOCK_BYTES;
        Ok(())
    }

    /// Writes bytes of the current member's file.
    ///
    /// # Errors
    /// What the stream says.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// What the stream says.
    pub fn finish(mut self) -> io::Result<W> {
        self.pad()?;
        self.output.write_all(&[0; 2 * BLOCK_BYTES])?;
        Ok(self.output)
    }

    fn pad(&mut self) -> io::Result<()> {
        self.output.write_all(&[0; BLOCK_BYTES][..std::mem::take(&mut self.padding)])
    }
}

fn blank(size_bytes: u64) -> Entry {
    Entry {
        path: Vec::new(),
        link: Vec::new(),
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size_bytes,
        mtime: super::Time::default(),
        atime: None,
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

fn header(entry: &Entry, flag: u8) -> Block {
    let mut block = [0; BLOCK_BYTES];
    put_text(&mut block[..100], &entry.path);
    put_number(&mut block[100..108], u64::from(entry.mode));
    put_number(&mut block[108..116], u64::from(entry.uid));
    put_number(&mut block[116..124], u64::from(entry.gid));
    put_number(&mut block[124..136], entry.size_bytes);
    put_number(&mut block[136..148], u64::try_from(entry.mtime.seconds).unwrap_or_default());
    block[156] = flag;
    put_text(&mut block[157..257], &entry.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    put_number(&mut block[329..337], u64::from(entry.device.0));
    put_number(&mut block[337..345], u64::from(entry.device.1));
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    put_number(&mut block[148..155], sum);
    block
}

/// What does not fit is cut: an extended header says it in full.
fn put_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Octal digits that end with a NUL; zero if the number is too large, since an extended header says it then.
fn put_number(field: &mut [u8], number: u64) {
    let width = field.len() - 1;
    let digits = format!("{number:0width$o}");
    let digits = if digits.len() > width { "0".repeat(width) } else { digits };
    field[..width].copy_from_slice(digits.as_bytes());
}

/// The body of the extended header that a member needs; empty if it needs none.
fn records(entry: &Entry) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |key: &str, value: &[u8]| records.push((key.as_bytes().to_vec(), value.to_vec()));
    let plain = |text: &[u8]| text.len() <= 100 && text.is_ascii();
    if !plain(&entry.path) {
        add("path", &entry.path);
    }
    if !plain(&entry.link) {
        add("linkpath", &entry.link);
    }
    if entry.size_bytes > LONG_MAX {
        add("size", entry.size_bytes.to_string().as_bytes());
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if u64::from(id) > SHORT_MAX {
            add(key, id.to_string().as_bytes());
        }
    }
    let seconds = entry.mtime.seconds;
    if entry.mtime.nanos != 0 || !u64::try_from(seconds).is_ok_and(|seconds| seconds <= LONG_MAX) {
        add("mtime", time(seconds, entry.mtime.nanos).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        records.push(([b"SCHILY.xattr.", &name[..]].concat(), value.clone()));
    }
    // In order, so that the order in which a file system lists attributes does not show.
    records.sort();
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        body.extend(format!("{length} ").into_bytes());
        body.extend(key);
        body.push(b'=');
        body.extend(value);
        body.push(b'\n');
    }
    body
}

fn time(seconds: i64, nanos: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let (sign, total) = if total < 0 { ("-", -total) } else { ("", total) };
    let text = format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Reader, Time};
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let limits = Limits { header_bytes: 1 << 20, fragments: 10 };
        let plain = Entry { path: b"a/b".to_vec(), mode: 0o6755, ..blank(3) };
        let odd = Entry {
            path: [b"\xff\xc3".as_slice(), &[b'x'; 300]].concat(),
            uid: 3_000_000,
            gid: u32::MAX - 1,
            mtime: Time { seconds: -2, nanos: 750_000_000 },
            xattrs: vec![(b"user.a".to_vec(), b"\0\n=".to_vec()), (b"user.b".to_vec(), vec![7; 60_000])],
            ..blank(0)
        };
        let link = Entry { kind: Kind::Symlink, link: vec![b'l'; 150], path: b"l".to_vec(), ..blank(0) };
        let disk = Entry { kind: Kind::BlockDevice, device: (259, 70_000), path: b"d".to_vec(), ..blank(0) };
        let late = Entry {
            path: b"f/".to_vec(),
            kind: Kind::Directory,
            mtime: Time { seconds: 1 << 40, nanos: 1 },
            ..blank(0)
        };
        let mut writer = Writer::new(Vec::new());
        for entry in [&plain, &odd, &link, &disk, &late] {
            writer.member(entry).unwrap();
            writer.data(&b"abc"[..usize::try_from(entry.size_bytes).unwrap()]).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..], limits);
        for entry in [plain, odd, link, disk, late] {
            assert_eq!(reader.next().unwrap().unwrap(), entry);
        }
        assert_eq!(reader.next().unwrap(), None);
    }
}
