//! The database's bytes: a file behind a gate that can be closed while others still hold it.
//!
//! After an I/O error (a full disk) redb refuses everything until the database is opened again, and open handles must not
//! write any more. The gate makes the change-over safe: the old handle may only read while the new one is tried, and
//! neither once the new one has taken over. So a disk that stays full costs no reader anything.

use crate::reserve::Reserve;
use redb::StorageBackend;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

/// What holds the bytes. The tests have one that can lose power.
pub(crate) trait Disk: std::fmt::Debug + Send + Sync {
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;

    /// Whether there is so little room that only what gives some back should be written.
    fn is_tight(&self) -> bool {
        false
    }

    /// Says what is written from now on: what gives room back may take what is kept for that.
    fn spare(&self, _spared: bool) {}
}

/// A file that has a reserve beside it.
#[derive(Debug)]
pub(crate) struct ReservedFile {
    pub file: File,
    pub root: PathBuf,
    pub reserve: Reserve,
}

impl Disk for ReservedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Disk::set_len(&self.file, len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.reserve.helping(data.len() as u64, || self.file.write(offset, data))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn is_tight(&self) -> bool {
        self.reserve.is_tight(&self.root)
    }

    fn spare(&self, spared: bool) {
        self.reserve.spare(spared);
    }
}

impl Disk for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        wharf_failpoints::try_failpoint!("store/sync");
        self.sync_data()?;
        wharf_failpoints::try_failpoint!("store/synced");
        Ok(())
    }
}

const OPEN: u8 = 0;
const READ_ONLY: u8 = 1;
const CLOSED: u8 = 2;

/// Why a closed gate refuses.
#[derive(Debug, thiserror::Error)]
#[error("the database was opened again meanwhile")]
pub(crate) struct Replaced;

/// Decides what one handle of the database may still do.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU8);

impl Gate {
    /// From now on the handle only reads.
    pub fn stop_writes(&self) {
        self.0.fetch_max(READ_ONLY, Ordering::SeqCst);
    }

    /// From now on the handle does nothing: another one writes.
    pub fn close(&self) {
        self.0.store(CLOSED, Ordering::SeqCst);
    }

    fn check(&self, most: u8) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) <= most { Ok(()) } else { Err(io::Error::other(Replaced)) }
    }
}

/// One handle of the database's bytes. Locking is the root's affair, not redb's: see [`crate::open()`].
#[derive(Debug)]
pub(crate) struct Backend {
    pub disk: Arc<dyn Disk>,
    pub gate: Arc<Gate>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.gate.check(READ_ONLY)?;
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.gate.check(READ_ONLY)?;
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.gate.check(OPEN)?;
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.check(OPEN)?;
        self.disk.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.gate.check(OPEN)?;
        self.disk.write(offset, data)
    }
}
