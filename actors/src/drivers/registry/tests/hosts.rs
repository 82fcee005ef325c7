//! Lookup and parsing of hosts.toml and certs.d.

use super::*;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(dir)
    }

    fn load(&self, registry: &str) -> Answer<Vec<HostConfig>> {
        load(registry, &[self.0.path().to_owned()], &RegistryOptions::default())
    }

    fn urls(&self, registry: &str) -> Vec<String> {
        self.load(registry).unwrap().iter().map(url).collect()
    }
}

fn url(host: &HostConfig) -> String {
    let scheme = match host.scheme {
        Scheme::Https => "https",
        Scheme::Http => "http",
        Scheme::HttpsOrHttp => "https?",
    };
    format!("{scheme}://{}{}", host.authority, host.path)
}

fn default_url(registry: &str, options: &RegistryOptions) -> (String, bool) {
    let hosts = load(registry, &[], options).unwrap();
    assert_eq!(hosts.len(), 1);
    (url(&hosts[0]), hosts[0].skip_verify)
}

#[test]
fn without_configuration_the_registry_speaks_for_itself() {
    let none = RegistryOptions::default();
    for (registry, expected, skip_verify) in [
        ("docker.io", "https://registry-1.docker.io/v2", false),
        ("quay.io", "https://quay.io/v2", false),
        ("quay.io:5000", "https://quay.io:5000/v2", false),
        ("localhost", "https://localhost/v2", true),
        ("localhost:443", "https://localhost:443/v2", true),
        ("localhost:80", "http://localhost:80/v2", false),
        ("127.0.0.1:5000", "https?://127.0.0.1:5000/v2", true),
        ("[::1]:5000", "https?://[::1]:5000/v2", true),
        ("[::1]", "https://[::1]/v2", true),
        ("127.0.0.1.example.com:5000", "https://127.0.0.1.example.com:5000/v2", false),
    ] {
        assert_eq!(default_url(registry, &none), (expected.to_owned(), skip_verify), "{registry}");
    }
    let plain = RegistryOptions { plain_http: true, ..Default::default() };
    assert_eq!(default_url("quay.io", &plain).0, "http://quay.io/v2");
    assert_eq!(default_url("127.0.0.1:5000", &plain).0, "http://127.0.0.1:5000/v2");
    assert_eq!(default_url("docker.io", &plain).0, "https://registry-1.docker.io/v2");
}

#[test]
fn the_folder_is_found_by_the_rules() {
    let file = |server: &str| format!("server = \"https://{server}\"");
    let dir = Dir::new(&[
        ("a.example_5000_/hosts.toml", &file("underscores")),
        ("a.example:5000/hosts.toml", &file("colon")),
        ("b.example:5000/hosts.toml", &file("colon")),
        ("b.example/hosts.toml", &file("portless")),
        ("_default/hosts.toml", &file("default")),
    ]);
    assert_eq!(dir.urls("a.example:5000"), ["https://underscores/v2"]);
    assert_eq!(dir.urls("b.example:5000"), ["https://colon/v2"]);
    assert_eq!(dir.urls("b.example"), ["https://portless/v2"]);
    assert_eq!(dir.urls("c.example"), ["https://default/v2"]);

    let other = Dir::new(&[("c.example/hosts.toml", &file("other"))]);
    let dirs = [PathBuf::from("/nonexistent"), other.0.path().to_owned(), dir.0.path().to_owned()];
    assert_eq!(load("c.example", &dirs, &RegistryOptions::default()).map(|h| url(&h[0])).unwrap(), "https://other/v2");
}

#[test]
fn mirrors_come_in_the_order_of_the_text_and_the_server_last() {
    let dir = Dir::new(&[(
        "docker.io/hosts.toml",
        r#"
        server = "https://upstream.example"
        capabilities = ["pull"]
        [host."http://z.example:5000"]
          capabilities = ["pull", "Resolve"]
          dial_timeout = "1m1.5s"
        [host."https://a.example/prefix"]
          skip_verify = true
          [host."https://a.example/prefix".header]
            x-one = "1"
            x-many = ["2", "3"]
        [host."m.example/odd"]
          override_path = true
        "#,
    )]);
    let hosts = dir.load("docker.io").unwrap();
    assert_eq!(
        hosts.iter().map(url).collect::<Vec<_>>(),
        [
            "http://z.example:5000/v2",
            "https://a.example/prefix/v2",
            "https://m.example/odd",
            "https://upstream.example/v2"
        ]
    );
    assert_eq!(hosts[0].capabilities, Capabilities { pull: true, resolve: true, push: false });
    assert_eq!(hosts[0].connect_timeout, Some(Duration::from_millis(61_500)));
    assert!(hosts[1].skip_verify && !hosts[0].skip_verify);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(hosts[1].headers, [header("x-many", "2"), header("x-many", "3"), header("x-one", "1")]);
    assert_eq!(hosts[3].capabilities, Capabilities { pull: true, resolve: false, push: false });
    assert!(hosts.iter().all(|h| h.is_mirror_of("docker.io")));
}

