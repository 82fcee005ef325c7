//! The typed vocabulary of wharf: what can be asked, answered, refused and told.
//!
//! One file a noun holds that noun's whole conversation: its record, its commands and queries (each a [`Call`]
//! with its reply), and what it means for each to be refused. [`event`] holds what is told on the bus.
//!
//! **Architecture invariant:** this crate knows no runtime and does no I/O; everything depends on it and it depends
//! on nothing of wharf's.

pub mod any;
//WIP pub mod call;
//WIP pub mod container;
//WIP pub mod content;
pub mod descriptor;
//WIP pub mod event;
//WIP pub mod filter;
pub mod id;
//WIP pub mod image;
//WIP pub mod lease;
//WIP pub mod meta;
pub mod mount;
//WIP pub mod namespace;
pub mod platform;
pub mod reference;
pub mod refusal;
//WIP pub mod snapshot;
//WIP pub mod supervision;
//WIP pub mod system;
//WIP pub mod task;
pub mod timestamp;

pub use any::Any;
//WIP pub use call::{Call, CallKind};
pub use descriptor::Descriptor;
pub use id::{ContainerId, Digest, ExecId, ImageName, IngestRef, LeaseId, Namespace, SnapshotKey, SnapshotterName};
//WIP pub use meta::Meta;
pub use mount::Mount;
pub use platform::Platform;
pub use refusal::{Refusal, RefusalKind};
pub use timestamp::Timestamp;

/// Labels of an object: containerd's key and value pairs, ordered so that listings are stable.
pub type Labels = std::collections::BTreeMap<String, String>;

/// What every fallible call answers.
pub type Answer<T> = Result<T, Refusal>;
