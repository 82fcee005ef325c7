//! Packing changes as a layer.

use super::{
    changes::{self, Change, Seen},
    extract::split,
    tar::{Entry, Kind, Time, Writer, shown},
};
use crate::drivers::files::is_folder;
use rustix::fs::{FileType, fstat, major, minor, readlinkat};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    ffi::CString,
    io::{self, Read, Write},
    path::PathBuf,
};
use wharf_messages::{Answer, Digest, Mount, Refusal, descriptor::media_type::Compression};

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// How a layer is made.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// Times after this are set to it, and whiteouts get it: for layers that come out the same every time.
    pub time_max_seconds: Option<i64>,
    /// Where to mount; none means the system's folder for temporary files.
    pub scratch: Option<PathBuf>,
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diffed {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The length of the uncompressed layer.
    pub size_bytes: u64,
    /// How many members it has.
    pub entries: u64,
}

/// Writes a layer of what `upper` changes over `lower` (no mounts: an empty place).
///
/// # Errors
/// `FailedPrecondition` for an overlay whose upper folder does not show the changes, `Aborted` if a file changes while
/// it is read, `Canceled`, what the writer, mounting and the kernel say.
pub fn diff(
    lower: &[Mount],
    upper: &[Mount],
    output: &mut dyn Write,
    compression: Compression,
    options: &DiffOptions,
    cancelled: &dyn Fn() -> bool,
) -> Answer<Diffed> {
    let written = |error: io::Error| super::refusal(error).context("write the layer");
    match compression {
        Compression::None => pack(lower, upper, output, options, cancelled).map(|(diffed, _)| diffed),
        Compression::Gzip => {
            let encoder = flate2::write::GzEncoder::new(output, flate2::Compression::default());
            let (diffed, encoder) = pack(lower, upper, encoder, options, cancelled)?;
            encoder.finish().map_err(written)?;
            Ok(diffed)
        }
        Compression::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(output, ZSTD_LEVEL).map_err(written)?;
            let (diffed, encoder) = pack(lower, upper, encoder, options, cancelled)?;
            encoder.finish().map_err(written)?;
            Ok(diffed)
        }
    }
}

fn pack<W: Write>(
    lower: &[Mount],
    upper: &[Mount],
    output: W,
    options: &DiffOptions,
    cancelled: &dyn Fn() -> bool,
) -> Answer<(Diffed, W)> {
    let output = Hashing { output, hash: Sha256::new(), size_bytes: 0 };
    let mut packing = Packing {
        tar: Writer::new(output),
        time_max_seconds: options.time_max_seconds,
        cancelled,
        entries: 0,
        unlisted: HashMap::new(),
        firsts: HashMap::new(),
        unchanged: HashMap::new(),
    };
    let scratch = options.scratch.clone().unwrap_or_else(std::env::temp_dir);
    changes::find(lower, upper, &scratch, &mut |change| packing.change(change))?;
    let entries = packing.entries;
    let done = packing.tar.finish().map_err(|e| super::refusal(e).context("write the layer"))?;
    let diff_id = Digest::from_sha256(&done.hash.finalize().into());
    Ok((Diffed { diff_id, size_bytes: done.size_bytes, entries }, done.output))
}

/// A layer in the making.
struct Packing<'a, W> {
    tar: Writer<Hashing<W>>,
    time_max_seconds: Option<i64>,
    cancelled: &'a dyn Fn() -> bool,
    entries: u64,
    /// Unchanged folders that get one as soon as something in them changed.
    unlisted: HashMap<Vec<u8>, Entry>,
    /// The first name of each file with several.
    firsts: HashMap<u64, Vec<u8>>,
    /// Names of files that are as they were: they are links of a new name that is found later.
    unchanged: HashMap<u64, Vec<Vec<u8>>>,
}

