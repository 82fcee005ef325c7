//! Tests of the store as its users see it.

mod audit;
mod backup;
mod batches;
mod blobs;
mod changes;
mod check;
mod collect;
mod crash;
mod damage;
mod golden;
mod opening;
mod reading;
mod requests;
pub(crate) mod world;
