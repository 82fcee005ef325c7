//! Downloads through cuts, stalls, lies and lost hosts.

use super::{
    server::{Reply, Seen, Server, Then},
    *,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use wharf_messages::RefusalKind;

const SIZE: usize = 300_000;

async fn fetch_with(
    server: &Server,
    limits: Limits,
    blob: &Descriptor,
    offset: u64,
) -> Answer<(Vec<u8>, Option<Refusal>)> {
    let reference = reference(&format!("{}/app:v1", server.address));
    Ok(collect(registries(limits).open(&plain()).fetch(&reference, blob, offset).await?).await)
}

async fn fetch(server: &Server, bytes: &[u8]) -> Answer<(Vec<u8>, Option<Refusal>)> {
    fetch_with(server, limits(), &layer(bytes), 0).await
}

/// The answer to a request with a range, headers only.
fn ranged(bytes: &[u8], seen: &Seen) -> Reply {
    match seen.range() {
        Some(from) => Reply::new(206)
            .header("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
            .header("content-length", bytes.len() - from),
        None => Reply::new(200).header("content-length", bytes.len()),
    }
}

fn rest(bytes: &[u8], seen: &Seen) -> Vec<u8> {
    bytes[seen.range().unwrap_or(0)..].to_vec()
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was() {
    let bytes = content(SIZE);
    let served = bytes.clone();
    // Four cuts, with three attempts allowed: what brings bytes is no failure.
    let server = Server::start(move |seen, n| {
        let rest = rest(&served, seen);
        let reply = ranged(&served, seen);
        if n < 4 { reply.then(Then::Cut(rest[..70_000].to_vec())) } else { reply.then(Then::Whole(rest)) }
    })
    .await;
    let (got, refusal) = fetch(&server, &bytes).await.unwrap();
    assert!(got == bytes, "{refusal:?}");
    let ranges: Vec<_> = server.seen().iter().map(Seen::range).collect();
    assert_eq!(ranges, [None, Some(70_000), Some(140_000), Some(210_000), Some(280_000)]);
    assert!(server.lines().iter().all(|line| *line == format!("GET /v2/app/blobs/{}", digest(&bytes))));
}

#[tokio::test]
async fn a_caller_resumes_from_an_offset() {
    let bytes = content(SIZE);
    let served = bytes.clone();
    let server = Server::start(move |seen, _| ranged(&served, seen).then(Then::Whole(rest(&served, seen)))).await;
    let blob = layer(&bytes);
    let (got, refusal) = fetch_with(&server, limits(), &blob, 123_456).await.unwrap();
    assert!(refusal.is_none() && got == bytes[123_456..]);
    assert_eq!(server.seen().len(), 1);
    // Nothing is left to ask for.
    let (got, refusal) = fetch_with(&server, limits(), &blob, SIZE as u64).await.unwrap();
    assert!(got.is_empty() && refusal.is_none() && server.seen().len() == 1);
    let refusal = fetch_with(&server, limits(), &blob, SIZE as u64 + 1).await.unwrap_err();
    assert!(refusal.is(RefusalKind::OutOfRange), "{refusal}");
}

#[tokio::test]
async fn a_server_without_ranges_is_skipped_forward() {
    let bytes = content(SIZE);
    for odd_range in [false, true] {
        let served = bytes.clone();
        let server = Server::start(move |seen, n| {
            // Ranges are ignored, or answered with another one, or refused.
            match (odd_range, seen.range(), n) {
                (_, None, 0) => {
                    Reply::new(200).header("content-length", SIZE).then(Then::Cut(served[..100_000].to_vec()))
                }
                (true, Some(_), 1) => {
                    Reply::new(206).header("content-range", format!("bytes 0-9/{SIZE}")).body(&served[..10])
                }
                (true, Some(_), _) => Reply::new(416),
                _ => Reply::new(200).body(served.clone()),
            }
        })
        .await;
        let (got, refusal) = fetch(&server, &bytes).await.unwrap();
        assert!(got == bytes, "{refusal:?}");
    }
    let served = bytes.clone();
    let server =
        Server::start(
            move |seen, _| if seen.range().is_some() { Reply::new(416) } else { Reply::new(200).body(served.clone()) },
        )
        .await;
    let (got, refusal) = fetch_with(&server, limits(), &layer(&bytes), 100).await.unwrap();
    assert!(got == bytes[100..], "{refusal:?}");
}

#[tokio::test]
async fn attempts_that_bring_nothing_have_an_end() {
    let bytes = content(SIZE);
    let server =
        Server::start(move |_, _| Reply::new(200).header("content-length", SIZE).then(Then::Cut(Vec::new()))).await;
    let (got, refusal) = fetch(&server, &bytes).await.unwrap();
    let text = refusal.unwrap().to_string();
    assert!(
        got.is_empty() && text.contains("3 attempts") && text.contains(&server.address) && text.contains("byte 0"),
        "{text}"
    );
    assert_eq!(server.seen().len(), 3);

    // Always the same beginning: ranges are ignored, so no attempt ever gets further.
    let served = bytes.clone();
    let server = Server::start(move |_, _| {
        Reply::new(200).header("content-length", SIZE).then(Then::Cut(served[..70_000].to_vec()))
    })
    .await;
    let (got, refusal) = fetch(&server, &bytes).await.unwrap();
    assert!(got == bytes[..70_000] && refusal.is_some());
}

#[tokio::test]
async fn never_more_than_the_size() {
    let bytes = content(SIZE);
    let endless = Server::start(|_, _| Reply::new(200).then(Then::Endless(content(7_001)))).await;
    let (got, refusal) = fetch(&endless, &bytes).await.unwrap();
    let refusal = refusal.unwrap();
    assert!(got.len() <= SIZE && refusal.is(RefusalKind::FailedPrecondition), "{refusal}");
    assert!(refusal.detail.contains("more than the descriptor's size"), "{refusal}");
    endless.deserted().await;
    for lie in [SIZE - 1, SIZE + 1] {
        let server = Server::start(move |_, _| Reply::new(200).body(content(lie))).await;
        let refusal = fetch(&server, &bytes).await.unwrap_err();
        assert!(refusal.is(RefusalKind::FailedPrecondition) && refusal.detail.contains(&lie.to_string()), "{refusal}");
    }
    // The total of a range is a size too.
    let server = Server::start(|_, _| Reply::new(206).header("content-range", "bytes 5-9/10").body("56789")).await;
    let refusal = fetch_with(&server, limits(), &layer(&bytes), 5).await.unwrap_err();
    assert!(refusal.is(RefusalKind::FailedPrecondition), "{refusal}");
}

#[tokio::test]
async fn a_stalled_download_is_resumed() {
    let bytes = content(SIZE);
    let served = bytes.clone();
    let server = Server::start(move |seen, n| {
        let rest = rest(&served, seen);
        let reply = ranged(&served, seen);
        if n == 0 { reply.then(Then::Stall(rest[..1000].to_vec())) } else { reply.then(Then::Whole(rest)) }
    })
    .await;
    let limits = Limits { idle: Duration::from_millis(300), attempts: 6, ..limits() };
    let (got, refusal) = fetch_with(&server, limits, &layer(&bytes), 0).await.unwrap();
    assert!(got == bytes, "{refusal:?}");
    assert_eq!(server.seen()[1].range(), Some(1000));
}

/// Serves a byte at a time.
async fn dripping(bytes: &[u8]) -> Server {
    let bytes = bytes.to_vec();
    Server::start(move |seen, _| ranged(&bytes, seen).then(Then::Drip(rest(&bytes, seen), Duration::from_millis(5))))
        .await
}

fn impatient() -> Limits {
    Limits { rate_min_bytes_per_s: 1 << 20, rate_window: Duration::from_millis(100), ..limits() }
}

#[tokio::test]
async fn a_dripping_server_is_given_up() {
    let bytes = content(SIZE);
    let server = dripping(&bytes).await;
    let (got, refusal) = fetch_with(&server, impatient(), &layer(&bytes), 0).await.unwrap();
    let refusal = refusal.unwrap();
    assert!(refusal.is(RefusalKind::DeadlineExceeded) && refusal.detail.contains("too slow"), "{refusal}");
    assert!(bytes.starts_with(&got) && got.len() < SIZE);
    assert_eq!(server.seen().len(), 3);
    server.deserted().await;
}

#[tokio::test]
async fn a_dripping_mirror_is_left_without_a_gap() {
    let bytes = content(SIZE);
    let mirror = dripping(&bytes).await;
    let whole = bytes.clone();
    let upstream = Server::start(move |seen, _| ranged(&whole, seen).then(Then::Whole(rest(&whole, seen)))).await;
    let (_dir, options) = mirrored(&mirror, &upstream);
    let registry = registries(impatient()).open(&options);
    let stream = registry.fetch(&reference("images.example/app:v1"), &layer(&bytes), 0).await.unwrap();
    let (got, refusal) = collect(stream).await;
    assert!(got == bytes, "{refusal:?}");
    assert_eq!((mirror.seen().len(), upstream.seen().len()), (3, 1));
}

/// Options under which images.example has a mirror.
fn mirrored(mirror: &Server, upstream: &Server) -> (tempfile::TempDir, RegistryOptions) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("images.example")).unwrap();
    let toml = format!("server = 'http://{}'\n[host.'http://{}']", upstream.address, mirror.address);
    std::fs::write(dir.path().join("images.example/hosts.toml"), toml).unwrap();
    let options = RegistryOptions { hosts_dir: Some(dir.path().display().to_string()), ..plain() };
    (dir, options)
}

#[tokio::test]
async fn a_mirror_that_dies_is_followed_by_the_next_host() {
    let bytes = content(SIZE);
    let (half, whole) = (bytes.clone(), bytes.clone());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let mirror = Server::start(move |seen, _| match count.fetch_add(1, Ordering::Relaxed) {
        0 => ranged(&half, seen).then(Then::Cut(half[..150_000].to_vec())),
        _ => Reply::new(503),
    })
    .await;
    let upstream = Server::start(move |seen, _| ranged(&whole, seen).then(Then::Whole(rest(&whole, seen)))).await;
    let (_dir, options) = mirrored(&mirror, &upstream);
    let stream = open(&options).fetch(&reference("images.example/app:v1"), &layer(&bytes), 0).await.unwrap();
    let (got, refusal) = collect(stream).await;
    assert!(got == bytes, "{refusal:?}");
    assert_eq!(upstream.seen().iter().map(Seen::range).collect::<Vec<_>>(), [Some(150_000)]);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_stream_that_is_dropped_hangs_up() {
    let bytes = content(SIZE);
    let served = bytes.clone();
    let server = Server::start(move |seen, _| ranged(&served, seen).then(Then::Stall(served[..1000].to_vec()))).await;
    let reference = reference(&format!("{}/app:v1", server.address));
    let mut stream = open(&plain()).fetch(&reference, &layer(&bytes), 0).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    server.deserted().await;
}

#[tokio::test]
async fn connections_are_shared_between_requests() {
    let bytes = content(SIZE);
    let served = bytes.clone();
    let connections = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |seen, _| ranged(&served, seen).then(Then::Whole(rest(&served, seen)))).await;
    let registries = registries(limits());
    for _ in 0..3 {
        let reference = reference(&format!("{}/app:v1", server.address));
        let stream = registries.open(&plain()).fetch(&reference, &layer(&bytes), 0).await.unwrap();
        assert!(collect(stream).await.1.is_none());
        connections.fetch_max(server.connections(), Ordering::Relaxed);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}
