//! The supervision tree as data: how a part is restarted, and how it fares.

use serde::{Deserialize, Serialize};

/// When a child is started again.
///
/// # Spec
/// Erlang/OTP design principles, "Supervisor behaviour", restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// Always: after a panic and after an end.
    Permanent,
    /// Only after a panic; an end is an end.
    Transient,
    /// Never: its parent is told.
    Temporary,
}

/// Which children a failing child takes with it.
///
/// # Spec
/// Erlang/OTP design principles, "Supervisor behaviour", strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// None.
    OneForOne,
    /// All its siblings.
    OneForAll,
}

/// How one part of the tree fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildReport {
    /// `tasks/default/web`, from below the root; the root's is empty.
    pub path: String,
    /// When it is started again.
    pub restart: Restart,
    /// How often it was, since the daemon started.
    pub restarts: u32,
    /// Why it last was.
    pub last_reason: Option<String>,
    /// Messages waiting.
    pub mailbox_depth: u32,
    /// Since it (re)started.
    pub age_ms: u64,
}

/// Restarts a part by hand and waits until it runs again. Refused with `NotFound`, with `FailedPrecondition` for the root
/// and for what is not running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartChild {
    /// Its path in the tree.
    pub path: String,
}

/// Reads the live tree, parents before children.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GetSupervisionTree {}
