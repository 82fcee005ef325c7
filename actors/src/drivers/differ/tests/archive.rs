//! Archives made byte by byte, so that they can say what no honest program writes.

use std::io::Write;

/// An archive in the making.
#[derive(Default, Clone)]
pub(super) struct Archive(pub(super) Vec<u8>);

/// A member in the making: a ustar header that can be changed before it is added.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) header: [u8; 512],
    pub(super) body: Vec<u8>,
}

impl Member {
    pub(super) fn new(flag: u8, path: &str, mode: u32) -> Self {
        let mut this = Self { header: [0; 512], body: Vec::new() };
        this.header[..path.len()].copy_from_slice(path.as_bytes());
        this.header[257..265].copy_from_slice(b"ustar\x0000");
        this.header[156] = flag;
        this.octal(100, 8, u64::from(mode)).octal(108, 8, 0).octal(116, 8, 0).octal(136, 12, 1_600_000_000).size(0)
    }

    pub(super) fn file(path: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        Self { body: body.clone(), ..Self::new(b'0', path, 0o644).size(body.len() as u64) }
    }

    pub(super) fn folder(path: &str) -> Self {
        Self::new(b'5', path, 0o755)
    }

    pub(super) fn symlink(path: &str, to: &str) -> Self {
        Self::new(b'2', path, 0o777).link(to)
    }

    pub(super) fn hard_link(path: &str, to: &str) -> Self {
        Self::new(b'1', path, 0o644).link(to)
    }

    pub(super) fn whiteout(path: &str) -> Self {
        Self::file(path, "")
    }

    pub(super) fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(super) fn octal(self, at: usize, length: usize, value: u64) -> Self {
        let digits = format!("{value:0width$o}\0", width = length - 1);
        self.bytes(at, digits.as_bytes())
    }

    pub(super) fn size(self, size: u64) -> Self {
        self.octal(124, 12, size)
    }

    pub(super) fn link(self, to: &str) -> Self {
        self.bytes(157, to.as_bytes())
    }

    pub(super) fn mode(self, mode: u32) -> Self {
        self.octal(100, 8, u64::from(mode))
    }

    pub(super) fn owner(self, uid: u32, gid: u32) -> Self {
        self.octal(108, 8, u64::from(uid)).octal(116, 8, u64::from(gid))
    }

    pub(super) fn device(self, major: u32, minor: u32) -> Self {
        self.octal(329, 8, u64::from(major)).octal(337, 8, u64::from(minor))
    }
}

impl Archive {
    /// An archive of these members, ended properly.
    pub(super) fn of(members: impl IntoIterator<Item = Member>) -> Vec<u8> {
        let mut archive = Self::default();
        for member in members {
            archive.add(member);
        }
        archive.end()
    }

    pub(super) fn add(&mut self, mut member: Member) -> &mut Self {
        member.header[148..156].copy_from_slice(b"        ");
        let sum: u32 = member.header.iter().map(|b| u32::from(*b)).sum();
        member.header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(member.header);
        self.0.extend(&member.body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// An extended header of these records.
    pub(super) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = 1 + key.len() + 1 + value.len() + 1;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            write!(body, "{length} {key}=").unwrap();
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let header = Member::new(b'x', "PaxHeaders/x", 0o644).size(body.len() as u64);
        self.add(Member { body, ..header })
    }

    pub(super) fn end(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

/// Compresses with gzip.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
