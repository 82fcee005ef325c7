//! Refusals as gRPC knows them, both ways.

use tonic::{Code, Status};
use wharf_messages::{Refusal, RefusalKind};

/// The code of a kind: containerd's own, one to one.
///
/// # Spec
/// containerd `errdefs.ToGRPC` (1.6).
pub const fn code(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::InvalidArgument => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::AlreadyExists => Code::AlreadyExists,
        RefusalKind::FailedPrecondition => Code::FailedPrecondition,
        RefusalKind::Unavailable => Code::Unavailable,
        RefusalKind::OutOfRange => Code::OutOfRange,
        RefusalKind::NotImplemented => Code::Unimplemented,
        RefusalKind::PermissionDenied => Code::PermissionDenied,
        RefusalKind::Unauthenticated => Code::Unauthenticated,
        RefusalKind::ResourceExhausted => Code::ResourceExhausted,
        RefusalKind::Aborted => Code::Aborted,
        RefusalKind::Canceled => Code::Cancelled,
        RefusalKind::DeadlineExceeded => Code::DeadlineExceeded,
        RefusalKind::DataLoss => Code::DataLoss,
        RefusalKind::Internal => Code::Internal,
        RefusalKind::Unknown => Code::Unknown,
    }
}

/// The status of a refusal, with the words at its end that clients look for.
pub fn status(refusal: &Refusal) -> Status {
    Status::new(code(refusal.kind), refusal.to_string())
}

/// The refusal of a status: of the same kind, in the same words, without those that are the kind's own.
#[must_use]
pub fn refusal(status: &Status) -> Refusal {
    let kind = RefusalKind::ALL.iter().copied().find(|kind| code(*kind) == status.code());
    Refusal::told(kind.unwrap_or(RefusalKind::Unknown), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_codes_are_one_to_one() {
        let mut codes: Vec<i32> = RefusalKind::ALL.iter().map(|kind| code(*kind).into()).collect();
        codes.sort_unstable();
        // Every code but "ok".
        assert_eq!(codes, (1..=16).collect::<Vec<_>>());
    }

    #[test]
    fn there_and_back_nothing_changes() {
        for kind in RefusalKind::ALL {
            let told = Refusal { kind, detail: "snapshot \"x\"".to_owned() };
            assert_eq!(refusal(&status(&told)), told);
        }
        assert_eq!(refusal(&Status::not_found("not found")).to_string(), "not found");
    }

    #[test]
    fn the_text_keeps_its_suffix() {
        let status = status(&Refusal::not_found("image \"x\""));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "image \"x\": not found"));
    }
}
