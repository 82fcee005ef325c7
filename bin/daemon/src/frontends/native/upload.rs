//! The bytes of an upload on their way from the connection to the call.

use bytes::Bytes;
use tokio::sync::mpsc::{self, OwnedPermit};
use wharf_messages::{Answer, Refusal};

/// Pieces that wait for the call; more make the connection wait.
const PIECES: usize = 4;

/// The connection's end of an upload.
///
/// Unless it is finished, the call's end is told that the client broke off. It can never take a broken upload for a whole
/// one, however the connection's task ends: the room for those last words is kept from the start.
#[derive(Debug)]
pub struct Upload {
    pieces: mpsc::Sender<Answer<Bytes>>,
    last: Option<OwnedPermit<Answer<Bytes>>>,
}

impl Upload {
    /// Both ends.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Answer<Bytes>>) {
        let (pieces, call) = mpsc::channel(PIECES + 1);
        // The channel is new and empty, so there is room.
        let last = pieces.clone().try_reserve_owned().ok();
        (Self { pieces, last }, call)
    }

    /// Passes a piece on; waits while the call is busy with those before. A call that wants no more loses nothing by it.
    pub async fn pass(&self, piece: Bytes) {
        // Refused only by a call that is over or wants no more; its answer says the rest.
        self.pieces.send(Ok(piece)).await.ok();
    }

    /// The client has sent all.
    pub fn finish(mut self) {
        self.last = None;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(last) = self.last.take() {
            last.send(Err(Refusal::canceled("the client broke its upload off")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upload_ends_well_only_when_finished() {
        let (upload, mut call) = Upload::channel();
        upload.pass(Bytes::from_static(b"a")).await;
        upload.finish();
        assert_eq!(call.recv().await.unwrap().unwrap(), "a");
        assert!(call.recv().await.is_none());

        // Full, and broken off: the last words still have their room.
        let (upload, mut call) = Upload::channel();
        for _ in 0..PIECES {
            upload.pass(Bytes::from_static(b"a")).await;
        }
        drop(upload);
        for _ in 0..PIECES {
            assert!(call.recv().await.unwrap().is_ok());
        }
        assert!(call.recv().await.unwrap().unwrap_err().detail.contains("broke"));
        assert!(call.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_call_that_wants_no_more_holds_nobody_up() {
        let (upload, call) = Upload::channel();
        drop(call);
        for _ in 0..2 * PIECES {
            upload.pass(Bytes::from_static(b"a")).await;
        }
        upload.finish();
    }
}
