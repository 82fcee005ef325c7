//! Pushes to a server that misbehaves; the well-behaved one is in `real`.

use super::{
    server::{Reply, Server},
    *,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use wharf_messages::RefusalKind;

const BLOB: &[u8] = b"the bytes of a layer";

/// A source that counts how often it was opened.
fn source() -> (BlobSource, Arc<AtomicUsize>) {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let source: BlobSource = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        futures_util::stream::iter(BLOB.chunks(7).map(|chunk| Ok(Bytes::from_static(chunk)))).boxed()
    });
    (source, opened)
}

async fn push(server: &Server, options: &RegistryOptions, mount: Option<&str>) -> (Answer<Pushed>, usize) {
    let (source, opened) = source();
    let reference = reference(&format!("{}/app:v1", server.address));
    let pushed = open(options).push_blob(&reference, &layer(BLOB), mount, source).await;
    (pushed, opened.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_failed_upload_is_begun_again() {
    let server = Server::start(|seen, n| match (seen.method.as_str(), n) {
        ("HEAD", _) => Reply::new(404),
        ("POST", _) => Reply::new(202).header("location", format!("/up?state={n}")),
        ("PUT", 2) => Reply::new(503),
        _ => Reply::new(201),
    })
    .await;
    assert_eq!(push(&server, &plain(), None).await, (Ok(Pushed::Sent), 2));
    let last = server.seen().pop().unwrap();
    assert_eq!(last.target, format!("/up?state=4&digest={}", layer(BLOB).digest.as_str().replace(':', "%3A")));
    assert_eq!((last.body.as_slice(), last.header("content-length")), (BLOB, Some("20")));
}

#[tokio::test]
async fn a_refused_mount_becomes_an_upload() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" if seen.target.contains("from=other") => Reply::new(403),
        "POST" => Reply::new(202).header("location", "/up"),
        _ => Reply::new(201),
    })
    .await;
    assert_eq!(push(&server, &plain(), Some("other")).await, (Ok(Pushed::Sent), 1));
}

#[tokio::test]
async fn an_upload_elsewhere_gets_the_bytes_alone() {
    let store = Server::start(|_, _| Reply::new(201)).await;
    let location = format!("http://{}/bucket?signature=1", store.address);
    let server = Server::start(move |seen, _| match (seen.header("authorization"), seen.method.as_str()) {
        (None, _) => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
        (_, "HEAD") => Reply::new(404),
        _ => Reply::new(202).header("location", &location),
    })
    .await;
    let options = RegistryOptions { user: Some(("me".into(), "secret".into())), ..plain() };
    assert_eq!(push(&server, &options, None).await, (Ok(Pushed::Sent), 1));
    let seen = &store.seen()[0];
    assert!(seen.body == BLOB && seen.header("authorization").is_none());
}

#[tokio::test]
async fn a_source_that_fails_and_a_registry_that_refuses_are_told() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("location", "/up"),
        _ => Reply::new(400).body(r#"{"errors":[{"code":"DIGEST_INVALID","message":"no match"}]}"#),
    })
    .await;
    let refusal = push(&server, &plain(), None).await.0.unwrap_err();
    assert!(
        refusal.is(RefusalKind::InvalidArgument) && refusal.detail.contains("DIGEST_INVALID: no match"),
        "{refusal}"
    );

    let broken: BlobSource = Arc::new(|| futures_util::stream::iter([Err(Refusal::data_loss("blob is gone"))]).boxed());
    let at = reference(&format!("{}/app:v1", server.address));
    let refusal = open(&plain()).push_blob(&at, &layer(BLOB), None, broken).await.unwrap_err();
    assert!(refusal.detail.contains("blob is gone"), "{refusal}");

    let server = Server::start(|seen, _| if seen.method == "POST" { Reply::new(202) } else { Reply::new(404) }).await;
    let refusal = push(&server, &plain(), None).await.0.unwrap_err();
    assert!(refusal.detail.contains("without a location"), "{refusal}");
}

#[tokio::test]
async fn statuses_are_refusals_and_some_are_tried_again() {
    use RefusalKind::{NotFound, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable};
    for (status, kind, attempts) in [
        (401, Unauthenticated, 1),
        (403, PermissionDenied, 1),
        (404, NotFound, 1),
        (429, ResourceExhausted, 3),
        (500, Unavailable, 3),
        (503, Unavailable, 3),
    ] {
        for refusing in ["POST", "PUT"] {
            let server = Server::start(move |seen, _| match seen.method.as_str() {
                method if method == refusing => Reply::new(status),
                "HEAD" => Reply::new(404),
                "POST" => Reply::new(202).header("location", "/up"),
                _ => Reply::new(201),
            })
            .await;
            let refusal = push(&server, &plain(), None).await.0.unwrap_err();
            assert!(refusal.is(kind) && refusal.detail.contains(&status.to_string()), "{refusal}");
            let seen = server.seen().iter().filter(|seen| seen.method == refusing).count();
            assert_eq!(seen, attempts, "{refusing} {status}");
        }
    }
}

#[tokio::test]
async fn a_manifest_that_is_stored_as_another_is_an_error() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        _ => Reply::new(201).header("docker-content-digest", digest(b"another")),
    })
    .await;
    let manifest = Descriptor { media_type: media_type::OCI_MANIFEST.into(), ..layer(b"{}") };
    let at = reference(&format!("{}/app:v1", server.address));
    let refusal = open(&plain()).push_manifest(&at, &manifest, Bytes::from_static(b"{}")).await.unwrap_err();
    assert!(refusal.is(RefusalKind::FailedPrecondition), "{refusal}");
    let refusal = open(&plain()).push_manifest(&at, &manifest, Bytes::from_static(b"{ }")).await.unwrap_err();
    assert!(refusal.is(RefusalKind::InvalidArgument), "{refusal}");
}
