//! Reading a blob while it is still being written: unpacking overlaps the download.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};
use wharf_messages::Refusal;

/// How far a file has come, and how it ended. Cheap to clone; every reader made from it starts at the beginning.
#[derive(Debug, Clone)]
pub struct Growing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Arc<File>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    written_bytes: u64,
    end: Option<Result<(), Refusal>>,
}

impl Growing {
    pub(super) fn new(file: Arc<File>, written_bytes: u64) -> Self {
        let state = Mutex::new(State { written_bytes, end: None });
        Self(Arc::new(Inner { file, state, changed: Condvar::new() }))
    }

    /// How many bytes are there.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.state().written_bytes
    }

    /// A reader from the beginning.
    #[must_use]
    pub fn reader(&self) -> GrowingBlob {
        GrowingBlob { growing: self.clone(), position_bytes: 0 }
    }

    pub(super) fn advance(&self, written_bytes: u64) {
        self.state().written_bytes = written_bytes;
        self.0.changed.notify_all();
    }

    /// Says how it ended; the first to say so is believed.
    pub(super) fn end(&self, end: Result<(), Refusal>) {
        self.state().end.get_or_insert(end);
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is a single step: a panic elsewhere cannot leave it half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a blob that is still being written: waits where the bytes are not there yet.
///
/// The end comes only when the whole is verified and in its place. If it never is (given up, truncated, not what was
/// expected), reading fails, and what was read must be thrown away.
///
/// A waiting reader occupies its thread: on a small pool, what writes the bytes must not queue behind what reads them.
#[derive(Debug)]
pub struct GrowingBlob {
    growing: Growing,
    position_bytes: u64,
}

impl Read for GrowingBlob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let inner = &self.growing.0;
        let mut state = self.growing.state();
        let ready_bytes = loop {
            if let Some(Err(refusal)) = &state.end {
                return Err(io::Error::other(refusal.clone()));
            }
            let ready_bytes = state.written_bytes - self.position_bytes;
            if ready_bytes > 0 || state.end.is_some() {
                break ready_bytes;
            }
            state = inner.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let want = out.len().min(usize::try_from(ready_bytes).unwrap_or(usize::MAX));
        let got = inner.file.read_at(&mut out[..want], self.position_bytes)?;
        if got == 0 && want > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "an ingest's file is shorter than what was written",
            ));
        }
        self.position_bytes += got as u64;
        Ok(got)
    }
}
