//! Opening a root: one daemon at a time, a schema it knows, and a database that is ready at once after a crash.

use crate::{
    blobs::Blobs,
    disk::{Backend, Disk, Gate},
    error::{OpenError, refusal},
    reader::Reader,
    schema,
    write::Writer,
};
use redb::{Database, Durability, ReadableDatabase, WriteTransaction};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};
use wharf_messages::{Answer, Digest};

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
    disk: Arc<dyn Disk>,
    blobs: Blobs,
    /// Held for as long as anybody can touch the root.
    _lock: File,
}

/// The database as it is open now; replaced as a whole by a reopening.
#[derive(Debug, Clone)]
struct Handle {
    database: Arc<Database>,
    gate: Arc<Gate>,
}

/// Opens a root, making it if it is not there: the handle for everybody, and the one writer for the journal.
///
/// # Errors
/// [`OpenError::InUse`] at once if another daemon has it, [`OpenError::NewerSchema`] if a newer one wrote it.
pub fn open(root: &Path, options: Options) -> Result<(Store, Writer), OpenError> {
    make_folder(root)?;
    let lock = lock(root)?;
    let path = root.join(schema::DATABASE_FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| OpenError::Io { doing: "open database", path, source })?;
    open_on(root, options, Arc::new(file), lock)
}

/// Opens a root whose database is on the given disk.
pub(crate) fn open_on(
    root: &Path,
    options: Options,
    disk: Arc<dyn Disk>,
    lock: File,
) -> Result<(Store, Writer), OpenError> {
    let path = root.join(schema::DATABASE_FILE);
    let fail = |source: redb::Error| OpenError::Database { path: path.clone(), source: Box::new(source) };
    let handle = open_database(&disk, options).map_err(|e| fail(e.into()))?;
    let uuid = prepare(&handle.database, &path)?;
    let blobs = Blobs::open(root)?;
    // The database's own name must survive a power cut, too.
    sync_folder(root)?;
    let store = Store(Arc::new(Shared {
        root: root.to_owned(),
        uuid,
        options,
        handle: RwLock::new(handle),
        disk,
        blobs,
        _lock: lock,
    }));
    let writer = Writer::new(store.clone()).map_err(|refusal| OpenError::Damaged { path, why: refusal.to_string() })?;
    Ok((store, writer))
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
            let free = || {
                for ingest in self.read()?.all_ingests()? {
                    if ingest?.1.file_id == id {
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            swept += u64::from(self.blobs().discard_ingest(&id, free)?);
        }
        Ok(swept)
    }

    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        begin_write(&self.database())
    }

    /// Opens the database again after an I/O error. Readers go on with the old handle until the new one is there.
    pub(crate) fn reopen(&self) -> Answer<()> {
        let doing = "reopen the database";
        let mut slot = self.0.handle.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        slot.gate.stop_writes();
        let fresh = open_database(&self.0.disk, self.0.options).map_err(|e| refusal(doing, e))?;
        slot.gate.close();
        *slot = fresh;
        Ok(())
    }

    fn database(&self) -> Arc<Database> {
        // A panic elsewhere cannot leave the handle half replaced.
        self.0.handle.read().unwrap_or_else(std::sync::PoisonError::into_inner).database.clone()
    }
}

fn open_database(disk: &Arc<dyn Disk>, options: Options) -> Result<Handle, redb::DatabaseError> {
    let gate = Arc::new(Gate::default());
    let backend = Backend { disk: disk.clone(), gate: gate.clone() };
    let database = Database::builder()
        .set_cache_size(options.cache_bytes)
        .set_repair_callback(|session| tracing::warn!(progress = session.progress(), "repairing the database"))
        .create_with_backend(backend)
        .inspect_err(|_| gate.close())?;
    Ok(Handle { database: Arc::new(database), gate })
}

fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // Costs a third of the commits' speed and makes opening after a crash take half a millisecond instead of walking
    // the whole file.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Checks the schema's version, makes all tables, and answers the root's id.
fn prepare(database: &Database, path: &Path) -> Result<String, OpenError> {
    let fail = |source: redb::Error| OpenError::Database { path: path.to_owned(), source: Box::new(source) };
    let damaged = |why: &str| OpenError::Damaged { path: path.to_owned(), why: why.to_owned() };

    let read = database.begin_read().map_err(|e| fail(e.into()))?;
    let (version, uuid) = match read.open_table(schema::META) {
        Ok(meta) => {
            let version = meta.get(schema::META_SCHEMA).map_err(|e| fail(e.into()))?.map(|v| v.value().to_vec());
            let uuid = meta.get(schema::META_UUID).map_err(|e| fail(e.into()))?.map(|v| v.value().to_vec());
            (version, uuid)
        }
        Err(redb::TableError::TableDoesNotExist(_)) => (None, None),
        Err(error) => return Err(fail(error.into())),
    };
    match (version, uuid) {
        (None, None) => {}
        (Some(version), Some(uuid)) => {
            let version =
                version.try_into().map(u32::from_le_bytes).map_err(|_| damaged("its schema version is no number"))?;
            if version > schema::SCHEMA_VERSION {
                return Err(OpenError::NewerSchema {
                    path: path.to_owned(),
                    found: version,
                    known: schema::SCHEMA_VERSION,
                });
            }
            return String::from_utf8(uuid).map_err(|_| damaged("its id is no text"));
        }
        _ => return Err(damaged("it has a schema version or an id, but not both")),
    }

    let uuid =
        fresh_uuid().map_err(|source| OpenError::Io { doing: "make an id for", path: path.to_owned(), source })?;
    let transaction = begin_write(database).map_err(fail)?;
    {
        let mut meta = transaction.open_table(schema::META).map_err(|e| fail(e.into()))?;
        let version = schema::SCHEMA_VERSION.to_le_bytes();
        meta.insert(schema::META_SCHEMA, version.as_slice()).map_err(|e| fail(e.into()))?;
        meta.insert(schema::META_UUID, uuid.as_bytes()).map_err(|e| fail(e.into()))?;
    }
    // Opening a table makes it, so that readers never meet one that is not there.
    crate::write::Tables::open(&transaction).map_err(fail)?;
    transaction.commit().map_err(|e| fail(e.into()))?;
    Ok(uuid)
}

/// Takes the root, or says who has it.
pub(crate) fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join(LOCK_FILE);
    let fail = |doing, source| OpenError::Io { doing, path: path.clone(), source };
    let mut file = OpenOptions::new()
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
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(|e| fail("write", e))?;
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

/// A random UUID (version 4).
///
/// # Spec
/// RFC 9562, section 5.4.
fn fresh_uuid() -> io::Result<String> {
    let mut hex = random_hex()?;
    hex.replace_range(12..13, "4");
    hex.replace_range(
        16..17,
        match hex.as_bytes()[16] & 3 {
            0 => "8",
            1 => "9",
            2 => "a",
            _ => "b",
        },
    );
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
