//! The supervision runtime: the only place that knows actix's machinery.
//!
//! | Part | What it is |
//! |---|---|
//! | [`ChildSpec`] | how a part is restarted, stopped and bounded, as data |
//! | [`Handle`], [`Ask`], [`Tell`], [`ReplyTo`] | how actors are reached, and what they are sent |
//! | [`Ctx`] | what a handler can do besides changing its actor's state: wait exclusively, start a job, say idle |
//! | [`Plural`], [`Router`], [`route!`](crate::route) | keyed children: started on demand, passivated when idle |
//! | [`Group`] | fixed children: started in order, restarted together, stopped in reverse |
//! | [`JobToken`], [`blocking`], [`Pool`] | long work |
//! | [`Tree`] | the live tree as data |
//! | [`Clock`] | the time, which tests can say |
//!
//! An actor implements [`Actor`] (`started` reads its rows), [`Supervised`] (`restarting` must be
//! `*self = Self::new(..)`, so that nothing of a failed incarnation is left) and a [`Handler`] a message.

mod child;
mod clock;
mod ctx;
mod group;
mod handle;
mod job;
mod router;
mod supervisor;
mod system;
mod thread;
mod tree;

pub use actix::{Actor, Handler, Supervised};
pub(crate) use child::Failures;
pub use child::{Backoff, ChildSpec, Intensity, Restart, Strategy};
pub use clock::Clock;
pub use ctx::Ctx;
pub use group::{GaveUp, Group};
pub use handle::{Ask, Handle, ReplyTo, Request, Tell};
pub(crate) use job::panic_message;
pub use job::{JobToken, Pool, blocking, to_its_end, waiting};
pub use router::{Plural, Router, Scoped, child, route};
pub use supervisor::Seat;
pub(crate) use system::block_on;
pub(crate) use thread::ThreadPart;
pub(crate) use tree::Node;
pub use tree::{Restarted, Tree};

#[cfg(test)]
mod tests;
