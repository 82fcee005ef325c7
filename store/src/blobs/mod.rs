//! The bytes of blobs: files by digest, and the ingests that become them.
//!
//! ```text
//! <root>/content/blobs/sha256/<hex>     whole, verified, read-only
//! <root>/content/ingest/<file id>/data  unfinished; the row knows whose
//! ```
//!
//! **Order.** An ingest's folder is made before its row. A blob is hashed while it is written, synced, renamed, its folder
//! synced, and then its row is committed; until that is answered a [`Placed`] keeps it from being taken for rubbish. To
//! delete, the row goes first and the file after ([`Store::discard_blob`](crate::Store::discard_blob)).
//!
//! All of this blocks: callers run it on their pool.

mod growing;
mod hash;
mod ingest;
mod reading;

pub use growing::{Growing, GrowingBlob};
pub(crate) use hash::Hasher;
pub use ingest::IngestFile;
pub use reading::OpenBlob;

use crate::{
    OpenError,
    open::{make_folder, random_hex, sync_folder},
    row::FileId,
};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use wharf_messages::{Answer, Digest, Refusal, Timestamp, id::DigestAlgorithm};

const ALGORITHMS: [DigestAlgorithm; 2] = [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512];

/// The file side of the content store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    ingest: PathBuf,
    busy: Mutex<Busy>,
}

/// What must not be taken for rubbish, although no row may speak of it yet.
#[derive(Debug, Default)]
struct Busy {
    /// Placed and waiting for their rows: how many times each.
    placed: HashMap<Digest, usize>,
    /// Open for writing.
    ingests: HashSet<FileId>,
}

/// A blob in its place. Keep it until the commit with its row is answered: without a row, only this protects the file.
#[derive(Debug)]
pub struct Placed {
    blobs: Blobs,
    digest: Digest,
    size_bytes: u64,
}

impl Placed {
    /// Its name.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its length.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let mut busy = self.blobs.busy();
        if let Some(count) = busy.placed.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                busy.placed.remove(&self.digest);
            }
        }
    }
}

impl Blobs {
    pub(crate) fn open(root: &Path) -> Result<Self, OpenError> {
        let content = root.join("content");
        let (blobs, ingest) = (content.join("blobs"), content.join("ingest"));
        make_folder(&ingest)?;
        for algorithm in ALGORITHMS {
            make_folder(&blobs.join(algorithm.as_str()))?;
        }
        for folder in [&blobs, &content] {
            sync_folder(folder)?;
        }
        Ok(Self(Arc::new(Inner { blobs, ingest, busy: Mutex::default() })))
    }

