//! The database's file: made whole or not at all, recognised, and opened so that it is ready at once after a crash.

use crate::{
    disk::{Backend, Disk, Gate},
    error::OpenError,
    open::{Options, random_hex, sync_folder},
    schema,
    write::Tables,
};
use redb::{Database, Durability, ReadableDatabase, WriteTransaction};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

/// What the file is called until it is whole.
pub(crate) const UNFINISHED_FILE: &str = "wharf.redb.new";

/// The database as it is open now; replaced as a whole by a reopening.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub database: Arc<Database>,
    pub gate: Arc<Gate>,
}

/// Opens the file of a root, making it first if it is not there.
pub(crate) fn open_file(root: &Path, options: Options) -> Result<File, OpenError> {
    let path = root.join(schema::DATABASE_FILE);
    let fail = |doing, source| OpenError::Io { doing, path: path.clone(), source };
    if !path.try_exists().map_err(|e| fail("look for database", e))? {
        // A power cut in the middle leaves a file that is no database: it must not have the name of one.
        let unfinished = root.join(UNFINISHED_FILE);
        let file = open_options()
            .create(true)
            .truncate(true)
            .open(&unfinished)
            .and_then(|file| Ok((file.try_clone()?, file)))
            .map_err(|e| fail("make database", e))?;
        create(&(Arc::new(file.0) as Arc<dyn Disk>), options, &path)?;
        file.1.sync_all().and_then(|()| fs::rename(&unfinished, &path)).map_err(|e| fail("make database", e))?;
        sync_folder(root)?;
    }
    open_options().open(&path).map_err(|e| fail("open database", e))
}

pub(crate) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Fills an empty disk: an id, the schema's version, and all tables.
pub(crate) fn create(disk: &Arc<dyn Disk>, options: Options, path: &Path) -> Result<(), OpenError> {
    let uuid =
        fresh_uuid().map_err(|source| OpenError::Io { doing: "make an id for", path: path.to_owned(), source })?;
    let fill = || {
        let handle = open(disk, options)?;
        let transaction = begin_write(&handle.database)?;
        {
            let mut meta = transaction.open_table(schema::META)?;
            meta.insert(schema::META_SCHEMA, schema::SCHEMA_VERSION.to_le_bytes().as_slice())?;
            meta.insert(schema::META_UUID, uuid.as_bytes())?;
        }
        // Opening a table makes it, so that readers never meet one that is not there.
        Tables::open(&transaction)?;
        transaction.commit()?;
        Ok(())
    };
    fill().map_err(|source: redb::Error| OpenError::Database { path: path.to_owned(), source: Box::new(source) })
}

/// Checks the schema's version and answers the root's id.
pub(crate) fn identify(handle: &Handle, path: &Path) -> Result<String, OpenError> {
    let read = || {
        let meta = handle.database.begin_read()?.open_table(schema::META)?;
        let version = meta.get(schema::META_SCHEMA)?.map(|v| v.value().to_vec());
        let uuid = meta.get(schema::META_UUID)?.map(|v| v.value().to_vec());
        Ok((version, uuid))
    };
    let (version, uuid) = read()
        .map_err(|source: redb::Error| OpenError::Database { path: path.to_owned(), source: Box::new(source) })?;
    let damaged = |why: &str| OpenError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let version = version
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or_else(|| damaged("it has no schema version"))?;
    if version > schema::SCHEMA_VERSION {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found: version, known: schema::SCHEMA_VERSION });
    }
    uuid.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| damaged("it has no id"))
}

/// Makes the tables that an older wharf did not know, so that readers never meet one that is not there.
pub(crate) fn complete(handle: &Handle) -> Result<(), redb::Error> {
    if handle.database.begin_read()?.list_tables()?.count() >= Tables::COUNT {
        return Ok(());
    }
    let transaction = begin_write(&handle.database)?;
    Tables::open(&transaction)?;
    Ok(transaction.commit()?)
}

/// Opens what is on a disk.
pub(crate) fn open(disk: &Arc<dyn Disk>, options: Options) -> Result<Handle, redb::Error> {
    let gate = Arc::new(Gate::default());
    let backend = Backend { disk: disk.clone(), gate: gate.clone() };
    let database = Database::builder()
        .set_cache_size(options.cache_bytes)
        .set_repair_callback(|session| tracing::warn!(progress = session.progress(), "repairing the database"))
        .create_with_backend(backend)
        .inspect_err(|_| gate.close())?;
    Ok(Handle { database: Arc::new(database), gate })
}

/// Reads every page of the database against its checksum, and has the database repair what it can; answers whether it had
/// to.
pub(crate) fn check_pages(disk: &Arc<dyn Disk>, root: &Path) -> Result<bool, OpenError> {
    let path = root.join(schema::DATABASE_FILE);
    let failed = |source: redb::Error| OpenError::Database { path: path.clone(), source: Box::new(source) };
    let damaged = |why: &str| OpenError::Damaged { path: path.clone(), why: why.to_owned() };
    // As when it is opened: redb panics over some kinds of damage.
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let handle = open(disk, Options::default()).map_err(failed)?;
        let mut database = Arc::into_inner(handle.database).ok_or_else(|| damaged("it is being read"))?;
        database.check_integrity().map(|whole| !whole).map_err(|error| failed(error.into()))
    }));
    checked.unwrap_or_else(|_| Err(damaged("its pages cannot be read")))
}

/// Opens what says that it is a database of ours, as a proof that it is.
pub(crate) fn prove(disk: &Arc<dyn Disk>, path: &Path) -> Result<(), OpenError> {
    let damaged = |why: &str| OpenError::Damaged { path: path.to_owned(), why: why.to_owned() };
    // An empty file would become one, which is no proof.
    if disk.len().is_ok_and(|length| length == 0) {
        return Err(damaged("it is empty"));
    }
    // As when it is opened: redb panics over some kinds of damage.
    let proven = catch_unwind(AssertUnwindSafe(|| {
        let handle = open(disk, Options::default())
            .map_err(|source| OpenError::Database { path: path.to_owned(), source: Box::new(source) })?;
        identify(&handle, path).map(drop)
    }));
    proven.unwrap_or_else(|_| Err(damaged("it cannot be read")))
}

/// Begins a transaction that is durable when its commit returns.
pub(crate) fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // Costs a third of the commits' speed, and makes opening after a crash take half a millisecond instead of a walk over
    // the whole file.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// A random UUID (version 4).
///
/// # Spec
/// RFC 9562, section 5.4.
fn fresh_uuid() -> io::Result<String> {
    let mut hex = random_hex()?;
    hex.replace_range(12..13, "4");
    let variant = match hex.as_bytes()[16] & 3 {
        0 => "8",
        1 => "9",
        2 => "a",
        _ => "b",
    };
    hex.replace_range(16..17, variant);
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
