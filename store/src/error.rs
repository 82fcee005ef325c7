//! What goes wrong below the rows, and the refusals that it becomes.

use crate::disk::Replaced;
use std::{io, path::PathBuf};
use wharf_messages::Refusal;

/// Why a root could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error("root {} is in use by {}", root.display(), holder(*pid))]
    InUse {
        /// Which root.
        root: PathBuf,
        /// Who has it, if it said so.
        pid: Option<u32>,
    },
    /// A newer daemon wrote it.
    #[error("{} has schema version {found}, and this wharf knows versions up to {known}", path.display())]
    NewerSchema {
        /// Which database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It has a database, which must not be lost.
    #[error("root {} has a database already", root.display())]
    NotEmpty {
        /// Which root.
        root: PathBuf,
    },
    /// It is not what it should be.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// A folder or file could not be made or read.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The database could not be opened.
    #[error("open database {}", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<redb::Error>,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("the process with pid {pid}"))
}

/// The refusal that an error of the database deserves.
///
/// The sentence blames the disk where the disk is to blame: that is what the operator must see to.
pub(crate) fn refusal(doing: &str, error: impl Into<redb::Error>) -> Refusal {
    match error.into() {
        redb::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Replaced>()) => {
            Refusal::unavailable(format!("{doing}: {error}"))
        }
        redb::Error::Io(error) => Refusal::io(doing, &error),
        redb::Error::PreviousIo => {
            Refusal::unavailable(format!("{doing}: the database must be reopened after an error"))
        }
        redb::Error::DatabaseClosed => Refusal::unavailable(format!("{doing}: the database was closed")),
        error @ redb::Error::Corrupted(_) => Refusal::data_loss(format!("{doing}: {error}")),
        error => Refusal::internal(format!("{doing}: {error}")),
    }
}