    /// Opens a blob for reading; answers its length too.
    ///
    /// # Errors
    /// `NotFound` if there is no file, and operating errors.
    pub fn read(&self, digest: &Digest) -> Answer<(File, u64)> {
        let file = File::open(self.path(digest)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Refusal::not_found(format!("content {digest}: its file")),
            _ => Refusal::io(format_args!("open content {digest}"), &e),
        })?;
        let size_bytes = file.metadata().map_err(|e| Refusal::io(format_args!("read content {digest}"), &e))?.len();
        Ok((file, size_bytes))
    }

    /// Reads a small blob whole.
    ///
    /// # Errors
    /// As [`Blobs::read`]; `ResourceExhausted` for one above `max_bytes`, `DataLoss` for one whose bytes are not what its
    /// name says.
    pub fn read_all(&self, digest: &Digest, max_bytes: u64) -> Answer<Vec<u8>> {
        let (file, size_bytes) = self.read(digest)?;
        if size_bytes > max_bytes {
            return Err(Refusal::resource_exhausted(format!(
                "content {digest} has {size_bytes} bytes, the limit here is {max_bytes}"
            )));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or_default());
        io::Read::read_to_end(&mut io::Read::take(file, max_bytes), &mut bytes)
            .map_err(|e| Refusal::io(format_args!("read content {digest}"), &e))?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.digest()? == *digest {
            Ok(bytes)
        } else {
            Err(Refusal::data_loss(format!("content {digest}: its bytes are not what its name says")))
        }
    }

    /// Where a blob's file is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder(digest.algorithm()).join(digest.hex())
    }

    /// Begins a new ingest: its folder is there when this returns, so its row may be committed.
    ///
    /// # Errors
    /// Operating errors of the disk.
    pub fn begin(&self, algorithm: DigestAlgorithm) -> Answer<IngestFile> {
        let id = random_hex().map_err(|e| Refusal::io("make an ingest's id", &e)).and_then(FileId::new)?;
        self.open_ingest(id, algorithm)
    }

    /// Goes on with an ingest where it stands, reading what is there to know its hash. One whose file is gone (a power
    /// cut) begins anew.
    ///
    /// # Errors
    /// `Unavailable` if it is open already, and operating errors of the disk.
    pub fn resume(&self, id: &FileId, algorithm: DigestAlgorithm) -> Answer<IngestFile> {
        let mut file = self.open_ingest(id.clone(), algorithm)?;
        file.rehash(algorithm)?;
        Ok(file)
    }

    /// Stores a small blob in one go.
    ///
    /// # Errors
    /// `FailedPrecondition` if it is not what is expected, and operating errors of the disk.
    pub fn insert(&self, bytes: &[u8], expected: Option<&Digest>) -> Answer<Placed> {
        let mut file = self.begin(expected.map_or(DigestAlgorithm::Sha256, Digest::algorithm))?;
        let id = file.id().clone();
        let placed = file.append(bytes).and_then(|_| file.commit(0, expected));
        if placed.is_err() {
            // No row will ever speak of it.
            self.discard_ingest(&id, || Ok(true))?;
        }
        placed
    }

    /// How many bytes an ingest has and when it last got some; nothing if its file is gone.
    ///
    /// # Errors
    /// Operating errors of the disk.
    pub fn ingest_status(&self, id: &FileId) -> Answer<Option<(u64, Timestamp)>> {
        match fs::metadata(self.ingest_folder(id).join(ingest::DATA)) {
            Ok(meta) => {
                let modified = meta.modified().map_err(|e| Refusal::io(format_args!("read ingest {id}"), &e))?;
                Ok(Some((meta.len(), modified.into())))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Refusal::io(format_args!("read ingest {id}"), &e)),
        }
    }

    /// Deletes an ingest's folder once its row is gone, unless somebody writes it; answers whether it is gone.
    ///
    /// # Errors
    /// What `unwanted` answers, and operating errors of the disk.
    pub fn discard_ingest(&self, id: &FileId, unwanted: impl FnOnce() -> Answer<bool>) -> Answer<bool> {
        let busy = self.busy();
        if busy.ingests.contains(id) || !unwanted()? {
            return Ok(false);
        }
        remove_folder(&self.ingest_folder(id)).map_err(|e| Refusal::io(format_args!("delete ingest {id}"), &e))?;
        Ok(true)
    }

    /// Every blob that has a file.
    ///
    /// # Errors
    /// Operating errors of the disk.
    pub fn list(&self) -> Answer<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in ALGORITHMS {
            for name in names(&self.folder(algorithm))? {
                match Digest::new(format!("{}:{name}", algorithm.as_str())) {
                    Ok(digest) => digests.push(digest),
                    Err(_) => tracing::warn!(%name, "a file that is no blob is in the content store"),
                }
            }
        }
        Ok(digests)
    }

    /// Every ingest that has a folder.
    ///
    /// # Errors
    /// Operating errors of the disk.
    pub fn list_ingests(&self) -> Answer<Vec<FileId>> {
        let mut ids = Vec::new();
        for name in names(&self.0.ingest)? {
            match FileId::new(name) {
                Ok(id) => ids.push(id),
                Err(refusal) => tracing::warn!(%refusal, "a folder that is no ingest is in the content store"),
            }
        }
        Ok(ids)
    }

    /// Deletes a blob's file if nobody waits for its row and `unwanted` agrees. That is asked while no blob can be placed,
    /// so its answer stays true until the file is gone.
    pub(crate) fn discard(&self, digest: &Digest, unwanted: impl FnOnce() -> Answer<bool>) -> Answer<bool> {
        let busy = self.busy();
        if busy.placed.contains_key(digest) || !unwanted()? {
            return Ok(false);
        }
        match fs::remove_file(self.path(digest)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(Refusal::io(format_args!("delete content {digest}"), &e)),
        }
    }

    fn open_ingest(&self, id: FileId, algorithm: DigestAlgorithm) -> Answer<IngestFile> {
        if !self.busy().ingests.insert(id.clone()) {
            return Err(Refusal::unavailable(format!("ingest {id} is open already")));
        }
        let folder = self.ingest_folder(&id);
        let file = DirBuilder::new().recursive(true).mode(0o700).create(&folder).and_then(|()| {
            let path = folder.join(ingest::DATA);
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
        });
        match file {
            Ok(file) => Ok(IngestFile::new(self.clone(), id, file, algorithm)),
            Err(e) => {
                self.busy().ingests.remove(&id);
                Err(Refusal::io(format_args!("open ingest {id}"), &e))
            }
        }
    }

    /// Moves a finished file to its place.
    fn place(&self, id: &FileId, digest: Digest, size_bytes: u64) -> Answer<Placed> {
        *self.busy().placed.entry(digest.clone()).or_default() += 1;
        // From here on a failure lets go of the pin by dropping this.
        let placed = Placed { blobs: self.clone(), digest, size_bytes };
        let digest = &placed.digest;
        let folder = self.ingest_folder(id);
        wharf_failpoints::try_failpoint!("blob/place");
        // A file of that name may be there (another namespace's, or one that a power cut left empty): ours is verified.
        fs::rename(folder.join(ingest::DATA), self.path(digest))
            .and_then(|()| File::open(self.folder(digest.algorithm()))?.sync_all())
            .map_err(|e| Refusal::io(format_args!("place content {digest}"), &e))?;
        wharf_failpoints::try_failpoint!("blob/placed");
        if let Err(error) = remove_folder(&folder) {
            tracing::warn!(%id, %error, "an empty ingest folder is left for the next sweep");
        }
        Ok(placed)
    }

    fn release_ingest(&self, id: &FileId) {
        self.busy().ingests.remove(id);
    }

    fn folder(&self, algorithm: DigestAlgorithm) -> PathBuf {
        self.0.blobs.join(algorithm.as_str())
    }

    /// Where an ingest's folder is, or would be.
    pub(crate) fn ingest_path(&self, id: &FileId) -> PathBuf {
        self.ingest_folder(id)
    }

    fn ingest_folder(&self, id: &FileId) -> PathBuf {
        self.0.ingest.join(id.as_str())
    }

    fn busy(&self) -> MutexGuard<'_, Busy> {
        // Each change of it is a single step: a panic elsewhere cannot leave it half done.
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn names(folder: &Path) -> Answer<Vec<String>> {
    let fail = |e: io::Error| Refusal::io(format_args!("list {}", folder.display()), &e);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
