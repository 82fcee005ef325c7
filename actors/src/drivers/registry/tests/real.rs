//! Against Debian's docker-registry, filled by skopeo with images made by umoci.

use super::{
    peer::{Image, Kind, Peer},
    *,
};
use wharf_messages::RefusalKind;

/// Pulls a whole image; returns how many layers it had. Everything must be what the layout says.
async fn pull(registry: &dyn Registry, name: &str, image: &Image) -> Answer<usize> {
    let reference = reference(name);
    let descriptor = registry.resolve(&reference).await?;
    let manifest = registry.manifest(&reference, &descriptor).await?;
    assert_eq!(digest(&manifest), descriptor.digest);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    for blob in layers.iter().chain([&manifest["config"]]) {
        let text = |key: &str| blob[key].as_str().unwrap();
        let blob =
            Descriptor::new(text("mediaType"), Digest::new(text("digest")).unwrap(), blob["size"].as_u64().unwrap());
        let expected = image.blob(blob.digest.hex());
        for offset in [0, expected.len() / 2, expected.len()] {
            let (bytes, refusal) = collect(registry.fetch(&reference, &blob, offset as u64).await?).await;
            assert_eq!(refusal, None);
            assert!(bytes == expected[offset..], "{} from {offset}", blob.digest);
        }
    }
    Ok(layers.len())
}

fn user(password: &str) -> Option<(String, String)> {
    Some(("user".into(), password.into()))
}

#[tokio::test]
async fn images_are_pulled_by_tag_and_digest() {
    let (peer, image) = (Peer::start(Kind::default()), Image::make(&content(3 << 20)));
    peer.fill(&image, "app/oci:v1", &[]);
    let address = &peer.address;
    // Nobody says that this registry speaks plain HTTP: it is found out, as loopback has a right to.
    let registry = open(&RegistryOptions::default());
    let name = format!("{address}/app/oci:v1");
    assert_eq!(pull(&*registry, &name, &image).await.unwrap(), 2);
    let descriptor = registry.resolve(&reference(&name)).await.unwrap();
    assert_eq!(descriptor.media_type, media_type::OCI_MANIFEST);
    let pinned = format!("{address}/app/oci@{}", descriptor.digest);
    assert_eq!(pull(&*open(&plain()), &pinned, &image).await.unwrap(), 2);
    // A digest may name a blob as well.
    let manifest = registry.manifest(&reference(&pinned), &descriptor).await.unwrap();
    let config: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let config = config["config"]["digest"].as_str().unwrap();
    let blob = registry.resolve(&reference(&format!("{address}/app/oci@{config}"))).await.unwrap();
    assert_eq!((blob.digest.as_str(), blob.media_type.as_str()), (config, "application/octet-stream"));

    for missing in ["app/oci:v2", "app/nothing:v1"] {
        let refusal = registry.resolve(&reference(&format!("{address}/{missing}"))).await.unwrap_err();
        let text = refusal.to_string();
        assert!(refusal.is(RefusalKind::NotFound) && text.contains(missing) && text.contains("404"), "{text}");
    }
    let missing = layer(b"nobody has this");
    let refusal = registry.fetch(&reference(&name), &missing, 0).await.err().unwrap();
    let text = refusal.to_string();
    assert!(
        refusal.is(RefusalKind::NotFound) && text.contains(missing.digest.as_str()) && text.contains("BLOB_UNKNOWN"),
        "{text}"
    );
}

#[tokio::test]
async fn docker_manifests_are_pulled_as_they_are() {
    let (peer, image) = (Peer::start(Kind::default()), Image::make(b"little"));
    peer.fill(&image, "docker:v2s2", &["--format", "v2s2"]);
    let registry = open(&plain());
    let reference = reference(&format!("{}/docker:v2s2", peer.address));
    let descriptor = registry.resolve(&reference).await.unwrap();
    assert_eq!(descriptor.media_type, media_type::DOCKER_MANIFEST);
    registry.manifest(&reference, &descriptor).await.unwrap();
}

