//! A collector of OpenTelemetry's on loopback: it takes traces over HTTP, as protobuf, and keeps them.

use crate::wait;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::status::StatusCode,
};
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A span that came.
#[derive(Debug, Clone)]
pub struct Span {
    /// Hexadecimal, as in W3C's header.
    pub trace_id: String,
    /// Hexadecimal.
    pub span_id: String,
    /// Hexadecimal; empty for a trace's first.
    pub parent_id: String,
    /// What it is called.
    pub name: String,
    /// 1 internal, 2 a server's, 3 a client's.
    pub kind: i32,
    /// Whether it is told to be an error.
    pub is_error: bool,
    /// What is said of it.
    pub attributes: BTreeMap<String, String>,
    /// What is said of the process.
    pub resource: BTreeMap<String, String>,
    /// How long it took.
    pub nanos: u64,
}

#[derive(Debug, Default)]
struct Kept {
    connections: usize,
    heads: Vec<String>,
    spans: Vec<Span>,
}

/// The collector; its thread lives as long as the test.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

impl Collector {
    /// Starts one.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::<Mutex<Kept>>::default();
        let keeping = Arc::clone(&kept);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, keeping) = (stream.unwrap(), Arc::clone(&keeping));
                keeping.lock().unwrap().connections += 1;
                thread::spawn(move || serve(stream, &keeping));
            }
        });
        Self { address, kept }
    }

    /// The environment of a daemon that sends its traces here, without much waiting for a batch to fill.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// How many connections were made to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.kept.lock().unwrap().connections
    }

    /// The request lines and headers that came.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.kept.lock().unwrap().heads.clone()
    }

    /// Waits until the spans that came are as they should be.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut(&[Span]) -> Option<T>) -> T {
        let found = wait::within(wait::PATIENCE, || look(&self.kept.lock().unwrap().spans));
        found.unwrap_or_else(|| panic!("waited in vain for {what}:\n{:#?}", self.kept.lock().unwrap().spans))
    }
}

/// The spans of a trace that do not hang together: those whose parent did not come. `parent` is its caller's.
#[must_use]
pub fn unlinked<'a>(trace: &[&'a Span], parent: &str) -> Vec<&'a Span> {
    let ids: BTreeSet<_> = trace.iter().map(|span| span.span_id.as_str()).chain([parent]).collect();
    trace.iter().filter(|span| !ids.contains(span.parent_id.as_str())).copied().collect()
}

fn serve(stream: TcpStream, kept: &Mutex<Kept>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let spans = ExportTraceServiceRequest::decode(&*body).map(spans);
        let status = if spans.is_ok() { "200 OK" } else { "400 Bad Request" };
        {
            let mut kept = kept.lock().unwrap();
            kept.heads.push(head);
            kept.spans.extend(spans.unwrap_or_default());
        }
        let answer = ExportTraceServiceResponse::default().encode_to_vec();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        if stream.get_mut().write_all(&[head.as_bytes(), &answer].concat()).is_err() {
            return;
        }
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for of in request.resource_spans {
        let resource = attributes(of.resource.map(|resource| resource.attributes).unwrap_or_default());
        for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            found.push(Span {
                trace_id: hex::encode(&span.trace_id),
                span_id: hex::encode(&span.span_id),
                parent_id: hex::encode(&span.parent_span_id),
                name: span.name,
                kind: span.kind,
                is_error: span.status.is_some_and(|status| status.code == StatusCode::Error as i32),
                attributes: attributes(span.attributes),
                resource: resource.clone(),
                nanos: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
            });
        }
    }
    found
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    };
    list.into_iter().map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}
