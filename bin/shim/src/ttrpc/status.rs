//! Refusals as gRPC statuses, which ttrpc's responses carry.

use containerd_shim_protos::ttrpc::{Code, Status};
use protobuf::EnumOrUnknown;
use wharf_messages::{Refusal, RefusalKind};

/// The table: each kind of refusal and its code.
const CODES: [(RefusalKind, Code); 16] = [
    (RefusalKind::InvalidArgument, Code::INVALID_ARGUMENT),
    (RefusalKind::NotFound, Code::NOT_FOUND),
    (RefusalKind::AlreadyExists, Code::ALREADY_EXISTS),
    (RefusalKind::FailedPrecondition, Code::FAILED_PRECONDITION),
    (RefusalKind::Unavailable, Code::UNAVAILABLE),
    (RefusalKind::OutOfRange, Code::OUT_OF_RANGE),
    (RefusalKind::NotImplemented, Code::UNIMPLEMENTED),
    (RefusalKind::PermissionDenied, Code::PERMISSION_DENIED),
    (RefusalKind::Unauthenticated, Code::UNAUTHENTICATED),
    (RefusalKind::ResourceExhausted, Code::RESOURCE_EXHAUSTED),
    (RefusalKind::Aborted, Code::ABORTED),
    (RefusalKind::Canceled, Code::CANCELLED),
    (RefusalKind::DeadlineExceeded, Code::DEADLINE_EXCEEDED),
    (RefusalKind::DataLoss, Code::DATA_LOSS),
    (RefusalKind::Internal, Code::INTERNAL),
    (RefusalKind::Unknown, Code::UNKNOWN),
];

/// The status that tells a client of a refusal.
#[must_use]
pub fn of(refusal: &Refusal) -> Status {
    let code = CODES.iter().find(|(kind, _)| *kind == refusal.kind).map_or(Code::UNKNOWN, |(_, code)| *code);
    Status { code: EnumOrUnknown::new(code), message: refusal.to_string(), ..Default::default() }
}

/// The refusal that a status tells of, if it is one.
#[must_use]
pub fn refusal(status: &Status) -> Option<Refusal> {
    let code = status.code.enum_value_or(Code::UNKNOWN);
    if code == Code::OK {
        return None;
    }
    let kind = CODES.iter().find(|(_, c)| *c == code).map_or(RefusalKind::Unknown, |(kind, _)| *kind);
    Some(Refusal { kind, detail: status.message.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_code_and_comes_back() {
        for kind in RefusalKind::ALL {
            let status = of(&Refusal { kind, detail: "x".into() });
            assert_eq!(refusal(&status).map(|r| r.kind), Some(kind));
        }
        assert_eq!(refusal(&Status::new()), None);
    }
}
