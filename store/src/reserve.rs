//! Room for what gives room back: a file of no meaning beside the database.
//!
//! A deletion writes before it frees anything. So on a disk that somebody has filled to the last byte nothing could be
//! deleted, if there were not this: when a write of the database finds no room, as much of the reserve is given up as the
//! write takes, and it is tried again. No more than that at a time, because whoever filled the disk may be writing still.
//!
//! ```text
//!            a write finds no room           only what gives room back may take
//!   Whole ---------------------------> Tight ---------------------------------> (empty: the error of the disk)
//!     ^                                  |    the lower half of the reserve
//!     `----------------------------------'
//!        there is room again: the reserve takes it first
//! ```

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The file's name in the root.
pub(crate) const RESERVE_FILE: &str = "reserve";
/// How much is kept: thousands of deletions, each of which writes some pages and frees as many for the next.
const RESERVE_BYTES: u64 = 4 << 20;
/// A small file system gives at most this part of itself.
const SHARE_MAX: u64 = 8;
/// File systems have room in blocks of this, or of less.
const BLOCK_BYTES: u64 = 4096;

/// The reserve of a root.
#[derive(Debug)]
pub(crate) struct Reserve(Mutex<State>);

#[derive(Debug)]
struct State {
    /// None if there can be none: then the disk's errors are as they come.
    file: Option<File>,
    size_bytes: u64,
    /// What it has when it is whole.
    whole_bytes: u64,
    /// Whether the lower half may be taken too.
    spared: bool,
}

impl Reserve {
    /// Opens a root's reserve, making it if there is room. Without it everything works but deleting on a full disk.
    pub fn open(root: &Path) -> Self {
        let path = root.join(RESERVE_FILE);
        let opened = || -> io::Result<(File, u64, u64)> {
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            let size_bytes = file.metadata()?.len();
            Ok((file, size_bytes, Room::of(root)?.total_bytes))
        };
        let state = match opened() {
            Ok((file, size_bytes, total_bytes)) => {
                let whole_bytes = RESERVE_BYTES.min(total_bytes / SHARE_MAX) / BLOCK_BYTES * BLOCK_BYTES;
                State { file: Some(file), size_bytes, whole_bytes, spared: true }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "there is no reserve for a full disk");
                State { file: None, size_bytes: 0, whole_bytes: 0, spared: true }
            }
        };
        let reserve = Self(Mutex::new(state));
        if reserve.is_tight(root) {
            tracing::warn!(path = %path.display(), "the disk is full: only what gives room back is done");
        }
        reserve
    }

    /// Says what is written from now on: what gives room back may take all of the reserve.
    pub fn spare(&self, spared: bool) {
        self.state().spared = spared;
    }

    /// Whether some of it was given up and there is no room yet to make it whole again; tries that.
    pub fn is_tight(&self, root: &Path) -> bool {
        let mut state = self.state();
        let missing_bytes = state.whole_bytes.saturating_sub(state.size_bytes);
        if missing_bytes == 0 {
            return false;
        }
        // Asked first: filling the disk's last blocks only to give them back would hurt whoever else writes.
        if !Room::of(root).is_ok_and(|room| room.free_bytes > missing_bytes) {
            return true;
        }
        match state.fill() {
            Ok(()) => {
                tracing::info!(bytes = state.size_bytes, "the reserve for a full disk is whole");
                false
            }
            Err(error) => {
                tracing::debug!(%error, "the reserve for a full disk is not whole yet");
                true
            }
        }
    }

    /// Does a write of so many bytes; when it finds no room, gives up some of the reserve and tries again.
    pub fn helping(&self, bytes: u64, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            match write() {
                Err(error) if is_full(&error) => {
                    if !self.give(bytes)? {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// Gives up room for so many bytes; answers whether there was any left to give.
    fn give(&self, bytes: u64) -> io::Result<bool> {
        let mut state = self.state();
        let least_bytes = if state.spared { 0 } else { state.whole_bytes / 2 };
        let Some(file) = &state.file else { return Ok(false) };
        if state.size_bytes <= least_bytes {
            return Ok(false);
        }
        let rest_bytes = state.size_bytes.saturating_sub(bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES).max(least_bytes);
        file.set_len(rest_bytes)?;
        if state.size_bytes >= state.whole_bytes {
            tracing::warn!("the disk is full: only what gives room back is done");
        }
        state.size_bytes = rest_bytes;
        Ok(true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is a single step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes it whole, or leaves it as it is.
    fn fill(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        // Zeros would take no room where the file system packs what it keeps.
        let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = [0; BLOCK_BYTES as usize];
        let mut at_bytes = self.size_bytes;
        while at_bytes < self.whole_bytes {
            for word in block.chunks_exact_mut(8) {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                word.copy_from_slice(&noise.to_le_bytes());
            }
            let wanted = usize::try_from(self.whole_bytes - at_bytes).unwrap_or(usize::MAX).min(block.len());
            if let Err(error) = file.write_all_at(&block[..wanted], at_bytes) {
                file.set_len(self.size_bytes)?;
                return Err(error);
            }
            at_bytes += wanted as u64;
        }
        // Until then the file system may only have promised the room.
        if let Err(error) = file.sync_data() {
            file.set_len(self.size_bytes)?;
            return Err(error);
        }
        self.size_bytes = at_bytes;
        Ok(())
    }
}

/// How much a file system has.
struct Room {
    total_bytes: u64,
    free_bytes: u64,
}

impl Room {
    fn of(folder: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { total_bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) })
    }
}

/// Whether an error says that there is no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