impl<W: Write> Packing<'_, W> {
    fn change(&mut self, change: Change<'_>) -> Answer<()> {
        if (self.cancelled)() {
            return Err(Refusal::canceled("make a layer"));
        }
        match change {
            Change::Set(seen) => self.set(&seen).map_err(|r| r.context(shown(seen.path))),
            Change::Same(seen) => {
                if is_folder(&seen.stat) {
                    let entry = self.entry(&seen)?;
                    self.unlisted.insert(seen.path.to_vec(), entry);
                } else if seen.stat.st_nlink > 1 {
                    match self.firsts.get(&seen.stat.st_ino) {
                        Some(first) => return self.link(&seen, first.clone()),
                        None => self.unchanged.entry(seen.stat.st_ino).or_default().push(seen.path.to_vec()),
                    }
                }
                Ok(())
            }
            Change::Gone { path } => {
                let (folder, name) = split(path);
                self.whiteout(folder, &[b".wh.", name].concat())
            }
            Change::Opaque { path } => self.whiteout(path, b".wh..wh..opq"),
        }
    }

    fn whiteout(&mut self, folder: &[u8], name: &[u8]) -> Answer<()> {
        let path = if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() };
        let seconds = self.time_max_seconds.unwrap_or_default();
        let entry = Entry {
            path,
            link: Vec::new(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size_bytes: 0,
            mtime: Time { seconds, nanos: 0 },
            atime: None,
            device: (0, 0),
            xattrs: Vec::new(),
        };
        self.member(&entry)
    }

    fn set(&mut self, seen: &Seen<'_>) -> Answer<()> {
        let kind = FileType::from_raw_mode(seen.stat.st_mode);
        if kind == FileType::Socket {
            // Nothing else than its owner's process could make it work, as containerd.
            return Ok(());
        }
        let several = kind != FileType::Directory && seen.stat.st_nlink > 1;
        if several {
            if let Some(first) = self.firsts.get(&seen.stat.st_ino) {
                return self.link(seen, first.clone());
            }
            self.firsts.insert(seen.stat.st_ino, seen.path.to_vec());
        }
        let entry = self.entry(seen)?;
        self.member(&entry)?;
        if kind == FileType::RegularFile {
            self.bytes(seen, entry.size_bytes)?;
        }
        if several {
            for path in self.unchanged.remove(&seen.stat.st_ino).unwrap_or_default() {
                let entry =
                    Entry { path, link: seen.path.to_vec(), kind: Kind::HardLink, size_bytes: 0, ..entry.clone() };
                self.member(&Entry { xattrs: Vec::new(), ..entry })?;
            }
        }
        Ok(())
    }

    fn link(&mut self, seen: &Seen<'_>, to: Vec<u8>) -> Answer<()> {
        let entry = self.entry(seen)?;
        self.member(&Entry { kind: Kind::HardLink, link: to, size_bytes: 0, xattrs: Vec::new(), ..entry })
    }

    /// Writes a member after the folders that lead to it.
    fn member(&mut self, entry: &Entry) -> Answer<()> {
        let path = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(n, _)| n);
        for folder in slashes.map(|slash| &path[..slash]) {
            if let Some(unlisted) = self.unlisted.remove(folder) {
                self.put(&unlisted)?;
            }
        }
        self.put(entry)
    }

    fn put(&mut self, entry: &Entry) -> Answer<()> {
        self.entries += 1;
        self.tar.member(entry).map_err(|e| super::refusal(e).context("write the layer"))
    }

    fn bytes(&mut self, seen: &Seen<'_>, size_bytes: u64) -> Answer<()> {
        let read = |e: io::Error| Refusal::io("read", &e);
        let changed = || Refusal::aborted("it changed while it was read");
        let mut file = changes::open_file(seen.folder, seen.name).map_err(read)?;
        let now = fstat(&file).map_err(|e| read(e.into()))?;
        if (now.st_ino, now.st_mode) != (seen.stat.st_ino, seen.stat.st_mode) {
            return Err(changed());
        }
        let mut buffer = vec![0; 128 << 10];
        let mut left = size_bytes;
        while left > 0 {
            if (self.cancelled)() {
                return Err(Refusal::canceled("make a layer"));
            }
            let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            match file.read(&mut buffer[..wanted]) {
                Ok(0) => return Err(changed()),
                Ok(size) => {
                    self.tar.data(&buffer[..size]).map_err(|e| super::refusal(e).context("write the layer"))?;
                    left -= size as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read(error)),
            }
        }
        Ok(())
    }

    fn entry(&self, seen: &Seen<'_>) -> Answer<Entry> {
        let stat = &seen.stat;
        let (kind, mut path) = (FileType::from_raw_mode(stat.st_mode), seen.path.to_vec());
        let failed = |e: io::Error| Refusal::io("look at", &e);
        let mut link = Vec::new();
        let kind = match kind {
            FileType::Directory => {
                path.push(b'/');
                Kind::Directory
            }
            FileType::Symlink => {
                let to: CString = readlinkat(seen.folder, seen.name, Vec::new()).map_err(|e| failed(e.into()))?;
                link = to.into_bytes();
                Kind::Symlink
            }
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            _ => Kind::File,
        };
        let mut mtime = Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() };
        if let Some(max) = self.time_max_seconds {
            mtime = mtime.min(Time { seconds: max, nanos: 0 });
        }
        let xattrs = changes::xattrs(seen.folder, seen.name).map_err(failed)?;
        Ok(Entry {
            path,
            link,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size_bytes: if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or_default() } else { 0 },
            mtime,
            atime: None,
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => (major(stat.st_rdev), minor(stat.st_rdev)),
                _ => (0, 0),
            },
            xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
        })
    }
}

/// Counts and hashes what passes.
struct Hashing<W> {
    output: W,
    hash: Sha256,
    size_bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.output.write(bytes)?;
        self.hash.update(&bytes[..size]);
        self.size_bytes += size as u64;
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
