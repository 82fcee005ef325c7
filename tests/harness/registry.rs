//! Debian's docker-registry on a loopback port.

use crate::{command, dir::TestDir, images::Layout, process::Guarded, wait};
use std::{
    fmt::Write,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

/// The user's name and password, where a registry asks for them.
pub const USER: (&str, &str) = ("tester", "secret");

/// What a registry asks of its clients.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demands {
    /// TLS, with a certificate of its own making.
    pub tls: bool,
    /// [`USER`].
    pub password: bool,
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    // Declared before the folder: it has to end first.
    _process: Guarded,
    address: SocketAddr,
    demands: Demands,
    dir: TestDir,
}

impl Registry {
    /// Starts one that speaks plain HTTP with anybody.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Demands::default())
    }

    /// Starts one.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn with(demands: Demands) -> Self {
        let dir = TestDir::new();
        let store = dir.folder("store");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {store:?}}}, \
             delete: {{enabled: true}}}}\nhttp:\n  addr: 127.0.0.1:0\n",
        );
        if demands.tls {
            make_certificate(&dir);
            let _ = writeln!(
                config,
                "  tls: {{certificate: {:?}, key: {:?}}}",
                dir.join("certificate.pem"),
                dir.join("key.pem")
            );
        }
        if demands.password {
            let line = command::tool("htpasswd", ["-Bbn", USER.0, USER.1]);
            let file = dir.file("htpasswd", line.trim());
            let _ = writeln!(config, "auth: {{htpasswd: {{realm: wharf, path: {file:?}}}}}");
        }
        let config = dir.file("config.yml", config);
        let log_path = dir.join("log");
        let log = fs::File::create(&log_path).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = Guarded::new(command.spawn().expect("docker-registry is installed: `.setup test`"));
        let address = wait::eventually("docker-registry", || {
            let log = fs::read_to_string(&log_path).unwrap();
            assert!(process.ended().is_none(), "docker-registry ended:\n{log}");
            let (_, after) = log.split_once("listening on ")?;
            after.split([',', '"', ' ', '\n']).next()?.parse().ok()
        });
        Self { _process: process, address, demands, dir }
    }

    /// A reference to a repository or image in it.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Its host and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that its own is signed by (itself), with TLS.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }

    /// A folder with a `hosts.toml` for it, that tells its scheme and certificate.
    #[must_use]
    pub fn hosts_folder(&self) -> PathBuf {
        let hosts = self.dir.folder("hosts");
        let scheme = if self.demands.tls { "https" } else { "http" };
        // containerd 1.6 wants the host's own table too.
        let mut text = format!("server = \"{scheme}://{0}\"\n[host.\"{scheme}://{0}\"]\n", self.address);
        if self.demands.tls {
            let _ = writeln!(text, "ca = {:?}", self.certificate());
        }
        let _ = self.dir.folder(format!("hosts/{}", self.address));
        let _ = self.dir.file(format!("hosts/{}/hosts.toml", self.address), text);
        hosts
    }

    /// What it has logged so far, a line a request among it.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// Where it keeps a blob, for a test that wants to damage it.
    #[must_use]
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.dir.join("store/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Fills it from a layout by skopeo, every platform; gives the reference.
    pub fn push(&self, layout: &Layout, name: &str) -> String {
        let from = format!("oci:{}:{}", layout.path().display(), crate::images::TAG);
        let reference = self.reference(name);
        let to = format!("docker://{reference}");
        let user = format!("{}:{}", USER.0, USER.1);
        let mut args = vec!["--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests"];
        args.push("--dest-tls-verify=false");
        if self.demands.password {
            args.extend(["--dest-creds", &user]);
        }
        args.extend([from.as_str(), to.as_str()]);
        command::tool("skopeo", args.as_slice());
        reference
    }
}

fn make_certificate(dir: &TestDir) {
    let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
    let (key, certificate) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    #[rustfmt::skip]
    command::tool("openssl", [
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-keyout", key, "-out", certificate,
    ]);
}
