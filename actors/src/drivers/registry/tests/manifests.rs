//! Resolving and reading manifests from a server that misbehaves.

use super::{
    server::{Reply, Server, Then},
    *,
};
use wharf_messages::RefusalKind;

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;

fn described() -> Descriptor {
    Descriptor::new(media_type::OCI_MANIFEST, digest(MANIFEST.as_bytes()), MANIFEST.len() as u64)
}

/// The manifest with every header that is worth something.
fn manifest() -> Reply {
    Reply::new(200)
        .header("content-type", media_type::OCI_MANIFEST)
        .header("docker-content-digest", described().digest)
        .body(MANIFEST)
}

async fn resolve(server: &Server) -> Answer<Descriptor> {
    open(&plain()).resolve(&reference(&format!("{}/app:v1", server.address))).await
}

#[tokio::test]
async fn a_head_is_enough_if_it_says_everything() {
    let server = Server::start(|_, _| manifest()).await;
    assert_eq!(resolve(&server).await.unwrap(), described());
    assert_eq!(server.lines(), ["HEAD /v2/app/manifests/v1"]);
    let accept = server.seen()[0].header("accept").unwrap().to_owned();
    for wanted in
        [media_type::OCI_MANIFEST, media_type::OCI_INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_LIST]
    {
        assert!(accept.contains(wanted));
    }
    assert_eq!(server.seen()[0].header("accept-encoding"), None);
}

#[tokio::test]
async fn get_says_what_head_does_not() {
    // HEAD: not allowed, without digest, without type, without length, and with an error that only GET explains.
    let heads = [
        Reply::new(405),
        Reply::new(501),
        Reply::new(400),
        Reply::new(200).header("content-type", media_type::OCI_MANIFEST).body(MANIFEST),
        Reply::new(200).header("docker-content-digest", described().digest).body(MANIFEST),
        Reply::new(200)
            .header("content-type", media_type::OCI_MANIFEST)
            .header("docker-content-digest", described().digest),
    ];
    let gets = [
        manifest(),
        Reply::new(200)
            .header("content-type", "application/vnd.oci.image.manifest.v1+json; charset=utf-8")
            .body(MANIFEST),
        Reply::new(200).header("content-type", "application/json").body(MANIFEST),
        Reply::new(200).body(MANIFEST),
    ];
    for head in heads {
        for get in gets.clone() {
            let head = head.clone();
            let server =
                Server::start(move |seen, _| if seen.method == "HEAD" { head.clone() } else { get.clone() }).await;
            assert_eq!(resolve(&server).await.unwrap(), described());
            assert_eq!(server.lines(), ["HEAD /v2/app/manifests/v1", "GET /v2/app/manifests/v1"]);
        }
    }
}

