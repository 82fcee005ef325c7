//! What comes with every call, whatever it asks.

use crate::{Answer, LeaseId, Namespace, Refusal};
use serde::{Deserialize, Serialize};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// Who asked: the peer's credentials as the kernel vouches for them (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Process id in the daemon's pid namespace.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Where a call stands in a trace of its caller's. Only whoever exports traces reads the words.
///
/// # Spec
/// W3C Trace Context, level 1: the headers of these names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TraceContext {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`; empty if there is none.
    pub state: String,
}

/// The longest of either that is carried: the specification asks for 512 characters of state to be passed on.
const TRACE_CONTEXT_MAX_BYTES: usize = 512;

impl TraceContext {
    /// What a caller has said of its trace, if it has; a state that is too long is left away.
    #[must_use]
    pub fn new(parent: Option<&str>, state: Option<&str>) -> Option<Box<Self>> {
        let fits = |text: &&str| !text.is_empty() && text.len() <= TRACE_CONTEXT_MAX_BYTES;
        let parent = parent.filter(fits)?.to_owned();
        Some(Box::new(Self { parent, state: state.filter(fits).unwrap_or_default().to_owned() }))
    }
}

/// The context of a call. It follows the message through every actor and into the traces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Where the objects named live; calls that need one refuse without it.
    pub namespace: Option<Namespace>,
    /// What protects the resources that the call makes from garbage collection.
    pub lease: Option<LeaseId>,
    /// Names this attempt and its retries: a second command with the same id finds the first instead of repeating it.
    pub request_id: u64,
    /// The trace that the call belongs to, if its caller has one. Boxed: most have none, and contexts are cloned often.
    pub trace: Option<Box<TraceContext>>,
    /// Set by the front end, never believed from the wire.
    #[serde(skip)]
    pub peer: Option<Peer>,
}

impl Meta {
    /// A context for one namespace.
    #[must_use]
    pub fn in_namespace(namespace: Namespace) -> Self {
        Self { namespace: Some(namespace), ..Self::default() }
    }

    /// The namespace of the call.
    ///
    /// # Errors
    /// `FailedPrecondition`, in containerd's words, if the call came without one.
    pub fn namespace(&self) -> Answer<&Namespace> {
        self.namespace.as_ref().ok_or_else(|| Refusal::failed_precondition("namespace is required"))
    }
}

/// An id that no other call has, whichever process makes it: random, then counted.
#[must_use]
pub fn next_request_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    // Zero stands for "not begun" here and for "none" in a call's context; a random start makes either a matter of luck.
    if LAST.load(Ordering::Relaxed) == 0 {
        let start = RandomState::new().build_hasher().finish();
        // Somebody else's start is as good.
        LAST.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed).ok();
    }
    LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_carried_if_it_is_named_and_not_too_long() {
        let long = "x".repeat(TRACE_CONTEXT_MAX_BYTES + 1);
        for nothing in [None, Some(""), Some(long.as_str())] {
            assert_eq!(TraceContext::new(nothing, Some("a=b")), None);
        }
        let known = |state| TraceContext::new(Some("00-1-2-01"), state).unwrap();
        assert_eq!((known(Some("a=b")).parent.as_str(), known(Some("a=b")).state.as_str()), ("00-1-2-01", "a=b"));
        assert_eq!((known(Some(&long)).state.as_str(), known(None).state.as_str()), ("", ""));
    }
}