#[test]
fn the_real_server_follows_mirrors_when_none_is_named() {
    let dir = Dir::new(&[("_default/hosts.toml", "[host.\"http://mirror\"]\ncapabilities = [\"pull\"]")]);
    assert_eq!(dir.urls("docker.io"), ["http://mirror/v2", "https://registry-1.docker.io/v2"]);
    let hosts = dir.load("docker.io").unwrap();
    assert!(hosts[0].is_mirror_of("docker.io") && !hosts[1].is_mirror_of("docker.io"));
    assert_eq!(dir.urls("127.0.0.1:5000"), ["http://mirror/v2", "https?://127.0.0.1:5000/v2"]);
}

#[test]
fn certificates_are_read_from_every_spelling() {
    let dir = Dir::new(&[
        ("one/hosts.toml", "ca = \"ca.pem\"\nclient = \"both.pem\""),
        (
            "many/hosts.toml",
            "ca = [\"../one/ca.pem\", \"ca2.pem\"]\nclient = [[\"c.cert\", \"c.key\"], [\"both.pem\", \"\"]]",
        ),
        ("files/hosts.toml", "server = \"https://s\"\n[host.\"https://h\"]\nclient = [\"../one/both.pem\"]"),
        ("one/ca.pem", "CA1"),
        ("one/both.pem", "BOTH"),
        ("many/ca2.pem", "CA2"),
        ("many/both.pem", "BOTH2"),
        ("many/c.cert", "CERT"),
        ("many/c.key", "KEY"),
        ("docker/ca.crt", "CRT"),
        ("docker/z.crt", "CRT2"),
        ("docker/me.cert", "CERT"),
        ("docker/me.key", "KEY"),
        ("docker/README", "nothing"),
        ("keyless/me.cert", "CERT"),
    ]);
    let pair = |chain: &str, key: &str| ClientPem { chain: chain.into(), key: key.into() };
    let one = &dir.load("one").unwrap()[0];
    assert!(one.ca_pem == b"CA1\n" && one.clients == [pair("BOTH", "BOTH")]);
    let many = &dir.load("many").unwrap()[0];
    assert!(many.ca_pem == b"CA1\nCA2\n" && many.clients == [pair("CERT", "KEY"), pair("BOTH2", "BOTH2")]);
    let files = &dir.load("files").unwrap()[0];
    assert!(files.clients == [pair("BOTH", "BOTH")]);
    let docker = &dir.load("docker").unwrap()[0];
    assert!(docker.ca_pem == b"CRT\nCRT2\n" && docker.clients == [pair("CERT", "KEY")]);
    assert_eq!(url(docker), "https://docker/v2");
    let error = dir.load("keyless").err().unwrap().to_string();
    assert!(error.contains("missing key") && error.contains("me.key"), "{error}");
}

#[test]
fn wrong_files_are_refused_by_name() {
    let dir = Dir::new(&[
        ("syntax/hosts.toml", "server = "),
        ("capability/hosts.toml", "[host.\"https://h\"]\ncapabilities = [\"fly\"]"),
        ("scheme/hosts.toml", "server = \"httpx://h\""),
        ("ca/hosts.toml", "ca = \"missing.pem\""),
        ("timeout/hosts.toml", "dial_timeout = \"soon\""),
        ("type/hosts.toml", "skip_verify = \"yes\""),
    ]);
    for (host, words) in [
        ("syntax", "syntax/hosts.toml"),
        ("capability", "\"fly\""),
        ("scheme", "http or https"),
        ("ca", "missing.pem"),
        ("timeout", "dial_timeout"),
        ("type", "type/hosts.toml"),
    ] {
        let error = dir.load(host).err().unwrap().to_string();
        assert!(error.contains(words) && error.contains("hosts.toml") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn options_apply_to_every_host_but_what_it_says_itself_wins() {
    let dir = Dir::new(&[
        ("h/hosts.toml", "[host.\"https://strict\"]\nskip_verify = false\nca = \"ca.pem\"\n[host.\"https://lax\"]"),
        ("h/ca.pem", "CA"),
    ]);
    let options = RegistryOptions {
        skip_verify: true,
        tls_ca_pem: Some(b"MINE".to_vec()),
        tls_client_pem: Some((b"ME".to_vec(), b"KEY".to_vec())),
        hosts_dir: None,
        ..Default::default()
    };
    let hosts = load("h", &[dir.0.path().to_owned()], &options).unwrap();
    assert!(!hosts[0].skip_verify && hosts[1].skip_verify && hosts[2].skip_verify);
    assert_eq!((hosts[0].ca_pem.as_slice(), hosts[1].ca_pem.as_slice()), (&b"CA\nMINE"[..], &b"MINE"[..]));
    assert!(hosts.iter().all(|h| h.clients == [ClientPem { chain: b"ME".to_vec(), key: b"KEY".to_vec() }]));
}

#[test]
fn durations_are_gos() {
    for (text, millis) in
        [("5s", Some(5000)), ("300ms", Some(300)), ("1h0m1s", Some(3_601_000)), ("0s", None), ("", None)]
    {
        assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
    }
    for bad in ["5", "s", "-1s", "1x", "1..2s", "999999999999999999999h"] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
}
