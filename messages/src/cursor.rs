//! Cursors: named places in the log that the daemon remembers for its subscribers.
//!
//! A subscriber that names a cursor is served from the place where the cursor stands, and acknowledges what it has dealt
//! with; the cursor moves there, durably. Whoever comes back under the name, after a restart of either side, goes on
//! after the last event that was acknowledged: each event comes at least once, and in order.
//!
//! Several subscribers may use one name at a time:
//! - **unshared** (the usual): each gets every event. The cursor stands at what all that are there have acknowledged; a
//!   subscriber that needs a memory of its own needs a name of its own.
//! - **shared**: each event goes to one of them, each of them sees its own in order, and what one leaves unacknowledged
//!   when it goes away goes to another. The cursor stands before the first event that is not acknowledged.
//!
//! A cursor holds nothing back: events leave the log when retention says so, and a subscriber whose cursor is behind that
//! gets a gap that says which are missing.

use crate::{CursorName, Timestamp, event::Seq};
use serde::{Deserialize, Serialize};

/// How many cursors there may be. Ours: each is a row that somebody may have forgotten.
pub const CURSORS_MAX: usize = 1024;

/// How many deliveries a subscriber of a shared cursor may have unacknowledged; it gets no more until it acknowledges.
pub const SHARED_WINDOW: usize = 256;

/// A cursor as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Its name; cursors belong to no namespace, as the log does not.
    pub name: CursorName,
    /// Whether its subscribers share the events among them.
    pub shared: bool,
    /// Everything up to here is acknowledged.
    pub acked: Seq,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last moved.
    pub moved_at: Timestamp,
}

/// A cursor and how it fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorInfo {
    /// As it is kept.
    pub cursor: Cursor,
    /// How many events of the log come after it.
    pub behind: u64,
    /// How many subscribers use it now.
    pub subscribers: u32,
}

/// The cursor that a subscription uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseCursor {
    /// Which. One that is not there is made, where `since` says.
    pub name: CursorName,
    /// Whether to share the events with the others who use it.
    pub shared: bool,
}

/// Says that a subscriber has dealt with everything that it was sent up to a place. The reply comes when that is durable.
/// A subscription that came to its end may be acknowledged for ten seconds more.
///
/// Refused with `NotFound` for a subscription that is over (what was not acknowledged comes again with the next one), and
/// with `OutOfRange` for a place that the log has not reached. What is acknowledged already may be again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AckEvents {
    /// Which cursor.
    pub name: CursorName,
    /// Which subscription, as `Delivery::Subscribed` named it.
    pub subscription: u64,
    /// Up to where.
    pub seq: Seq,
}

/// Reads all cursors, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListCursors {}

/// Forgets a cursor. Refused with `NotFound`, and with `FailedPrecondition` while a subscriber uses it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteCursor {
    /// Which.
    pub name: CursorName,
}
