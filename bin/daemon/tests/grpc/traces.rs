//! A client's trace, in the headers that W3C names, goes on in the daemon's.

use crate::{client::Daemon, proto::containerd::services::namespaces::v1::ListNamespacesRequest};
use tonic::Request;
use wharf_tests::{Collector, collector::Span};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_trace_is_continued_and_a_broken_one_is_not() {
    let collector = Collector::start();
    let daemon = Daemon::with(&collector.environment());
    let (trace_id, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let mut client = daemon.namespaces().await;
    for parent in [format!("00-{trace_id}-{caller}-01"), "00-nonsense-01".to_owned()] {
        let mut request = Request::new(ListNamespacesRequest::default());
        request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        request.metadata_mut().insert("tracestate", "vendor=7".parse().unwrap());
        client.list(request).await.unwrap();
    }
    // What a caller does not sample is not sent.
    let mut request = Request::new(ListNamespacesRequest::default());
    request.metadata_mut().insert("traceparent", format!("00-{}-{caller}-00", "a".repeat(32)).parse().unwrap());
    client.list(request).await.unwrap();
    client.list(ListNamespacesRequest::default()).await.unwrap();
    let served = tokio::task::spawn_blocking(move || {
        collector.until("the sampled calls", |spans| {
            // The call's own: what its actor was asked has the same name.
            let is_served = |span: &&Span| span.name == "namespaces.list" && span.kind == 2;
            let served: Vec<_> = spans.iter().filter(is_served).cloned().collect();
            (served.len() >= 3).then_some(served)
        })
    });
    let served = served.await.unwrap();
    let ids: Vec<_> = served.iter().map(|span| (span.trace_id.as_str(), span.parent_id.as_str())).collect();
    assert_eq!(ids[0], (trace_id, caller));
    assert!(ids[1..].iter().all(|(trace, parent)| *trace != trace_id && parent.is_empty()), "{ids:?}");
    assert!(served.iter().all(|span| span.trace_id != "a".repeat(32)), "{served:?}");
}
