//! Tests of the store as its users see it.

mod audit;
mod batches;
mod blobs;
mod changes;
mod collect;
mod crash;
mod damage;
mod golden;
mod opening;
mod reading;
pub(crate) mod world;
