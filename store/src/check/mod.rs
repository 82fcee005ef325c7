//! Checking a root that no daemon has: what its rows, blobs and snapshots say of each other, and mending what can be.
//!
//! | Checked | against | Mended by |
//! |---|---|---|
//! | the database's pages (deep) | their checksums | the database's own repair |
//! | every row | its form, its references, its indexes | writing the indexes anew |
//! | blobs | their rows: there, length, content (deep) | dropping the rows, so that a pull fetches them again |
//! | files without a row | | deleting them |
//! | snapshots' folders | their rows: there, usage (deep) | dropping committed ones that nothing but committed ones stand on, so that the image is unpacked anew |
//!
//! What is lost for good (a container's own files, a row that cannot be read, a database that cannot be opened) is told
//! and left as it is: a backup can bring it back, a repair cannot.

mod blobs;
mod rows;
mod snapshots;

use crate::{
    OpenError, Options, Store, Writer, database,
    disk::Disk,
    open::{lock, open_on},
    schema,
};
use rows::Rows;
use std::{fmt, fs, path::Path, sync::Arc};
use wharf_messages::{Answer, ContainerId, Digest, IngestRef, Namespace, Refusal, SnapshotKey, SnapshotterName};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is about: `blob sha256:...`, `snapshot 7 of overlayfs`.
    pub subject: String,
    /// What is wrong with it, and for whom.
    pub what: String,
    /// How it can be mended, if it can.
    pub remedy: Remedy,
}

/// How something is mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// It cannot be.
    None,
    /// The index tables are written anew.
    Reindex,
    /// These rows go, and the file.
    DropBlob(Digest, Vec<Namespace>),
    /// The row goes.
    DropIngest(Namespace, IngestRef),
    /// The row goes, and the folder; those that stand on it come before it.
    DropSnapshot(Namespace, SnapshotterName, SnapshotKey, u64),
    /// The file or folder goes.
    Delete(std::path::PathBuf),
    /// The row goes: what it is about has no container.
    DropTask(Namespace, ContainerId),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.what)
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// How much was looked at, as `12 images`.
    pub counts: Vec<(u64, &'static str)>,
    /// Whether the database's pages had to be repaired when it was opened.
    pub repaired_pages: bool,
}

/// A root that is open for a check; no daemon can have it meanwhile.
pub struct Checked {
    store: Store,
    writer: Writer,
    repaired_pages: bool,
}

impl Checked {
    /// Opens a root that is there.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while a daemon has it; [`OpenError::Io`] if there is no database; [`OpenError::Damaged`] and
    /// [`OpenError::Database`] for one that cannot be opened: then nothing of it can be mended.
    pub fn open(root: &Path, deep: bool) -> Result<Self, OpenError> {
        let path = root.join(schema::DATABASE_FILE);
        // Looked for first: opening a root makes what is not there.
        fs::metadata(&path).map_err(|source| OpenError::Io { doing: "look for database", path, source })?;
        let lock = lock(root)?;
        let disk: Arc<dyn Disk> = Arc::new(database::open_file(root, Options::default())?);
        let repaired_pages = deep && database::check_pages(&disk, root)?;
        let (store, writer) = open_on(root, Options::default(), disk, lock)?;
        Ok(Self { store, writer, repaired_pages })
    }

    /// Looks at everything; `deep` reads every blob and every committed snapshot, too.
    ///
    /// # Errors
    /// Operating errors of the disk: what is damaged is no error, but found.
    pub fn check(&self, deep: bool) -> Answer<Report> {
        let mut report = Report { repaired_pages: self.repaired_pages, ..Report::default() };
        let rows = Rows::read(&self.store.read()?, &mut report)?;
        blobs::check(&self.store, &rows, deep, &mut report)?;
        snapshots::check(self.store.root(), &rows, deep, &mut report)?;
        Ok(report)
    }

    /// Mends a problem, and says what was done; nothing if it cannot be.
    ///
    /// # Errors
    /// Operating errors of the disk, and the store's refusals.
    pub fn mend(&mut self, problem: &Problem) -> Answer<Option<String>> {
        use crate::{Change, Commit};
        let mut commit = |namespace: &Namespace, change: Change| {
            let now = std::time::SystemTime::now().into();
            self.writer.commit(vec![Commit::one(namespace, change)], now).into_iter().collect::<Answer<Vec<_>>>()
        };
        Ok(Some(match &problem.remedy {
            Remedy::None => return Ok(None),
            Remedy::Reindex => {
                self.writer.reindex()?;
                "the indexes were written anew".to_owned()
            }
            Remedy::DropBlob(digest, namespaces) => {
                for namespace in namespaces {
                    commit(namespace, Change::DeleteContent(digest.clone()))?;
                }
                delete(&self.store.blobs().path(digest))?;
                format!("forgotten in {}; a pull fetches it again", list(namespaces))
            }
            Remedy::DropIngest(namespace, reference) => {
                commit(namespace, Change::DeleteIngest(reference.clone()))?;
                "forgotten; whoever writes it begins anew".to_owned()
            }
            Remedy::DropSnapshot(namespace, snapshotter, key, id) => {
                commit(namespace, Change::RemoveSnapshot { snapshotter: snapshotter.clone(), key: key.clone() })?;
                delete(&snapshots::folder(self.store.root(), snapshotter.as_str(), *id))?;
                "removed; its image is unpacked anew when it is used".to_owned()
            }
            Remedy::Delete(path) => {
                delete(path)?;
                "deleted".to_owned()
            }
            Remedy::DropTask(namespace, id) => {
                commit(namespace, Change::DeleteTask(id.clone()))?;
                "forgotten".to_owned()
            }
        }))
    }
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checked({})", self.store.root().display())
    }
}

fn list(namespaces: &[Namespace]) -> String {
    let names: Vec<_> = namespaces.iter().map(|name| format!("namespace {:?}", name.as_str())).collect();
    names.join(", ")
}

/// Deletes a file or a whole folder; one that is not there is fine.
fn delete(path: &Path) -> Answer<()> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match deleted {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Refusal::io(format!("delete {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}
