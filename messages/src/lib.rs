//! The typed vocabulary of wharf: what can be asked, answered, refused and told.
//!
//! One file a noun holds that noun's whole conversation: its record, its commands and queries (each a [`Call`]
//! with its reply), and what it means for each to be refused. [`event`] holds what is told on the bus.
//!
//! **Architecture invariant:** this crate knows no runtime and does no I/O; everything depends on it and it depends
//! on nothing of wharf's.

pub mod any;
pub mod bytes;
pub mod call;
pub mod codec;
pub mod container;
pub mod content;
pub mod cursor;
pub mod descriptor;
pub mod event;
pub mod filter;
pub mod gc;
pub mod health;
pub mod id;
pub mod image;
pub mod labels;
pub mod lease;
pub mod meta;
pub mod mount;
pub mod namespace;
pub mod platform;
pub mod reference;
pub mod refusal;
pub mod restart;
pub mod snapshot;
pub mod stored;
pub mod supervision;
pub mod system;
pub mod task;
pub mod text;
pub mod timestamp;
pub mod wire;

pub use any::Any;
pub use call::{Call, CallKind};
pub use descriptor::Descriptor;
pub use id::{
    ContainerId, CursorName, Digest, ExecId, ImageName, IngestRef, LeaseId, Namespace, SnapshotKey, SnapshotterName,
};
pub use meta::Meta;
pub use mount::Mount;
pub use platform::Platform;
pub use refusal::{Refusal, RefusalKind};
pub use stored::Stored;
pub use timestamp::Timestamp;

/// Labels of an object: containerd's key and value pairs, ordered so that listings are stable.
pub type Labels = std::collections::BTreeMap<String, String>;

/// What every fallible call answers.
pub type Answer<T> = Result<T, Refusal>;
