//! A daemon on private folders, and connections to it.

use crate::proto::containerd::services::{
    containers::v1::containers_client::ContainersClient, content::v1::content_client::ContentClient,
    events::v1::events_client::EventsClient, images::v1::images_client::ImagesClient,
    leases::v1::leases_client::LeasesClient, namespaces::v1::namespaces_client::NamespacesClient,
    snapshots::v1::snapshots_client::SnapshotsClient,
};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use std::{
    collections::BTreeMap,
    future::Future,
    os::unix::net,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Stdio},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::UnixStream, time};
use tonic::{
    Code, Request, Status,
    body::Body,
    codegen::{Service, http},
};
use wharf_tests::{
    Containerd, leftovers,
    process::Guarded,
    wait::{self, PATIENCE},
};

/// HTTP wants one; the daemon does not look at it.
const ORIGIN: &str = "http://localhost";

pub fn origin() -> http::Uri {
    http::Uri::from_static(ORIGIN)
}

/// A daemon; dropped, it is ended, then its folders go.
pub struct Daemon {
    name: &'static str,
    address: PathBuf,
    process: Option<Guarded>,
    held: Held,
}

/// What goes with a daemon.
enum Held {
    Folder(Folder),
    Containerd(Box<Containerd>),
}

/// A folder of ours, and the namespace of the containers that are run there.
struct Folder {
    dir: tempfile::TempDir,
    namespace: String,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Where a test failed there may be containers.
        if let Err(problem) = leftovers::remove(self.dir.path(), &self.namespace) {
            eprintln!("{problem}");
        }
    }
}

impl Daemon {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// One with these variables in its environment.
    pub fn with(env: &[(String, String)]) -> Self {
        let folder = Folder { dir: tempfile::tempdir().unwrap(), namespace: wait::unique("w") };
        let (address, process) = (folder.dir.path().join("sock"), Some(run(folder.dir.path(), env)));
        Self { name: "wharf", address, process, held: Held::Folder(folder) }
    }

    /// Ours, and Debian's containerd: what is asked of both is what containerd does.
    pub fn both() -> [Self; 2] {
        let containerd = Containerd::start();
        let address = containerd.address();
        let theirs = Self { name: "containerd", address, process: None, held: Held::Containerd(Box::new(containerd)) };
        [Self::start(), theirs]
    }

    /// Kills it and starts it again on the same folders.
    pub fn restart(&mut self) {
        let Held::Folder(folder) = &self.held else { panic!("only ours is started again") };
        let mut process = self.process.take().unwrap();
        process.signal(Signal::SIGKILL);
        process.wait_for(PATIENCE).unwrap();
        self.process = Some(run(folder.dir.path(), &[]));
    }

    /// Whose it is.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A namespace that no other daemon has: cgroups are named by it.
    pub fn namespace(&self) -> &str {
        match &self.held {
            Held::Folder(folder) => &folder.namespace,
            Held::Containerd(containerd) => containerd.namespace(),
        }
    }

    pub fn pid(&self) -> i32 {
        self.process.as_ref().unwrap().pid()
    }

    pub fn address(&self) -> PathBuf {
        self.address.clone()
    }

    pub async fn connect(&self) -> Channel {
        self.connect_until().await.0
    }

    /// A connection, and its socket, by which it can be closed whatever is open on it.
    pub async fn connect_until(&self) -> (Channel, net::UnixStream) {
        let stream = net::UnixStream::connect(self.address()).unwrap();
        let socket = stream.try_clone().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(stream).unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        // Its end is told to whoever sends.
        tokio::spawn(async { connection.await.ok() });
        (Channel(sender), socket)
    }

    pub async fn content(&self) -> ContentClient<Channel> {
        content(self.connect().await)
    }

    pub async fn events(&self) -> EventsClient<Channel> {
        EventsClient::with_origin(self.connect().await, origin())
    }

    pub async fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::with_origin(self.connect().await, origin())
    }

    pub async fn namespaces(&self) -> NamespacesClient<Channel> {
        NamespacesClient::with_origin(self.connect().await, origin())
    }

    pub async fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::with_origin(self.connect().await, origin())
    }

    pub async fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::with_origin(self.connect().await, origin())
    }

    pub async fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::with_origin(self.connect().await, origin())
    }
}

