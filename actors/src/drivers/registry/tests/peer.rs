//! Debian's docker-registry as a peer, and images made on the spot.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// `user` with the password `secret`, as bcrypt hashes it (cost 4: tests need not be slow).
const HTPASSWD: &str = "user:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// A registry on a free port of the loopback, in a folder of its own; both are gone with the value.
pub(super) struct Peer {
    pub(super) address: String,
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Already dead is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a registry is to be.
#[derive(Default, Clone, Copy)]
pub(super) struct Kind {
    pub(super) basic: bool,
    pub(super) tls: bool,
    pub(super) client_certificates: bool,
}

pub(super) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Peer {
    pub(super) fn start(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:0\n  secret: s\n",
            path.join("data").display()
        );
        if kind.tls {
            make_certificates(path);
            config.push_str(&format!(
                "  tls:\n    certificate: {0}/server.pem\n    key: {0}/server.key\n",
                path.display()
            ));
            if kind.client_certificates {
                config.push_str(&format!("    clientcas: [{}/ca.pem]\n", path.display()));
            }
        }
        if kind.basic {
            fs::write(path.join("htpasswd"), HTPASSWD).unwrap();
            config.push_str(&format!("auth: {{htpasswd: {{realm: r, path: {}/htpasswd}}}}\n", path.display()));
        }
        fs::write(path.join("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(path.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let address = lines.by_ref().find_map(|line| {
            let address =
                line.split("listening on ").nth(1).map(|rest| rest.split(['"', ',']).next().unwrap().to_owned());
            said.push(line);
            address
        });
        let peer = Self { address: address.clone().unwrap_or_default(), dir, child };
        assert!(address.is_some(), "docker-registry did not start: {said:?}");
        // It writes its log for as long as it lives; a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        peer
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    /// Puts an image there with skopeo.
    pub(super) fn fill(&self, image: &Image, name: &str, arguments: &[&str]) {
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
            .args(arguments)
            .arg(format!("oci:{}:image", image.layout().display()))
            .arg(format!("docker://{}/{name}", self.address)));
    }
}

/// A certificate authority, a server's certificate for 127.0.0.1, and a client's.
fn make_certificates(dir: &Path) {
    let openssl = |arguments: &str| {
        run(Command::new("openssl").current_dir(dir).args(arguments.split(' ')));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=wharf-test-ca"));
    let signed = format!("req -x509 {key} -CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE");
    openssl(&format!(
        "{signed} -keyout server.key -out server.pem -subj /CN=server -addext subjectAltName=IP:127.0.0.1"
    ));
    openssl(&format!(
        "{signed} -keyout client.key -out client.pem -subj /CN=client -addext extendedKeyUsage=clientAuth"
    ));
}

/// An image of busybox and some incompressible bytes, as an OCI layout.
pub(super) struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    pub(super) fn make(noise: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = Self { dir };
        let tag = format!("{}:image", image.layout().display());
        run(Command::new("umoci").args(["init", "--layout"]).arg(image.layout()));
        run(Command::new("umoci").args(["new", "--image", &tag]));
        let bin = image.dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        fs::write(image.dir.path().join("noise"), noise).unwrap();
        run(Command::new("umoci").args(["insert", "--image", &tag]).arg(&bin).arg("/bin"));
        run(Command::new("umoci").args(["insert", "--image", &tag]).arg(image.dir.path().join("noise")).arg("/noise"));
        run(Command::new("umoci").args(["config", "--config.cmd", "/bin/busybox", "--image", &tag]));
        image
    }

    pub(super) fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    pub(super) fn blob(&self, hex: &str) -> Vec<u8> {
        fs::read(self.layout().join("blobs/sha256").join(hex)).unwrap()
    }
}
