//! Archives: layers unpacked on a real file system, and image archives.

use sha2::{Digest as _, Sha256};
use std::{
    cell::RefCell,
    fs,
    io::Read,
    path::{Path, PathBuf},
};
use wharf_actors::{
    archive::{BlobSink, read_archive},
    drivers::differ::{ApplyLimits, ApplyOptions, apply},
};
use wharf_messages::{Answer, Digest, Mount, Refusal, RefusalKind, descriptor::media_type::Compression};

const BLOCK: usize = 512;

/// What an input may ask for: enough to get anywhere, too little to fill a disk.
const LIMITS: ApplyLimits = ApplyLimits {
    entries: 64,
    total_bytes: 1 << 20,
    file_bytes: 1 << 18,
    xattr_bytes: 4096,
    path_bytes: 1024,
    path_depth: 32,
    header_bytes: 1 << 14,
    fragments: 64,
};

/// A folder for the target inside one that must stay as it is, on memory.
struct Prison(tempfile::TempDir);

thread_local! {
    static PRISON: RefCell<Option<Prison>> = const { RefCell::new(None) };
}

impl Prison {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self(dir)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    /// Nothing outside has changed.
    fn check(&self) {
        let mut names: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "root"]);
        let outside: Vec<_> = fs::read_dir(self.0.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1);
        assert_eq!(fs::read(self.0.path().join("outside/secret")).unwrap(), b"secret");
    }
}

/// A layer, plain or compressed. Where the first byte is odd, the headers' checksums are made right first: an input that
/// fails at its first checksum tests nothing else.
pub fn layer(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if how & 1 == 1 {
        mend(&mut bytes);
    }
    PRISON.with_borrow_mut(|prison| {
        let prison = prison.get_or_insert_with(Prison::new);
        let root = prison.root();
        fs::create_dir(&root).unwrap();
        let mount = Mount {
            kind: "bind".to_owned(),
            source: root.to_str().unwrap().to_owned(),
            target: String::new(),
            options: vec!["rw".to_owned(), "rbind".to_owned()],
        };
        let options = ApplyOptions { limits: LIMITS, late_parent: how & 2 == 2, ..ApplyOptions::default() };
        match apply(&mut bytes.as_slice(), Compression::None, &[mount], &options, &|| false) {
            Ok(applied) => assert!(applied.entries <= LIMITS.entries),
            Err(refusal) => assert_ne!(refusal.kind, RefusalKind::Internal, "{refusal}"),
        }
        prison.check();
        fs::remove_dir_all(&root).unwrap();
    });
}

/// Makes the checksums right of what a reader would take for headers.
fn mend(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            at += BLOCK;
            continue;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..136]).unwrap_or_default();
        let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).unwrap_or(0);
        let Some(next) = size.div_ceil(BLOCK).checked_mul(BLOCK).and_then(|body| body.checked_add(at + BLOCK)) else {
            return;
        };
        at = next;
    }
}

/// Blobs that are hashed and forgotten.
struct Sink;

impl BlobSink for Sink {
    fn put(&mut self, expected: Option<&Digest>, size_bytes: u64, reader: &mut dyn Read) -> Answer<Digest> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|error| Refusal::io("read the archive", &error))?;
        if bytes.len() as u64 != size_bytes {
            return Err(Refusal::data_loss("the archive is cut"));
        }
        let digest = Digest::from_sha256(&Sha256::digest(&bytes).into());
        match expected {
            Some(expected) if *expected != digest => Err(Refusal::failed_precondition("another digest")),
            _ => Ok(digest),
        }
    }
}

/// An image archive. The first byte as in [`layer`].
pub fn archive(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if how & 1 == 1 {
        mend(&mut bytes);
    }
    match read_archive(&mut bytes.as_slice(), &mut Sink) {
        Ok(archive) => assert!(!archive.images.is_empty(), "an archive of nothing"),
        Err(refusal) => assert_ne!(refusal.kind, RefusalKind::Internal, "{refusal}"),
    }
}
