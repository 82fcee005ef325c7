//! What a pull shows of itself: a line for each part, each watcher sees the latest of each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use wharf_messages::image::Progress;

/// The lines, and a bell for who watches. Cheap to clone. Watchers keep nothing here, so none can be too slow.
#[derive(Clone)]
pub struct Board {
    lines: Arc<Mutex<Vec<(u64, Progress)>>>,
    bell: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Self {
        Self { lines: Arc::default(), bell: watch::channel(0).0 }
    }
}

impl Board {
    fn lines(&self) -> MutexGuard<'_, Vec<(u64, Progress)>> {
        // Lines are replaced whole.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the line of the same reference, or adds one.
    pub fn put(&self, progress: Progress) {
        let mut lines = self.lines();
        let revision = *self.bell.borrow() + 1;
        match lines.iter_mut().find(|(_, line)| line.reference == progress.reference) {
            Some(line) => *line = (revision, progress),
            None => lines.push((revision, progress)),
        }
        self.bell.send_replace(revision);
    }

    /// Watches from the beginning: the first look shows every line.
    #[must_use]
    pub fn watch(&self) -> Watcher {
        Watcher { board: self.clone(), bell: self.bell.subscribe(), seen: 0 }
    }
}

/// One who watches.
pub struct Watcher {
    board: Board,
    bell: watch::Receiver<u64>,
    seen: u64,
}

impl Watcher {
    /// The lines that changed since the last look; empty if none did.
    pub fn look(&mut self) -> Vec<Progress> {
        let seen = self.seen;
        let lines = self.board.lines();
        self.seen = *self.bell.borrow_and_update();
        lines.iter().filter(|(revision, _)| *revision > seen).map(|(_, line)| line.clone()).collect()
    }

    /// Waits for a change.
    pub async fn changed(&mut self) {
        // The board is held, so its bell cannot be gone.
        if self.bell.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::image::ProgressState::{Done, Downloading};

    fn line(reference: &str, state: wharf_messages::image::ProgressState, offset_bytes: u64) -> Progress {
        Progress { reference: reference.to_owned(), state, offset_bytes, total_bytes: 9, digest: None, platform: None }
    }

    #[tokio::test]
    async fn a_watcher_sees_the_latest_of_each_line_once() {
        let board = Board::default();
        board.put(line("a", Downloading, 1));
        board.put(line("b", Downloading, 1));
        board.put(line("a", Downloading, 2));
        let mut watcher = board.watch();
        assert_eq!(watcher.look(), [line("a", Downloading, 2), line("b", Downloading, 1)]);
        assert!(watcher.look().is_empty());
        board.put(line("b", Done, 9));
        watcher.changed().await;
        assert_eq!(watcher.look(), [line("b", Done, 9)]);
    }
}
