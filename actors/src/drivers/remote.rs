//! gRPC services of other daemons on this machine, each behind a Unix socket.
//!
//! A connection is made when it is needed, kept, and made anew after the other side went away. Callers may be on any
//! thread that is allowed to wait; the bytes move on the daemon's own runtime.

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, mpsc},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::UnixStream, runtime::Handle};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
};
use wharf_grpc::status::refusal;
use wharf_messages::{Answer, Refusal, RefusalKind};

/// How long the other side may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The largest message, each way: what containerd's services are set to.
pub(crate) const MESSAGE_MAX_BYTES: usize = 16 << 20;
/// HTTP wants one; nobody looks at it.
const ORIGIN: &str = "http://localhost";

/// Another daemon's services.
#[derive(Debug, Clone)]
pub struct Remote {
    socket: Arc<Socket>,
    runtime: Handle,
}

#[derive(Debug)]
struct Socket {
    path: PathBuf,
    open: Mutex<Option<Channel>>,
}

impl Remote {
    /// The services behind a socket; nothing is connected yet.
    #[must_use]
    pub fn new(path: &Path, runtime: Handle) -> Self {
        Self { socket: Arc::new(Socket { path: path.to_owned(), open: Mutex::default() }), runtime }
    }

    /// What generated clients want to know of where they are.
    #[must_use]
    pub fn origin() -> http::Uri {
        http::Uri::from_static(ORIGIN)
    }

    /// Does a call and waits for its end.
    ///
    /// # Errors
    /// `Unavailable` if nobody listens or the connection breaks, `DeadlineExceeded`, and what the other side says.
    pub fn call<T, F>(&self, limit: Duration, call: impl FnOnce(Channel) -> F + Send + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send,
    {
        let socket = Arc::clone(&self.socket);
        let (tell, told) = mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            let talk = async {
                let channel = socket.channel().await?;
                let answer = call(channel.clone()).await;
                answer.map_err(|status| {
                    let mut refused = refusal(&status);
                    if channel.0.is_closed() {
                        refused.kind = RefusalKind::Unavailable;
                    }
                    refused
                })
            };
            let late = || Refusal::deadline_exceeded(format!("no answer within {} s", limit.as_secs()));
            let answer = tokio::time::timeout(limit, talk).await.unwrap_or_else(|_| Err(late()));
            // Nobody waits any more if the caller's thread is gone.
            tell.send(answer).ok();
        });
        let answer = told.recv().unwrap_or_else(|_| Err(Refusal::unavailable("wharfd is stopping")));
        answer.map_err(|refusal| refusal.context(self.socket.path.display()))
    }
}

impl Socket {
    async fn channel(&self) -> Answer<Channel> {
        // An option is whole at any moment, also after a panic beside it.
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(channel) = open.filter(|channel| !channel.0.is_closed()) {
            return Ok(channel);
        }
        let connecting = async {
            let stream = UnixStream::connect(&self.path).await.map_err(|e| Refusal::unavailable(e.to_string()))?;
            let shaken = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await;
            shaken.map_err(|e| Refusal::unavailable(e.to_string()))
        };
        let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        let (sender, connection) = connected.unwrap_or_else(|_| Err(Refusal::unavailable("connect: no answer")))?;
        // Its end is told to whoever sends.
        tokio::spawn(async { connection.await.ok() });
        let channel = Channel(sender);
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        Ok(channel)
    }
}

/// One connection, as the generated clients use it.
#[derive(Debug, Clone)]
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
