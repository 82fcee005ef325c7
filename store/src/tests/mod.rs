//! Tests of the store as its users see it.

mod changes;
pub(crate) mod world;
