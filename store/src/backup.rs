//! Copies of the database: made of one moment while the daemon runs, and put in a root's place while none does.

use crate::{
    OpenError, Options, Store,
    database::{self, UNFINISHED_FILE},
    disk::Disk,
    error::refusal,
    open::{lock, make_folder, sync_folder},
    schema,
    write::Tables,
};
use std::{
    fs::{self, File},
    io::{self, Seek},
    path::Path,
    sync::Arc,
};
use wharf_messages::{Answer, Refusal};

const DOING: &str = "back the database up";

impl Store {
    /// Copies all rows and the log, as they are at one moment, into a database of their own; answers its file, which has
    /// no name and is gone when it is closed.
    ///
    /// # Errors
    /// Operating errors of the disk.
    pub fn backup(&self) -> Answer<File> {
        let reader = self.read()?;
        let path = self.root().join("wharf.redb.backup");
        let failed = |error: io::Error| Refusal::io(format!("make {}", path.display()), &error);
        let file = database::open_options().create(true).truncate(true).open(&path).map_err(failed)?;
        fs::remove_file(&path).map_err(failed)?;
        let disk: Arc<dyn Disk> = Arc::new(file.try_clone().map_err(failed)?);
        {
            let copy = database::open(&disk, Options::default()).map_err(|e| refusal(DOING, e))?;
            let transaction = database::begin_write(&copy.database).map_err(|e| refusal(DOING, e))?;
            Tables::copy(&reader.transaction, &transaction).map_err(|e| refusal(DOING, e))?;
            transaction.commit().map_err(|e| refusal(DOING, e))?;
        }
        let mut file = file;
        file.rewind().map_err(failed)?;
        Ok(file)
    }
}

/// Puts a copy in the place of a root's database; the one that was there is kept beside it, as `wharf.redb.old`.
///
/// # Errors
/// [`OpenError::InUse`] while a daemon has the root, [`OpenError::NotEmpty`] for one that has a database unless `force`d,
/// [`OpenError::Damaged`], [`OpenError::Database`] and [`OpenError::NewerSchema`] for what is no copy of a database; then
/// the root is as it was.
pub fn restore(root: &Path, copy: &Path, force: bool) -> Result<(), OpenError> {
    let path = root.join(schema::DATABASE_FILE);
    let fail = |doing: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { doing, path, source }
    };
    let mut from = File::open(copy).map_err(fail("open", copy))?;
    make_folder(root)?;
    let _lock = lock(root)?;
    let there = path.try_exists().map_err(fail("look for database", &path))?;
    if there && !force {
        return Err(OpenError::NotEmpty { root: root.to_owned() });
    }
    let unfinished = root.join(UNFINISHED_FILE);
    let placed = (|| {
        let mut to = database::open_options()
            .create(true)
            .truncate(true)
            .open(&unfinished)
            .map_err(fail("make", &unfinished))?;
        io::copy(&mut from, &mut to).map_err(fail("copy", copy))?;
        to.sync_all().map_err(fail("sync", &unfinished))?;
        // What cannot be opened must not take the place of what can.
        database::prove(&(Arc::new(to) as Arc<dyn Disk>), copy)?;
        if there {
            fs::rename(&path, root.join("wharf.redb.old")).map_err(fail("keep", &path))?;
        }
        fs::rename(&unfinished, &path).map_err(fail("place", &path))
    })();
    if placed.is_err() {
        // The first error is the one to tell; what is left here is overwritten by the next attempt.
        let _ = fs::remove_file(&unfinished);
    }
    placed?;
    sync_folder(root)
}
