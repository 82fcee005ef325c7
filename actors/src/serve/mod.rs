//! How a front end has a call done: one trait, one method, whatever the call's shape.
//!
//! Commands become messages to actors (`commands.rs`), queries become reads of the store (`queries.rs`), and what streams
//! has files of its own.

mod checkpoint;
mod commands;
mod diff;
mod objects;
mod once;
mod queries;
mod streams;
mod transfer;

pub use once::{Attempts, once};
pub use queries::SERVICES;

use crate::Wharf;
use std::future::Future;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_messages::{Answer, Call, Meta};

/// What flows beside a call. Channels are bounded: a slow client slows its own call and nothing else.
pub struct CallIo<I> {
    /// Items to the client, in order, before the reply. A send fails once the client is gone.
    pub items: mpsc::Sender<I>,
    /// Bytes from the client; ends with `None` when the client has sent all. An `Err` is a client that went away
    /// or broke the protocol before the end.
    pub upload: mpsc::Receiver<Answer<bytes::Bytes>>,
    /// Cancelled when the client goes away or says so.
    pub cancel: CancellationToken,
}

impl<I> CallIo<I> {
    /// A call without anything beside it.
    #[must_use]
    pub fn none() -> Self {
        Self { items: mpsc::channel(1).0, upload: mpsc::channel(1).1, cancel: CancellationToken::new() }
    }
}

/// A call that the actor system can do.
///
/// Every call of the table in `wharf_messages::call` implements it, which the native front end's dispatch proves at compile
/// time. Commands become messages to actors; queries become reads of the store.
pub trait Serve: Call {
    /// Does the call.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting for the answer; a command that was already accepted goes on unless the
    /// call says otherwise. `io.cancel` is how a client that went away cancels its pull.
    fn serve(
        self,
        wharf: Wharf,
        meta: Meta,
        io: CallIo<Self::Item>,
    ) -> impl Future<Output = Answer<Self::Reply>> + Send;
}
