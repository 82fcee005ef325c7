//! Reaching the daemon: connect, shake hands, and say clearly why it did not work.

use crate::pipe;
use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    time::{Instant, sleep, timeout_at},
};
use wharf_messages::{
    Answer, Refusal,
    wire::{HELLO_BYTES, Hello},
};

/// How long to try, unless told otherwise: `ctr`'s connect timeout.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts at a daemon that is not there yet.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Where the daemon is and how long to try to reach it.
#[derive(Debug, Clone)]
pub struct Dial {
    /// The path of its socket.
    pub address: PathBuf,
    /// For connecting and the first words.
    pub timeout: Duration,
    /// Whether to wait, within the timeout, for a daemon that is not there (yet).
    pub wait_for_daemon: bool,
}

impl Dial {
    /// With the usual timeout, and an error at once if no daemon is there.
    #[must_use]
    pub fn new(address: impl AsRef<Path>) -> Self {
        Self { address: address.as_ref().to_owned(), timeout: TIMEOUT, wait_for_daemon: false }
    }

    /// Connects and agrees on the protocol's version.
    pub(crate) async fn dial(&self) -> Answer<UnixStream> {
        let deadline = Instant::now() + self.timeout;
        let mut stream = loop {
            match timeout_at(deadline, UnixStream::connect(&self.address)).await {
                Ok(Ok(stream)) => break stream,
                Ok(Err(error)) if !self.may_pass(&error) || Instant::now() + RETRY_PAUSE > deadline => {
                    return Err(self.refusal(&error));
                }
                Ok(Err(_)) => sleep(RETRY_PAUSE).await,
                Err(_) => return Err(self.refusal(&ErrorKind::TimedOut.into())),
            }
        };
        match timeout_at(deadline, shake_hands(&mut stream)).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(refusal)) => Err(refusal.context(format!("wharfd at {}", self.address.display()))),
            Err(_) => Err(self.refusal(&ErrorKind::TimedOut.into())),
        }
    }

    /// Whether trying again may help: the listener's queue is full, or the daemon is awaited.
    fn may_pass(&self, error: &io::Error) -> bool {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => true,
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => self.wait_for_daemon,
            _ => false,
        }
    }

    fn refusal(&self, error: &io::Error) -> Refusal {
        let doing = format!("cannot connect to wharfd at {}", self.address.display());
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Refusal::unavailable(format!("{doing}: is it running?"))
            }
            ErrorKind::TimedOut => Refusal::deadline_exceeded(format!("{doing}: no answer within {:?}", self.timeout)),
            ErrorKind::PermissionDenied => {
                Refusal::permission_denied(format!("{doing}: its socket is for root and the socket's group"))
            }
            _ => Refusal::io(doing, error),
        }
    }
}

async fn shake_hands(stream: &mut UnixStream) -> Answer<()> {
    let lost = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Refusal::unavailable(
            "it closed the connection before the first words: busy, stopping, or not for this user",
        ),
        _ => Refusal::io("first words", &error),
    };
    pipe::write_all(stream, &Hello::OURS.encode(), &[]).await.map_err(lost)?;
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello).await.map_err(lost)?;
    Hello::OURS.agree(Hello::decode(hello)?)?;
    Ok(())
}
