//! The span of a client's call.

use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use wharf_messages::{Answer, Meta, Namespace, RefusalKind, meta::TraceContext};

/// What a call's span is called, by which it is known to begin a trace.
pub(super) const SPAN: &str = "call";

/// Begins a call's span, for the log and, where calls are traced, with OpenTelemetry's words and below its caller's.
#[must_use]
pub fn begin(call: &'static str, meta: &Meta) -> Span {
    let span = tracing::info_span!(
        SPAN,
        name = call,
        namespace = meta.namespace.as_ref().map(Namespace::as_str),
        id = format_args!("{:016x}", meta.request_id),
        otel.name = Empty,
        otel.kind = Empty,
        otel.status_code = Empty,
        otel.status_message = Empty,
        refusal = Empty,
    );
    if super::are_on() {
        span.record("otel.name", call);
        span.record("otel.kind", "server");
        if let Some(trace) = &meta.trace
            && let Err(error) = span.set_parent(TraceContextPropagator::new().extract(&Words(trace)))
        {
            tracing::debug!(?error, "the caller's trace is not continued");
        }
    }
    span
}

/// Ends a call in the traces, whatever it has left behind that still runs in its span.
pub fn end<T>(span: &Span, outcome: &Answer<T>) {
    if !super::are_on() {
        return;
    }
    if let Err(refusal) = outcome {
        span.record("refusal", refusal.kind.suffix());
        if is_our_failure(refusal.kind) {
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_message", refusal.detail.as_str());
        }
    }
    span.context().span().end();
}

/// Whether a server's span is an error for this: what the caller did wrong is none.
///
/// # Spec
/// OpenTelemetry semantic conventions for gRPC, status of server spans.
fn is_our_failure(kind: RefusalKind) -> bool {
    matches!(
        kind,
        RefusalKind::Unknown
            | RefusalKind::DeadlineExceeded
            | RefusalKind::NotImplemented
            | RefusalKind::Internal
            | RefusalKind::Unavailable
            | RefusalKind::DataLoss
    )
}

/// A caller's words, as headers.
struct Words<'a>(&'a TraceContext);

impl Extractor for Words<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(&self.0.parent),
            "tracestate" => Some(&self.0.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
