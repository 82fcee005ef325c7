//! The daemon's socket: made with its owner and mode before anybody can see it, and the loop that takes connections.

use super::{
    grpc,
    native::{
        self, Service,
        handshake::{self, Protocol},
    },
    peer::{self, Allowed},
    threads::Threads,
};
use nix::unistd::{Gid, Uid, chown};
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use wharf_messages::{Answer, Refusal};

/// How long a client has for its first words.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait when the process has no descriptor left for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Root and the group; others cannot connect.
const MODE: u32 = 0o660;

/// The socket's file, as long as it is ours. Dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another daemon may have put its own there since; that one is not ours to remove.
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Refuses an address at which a daemon answers.
///
/// # Errors
/// `AlreadyExists` if one does; `InvalidArgument` if something other than a socket is there.
pub fn check_address(address: &Path) -> Answer<()> {
    match fs::symlink_metadata(address) {
        Err(_) => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Refusal::invalid(format!("address {}: there is a file that is no socket", address.display())));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(address) {
        Ok(_) => Err(Refusal::already_exists(format!("a daemon answers at {}", address.display()))),
        // Left by one that was killed.
        Err(_) => Ok(()),
    }
}

/// Listens at an address. The socket gets owner and mode under another name and then takes the place of a stale one, so
/// that nobody meets it with others.
///
/// # Errors
/// As [`check_address`]; what the file system says.
pub fn bind(address: &Path, owner: Allowed) -> Answer<(UnixListener, SocketFile)> {
    check_address(address)?;
    let failed = |error: io::Error| Refusal::io(format!("listen at {}", address.display()), &error);
    let (Some(folder), Some(name)) = (address.parent(), address.file_name()) else {
        return Err(Refusal::invalid(format!("address {} is no path of a socket", address.display())));
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let fresh = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // A process with this id may have died between these steps.
    fs::remove_file(&fresh)
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .map_err(failed)?;
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    let placed = (|| {
        fs::set_permissions(&fresh, fs::Permissions::from_mode(MODE))?;
        chown(&fresh, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        let metadata = fs::symlink_metadata(&fresh)?;
        fs::rename(&fresh, address)?;
        Ok(SocketFile { path: address.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    })();
    match placed {
        Ok(file) => Ok((listener, file)),
        Err(error) => {
            fs::remove_file(&fresh).ok();
            Err(failed(error))
        }
    }
}

/// What the accept loop needs to know.
#[derive(Debug)]
pub struct Limits {
    /// Who may connect.
    pub allowed: Allowed,
    /// Connections at a time.
    pub connections_max: usize,
}

/// What connections are served with, by the protocol they speak.
#[derive(Debug)]
pub struct FrontEnds<D: 'static> {
    /// For frames.
    pub native: Service<D>,
    /// For HTTP/2; none turns such connections away.
    pub grpc: Option<grpc::Api>,
}

/// Takes connections until the daemon stops, then waits until they have ended.
///
/// They are taken on one of the threads that serve them: every other one need not be handed to a thread that sleeps.
///
/// # Errors
/// What the event loop says of the listener; `Internal` if the loop panics.
pub async fn serve<D>(
    listener: UnixListener,
    threads: Threads,
    limits: Limits,
    fronts: Arc<FrontEnds<D>>,
    stopping: CancellationToken,
) -> Answer<()>
where
    D: Clone + Send + Sync + 'static,
{
    let failed = |error: io::Error| Refusal::io("watch the listener", &error);
    let listener = listener.into_std().map_err(failed)?;
    let mut next = threads.in_turn();
    let first = next();
    let take = async move {
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        take(listener, next, limits, fronts, stopping).await;
        Ok(())
    };
    // It ends with this future, too.
    let mut taking = JoinSet::new();
    taking.spawn_on(take, &first);
    match taking.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => Err(Refusal::internal(format!("take connections: {error}"))),
        None => Ok(()),
    }
}

async fn take<D>(
    listener: UnixListener,
    mut next: impl FnMut() -> Handle,
    limits: Limits,
    fronts: Arc<FrontEnds<D>>,
    stopping: CancellationToken,
) where
    D: Clone + Send + Sync + 'static,
{
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        // Its own event loop is to watch it.
        let stream = match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        match room.clone().try_acquire_owned() {
            Ok(place) => {
                let (fronts, stopping) = (fronts.clone(), stopping.clone());
                connections.spawn_on(connection(stream, limits.allowed, fronts, stopping, place), &next());
            }
            Err(_) => {
                tracing::warn!(connections_max = limits.connections_max, "too many connections, one is turned away")
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// Serves one connection to its end.
async fn connection<D>(
    stream: std::os::unix::net::UnixStream,
    allowed: Allowed,
    fronts: Arc<FrontEnds<D>>,
    stopping: CancellationToken,
    _place: OwnedSemaphorePermit,
) where
    D: Clone + Send + Sync + 'static,
{
    let mut stream = match UnixStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a connection could not be taken"),
    };
    let peer = match peer::credentials(&stream) {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!(%error, "a connection has no credentials"),
    };
    // Groups that cannot be read are groups that nobody is in.
    if !allowed.admits(peer, &peer::groups(&stream).unwrap_or_default()) {
        return tracing::warn!(pid = peer.pid, uid = peer.uid, gid = peer.gid, "a connection of a stranger is closed");
    }
    // Boxed, so that the room for it goes with it.
    let greeted = Box::pin(timeout(HANDSHAKE, greet(&mut stream)));
    let greeted = tokio::select! {
        greeted = greeted => greeted,
        () = stopping.cancelled() => return,
    };
    let spoken = match greeted {
        Ok(Ok(Some(spoken))) => spoken,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(pid = peer.pid, %error, "a connection ended before its first words"),
        Err(_) => return tracing::info!(pid = peer.pid, "a connection without first words is closed"),
    };
    let broken = match (spoken, &fronts.grpc) {
        (Spoken::Frames, _) => {
            native::serve(&fronts.native, stream, peer, stopping).await.err().map(|error| error.to_string())
        }
        (Spoken::Http2, Some(api)) => {
            // Streams are to a client what calls are.
            let streams_max = u32::try_from(fronts.native.calls_max).unwrap_or(u32::MAX);
            grpc::serve(api.clone(), streams_max, stream, peer, stopping).await.err()
        }
        (Spoken::Http2, None) => {
            return tracing::info!(pid = peer.pid, "a gRPC connection is closed: it is not served");
        }
    };
    if let Some(error) = broken {
        tracing::warn!(pid = peer.pid, uid = peer.uid, %error, "a connection broke the protocol and is closed");
    }
}

/// A protocol whose first words are said.
#[derive(Debug, Clone, Copy)]
enum Spoken {
    Frames,
    Http2,
}

/// Finds out which front end takes the connection, if one does.
async fn greet(stream: &mut UnixStream) -> io::Result<Option<Spoken>> {
    match handshake::protocol(stream).await? {
        Protocol::Native => match handshake::shake_hands(stream).await? {
            Ok(_) => Ok(Some(Spoken::Frames)),
            Err(error) => {
                tracing::info!(%error, "a connection is closed");
                Ok(None)
            }
        },
        Protocol::Http2 if handshake::http2_preface(stream).await? => Ok(Some(Spoken::Http2)),
        Protocol::Http2 => {
            tracing::info!("a connection that is neither gRPC's nor ours is closed");
            Ok(None)
        }
        Protocol::Other(first) => {
            tracing::info!(?first, "a connection that speaks no known protocol is closed");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
