//! Traces for OpenTelemetry, where the environment asks for them; otherwise nothing of this runs or holds memory.
//!
//! A call of a client's is a trace, or a part of its caller's (W3C `traceparent`, by header or by the native protocol). What
//! it leads to is in it: what actors are asked, commits, jobs, work on threads, words with shims and registries. Those spans
//! are of level `trace` all over the code, and none is made while nobody traces.
//!
//! ```text
//!   tracing's spans --- OpenTelemetry's layer ---> batches, on a thread of their own ---> Sender ---> collector
//! ```
//!
//! Nobody waits for a collector: what does not fit into the queue of batches is dropped, and one that is away costs the
//! batches that it missed and a warning now and then.
//!
//! Why OpenTelemetry's own crates and not some hundred lines of protobuf over HTTP: samplers, limits, resources, batches and
//! the environment's variables are all specified, and are theirs to follow. Of the ways to send, HTTP with binary protobuf is
//! the specification's default and needs no client that is not linked already; gRPC would bring tonic's transport.
//!
//! # Spec
//! OpenTelemetry "Environment Variable Specification" and "OpenTelemetry Protocol Exporter"; W3C Trace Context.

pub mod call;
mod sender;

use opentelemetry::{Key, trace::TracerProvider};
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use sender::Sender;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::DynFilterFn, layer::Context, registry::LookupSpan};

/// Where and how to send, as the environment says it; an empty variable is one that is not set.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const COMPRESSIONS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const CERTIFICATES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The collector's address where only the exporter is named.
const ENDPOINT_DEFAULT: &str = "http://localhost:4318";
/// How long a collector may take for a batch, unless the environment says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How long the last batch may take when the daemon stops.
const LAST_BATCH: Duration = Duration::from_secs(2);

/// What the environment asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// The endpoint, as it is told; for choosing TLS, as OpenTelemetry's crate reads the variables itself.
    endpoint: String,
    timeout: Duration,
    /// A file with authorities in PEM, besides the system's.
    certificate: Option<String>,
    /// What is told and makes no sense, and is as if it were not told.
    ignored: Vec<String>,
}

impl Wanted {
    /// Reads the environment; none if it does not ask for traces.
    ///
    /// # Errors
    /// In words, what is asked for and cannot be had: then there are no traces, but a daemon.
    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let either = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, set(name)?)));
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporter = set(EXPORTER);
        let endpoint = match (exporter.as_deref(), either(ENDPOINTS)) {
            (Some("none"), _) | (None, None) => return Ok(None),
            (None | Some("otlp"), Some((_, endpoint))) => endpoint,
            (Some("otlp"), None) => ENDPOINT_DEFAULT.to_owned(),
            (Some(other), _) => return Err(format!("{EXPORTER}={other}: there are otlp and none")),
        };
        if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(format!("the endpoint {endpoint:?} does not begin with http:// or https://"));
        }
        if let Some((name, other)) = either(PROTOCOLS).filter(|(_, value)| value != "http/protobuf") {
            return Err(format!("{name}={other}: there is http/protobuf"));
        }
        if let Some((name, other)) = either(COMPRESSIONS).filter(|(_, value)| value != "none") {
            return Err(format!("{name}={other}: there is none"));
        }
        let mut ignored = Vec::new();
        let mut ignore = |name: &str, value: &str, why: &str| ignored.push(format!("{name}={value}: {why}"));
        if let Some(sampler) = set(SAMPLER) {
            match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
                "always_on" | "always_off" => {}
                "traceidratio" => {
                    let ratio = set(SAMPLER_ARGUMENT);
                    let fits = |ratio: &str| ratio.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio));
                    if ratio.as_deref().is_some_and(|ratio| !fits(ratio)) {
                        ignore(SAMPLER_ARGUMENT, &ratio.unwrap_or_default(), "is no number from 0 to 1");
                    }
                }
                _ => {
                    ignore(SAMPLER, &sampler, "there are always_on, always_off, traceidratio, and parentbased_ of each")
                }
            }
        }
        let timeout = either(TIMEOUTS).and_then(|(name, value)| match value.parse() {
            Ok(ms) => Some(Duration::from_millis(ms)),
            Err(_) => {
                ignore(name, &value, "is no number of milliseconds");
                None
            }
        });
        let certificate = either(CERTIFICATES).map(|(_, path)| path);
        Ok(Some(Self { endpoint, timeout: timeout.unwrap_or(TIMEOUT_DEFAULT), certificate, ignored }))
    }
}

/// What sends traces while the daemon runs.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    endpoint: String,
    ignored: Vec<String>,
}

impl Traces {
    /// Starts what the environment asks for; none if it does not.
    ///
    /// # Errors
    /// In words, what is asked for and cannot be had.
    pub fn start() -> Result<Option<Self>, String> {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(wanted) = Wanted::from_environment(variable)? else { return Ok(None) };
        let sender = Sender::new(&wanted)?;
        // The rest it reads from the environment by itself: address, headers, sampler, limits, sizes of batches.
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(sender).build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
        ARE_ON.store(true, Ordering::Relaxed);
        Ok(Some(Self { provider, endpoint: wanted.endpoint, ignored: wanted.ignored }))
    }

