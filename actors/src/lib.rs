//! The actor system: everything that decides, supervises and touches the world.

pub mod archive;
pub mod drivers;
pub mod runtime;
pub mod serve;
pub mod task;

/// The running system, as front ends see it: a cheap handle to the store and the actors.
#[derive(Clone)]
pub struct Wharf {}
