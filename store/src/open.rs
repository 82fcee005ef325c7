//! Opening a root: one daemon at a time, a schema it knows, and a database that is ready at once after a crash.

use crate::{
    blobs::Blobs,
    database::{self, Handle},
    disk::{Disk, ReservedFile},
    error::{OpenError, refusal},
    reader::Reader,
    requests::Requests,
    reserve::Reserve,
    row::FileId,
    schema,
    write::{LogSize, Writer},
};
use redb::{Database, ReadableDatabase, WriteTransaction};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};
use wharf_messages::{Answer, Digest, event::Seq};

/// The file that says who has the root.
const LOCK_FILE: &str = "lock";

/// How to open.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How much of the database is kept in memory. redb's own default is 1 GiB; 8 MiB hold the inner nodes of far more rows
    /// than a machine has containers.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 8 << 20 }
    }
}

/// A root that is open: for reading, and for the bytes of blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    uuid: String,
    options: Options,
    handle: RwLock<Handle>,
    requests: Requests,
    disk: Arc<dyn Disk>,
    blobs: Blobs,
    /// Held for as long as anybody can touch the root.
    _lock: File,
}

/// Opens a root, making it if it is not there: the handle for everybody, and the one writer for the journal.
///
/// # Errors
/// [`OpenError::InUse`] at once if another daemon has it, [`OpenError::NewerSchema`] if a newer one wrote it.
pub fn open(root: &Path, options: Options) -> Result<(Store, Writer), OpenError> {
    make_folder(root)?;
    let lock = lock(root)?;
    // First the database: a new root needs its room more than a reserve.
    let file = database::open_file(root, options)?;
    let disk = ReservedFile { file, root: root.to_owned(), reserve: Reserve::open(root) };
    open_on(root, options, Arc::new(disk), lock)
}

/// Opens a root whose database is on the given disk.
pub(crate) fn open_on(
    root: &Path,
    options: Options,
    disk: Arc<dyn Disk>,
    lock: File,
) -> Result<(Store, Writer), OpenError> {
    let path = root.join(schema::DATABASE_FILE);
    // redb panics over some kinds of damage. Nothing is lost by catching that here: the handle is thrown away, and the
    // operator is told which file it is about.
    let opened = catch_unwind(AssertUnwindSafe(|| open_rows(&path, options, &disk)));
    let (handle, requests, uuid, log) = opened.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        Err(OpenError::Damaged { path: path.clone(), why: text.unwrap_or("it cannot be read").to_owned() })
    })?;
    let shared = Shared {
        root: root.to_owned(),
        uuid,
        options,
        handle: RwLock::new(handle),
        requests,
        disk,
        blobs: Blobs::open(root)?,
        _lock: lock,
    };
    let store = Store(Arc::new(shared));
    Ok((store.clone(), Writer::new(store, log)))
}

/// Opens the database, and answers the requests done, the root's id and the log as it lies.
fn open_rows(
    path: &Path,
    options: Options,
    disk: &Arc<dyn Disk>,
) -> Result<(Handle, Requests, String, LogSize), OpenError> {
    let fail = |source: redb::Error| OpenError::Database { path: path.to_owned(), source: Box::new(source) };
    let handle = database::open(disk, options).map_err(fail)?;
    let uuid = database::identify(&handle, path)?;
    database::complete(&handle).map_err(fail)?;
    let requests = Requests::default();
    requests.load(&handle.database).map_err(fail)?;
    let log = handle
        .database
        .begin_read()
        .map_err(|e| refusal("read the log", e))
        .and_then(|transaction| Reader::new(transaction).log_size())
        .map_err(|refusal| OpenError::Damaged { path: path.to_owned(), why: refusal.to_string() })?;
    Ok((handle, requests, uuid, log))
}

impl Store {
    /// Begins to read: everything read from the result is of one moment.
    ///
    /// # Errors
    /// `Unavailable` or an operating error of the disk.
    pub fn read(&self) -> Answer<Reader> {
        let transaction = self.database().begin_read().map_err(|e| refusal("read the database", e))?;
        Ok(Reader::new(transaction))
    }