    /// What listens to spans.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("wharfd"))
            // Where in the source a span is made is told by its name.
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        layer.with_filter(DynFilterFn::new(belongs).with_max_level_hint(LevelFilter::TRACE))
    }

    /// Says in the log that there are traces, once there is a log.
    pub fn announce(&self) {
        tracing::info!(endpoint = self.endpoint, "calls are traced");
        for ignored in &self.ignored {
            tracing::warn!("{ignored}; it is ignored");
        }
    }

    /// Sends what is left, if that does not take long.
    pub fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_BATCH) {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}

/// Whether calls are traced.
static ARE_ON: AtomicBool = AtomicBool::new(false);

fn are_on() -> bool {
    ARE_ON.load(Ordering::Relaxed)
}

/// Whether it is a span of wharf's. Where calls are traced the log has to know all of them, whatever its level: a layer
/// finds the span that it is in by those on the thread, and not by way of one that it has not let in.
pub fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("wharf")
}

/// Whether a span or an event is for traces: wharf's own, a call's or within one. What the daemon does by itself would be a
/// trace of its own each time.
fn belongs<S: Subscriber + for<'a> LookupSpan<'a>>(metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
    if metadata.is_span() {
        is_ours(metadata) && (metadata.name() == call::SPAN || context.lookup_current().is_some())
    } else {
        metadata.target().starts_with("wharf") && *metadata.level() <= LevelFilter::DEBUG
    }
}

/// What sends the traces: as the environment says, `wharfd` where it does not.
fn resource() -> Resource {
    let told = Resource::builder().build();
    let name = told.get(&Key::from_static_str("service.name"));
    let is_told = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder =
        Resource::builder().with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_told { builder.build() } else { builder.with_service_name("wharfd").build() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(variables: &[(&str, &str)]) -> Result<Option<Wanted>, String> {
        Wanted::from_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const HERE: (&str, &str) = (ENDPOINTS[1], "http://127.0.0.1:4318");

    #[test]
    fn traces_are_wanted_where_an_endpoint_or_the_exporter_is_named() {
        let endpoint = |variables: &[_]| wanted(variables).unwrap().map(|wanted| wanted.endpoint);
        for nothing in
            [&[][..], &[(ENDPOINTS[1], "")], &[HERE, (EXPORTER, "none")], &[HERE, ("OTEL_SDK_DISABLED", "True")]]
        {
            assert_eq!(endpoint(nothing), None, "{nothing:?}");
        }
        assert_eq!(endpoint(&[HERE, ("OTEL_SDK_DISABLED", "1")]).as_deref(), Some(HERE.1));
        assert_eq!(endpoint(&[HERE, (ENDPOINTS[0], "https://x/t")]).as_deref(), Some("https://x/t"));
        assert_eq!(endpoint(&[(EXPORTER, "otlp")]).as_deref(), Some(ENDPOINT_DEFAULT));
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        for (name, value) in
            [(EXPORTER, "zipkin"), (PROTOCOLS[0], "grpc"), (PROTOCOLS[1], "http/json"), (COMPRESSIONS[1], "gzip")]
        {
            let refused = wanted(&[HERE, (name, value)]).unwrap_err();
            assert!(refused.contains(name) && refused.contains(value), "{refused}");
        }
        assert!(wanted(&[(ENDPOINTS[1], "127.0.0.1:4318")]).unwrap_err().contains("http://"));
        assert_eq!(
            wanted(&[HERE, (PROTOCOLS[0], "http/protobuf"), (PROTOCOLS[1], "grpc")]).map(|w| w.is_some()),
            Ok(true)
        );
    }

    #[test]
    fn what_makes_no_sense_is_ignored_and_told() {
        let ignored = |variables: &[_]| wanted(&[&[HERE], variables].concat()).unwrap().unwrap().ignored;
        for fine in ["always_on", "always_off", "parentbased_always_on", "parentbased_traceidratio"] {
            assert_eq!(ignored(&[(SAMPLER, fine)]), [""; 0], "{fine}");
        }
        assert_eq!(ignored(&[(SAMPLER, "traceidratio"), (SAMPLER_ARGUMENT, "0.5")]), [""; 0]);
        for bad in ["1.5", "-1", "half", "NaN"] {
            assert_eq!(ignored(&[(SAMPLER, "traceidratio"), (SAMPLER_ARGUMENT, bad)]).len(), 1, "{bad}");
        }
        assert!(ignored(&[(SAMPLER, "sometimes")])[0].contains("sometimes"));
        let timed = wanted(&[HERE, (TIMEOUTS[1], "soon"), (TIMEOUTS[0], "250")]).unwrap().unwrap();
        assert_eq!((timed.timeout, timed.ignored), (Duration::from_millis(250), Vec::new()));
        assert_eq!(ignored(&[(TIMEOUTS[1], "soon")]).len(), 1);
    }
}