#[tokio::test]
async fn basic_authorisation_comes_from_the_request_or_from_dockers_config() {
    let (peer, image) = (Peer::start(Kind { basic: true, ..Kind::default() }), Image::make(b"little"));
    peer.fill(&image, "app:v1", &["--dest-creds", "user:secret"]);
    let name = format!("{}/app:v1", peer.address);
    let with = |user| RegistryOptions { user, ..plain() };
    assert_eq!(pull(&*open(&with(user("secret"))), &name, &image).await.unwrap(), 2);

    for (credentials, words) in [(None, "none are known"), (user("wrong"), "401")] {
        let refusal = pull(&*open(&with(credentials)), &name, &image).await.unwrap_err();
        let text = refusal.to_string();
        assert!(refusal.is(RefusalKind::Unauthenticated) && text.contains(words) && !text.contains("wrong"), "{text}");
    }

    let config = peer.file("config.json");
    // user:secret
    std::fs::write(&config, format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#, peer.address)).unwrap();
    let stored = HttpRegistries::new(RegistryConfig { docker_config: Some(config), ..config_for(limits()) });
    assert_eq!(pull(&*stored.open(&plain()), &name, &image).await.unwrap(), 2);
}

#[tokio::test]
async fn tls_is_verified_against_what_is_configured() {
    let (peer, image) = (Peer::start(Kind { tls: true, ..Kind::default() }), Image::make(b"little"));
    peer.fill(&image, "app:v1", &[]);
    let name = format!("{}/app:v1", peer.address);
    let none = RegistryOptions::default();
    // On loopback the certificate is nobody's business.
    assert_eq!(pull(&*open(&none), &name, &image).await.unwrap(), 2);

    // With a hosts.toml that names the server it is.
    let dir = peer.file("certs.d");
    let own = dir.join(peer.address.replace(':', "_") + "_");
    std::fs::create_dir_all(&own).unwrap();
    let toml =
        |text: &str| std::fs::write(own.join("hosts.toml"), format!("server = 'https://{}'\n{text}", peer.address));
    let configured = RegistryOptions { hosts_dir: Some(dir.display().to_string()), ..none.clone() };
    let try_pull = async |options: &RegistryOptions| pull(&*open(options), &name, &image).await;

    toml("").unwrap();
    let refusal = try_pull(&configured).await.unwrap_err();
    let text = refusal.to_string();
    let known = ["is not trusted", "no certificate authorities"];
    assert!(known.iter().any(|words| text.contains(words)) && text.contains(&peer.address), "{text}");

    let ca_pem = peer.read("ca.pem");
    assert_eq!(try_pull(&RegistryOptions { tls_ca_pem: Some(ca_pem), ..configured.clone() }).await.unwrap(), 2);
    assert_eq!(try_pull(&RegistryOptions { skip_verify: true, ..configured.clone() }).await.unwrap(), 2);
    toml("ca = '../../ca.pem'").unwrap();
    assert_eq!(try_pull(&configured).await.unwrap(), 2);
    toml("skip_verify = true").unwrap();
    assert_eq!(try_pull(&configured).await.unwrap(), 2);

    // The right authority, but the name is not in the certificate.
    std::fs::write(
        own.join("hosts.toml"),
        format!("server = 'https://{}'\nca = '../../ca.pem'", peer.address.replace("127.0.0.1", "127.0.0.2")),
    )
    .unwrap();
    assert!(try_pull(&configured).await.is_err());

    // TLS was asked for and the server does not speak it.
    let other = Peer::start(Kind::default());
    std::fs::write(own.join("hosts.toml"), format!("server = 'https://{}'\nskip_verify = true", other.address))
        .unwrap();
    let text = try_pull(&configured).await.unwrap_err().to_string();
    assert!(text.contains("does not speak tls"), "{text}");
}

#[tokio::test]
async fn client_certificates_are_shown() {
    let kind = Kind { tls: true, client_certificates: true, ..Kind::default() };
    let (peer, image) = (Peer::start(kind), Image::make(b"little"));
    // A folder of certificates as Docker has it.
    let dir = peer.file("certs.d");
    let own = dir.join(&peer.address);
    std::fs::create_dir_all(&own).unwrap();
    for (from, to) in [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")] {
        std::fs::copy(peer.file(from), own.join(to)).unwrap();
    }
    let certificates = format!("--dest-cert-dir={}", own.display());
    peer.fill(&image, "app:v1", &[&certificates]);
    let name = format!("{}/app:v1", peer.address);
    let by_folder = RegistryOptions { hosts_dir: Some(dir.display().to_string()), ..RegistryOptions::default() };
    assert_eq!(pull(&*open(&by_folder), &name, &image).await.unwrap(), 2);
    let by_options = RegistryOptions {
        tls_client_pem: Some((peer.read("client.pem"), peer.read("client.key"))),
        ..RegistryOptions::default()
    };
    assert_eq!(pull(&*open(&by_options), &name, &image).await.unwrap(), 2);
    let refusal = pull(&*open(&RegistryOptions::default()), &name, &image).await.unwrap_err();
    assert!(refusal.is(RefusalKind::Unavailable), "{refusal}");
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_rest_in_order() {
    let (empty, full) = (Peer::start(Kind::default()), Peer::start(Kind::default()));
    let image = Image::make(b"little");
    full.fill(&image, "library/app:v1", &[]);
    let dir = full.file("certs.d");
    std::fs::create_dir_all(dir.join("docker.io")).unwrap();
    // The first is down, the second knows nothing, the third may not resolve tags, the fourth has it.
    let toml = format!(
        "server = 'http://127.0.0.1:1'\n[host.'http://127.0.0.1:1']\n[host.'http://{0}']\n\
         [host.'http://{1}/']\ncapabilities = ['pull']\n[host.'http://{1}/v2']\n",
        empty.address, full.address
    );
    std::fs::write(dir.join("docker.io/hosts.toml"), toml).unwrap();
    let options = RegistryOptions { hosts_dir: Some(dir.display().to_string()), ..RegistryOptions::default() };
    assert_eq!(pull(&*open(&options), "docker.io/library/app:v1", &image).await.unwrap(), 2);

    let refusal = open(&options).resolve(&reference("docker.io/library/app:v2")).await.unwrap_err();
    let text = refusal.to_string();
    assert!(
        refusal.is(RefusalKind::Unavailable) && text.contains("connection refused") && text.contains("404"),
        "{text}"
    );
}

#[tokio::test]
async fn content_is_pushed_once_and_mounted_after() {
    let peer = Peer::start(Kind { basic: true, ..Kind::default() });
    let registry = open(&RegistryOptions { user: user("secret"), ..plain() });
    let (first, second) = (format!("{}/a/one:v1", peer.address), format!("{}/b/two:v1", peer.address));
    let bytes = Bytes::from(content(2 << 20));
    let blob = layer(&bytes);
    let copy = bytes.clone();
    let source: BlobSource = Arc::new(move || {
        futures_util::stream::iter(copy.chunks(100_000).map(|c| Ok(copy.slice_ref(c))).collect::<Vec<_>>()).boxed()
    });
    let push = async |name: &str, from| registry.push_blob(&reference(name), &blob, from, source.clone()).await;
    assert_eq!(push(&first, Some("not/there")).await.unwrap(), Pushed::Sent);
    assert_eq!(push(&first, None).await.unwrap(), Pushed::Existed);
    assert_eq!(push(&second, Some("a/one")).await.unwrap(), Pushed::Mounted);

    let config = Bytes::from_static(b"{}");
    let described = Descriptor::new(media_type::OCI_CONFIG, digest(&config), 2);
    let source: BlobSource = Arc::new(move || futures_util::stream::iter([Ok(config.clone())]).boxed());
    registry.push_blob(&reference(&second), &described, None, source).await.unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":2}},
            "layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        described.digest,
        blob.media_type,
        blob.digest,
        blob.size_bytes
    );
    let manifest = Bytes::from(manifest);
    let root = Descriptor::new(media_type::OCI_MANIFEST, digest(&manifest), manifest.len() as u64);
    let second = reference(&second);
    assert_eq!(registry.push_manifest(&second, &root, manifest.clone()).await.unwrap(), Pushed::Sent);
    assert_eq!(registry.push_manifest(&second, &root, manifest.clone()).await.unwrap(), Pushed::Existed);
    assert_eq!(registry.resolve(&second).await.unwrap(), root);
    let (pulled, refusal) = collect(registry.fetch(&second, &blob, 0).await.unwrap()).await;
    assert!(refusal.is_none() && pulled == bytes);

    // A blob that is not what it is called.
    let lie = layer(b"something else");
    let source: BlobSource =
        Arc::new(|| futures_util::stream::iter([Ok(Bytes::from_static(b"something wrong"))]).boxed());
    assert!(registry.push_blob(&second, &Descriptor { size_bytes: 15, ..lie }, None, source).await.is_err());
}
