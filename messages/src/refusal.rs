//! Why a call was not done: a kind from containerd's closed set and a sentence that names the object and the cause.

use serde::{Deserialize, Serialize};

/// The kinds of refusal, one-to-one with containerd's error kinds and so with gRPC status codes.
///
/// # Spec
/// containerd `errdefs` 1.6 plus the remaining gRPC codes, so that any status can be carried both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The request itself is wrong, whatever the state of the system.
    InvalidArgument,
    /// The object named is not there.
    NotFound,
    /// The object to be made is there already.
    AlreadyExists,
    /// The system's state forbids it: a running task deleted, a parent removed.
    FailedPrecondition,
    /// Not now, try again: a lock held by another, an actor restarting, a full mailbox.
    Unavailable,
    /// An offset beyond what is there.
    OutOfRange,
    /// Known, and not offered here.
    NotImplemented,
    /// The caller may not.
    PermissionDenied,
    /// A registry wants credentials, or other ones.
    Unauthenticated,
    /// No space, quota or size limit reached.
    ResourceExhausted,
    /// Lost a race against another change of the same object.
    Aborted,
    /// The caller went away or said stop.
    Canceled,
    /// It took longer than the caller or the contract allows.
    DeadlineExceeded,
    /// Bytes that were stored are damaged or gone.
    DataLoss,
    /// An operating error that is nobody's request's fault: I/O, a runtime that failed.
    Internal,
    /// Nothing better is known.
    Unknown,
}

impl RefusalKind {
    /// Every kind, for tables and tests.
    pub const ALL: [RefusalKind; 16] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::Unavailable,
        Self::OutOfRange,
        Self::NotImplemented,
        Self::PermissionDenied,
        Self::Unauthenticated,
        Self::ResourceExhausted,
        Self::Aborted,
        Self::Canceled,
        Self::DeadlineExceeded,
        Self::DataLoss,
        Self::Internal,
        Self::Unknown,
    ];

    /// The words containerd's clients see at the end of an error's text.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::FailedPrecondition => "failed precondition",
            Self::Unavailable => "unavailable",
            Self::OutOfRange => "out of range",
            Self::NotImplemented => "not implemented",
            Self::PermissionDenied => "permission denied",
            Self::Unauthenticated => "unauthenticated",
            Self::ResourceExhausted => "resource exhausted",
            Self::Aborted => "aborted",
            Self::Canceled => "context canceled",
            Self::DeadlineExceeded => "context deadline exceeded",
            Self::DataLoss => "data loss",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

/// A call that was not done.
///
/// `detail` is a lowercase sentence without a full stop that names the object: `container "web" in namespace
/// "default"`. [`std::fmt::Display`] adds the kind's words the way containerd's clients expect them (": not found").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which of containerd's error kinds it is.
    pub kind: RefusalKind,
    /// What and why, without the kind's words at the end.
    pub detail: String,
}

impl std::error::Error for Refusal {}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            // Their detail is the whole story; the kind's name would only be noise to a person.
            RefusalKind::Internal | RefusalKind::Unknown => f.write_str(&self.detail),
            kind if self.detail.is_empty() => f.write_str(kind.suffix()),
            kind => write!(f, "{}: {}", self.detail, kind.suffix()),
        }
    }
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {$(
        #[doc = concat!("A refusal of kind [`RefusalKind::", stringify!($kind), "`].")]
        #[must_use]
        pub fn $name(detail: impl Into<String>) -> Self {
            Self { kind: RefusalKind::$kind, detail: detail.into() }
        }
    )*};
}

impl Refusal {
    constructors! {
        invalid => InvalidArgument,
        not_found => NotFound,
        already_exists => AlreadyExists,
        failed_precondition => FailedPrecondition,
        unavailable => Unavailable,
        out_of_range => OutOfRange,
        not_implemented => NotImplemented,
        permission_denied => PermissionDenied,
        unauthenticated => Unauthenticated,
        resource_exhausted => ResourceExhausted,
        aborted => Aborted,
        canceled => Canceled,
        deadline_exceeded => DeadlineExceeded,
        data_loss => DataLoss,
        internal => Internal,
        unknown => Unknown,
    }

    /// Puts what was being done before the detail, as `context: detail`, and keeps the kind.
    #[must_use]
    pub fn context(self, doing: impl std::fmt::Display) -> Self {
        Self { kind: self.kind, detail: format!("{doing}: {}", self.detail) }
    }

    /// The refusal that an operating error of the file system or a socket deserves; `doing` names the object.
    #[must_use]
    pub fn io(doing: impl std::fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match error.kind() {
            K::NotFound => RefusalKind::NotFound,
            K::AlreadyExists => RefusalKind::AlreadyExists,
            K::PermissionDenied => RefusalKind::PermissionDenied,
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => RefusalKind::ResourceExhausted,
            K::InvalidInput | K::InvalidData => RefusalKind::InvalidArgument,
            K::TimedOut => RefusalKind::DeadlineExceeded,
            K::ConnectionRefused | K::ConnectionReset | K::ConnectionAborted | K::NotConnected | K::BrokenPipe => {
                RefusalKind::Unavailable
            }
            _ => RefusalKind::Internal,
        };
        Self { kind, detail: format!("{doing}: {error}") }
    }

    /// Another program's refusal, whose text ends with the kind's words, or is nothing else.
    #[must_use]
    pub fn told(kind: RefusalKind, text: &str) -> Self {
        let detail = match kind {
            // Shown without.
            RefusalKind::Internal | RefusalKind::Unknown => text,
            kind if text == kind.suffix() => "",
            // What ends in these words as part of a sentence stays one: `task web not found`.
            kind => text.strip_suffix(kind.suffix()).and_then(|rest| rest.strip_suffix(": ")).unwrap_or(text),
        };
        Self { kind, detail: detail.to_owned() }
    }

    /// Whether it is of this kind.
    #[must_use]
    pub fn is(&self, kind: RefusalKind) -> bool {
        self.kind == kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_ends_with_the_words_that_clients_look_for() {
        let refusal = Refusal::not_found("container \"x\" in namespace \"default\"");
        assert_eq!(refusal.to_string(), "container \"x\" in namespace \"default\": not found");
        assert_eq!(
            refusal.context("start task").to_string(),
            "start task: container \"x\" in namespace \"default\": not found"
        );
    }

    #[test]
    fn only_the_kinds_own_words_are_taken_off() {
        for (text, detail) in [("a: not found", "a"), ("not found", ""), ("task a not found", "task a not found")] {
            assert_eq!(Refusal::told(RefusalKind::NotFound, text).detail, detail);
        }
    }

    #[test]
    fn suffixes_are_distinct() {
        let mut words: Vec<_> = RefusalKind::ALL.iter().map(|k| k.suffix()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), RefusalKind::ALL.len());
    }
}
