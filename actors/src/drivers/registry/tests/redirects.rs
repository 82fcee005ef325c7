//! Redirects: followed, bounded, and told no secrets.

use super::{
    peer::{Kind, Peer},
    server::{Reply, Server},
    *,
};
use std::{
    io::{Read, Write},
    net::TcpListener,
};
use wharf_messages::RefusalKind;

const BLOB: &[u8] = b"the bytes of a layer";

async fn fetch(server: &str, options: &RegistryOptions, offset: u64) -> Answer<Vec<u8>> {
    let reference = reference(&format!("{server}/app:v1"));
    let (got, refusal) = collect(open(options).fetch(&reference, &layer(BLOB), offset).await?).await;
    refusal.map_or(Ok(got), Err)
}

#[tokio::test]
async fn another_host_sees_the_range_and_no_secret() {
    let cdn = Server::start(|seen, _| {
        let from = seen.range().unwrap();
        Reply::new(206).header("content-range", format!("bytes {from}-19/20")).body(&BLOB[from..])
    })
    .await;
    let location = format!("http://evil:userinfo@{}/signed?key=1", cdn.address);
    let registry = Server::start(move |seen, _| match seen.header("authorization") {
        None => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
        Some(_) => Reply::new(307).header("location", &location),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("_default")).unwrap();
    let toml = format!("server = 'http://{}'\nheader = {{x-key = 'secret'}}", registry.address);
    std::fs::write(dir.path().join("_default/hosts.toml"), toml).unwrap();
    let options = RegistryOptions {
        user: Some(("me".into(), "secret".into())),
        hosts_dir: Some(dir.path().display().to_string()),
        ..plain()
    };
    assert_eq!(fetch(&registry.address, &options, 4).await.unwrap(), &BLOB[4..]);
    assert!(registry.seen().iter().all(|seen| seen.header("x-key") == Some("secret")));
    let seen = &cdn.seen()[0];
    assert_eq!((seen.target.as_str(), seen.range()), ("/signed?key=1", Some(4)));
    assert_eq!((seen.header("authorization"), seen.header("x-key"), seen.header("referer")), (None, None, None));
}

#[tokio::test]
async fn the_same_host_keeps_what_it_was_told() {
    let server = Server::start(|seen, _| match (seen.header("authorization"), seen.path()) {
        (None, _) => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
        (_, "/elsewhere") => Reply::new(200).body(BLOB),
        _ => Reply::new(302).header("location", "/elsewhere"),
    })
    .await;
    let options = RegistryOptions { user: Some(("me".into(), "secret".into())), ..plain() };
    assert_eq!(fetch(&server.address, &options, 0).await.unwrap(), BLOB);
}

#[tokio::test]
async fn redirects_end_somewhere() {
    let server = Server::start(|seen, _| Reply::new(307).header("location", format!("{}/x", seen.path()))).await;
    let refusal = fetch(&server.address, &plain(), 0).await.unwrap_err();
    assert!(refusal.is(RefusalKind::FailedPrecondition) && refusal.detail.contains("redirects"), "{refusal}");
    assert_eq!(server.seen().len(), 11);
    for location in ["file:///etc/passwd", "ftp://x/", "http://", "data:,x"] {
        let server = Server::start(move |_, _| Reply::new(302).header("location", location)).await;
        let refusal = fetch(&server.address, &plain(), 0).await.unwrap_err();
        assert!(refusal.is(RefusalKind::FailedPrecondition) && refusal.detail.contains("location"), "{refusal}");
    }
    let server = Server::start(|_, _| Reply::new(302)).await;
    assert!(fetch(&server.address, &plain(), 0).await.unwrap_err().detail.contains("302"));
}

/// A server that answers everything over TLS with a redirect to there.
fn secure_redirect(certificates: &Peer, to: String) -> String {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = vec![CertificateDer::from_pem_slice(&certificates.read("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&certificates.read("server.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Ends with the test's process; it has nothing that would outlive it.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(tls.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let reply = format!("HTTP/1.1 307 X\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            // A client that has gone away is fine.
            let _ = tls.write_all(reply.as_bytes()).and_then(|()| tls.flush());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    address
}

#[tokio::test]
async fn only_what_is_verified_may_come_over_plain_http() {
    let plain_server = Server::start(|_, _| {
        Reply::new(200)
            .header("content-type", media_type::OCI_MANIFEST)
            .header("docker-content-digest", digest(BLOB))
            .body(BLOB)
    })
    .await;
    let certificates = Peer::start(Kind { tls: true, ..Kind::default() });
    let secure = secure_redirect(&certificates, format!("http://{}/there", plain_server.address));
    let options = RegistryOptions::default();
    // A blob is checked against its digest.
    assert_eq!(fetch(&secure, &options, 0).await.unwrap(), BLOB);
    // Whoever is on the wire could make a tag name anything.
    let refusal = open(&options).resolve(&reference(&format!("{secure}/app:v1"))).await.unwrap_err();
    assert!(refusal.is(RefusalKind::FailedPrecondition) && refusal.detail.contains("insecure"), "{refusal}");
    assert_eq!(plain_server.seen().len(), 1);
}