fn run(folder: &Path, env: &[(String, String)]) -> Guarded {
    let at = |name: &str| folder.join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharfd"));
    command.env_remove("RUST_LOG").envs(env.iter().cloned()).args(["--log-level", "debug"]);
    command.arg("--root").arg(at("root")).arg("--state").arg(at("state")).arg("--address").arg(at("sock"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(at("log")).unwrap());
    let mut process = Guarded::new(command.spawn().unwrap());
    wait::eventually("wharfd", || {
        assert!(process.ended().is_none(), "{}", std::fs::read_to_string(at("log")).unwrap());
        net::UnixStream::connect(at("sock")).ok()
    });
    process
}

/// The content service over a connection.
pub fn content(channel: Channel) -> ContentClient<Channel> {
    ContentClient::with_origin(channel, origin())
}

/// Asks both daemons the same and compares what they answered, texts included. `known` are the steps at which ours says
/// the same with other words, each with the reason; with a `*` at its end a name stands for all that begin so.
pub async fn compare(known: &[(&str, &str)], ask: impl AsyncFn(&Daemon, &mut Answers)) {
    compare_but(known, &[], ask).await;
}

/// As [`compare`]; `others` are the steps at which ours does something else, and why it is right to.
pub async fn compare_but(known: &[(&str, &str)], others: &[(&str, &str)], ask: impl AsyncFn(&Daemon, &mut Answers)) {
    let mut told = Vec::new();
    for daemon in Daemon::both() {
        let mut answers = Answers { name: daemon.name(), steps: Vec::new() };
        ask(&daemon, &mut answers).await;
        told.push(answers.steps);
    }
    let (ours, theirs) = (&told[0], &told[1]);
    assert_eq!(ours.len(), theirs.len());
    let mut differences = Vec::new();
    for ((step, our), (_, their)) in ours.iter().zip(theirs) {
        let is_it = |known: &str| known.strip_suffix('*').map_or(known == step, |stem| step.starts_with(stem));
        let is_in = |steps: &[(&str, &str)]| steps.iter().any(|(known, _)| is_it(known));
        let code = |answer: &str| answer.split(' ').next().map(str::to_owned);
        let meant = is_in(others) || is_in(known) && code(our) == code(their);
        if our != their && !meant {
            differences.push(format!("{step}\n  wharf      {our}\n  containerd {their}"));
        }
    }
    assert!(differences.is_empty(), "{} steps differ:\n{}", differences.len(), differences.join("\n"));
}

/// What one daemon answered, step by step.
pub struct Answers {
    name: &'static str,
    steps: Vec<(String, String)>,
}

impl Answers {
    /// Notes an answer, whose code must be this one; what is seen of a good one is up to the caller.
    #[track_caller]
    pub fn note<T>(&mut self, step: &str, want: Code, answer: Result<T, Status>, see: impl FnOnce(T) -> String) {
        let (code, text) = match answer {
            Ok(value) => (Code::Ok, see(value)),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        assert_eq!(code, want, "{}: {step}: {text}", self.name);
        self.steps.push((step.to_owned(), format!("{code:?} {text}")));
    }

    /// Notes an answer whose code is containerd's own affair.
    pub fn seen(&mut self, step: &str, answer: Result<String, Status>) {
        let (code, text) = match answer {
            Ok(text) => (Code::Ok, text),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        self.steps.push((step.to_owned(), format!("{code:?} {text}")));
    }

    /// Notes that something was done or refused.
    #[track_caller]
    pub fn done<T>(&mut self, step: &str, want: Code, answer: Result<T, Status>) {
        self.note(step, want, answer, |_| String::new());
    }
}

/// One connection.
#[derive(Clone)]
pub struct Channel(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A request in a namespace.
pub fn within<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
    request
}

/// A mask.
pub fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

/// Labels, `KEY=VALUE` each.
pub fn labels(texts: &[&str]) -> BTreeMap<String, String> {
    let pair = |text: &&str| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap();
    texts.iter().map(pair).collect()
}

/// Labels as one text.
pub fn shown(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Tries until it works.
pub async fn eventually<T, F: Future<Output = Result<T, Status>>>(mut attempt: impl FnMut() -> F) -> T {
    let mut last = None;
    let trying = async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(status) => last = Some(status),
            }
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    let tried = time::timeout(PATIENCE, trying).await;
    tried.unwrap_or_else(|_| panic!("{last:?}"))
}
