//! Challenges, tokens and who gets to see credentials.

use super::{
    server::{Reply, Seen, Server, Then},
    *,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use wharf_messages::RefusalKind;

/// A registry that wants `token`, and its token server at `/token`, in one.
fn guarded(seen: &Seen, token: &str, grant: impl Fn(&Seen) -> Reply) -> Reply {
    if seen.path() == "/token" {
        return grant(seen);
    }
    if seen.header("authorization") == Some(&format!("Bearer {token}")) {
        return Reply::new(200)
            .header("content-type", media_type::OCI_MANIFEST)
            .header("docker-content-digest", digest(b"{}"))
            .body("{}");
    }
    let repository = seen.path().strip_prefix("/v2/").unwrap().split("/manifests").next().unwrap();
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="test service",scope="repository:{repository}:pull""#,
        seen.header("host").unwrap()
    );
    Reply::new(401).header("www-authenticate", challenge).body(r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
}

fn token(token: &str) -> Reply {
    Reply::new(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#))
}

async fn resolve(registry: &dyn Registry, server: &Server, repository: &str) -> Answer<Descriptor> {
    registry.resolve(&reference(&format!("{}/{repository}:v1", server.address))).await
}

fn with(user: &str, secret: &str) -> RegistryOptions {
    RegistryOptions { user: Some((user.into(), secret.into())), ..plain() }
}

#[tokio::test]
async fn anonymous_tokens_are_fetched_once_a_repository() {
    let server = Server::start(|seen, _| guarded(seen, "t", |_| token("t"))).await;
    let registries = registries(limits());
    for repository in ["a", "a", "b", "a", "b"] {
        resolve(&*registries.open(&plain()), &server, repository).await.unwrap();
    }
    assert_eq!(
        server.lines(),
        [
            "HEAD /v2/a/manifests/v1", // asked for a token
            "GET /token",
            "HEAD /v2/a/manifests/v1",
            "HEAD /v2/a/manifests/v1",
            "GET /token", // the registry's ways are known now
            "HEAD /v2/b/manifests/v1",
            "HEAD /v2/a/manifests/v1",
            "HEAD /v2/b/manifests/v1",
        ]
    );
    let asked = &server.seen()[1];
    assert_eq!(asked.target, "/token?service=test+service&scope=repository%3Aa%3Apull");
    assert_eq!(asked.header("authorization"), None);
}

#[tokio::test]
async fn many_at_once_share_a_token() {
    let server = Server::start(|seen, _| guarded(seen, "t", |_| token("t"))).await;
    let registry = open(&plain());
    let all = (0..8).map(|_| resolve(&*registry, &server, "a"));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(server.lines().iter().filter(|line| *line == "GET /token").count(), 1);
}

#[tokio::test]
async fn a_password_is_posted_or_sent_as_basic_to_older_servers() {
    for older in [None, Some(400), Some(401), Some(404), Some(405)] {
        let server = Server::start(move |seen, _| {
            guarded(seen, "t", |seen| match (seen.method.as_str(), older) {
                ("POST", Some(status)) => Reply::new(status),
                _ => Reply::new(200).body(r#"{"access_token":"t"}"#),
            })
        })
        .await;
        resolve(&*open(&with("me", "p&q")), &server, "a").await.unwrap();
        let asked: Vec<_> = server.seen().into_iter().filter(|seen| seen.path() == "/token").collect();
        let form = String::from_utf8(asked[0].body.clone()).unwrap();
        assert_eq!(
            form,
            "grant_type=password&username=me&password=p%26q&client_id=wharf&service=test+service&scope=repository%3Aa%3Apull"
        );
        assert_eq!(asked.len(), if older.is_some() { 2 } else { 1 });
        if older.is_some() {
            // me:p&q
            assert_eq!(asked[1].header("authorization"), Some("Basic bWU6cCZx"));
            assert!(asked[1].target.ends_with("&account=me"), "{}", asked[1].target);
        }
        // The registry itself gets the token alone.
        assert!(server.seen().iter().filter(|s| s.path() != "/token").all(|s| !format!("{s:?}").contains("Basic")));
    }
}

#[tokio::test]
async fn other_tokens_are_traded_or_used_as_they_are() {
    let server = Server::start(|seen, _| guarded(seen, "t", |_| token("t"))).await;
    resolve(&*open(&with("idt", "")), &server, "a").await.unwrap();
    let form = String::from_utf8(server.seen()[1].body.clone()).unwrap();
    assert!(form.starts_with("grant_type=refresh_token&refresh_token=idt&client_id=wharf&"), "{form}");

    let server = Server::start(|seen, _| guarded(seen, "ready", |_| token("unused"))).await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    std::fs::write(&config, format!(r#"{{"auths": {{"{}": {{"registrytoken": "ready"}}}}}}"#, server.address)).unwrap();
    let stored = HttpRegistries::new(RegistryConfig { docker_config: Some(config), ..config_for(limits()) });
    resolve(&*stored.open(&plain()), &server, "a").await.unwrap();
    assert_eq!(server.lines(), ["HEAD /v2/a/manifests/v1", "HEAD /v2/a/manifests/v1"]);
}

#[tokio::test]
async fn a_token_that_is_taken_no_more_is_replaced() {
    let current = Arc::new(AtomicUsize::new(1));
    let (valid, granted) = (current.clone(), current.clone());
    let server = Server::start(move |seen, _| {
        guarded(seen, &format!("t{}", valid.load(Ordering::Relaxed)), |_| {
            token(&format!("t{}", granted.load(Ordering::Relaxed)))
        })
    })
    .await;
    let registry = open(&plain());
    resolve(&*registry, &server, "a").await.unwrap();
    current.store(2, Ordering::Relaxed);
    resolve(&*registry, &server, "a").await.unwrap();
    assert_eq!(server.lines().iter().filter(|line| *line == "GET /token").count(), 2);
}

#[tokio::test]
async fn a_short_lived_token_is_fetched_again() {
    let server =
        Server::start(|seen, _| guarded(seen, "t", |_| Reply::new(200).body(r#"{"token":"t","expires_in":0}"#))).await;
    let registry = open(&plain());
    resolve(&*registry, &server, "a").await.unwrap();
    resolve(&*registry, &server, "a").await.unwrap();
    assert_eq!(server.lines().iter().filter(|line| *line == "GET /token").count(), 2);
}

#[tokio::test]
async fn refusals_of_the_token_server_are_shown() {
    let text = r#"{"details":"incorrect username or password"}"#;
    for (reply, kind, words) in [
        (Reply::new(401).body(text), RefusalKind::Unauthenticated, "incorrect username or password"),
        (Reply::new(403).body(text), RefusalKind::PermissionDenied, "incorrect username or password"),
        (Reply::new(503), RefusalKind::Unavailable, "3 attempts"),
        (Reply::new(200).body("{}"), RefusalKind::Unauthenticated, "no token"),
        (Reply::new(200).body("<html>"), RefusalKind::Unauthenticated, "not a token's JSON"),
        (Reply::new(200).body(r#"{"token":"a\nb"}"#), RefusalKind::Unauthenticated, "no http header"),
        (Reply::new(200).then(Then::Endless(vec![b' '; 100_000])), RefusalKind::ResourceExhausted, "1048576"),
    ] {
        let server = Server::start(move |seen, _| guarded(seen, "t", |_| reply.clone())).await;
        let refusal = resolve(&*open(&with("me", "tops3cret")), &server, "a").await.unwrap_err();
        let text = refusal.to_string();
        assert!(refusal.is(kind) && text.contains(words) && text.contains(&server.address), "{text}");
        assert!(!text.contains("tops3cret"));
    }
}

#[tokio::test]
async fn a_registry_that_refuses_its_own_token_is_asked_no_further() {
    let server = Server::start(|seen, _| guarded(seen, "another", |_| token("t"))).await;
    let refusal = resolve(&*open(&plain()), &server, "a").await.unwrap_err();
    assert!(refusal.is(RefusalKind::Unauthenticated) && refusal.detail.contains("UNAUTHORIZED"), "{refusal}");
    assert!(server.seen().len() <= 8, "{:?}", server.lines());
}

#[tokio::test]
async fn credentials_are_not_sent_before_they_are_asked_for() {
    let server = Server::start(|_, _| Reply::new(404)).await;
    resolve(&*open(&with("me", "tops3cret")), &server, "a").await.unwrap_err();
    assert!(server.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn users_do_not_share_tokens() {
    let server = Server::start(|seen, _| guarded(seen, "t", |_| token("t"))).await;
    let registries = registries(limits());
    for user in ["one", "two", "one"] {
        resolve(&*registries.open(&with(user, "p")), &server, "a").await.unwrap();
    }
    assert_eq!(server.lines().iter().filter(|line| *line == "POST /token").count(), 2);
    assert_eq!(registries.pooled(), 2);
}
