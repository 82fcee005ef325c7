//! The durable store: rows that are the truth, a log that is the history, and the bytes of blobs.
//!
//! - [`open()`] gives a [`Store`] to read from, which everybody may have, and the one [`Writer`], which the journal has.
//! - A [`Commit`] changes rows and appends its events in one transaction, or changes nothing. [`Change`] says what can be
//!   changed and what each change demands.
//! - A [`Reader`] is one moment of all rows and the log; readers and the writer do not wait for each other.
//! - [`Blobs`] are the files: written, verified and in their place before a row speaks of them.
//!
//! **Architecture invariant:** nothing here needs privileges, knows tasks' processes or waits for anything but the disk.

mod backup;
mod blobs;
mod change;
mod check;
mod database;
mod disk;
mod error;
mod gc;
mod open;
mod reader;
mod record;
pub mod refuse;
mod requests;
mod reserve;
mod row;
mod schema;
mod write;

pub use backup::restore;
pub use blobs::{Blobs, Growing, GrowingBlob, IngestFile, OpenBlob, Placed};
pub use change::{Change, Commit, Committed, NewSnapshot, Outcome};
pub use check::{Checked, Problem, Remedy, Report};
pub use error::OpenError;
pub use gc::{Garbage, INGEST_KEPT_FOR, InUse, Marked, Swept};
pub use open::{Options, Store, open};
pub use reader::{Reader, Rows};
pub use row::{FileId, IngestRow, ProcessRow, ShimRecord, SnapshotRow, TaskPhase, TaskRow};
pub use schema::{DATABASE_FILE, SCHEMA_VERSION};
pub use write::{BATCH_MAX_COMMITS, LogSize, Retention, Writer};

#[cfg(test)]
mod tests;
