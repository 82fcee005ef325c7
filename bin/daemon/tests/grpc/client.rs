//! A daemon on private folders, and connections to it.

use crate::proto::containerd::services::{
    content::v1::content_client::ContentClient, events::v1::events_client::EventsClient,
    snapshots::v1::snapshots_client::SnapshotsClient,
};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use std::{
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
    Request, Status,
    body::Body,
    codegen::{Service, http},
};
use wharf_tests::{
    process::Guarded,
    wait::{self, PATIENCE},
};

/// HTTP wants one; the daemon does not look at it.
const ORIGIN: &str = "http://localhost";

/// A daemon; dropped, it is ended, then its folders go.
pub struct Daemon {
    process: Guarded,
    folder: tempfile::TempDir,
}

impl Daemon {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { process: run(folder.path()), folder }
    }

    /// Kills it and starts it again on the same folders.
    pub fn restart(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait_for(PATIENCE).unwrap();
        self.process = run(self.folder.path());
    }

    pub fn address(&self) -> PathBuf {
        self.folder.path().join("sock")
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
        EventsClient::with_origin(self.connect().await, http::Uri::from_static(ORIGIN))
    }

    pub async fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::with_origin(self.connect().await, http::Uri::from_static(ORIGIN))
    }
}

fn run(folder: &Path) -> Guarded {
    let at = |name: &str| folder.join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharfd"));
    command.env_remove("RUST_LOG").args(["--log-level", "debug"]);
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
    ContentClient::with_origin(channel, http::Uri::from_static(ORIGIN))
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
