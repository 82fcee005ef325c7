//! The actor system: everything that decides, supervises and touches the world.

pub mod archive;
pub mod bus;
pub mod commit;
pub mod config;
pub mod container;
pub mod containers;
pub mod content;
pub mod drivers;
pub mod figures;
mod follow;
pub mod gc;
pub mod health;
pub mod healths;
pub mod image;
pub mod image_graph;
pub mod images;
pub mod journal;
pub mod names;
pub mod namespaces;
pub mod restart;
pub mod restarts;
pub mod root;
pub mod runtime;
pub mod serve;
pub mod snapshot;
pub mod snapshots;
pub mod task;
pub mod tasks;
#[cfg(test)]
pub(crate) mod testing;

use config::SystemConfig;
use std::sync::Arc;

/// The running system, as front ends and actors see it: a cheap handle to the store and the actors.
#[derive(Debug, Clone)]
pub struct Wharf(Arc<System>);

/// What everybody shares.
#[derive(Debug)]
pub struct System {
    /// The actors that are always there.
    pub actors: root::Actors,
    /// The requests that are being done.
    pub attempts: serve::Attempts,
    /// What is told.
    pub bus: bus::Bus,
    /// What time it is.
    pub clock: runtime::Clock,
    /// What the system was told when it started.
    pub config: SystemConfig,
    /// What stands behind the actors.
    pub drivers: drivers::Drivers,
    /// When the system started.
    pub started_at: wharf_messages::Timestamp,
    /// The newest event when the system started: what comes after it belongs to this life of the daemon.
    pub started_after: wharf_messages::event::Seq,
    /// The way to change anything.
    pub journal: journal::Journal,
    /// Threads for heavy bytes and CPU.
    pub pool: runtime::Pool,
    /// Rows to read, and the bytes of blobs.
    pub store: wharf_store::Store,
    /// The live supervision tree.
    pub tree: Arc<runtime::Tree>,
}

impl Wharf {
    /// Shares a system.
    #[must_use]
    pub fn new(system: System) -> Self {
        Self(Arc::new(system))
    }

    /// What pulls and imports need of the system.
    pub(crate) fn image_deps(&self) -> Arc<image::ImageDeps> {
        Arc::new(image::ImageDeps {
            content: self.drivers.content.clone(),
            ingests: self.actors.content.clone(),
            snapshots: self.actors.snapshots.clone(),
            snapshotters: self.drivers.snapshotters.clone(),
            registries: Arc::clone(&self.drivers.registries),
            flights: self.drivers.flights.clone(),
            pool: self.pool.clone(),
            apply: self.drivers.apply.clone(),
            max_concurrent_downloads: self.config.max_concurrent_downloads,
        })
    }
}

impl std::ops::Deref for Wharf {
    type Target = System;

    fn deref(&self) -> &System {
        &self.0
    }
}
