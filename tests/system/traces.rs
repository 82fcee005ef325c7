//! Traces for OpenTelemetry: what a collector gets of calls, and what it costs if there is none.

use crate::fixture::{BUSYBOX, import_busybox};
use std::{collections::BTreeSet, net::TcpListener, time::Instant};
use wharf_tests::{
    Collector, Daemon, Registry,
    collector::{Span, unlinked},
    daemon::Settings,
    images,
    wait::PATIENCE,
};

/// The thread that sends batches, as the kernel cuts its name.
const SENDER_THREAD: &str = "OpenTelemetry.T";

fn traced(env: Vec<(String, String)>) -> Daemon {
    Daemon::with(Settings { env, ..Settings::default() })
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn has_sender(daemon: &Daemon) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut names = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap());
    names.any(|name| name.trim_end() == SENDER_THREAD)
}

/// The trace of the first call of that name that came whole, with all that hangs on it.
fn trace_of(collector: &Collector, call: &str, names: &[&str]) -> Vec<Span> {
    collector.until(&format!("a linked trace of {call} with {names:?}"), |spans| {
        let root = spans.iter().find(|span| span.name == call && span.kind == 2 && !span.is_error)?;
        let trace: Vec<_> = spans.iter().filter(|span| span.trace_id == root.trace_id).collect();
        let here: BTreeSet<_> = trace.iter().map(|span| span.name.as_str()).collect();
        let whole = names.iter().all(|name| here.contains(name)) && unlinked(&trace, &root.parent_id).is_empty();
        whole.then(|| trace.into_iter().cloned().collect())
    })
}

