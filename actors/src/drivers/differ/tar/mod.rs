//! Tar archives as streams: every dialect that layers come in.
//!
//! # Spec
//! POSIX.1-2024 `pax` interchange format (ustar and extended headers); GNU tar manual, "Tar Internals" (long names,
//! base-256 numbers, sparse formats); star's `SCHILY.xattr` and libarchive's `LIBARCHIVE.xattr` records. Where they
//! leave a choice, Go's `archive/tar` decides, since that is what most layers were written and checked with.

mod header;
mod pax;
mod read;
mod sparse;
mod write;

pub use read::Reader;
pub(crate) use read::shown;
pub use write::Writer;

/// The unit of everything in an archive.
pub const BLOCK_BYTES: usize = 512;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an earlier member.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A moment as the archive writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds into that second.
    pub nanos: u32,
}

/// A member of an archive, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path as written.
    pub path: Vec<u8>,
    /// What a link points to.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    /// Who owns it.
    pub uid: u32,
    /// Whose group it is.
    pub gid: u32,
    /// How long the file is, holes counted.
    pub size_bytes: u64,
    /// When it was last changed.
    pub mtime: Time,
    /// When it was last read.
    pub atime: Option<Time>,
    /// A device's major and minor number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a reader keeps in memory at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest extended header or GNU long name.
    pub header_bytes: u64,
    /// The most parts of one sparse file.
    pub fragments: usize,
}