    /// Where the log ended after a request was done ([`Commit::request`](crate::Commit)), if it was; only the newest
    /// thousands are remembered.
    #[must_use]
    pub fn done(&self, request: u64) -> Option<Seq> {
        self.requests().done(request)
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.0.requests
    }

    /// The bytes of blobs.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// The root's own id, made when the root was.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.0.uuid
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Deletes a blob's file if no namespace has a row for it and nobody is about to write one; answers whether it is gone.
    ///
    /// # Errors
    /// An operating error of the disk.
    pub fn discard_blob(&self, digest: &Digest) -> Answer<bool> {
        self.blobs().discard(digest, || Ok(self.read()?.blob(digest)?.is_none()))
    }

    /// Deletes an unfinished blob's folder if no row speaks of it and nobody writes it; answers whether it is gone.
    ///
    /// # Errors
    /// An operating error of the disk.
    pub fn discard_ingest(&self, id: &FileId) -> Answer<bool> {
        self.blobs().discard_ingest(id, || {
            for ingest in self.read()?.all_ingests()? {
                if ingest?.1.file_id == *id {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Deletes every file below `content` that no row speaks of and nobody is working on; answers how many.
    ///
    /// # Errors
    /// An operating error of the disk.
    pub fn sweep_content(&self) -> Answer<u64> {
        let mut swept = 0;
        for digest in self.blobs().list()? {
            swept += u64::from(self.discard_blob(&digest)?);
        }
        for id in self.blobs().list_ingests()? {
            swept += u64::from(self.discard_ingest(&id)?);
        }
        Ok(swept)
    }

    /// Whether there is so little room that only what gives some back should be written.
    pub(crate) fn is_tight(&self) -> bool {
        self.0.disk.is_tight()
    }

    /// Says what is written from now on: what gives room back may take what is kept for that.
    pub(crate) fn spare(&self, spared: bool) {
        self.0.disk.spare(spared);
    }

    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        database::begin_write(&self.database())
    }

    /// Opens the database again after an I/O error. Readers go on with the old handle until the new one is there.
    pub(crate) fn reopen(&self) -> Answer<()> {
        let doing = "reopen the database";
        let mut slot = self.0.handle.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        slot.gate.stop_writes();
        let fresh = database::open(&self.0.disk, self.0.options).map_err(|e| refusal(doing, e))?;
        // What was in doubt is decided now.
        self.requests().load(&fresh.database).map_err(|e| refusal(doing, e))?;
        slot.gate.close();
        *slot = fresh;
        Ok(())
    }

    fn database(&self) -> Arc<Database> {
        // A panic elsewhere cannot leave the handle half replaced.
        self.0.handle.read().unwrap_or_else(std::sync::PoisonError::into_inner).database.clone()
    }
}

/// Takes the root, or says who has it.
pub(crate) fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join(LOCK_FILE);
    let fail = |doing, source| OpenError::Io { doing, path: path.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| fail("open", e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(fail("lock", error)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Who has it is a courtesy: if it cannot be read, the refusal is the same.
            let pid = file.take(16).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::InUse { root: root.to_owned(), pid });
        }
    }
    // Always the same length and in place: a full disk must not keep a daemon from starting.
    if let Err(error) = file.write_all_at(format!("{:<15}\n", std::process::id()).as_bytes(), 0) {
        tracing::warn!(path = %path.display(), %error, "the lock does not say who holds it");
    }
    Ok(file)
}

pub(crate) fn make_folder(path: &Path) -> Result<(), OpenError> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(|source| OpenError::Io {
        doing: "make folder",
        path: path.to_owned(),
        source,
    })
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|source| OpenError::Io {
        doing: "sync folder",
        path: path.to_owned(),
        source,
    })
}

/// Sixteen bytes that nobody else has, as hex.
pub(crate) fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}