#[test]
fn a_run_is_a_trace_that_hangs_together() {
    let collector = Collector::start();
    let mut env = collector.environment();
    env.push(variable("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b"));
    env.push(variable("OTEL_SERVICE_NAME", "under-test"));
    env.push(variable("OTEL_RESOURCE_ATTRIBUTES", "site=here"));
    let daemon = traced(env);
    assert!(has_sender(&daemon));
    import_busybox(&daemon);
    let (trace_id, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let client = daemon.client().env("TRACEPARENT", format!("00-{trace_id}-{caller}-01"));
    assert_eq!(client.run(["run", "--rm", BUSYBOX, "web", "true"]).ok().stdout, "");

    // One trace for the whole command, below the span of whoever ran it.
    let calls = ["snapshots.prepare", "containers.create", "tasks.create", "tasks.start", "tasks.delete"];
    let steps =
        ["journal commit", "make a snapshot's folder", "shim launch", "shim Create", "shim Start", "shim Delete"];
    let trace = collector.until("all of the run, linked", |spans| {
        let trace: Vec<_> = spans.iter().filter(|span| span.trace_id == trace_id).collect();
        let here: BTreeSet<_> = trace.iter().map(|span| span.name.as_str()).collect();
        let whole = calls.iter().chain(&steps).all(|name| here.contains(name));
        (whole && unlinked(&trace, caller).is_empty()).then(|| trace.into_iter().cloned().collect::<Vec<_>>())
    });
    let mut requests = BTreeSet::new();
    for span in trace.iter().filter(|span| span.parent_id == caller) {
        assert_eq!((span.kind, span.is_error), (2, false), "{span:?}");
        assert_eq!(span.attributes["namespace"], daemon.namespace(), "{span:?}");
        requests.insert(span.attributes["id"].clone());
        assert_eq!((span.resource["service.name"].as_str(), span.resource["site"].as_str()), ("under-test", "here"));
    }
    // The log knows the same requests, and tells of which it speaks in the midst of them.
    let log = daemon.log();
    assert!(requests.len() >= calls.len() && requests.iter().all(|id| log.contains(id)), "{requests:?}");
    // What was done for a call is below it, through the actors.
    let below = |span: &Span| trace.iter().find(|parent| parent.span_id == span.parent_id);
    let made = trace.iter().find(|span| span.name == "shim Create").unwrap();
    let ancestors: Vec<_> = std::iter::successors(below(made), |span| below(span)).collect();
    assert!(ancestors.iter().any(|span| span.attributes.contains_key("actor")), "{ancestors:?}");
    assert_eq!(ancestors.last().map(|span| (span.name.as_str(), span.kind)), Some(("tasks.create", 2)));
    assert!(made.nanos > 0 && made.nanos <= ancestors.last().unwrap().nanos, "{ancestors:?}");

    let head = &collector.heads()[0];
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("x-token: a b\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
}

#[test]
fn a_pull_tells_of_the_registry_and_of_each_blob() {
    let collector = Collector::start();
    let daemon = traced(collector.environment());
    let registry = Registry::start();
    let layout = images::umoci_layers();
    let reference = registry.push(&layout, "app/layers:latest");
    daemon.ok(["images", "pull", &reference]);
    let steps =
        ["pull image", "registry resolve", "registry manifest", "registry fetch", "blob download", "unpack layer"];
    let trace = trace_of(&collector, "images.pull", &steps);
    assert_eq!(trace[0].resource["service.name"], "wharfd");
    for layer in layout.layers(images::TAG) {
        let of = |span: &&Span| span.name == "blob download" && span.attributes["digest"] == layer;
        assert_eq!(trace.iter().filter(of).count(), 1, "{layer}");
    }
    // What fails is told: the daemon's failures are errors, the caller's mistakes are not.
    daemon.wharf(["images", "pull", &registry.reference("app/none:latest")]).refused(&["not found"]);
    collector.until("the refusal", |spans| {
        let refused =
            spans.iter().find(|span| span.attributes.get("refusal").is_some_and(|kind| kind == "not found"))?;
        assert!(!refused.is_error, "{refused:?}");
        Some(())
    });
}

#[test]
fn the_last_batch_is_sent_when_the_daemon_stops() {
    let collector = Collector::start();
    let mut env = collector.environment();
    env.push(variable("OTEL_BSP_SCHEDULE_DELAY", "600000"));
    let mut daemon = traced(env);
    daemon.ok("leases ls");
    daemon.terminate();
    trace_of(&collector, "leases.list", &[]);
}

#[test]
fn nothing_is_sent_unless_it_is_asked_for() {
    let daemon = Daemon::start();
    daemon.ok("leases ls");
    assert!(!has_sender(&daemon));
    let collector = Collector::start();
    for (name, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let mut env = collector.environment();
        env.push(variable(name, value));
        let mut daemon = traced(env);
        daemon.ok("leases ls");
        assert!(!has_sender(&daemon), "{name}");
        daemon.terminate();
    }
    assert_eq!(collector.connections(), 0);
    // A sampler that takes nothing sends nothing either, but what its caller samples.
    let mut env = collector.environment();
    env.push(variable("OTEL_TRACES_SAMPLER", "parentbased_always_off"));
    let daemon = traced(env);
    daemon.ok("leases ls");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(daemon.client().env("TRACEPARENT", parent).run("namespaces ls").code, 0);
    collector.until("the sampled call", |spans| {
        assert!(spans.iter().all(|span| span.name != "leases.list"), "{spans:#?}");
        spans.iter().find(|span| span.name == "namespaces.list").map(|_| ())
    });
}

#[test]
fn a_collector_that_is_away_or_hangs_costs_a_warning() {
    // One that refuses connections, and one that takes them and never answers.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [gone, hanging.local_addr().unwrap()] {
        let env = vec![
            variable("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{endpoint}")),
            variable("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
            variable("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ];
        let mut daemon = traced(env);
        let warnings = |daemon: &Daemon| daemon.log().matches("traces are lost").count();
        daemon.ok("leases ls");
        wharf_tests::eventually("a warning", || (warnings(&daemon) > 0).then_some(()));
        for _ in 0..20 {
            daemon.ok("leases ls");
        }
        let began = Instant::now();
        daemon.terminate();
        assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
        assert_eq!(warnings(&daemon), 1, "now and then, not each time:\n{}", daemon.log());
    }
    // One that cannot be had is told, and the daemon serves all the same.
    let daemon = traced(vec![
        variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ]);
    daemon.ok("leases ls");
    assert!(daemon.log().contains("OTEL_EXPORTER_OTLP_PROTOCOL=grpc") && !has_sender(&daemon), "{}", daemon.log());
}