#[tokio::test]
async fn wrong_manifests_are_refused() {
    let other = digest(b"other");
    for (reply, kind, words) in [
        (
            Reply::new(200).header("docker-content-digest", &other).body(MANIFEST),
            RefusalKind::FailedPrecondition,
            other.as_str(),
        ),
        (
            Reply::new(200).header("docker-content-digest", "md5:1").body(MANIFEST),
            RefusalKind::FailedPrecondition,
            "docker-content-digest",
        ),
        (Reply::new(200).body("<html>login</html>"), RefusalKind::FailedPrecondition, "is none"),
        (
            Reply::new(200).body(r#"{"schemaVersion":2,"config":{},"manifests":[]}"#),
            RefusalKind::FailedPrecondition,
            "neither",
        ),
        (
            Reply::new(200)
                .header("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
                .body("{}"),
            RefusalKind::NotImplemented,
            "schema 1",
        ),
        (Reply::new(200).header("content-encoding", "gzip").body(MANIFEST), RefusalKind::NotImplemented, "gzip"),
        (Reply::new(200).body(vec![b' '; 4 << 20 | 1]), RefusalKind::ResourceExhausted, "4194304"),
        (Reply::new(200).then(Then::Endless(vec![b' '; 100_000])), RefusalKind::ResourceExhausted, "4194304"),
    ] {
        let server =
            Server::start(move |seen, _| if seen.method == "HEAD" { Reply::new(405) } else { reply.clone() }).await;
        let refusal = resolve(&server).await.unwrap_err();
        let text = refusal.to_string();
        assert!(refusal.is(kind) && text.contains(words) && text.contains(&server.address), "{text}");
    }
}

#[tokio::test]
async fn a_pinned_digest_must_be_the_answer() {
    let server = Server::start(|_, _| manifest()).await;
    let pinned = |digest: &Digest| reference(&format!("{}/app:v1@{digest}", server.address));
    assert_eq!(open(&plain()).resolve(&pinned(&described().digest)).await.unwrap(), described());
    assert_eq!(server.lines(), [format!("HEAD /v2/app/manifests/{}", described().digest)]);

    let nowhere =
        Server::start(|seen, _| if seen.path().contains("blobs") { Reply::new(404) } else { manifest() }).await;
    let pinned = reference(&format!("{}/app@{}", nowhere.address, digest(b"other")));
    let refusal = open(&plain()).resolve(&pinned).await.unwrap_err();
    assert!(refusal.is(RefusalKind::FailedPrecondition) && refusal.detail.contains("asked for"), "{refusal}");

    let bare = reference(&format!("{}/app", server.address));
    assert!(open(&plain()).resolve(&bare).await.unwrap_err().is(RefusalKind::InvalidArgument));
}

#[tokio::test]
async fn manifests_are_verified() {
    let get = async |reply: Reply, descriptor: Descriptor| {
        let server = Server::start(move |_, _| reply.clone()).await;
        let reference = reference(&format!("{}/app:v1", server.address));
        open(&plain()).manifest(&reference, &descriptor).await
    };
    assert_eq!(get(manifest(), described()).await.unwrap(), MANIFEST);
    let same_length = MANIFEST.replace('2', "3");
    for (reply, words) in [
        (Reply::new(200).body(same_length), "digest"),
        (Reply::new(200).body("{}"), "2 bytes"),
        (Reply::new(200).then(Then::Endless(vec![b' '; 100_000])), "exceeds"),
    ] {
        let text = get(reply, described()).await.unwrap_err().to_string();
        assert!(text.contains(words) && text.contains(described().digest.as_str()), "{text}");
    }
    let huge = Descriptor { size_bytes: u64::MAX, ..described() };
    assert!(get(manifest(), huge).await.unwrap_err().is(RefusalKind::ResourceExhausted));
}

#[tokio::test]
async fn transient_statuses_are_tried_again_and_then_reported() {
    for status in [408, 429, 500, 502, 503, 504] {
        let server = Server::start(
            move |_, n| if n < 2 { Reply::new(status).header("retry-after", 1 << 20) } else { manifest() },
        )
        .await;
        assert_eq!(resolve(&server).await.unwrap(), described(), "{status}");
        assert_eq!(server.seen().len(), 3);
    }
    for (status, kind) in [(429, RefusalKind::ResourceExhausted), (503, RefusalKind::Unavailable)] {
        let server = Server::start(move |_, _| Reply::new(status)).await;
        let refusal = resolve(&server).await.unwrap_err();
        let text = refusal.to_string();
        assert!(refusal.is(kind) && text.contains(&status.to_string()) && text.contains("3 attempts"), "{text}");
        assert_eq!(server.seen().len(), 3);
    }
}

#[tokio::test]
async fn final_statuses_are_reported_at_once_in_the_registrys_words() {
    for (status, kind) in [
        (400, RefusalKind::InvalidArgument),
        (401, RefusalKind::Unauthenticated),
        (403, RefusalKind::PermissionDenied),
        (418, RefusalKind::Unknown),
    ] {
        let said = r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
        let server = Server::start(move |_, _| Reply::new(status).body(said)).await;
        let refusal = resolve(&server).await.unwrap_err();
        let text = refusal.to_string();
        assert!(refusal.is(kind), "{text}");
        for part in [&server.address, "/app:v1", &status.to_string(), "DENIED: requested access is denied"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(server.lines(), ["HEAD /v2/app/manifests/v1", "GET /v2/app/manifests/v1"]);
    }
    // An error without end is read only so far.
    let server = Server::start(|_, _| Reply::new(403).then(Then::Endless(vec![b'x'; 10_000]))).await;
    let refusal = resolve(&server).await.unwrap_err();
    assert!(refusal.is(RefusalKind::PermissionDenied) && refusal.detail.len() < 1000);
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refusal = open(&plain()).resolve(&reference(&format!("{address}/app:v1"))).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!("resolve {address}/app:v1: registry {address}: connection refused: unavailable")
    );
    // A label too long for any name server to be asked about it.
    let nowhere = format!("{}.example/app:v1", "a".repeat(64));
    let refusal = open(&plain()).resolve(&reference(&nowhere)).await.unwrap_err();
    assert!(refusal.is(RefusalKind::Unavailable) && refusal.detail.contains("no connection"), "{refusal}");
}

#[tokio::test]
async fn an_answer_that_never_comes_is_cut() {
    let server = Server::start(|_, _| manifest().then(Then::Stall(Vec::new()))).await;
    let limits = Limits { response: Duration::from_millis(200), attempts: 2, ..limits() };
    let reference = reference(&format!("{}/app:v1", server.address));
    let refusal = registries(limits).open(&plain()).manifest(&reference, &described()).await.unwrap_err();
    assert!(refusal.is(RefusalKind::DeadlineExceeded), "{refusal}");
    server.deserted().await;
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_the_server_alone() {
    let server = Server::start(|_, _| manifest().then(Then::Stall(Vec::new()))).await;
    let reference = reference(&format!("{}/app:v1", server.address));
    let (registry, descriptor) = (open(&plain()), described());
    let call = tokio::spawn(async move { registry.manifest(&reference, &descriptor).await });
    while server.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    call.abort();
    server.deserted().await;
}

#[tokio::test]
async fn idle_servers_are_forgotten() {
    let server = Server::start(|_, _| manifest()).await;
    let registries = registries(Limits { keep: Duration::from_millis(50), ..limits() });
    for _ in 0..2 {
        registries.open(&plain()).resolve(&reference(&format!("{}/app:v1", server.address))).await.unwrap();
        assert_eq!(registries.pooled(), 1);
        while registries.pooled() > 0 {
            tokio::task::yield_now().await;
        }
        server.deserted().await;
    }
}

#[tokio::test]
async fn mirrors_are_told_whose_image_it_is_and_given_their_headers() {
    let mirror = Server::start(|_, _| manifest()).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("_default")).unwrap();
    std::fs::write(
        dir.path().join("_default/hosts.toml"),
        format!("[host.'http://{}/prefix/v2']\nheader = {{x-key = 'secret'}}", mirror.address),
    )
    .unwrap();
    let options = RegistryOptions { hosts_dir: Some(dir.path().display().to_string()), http_dump: true, ..plain() };
    open(&options).resolve(&reference("docker.io/library/app:v1")).await.unwrap();
    let seen = &mirror.seen()[0];
    assert_eq!(seen.target, "/prefix/v2/library/app/manifests/v1?ns=docker.io");
    assert_eq!(seen.header("x-key"), Some("secret"));
}
