use super::*;
use crate::frontends::native::{
    CALLS_MAX,
    tests::{LAB_TABLE, Lab, calls::*},
};
use std::os::unix::net::UnixStream as StdStream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};
use wharf_client::{Client, Dial};
use wharf_messages::{Namespace, RefusalKind, wire::Hello};

/// A listener with the tests' calls behind it, on a socket of its own.
struct Daemon {
    stopping: CancellationToken,
    serving: JoinHandle<Answer<()>>,
    _file: SocketFile,
    seen: tokio::sync::mpsc::UnboundedReceiver<String>,
}

fn ourselves() -> Allowed {
    Allowed { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
}

fn daemon(address: &Path, connections_max: usize) -> Daemon {
    let (listener, file) = bind(address, ourselves()).unwrap();
    let (doer, seen) = Lab::new();
    let native = Service { table: LAB_TABLE, doer, calls_max: CALLS_MAX };
    let fronts = Arc::new(FrontEnds { native, grpc: None });
    let stopping = CancellationToken::new();
    let limits = Limits { allowed: ourselves(), connections_max };
    let serving = tokio::spawn(serve(listener, Threads::here(), limits, fronts, stopping.clone()));
    Daemon { stopping, serving, _file: file, seen }
}

impl Daemon {
    async fn stop(self) {
        self.stopping.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("w.sock");
    (folder, address)
}

#[tokio::test]
async fn the_socket_is_roots_and_its_groups() {
    let (folder, address) = folder();
    let (listener, file) = bind(&address, ourselves()).unwrap();
    let metadata = fs::symlink_metadata(&address).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!((metadata.mode() & 0o777, metadata.uid(), metadata.gid()), (MODE, ourselves().uid, ourselves().gid));
    // Alive: refused. Nothing but the socket lies in the folder.
    let refusal = bind(&address, ourselves()).unwrap_err();
    assert!(refusal.is(RefusalKind::AlreadyExists), "{refusal}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // Stale: replaced. The old one's owner does not take the new one away.
    drop(listener);
    let (_listener, new_file) = bind(&address, ourselves()).unwrap();
    drop(file);
    assert!(StdStream::connect(&address).is_ok());
    drop(new_file);
    assert!(!address.exists());
    // Not a socket: left alone.
    fs::write(&address, "precious").unwrap();
    assert!(bind(&address, ourselves()).unwrap_err().is(RefusalKind::InvalidArgument));
    assert_eq!(fs::read_to_string(&address).unwrap(), "precious");
}

#[tokio::test]
async fn the_client_library_does_every_shape_of_call() {
    let (_folder, address) = folder();
    let mut daemon = daemon(&address, 100);
    let client = Client::connect(&address).await.unwrap().namespace(Namespace::new("n").unwrap());
    let echo = client.call(Echo { text: "hello".into() }).await.unwrap();
    assert_eq!(echo, ("hello".to_owned(), Some("n".to_owned())));

    let mut items = client.items(Count { to: 1000 }).await.unwrap();
    for number in 0..1000 {
        assert_eq!(items.next().await.unwrap(), Some(number));
    }
    assert_eq!(items.next().await.unwrap(), None);
    assert_eq!(items.reply().await.unwrap(), 1000);
    let refusal = client.items(Count { to: 13 }).await.unwrap().reply().await.unwrap_err();
    assert_eq!(refusal, Refusal::out_of_range("thirteen"));

    let bytes = vec![1; 5 << 20];
    assert_eq!(client.upload(Sum {}, io::Cursor::new(bytes.clone())).await.unwrap(), 5 << 20);
    let mut both = client.upload_items(Both {}, io::Cursor::new(bytes)).await.unwrap();
    let mut last = 0;
    while let Some(sum) = both.next().await.unwrap() {
        assert!(sum > last);
        last = sum;
    }
    assert_eq!((last, both.reply().await.unwrap()), (5 << 20, 5 << 20));

    // A source that fails breaks the upload off, and its error is the answer.
    struct Failing;
    impl tokio::io::AsyncRead for Failing {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::Error::other("no more tape")))
        }
    }
    let refusal = client.upload(Sum {}, Failing).await.unwrap_err();
    assert!(refusal.detail.contains("no more tape"), "{refusal}");
    // Dropped: cancelled, and the connection goes on.
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.call(HangQuery {}).await }
    });
    while daemon.seen.recv().await.unwrap() != "hanging" {}
    hanging.abort();
    while daemon.seen.recv().await.unwrap() != "dropped" {}
    let mut flood = client.items(Flood {}).await.unwrap();
    assert!(flood.next().await.unwrap().is_some());
    drop(flood);
    while daemon.seen.recv().await.unwrap() != "dropped" {}
    assert!(client.call(Echo { text: String::new() }).await.is_ok());
    let refusal = client.call(Panic {}).await.unwrap_err();
    assert!(refusal.is(RefusalKind::Internal));
    daemon.stop().await;
}

#[tokio::test]
async fn a_call_survives_the_daemons_restart_and_a_command_says_what_it_does_not_know() {
    let (_folder, address) = folder();
    let mut first = daemon(&address, 100);
    let client = Client::connect(&address).await.unwrap();
    let ask = |client: &Client| {
        let client = client.clone();
        tokio::spawn(async move { client.call(HangQuery {}).await })
    };
    let query = ask(&client);
    while first.seen.recv().await.unwrap() != "hanging" {}
    // Its socket goes, and the next one's comes while the client is waiting.
    first.stop().await;
    let mut second = daemon(&address, 100);
    while second.seen.recv().await.unwrap() != "hanging" {}
    query.abort();

    let command = tokio::spawn({
        let client = client.clone();
        async move { client.call(Work {}).await }
    });
    while second.seen.recv().await.unwrap() != "working" {}
    // Not gracefully: the connection is just gone. The next daemon is asked again.
    second.serving.abort();
    let _ = (&mut second.serving).await;
    let mut third = daemon(&address, 100);
    while third.seen.recv().await.unwrap() != "working" {}
    third.serving.abort();
    let _ = (&mut third.serving).await;
    let refusal = command.await.unwrap().unwrap_err();
    assert!(refusal.is(RefusalKind::Unavailable) && refusal.detail.contains("may have been done"), "{refusal}");

    // A connection known to be over is replaced, for commands too.
    let fourth = daemon(&address, 100);
    assert!(client.call(Panic {}).await.unwrap_err().is(RefusalKind::Internal));
    fourth.stop().await;
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named() {
    let (_folder, address) = folder();
    for stale in [false, true] {
        if stale {
            drop(std::os::unix::net::UnixListener::bind(&address).unwrap());
        }
        let refusal = Client::connect(&address).await.unwrap_err();
        let words = format!("cannot connect to wharfd at {}: is it running?", address.display());
        assert_eq!(refusal, Refusal::unavailable(words));
    }
}

#[tokio::test]
async fn a_client_can_wait_for_the_daemon() {
    let (_folder, address) = folder();
    let waiting = tokio::spawn(Client::dial(Dial { wait_for_daemon: true, ..Dial::new(&address) }));
    tokio::task::yield_now().await;
    let daemon = daemon(&address, 100);
    assert!(waiting.await.unwrap().is_ok());
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_says_nothing_is_a_timeout_for_the_client() {
    let (_folder, address) = folder();
    let _silent = UnixListener::bind(&address).unwrap();
    let refusal = Client::connect(&address).await.unwrap_err();
    assert!(refusal.is(RefusalKind::DeadlineExceeded) && refusal.detail.contains("no answer"), "{refusal}");
}

/// What a connection gets that begins with these bytes.
async fn first_words(address: &Path, words: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(address).await.unwrap();
    stream.write_all(words).await.unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        outcome => assert!(outcome.is_ok()),
    }
    answer
}

#[tokio::test]
async fn other_protocols_and_versions_are_closed() {
    let (_folder, address) = folder();
    let daemon = daemon(&address, 100);
    assert_eq!(first_words(&address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, b"");
    assert_eq!(first_words(&address, b"GET / HTTP/1.1\r\n\r\n").await, b"");
    // Versions are told, so that a newer client can say what is wrong.
    assert_eq!(first_words(&address, b"WHRF\x07\x00\x09\x00").await, Hello::OURS.encode());
    assert_eq!(first_words(&address, b"WHRF\x09\x00\x07\x00").await, Hello::OURS.encode());
    // In pieces, with the peek seeing only a part at first.
    let mut stream = UnixStream::connect(&address).await.unwrap();
    for byte in Hello::OURS.encode() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut hello = [0; 8];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(hello, Hello::OURS.encode());
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_of_another_version_is_told_both() {
    let (_folder, address) = folder();
    let listener = UnixListener::bind(&address).unwrap();
    let daemon = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&Hello { version_min: 7, version_max: 9 }.encode()).await.unwrap();
        // Until the client has had enough.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    });
    let refusal = Client::connect(&address).await.unwrap_err();
    assert!(refusal.detail.contains("this side speaks 1, the other 7 to 9"), "{refusal}");
    daemon.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_first_words_is_closed() {
    let (_folder, address) = folder();
    let daemon = daemon(&address, 100);
    for words in ["", "WH", "WHRF\x01\0"] {
        let begun = tokio::time::Instant::now();
        assert_eq!(first_words(&address, words.as_bytes()).await, b"");
        assert!(begun.elapsed() >= HANDSHAKE);
    }
    daemon.stop().await;
}

#[tokio::test]
async fn too_many_connections_are_turned_away_and_a_thousand_are_not() {
    let (_folder, address) = folder();
    let daemon = daemon(&address, 1000);
    let mut clients = Vec::new();
    for _ in 0..1000 {
        clients.push(Client::connect(&address).await.unwrap());
    }
    let refusal = Client::connect(&address).await.unwrap_err();
    assert!(refusal.detail.contains("busy"), "{refusal}");
    for client in [&clients[0], &clients[999]] {
        assert!(client.call(Echo { text: String::new() }).await.is_ok());
    }
    drop(clients);
    // There is room again as soon as one has been seen to leave.
    while Client::connect(&address).await.is_err() {
        tokio::task::yield_now().await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn strangers_are_closed() {
    let (_folder, address) = folder();
    let (listener, _file) = bind(&address, ourselves()).unwrap();
    // As if somebody had widened the socket's mode: the credentials still say who it is.
    fs::set_permissions(&address, fs::Permissions::from_mode(0o666)).unwrap();
    if !nix::unistd::geteuid().is_root() {
        // Only root can become a stranger.
        return;
    }
    let (doer, _seen) = Lab::new();
    let native = Service { table: LAB_TABLE, doer, calls_max: CALLS_MAX };
    let fronts = Arc::new(FrontEnds { native, grpc: None });
    let stopping = CancellationToken::new();
    let limits = Limits { allowed: Allowed { uid: 0, gid: 4 }, connections_max: 10 };
    let serving = tokio::spawn(serve(listener, Threads::here(), limits, fronts, stopping.clone()));
    fs::set_permissions(_folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (group, answered) in [(5, false), (4, true)] {
        let address = address.clone();
        let hello = tokio::task::spawn_blocking(move || {
            std::thread::spawn(move || {
                become_stranger(group);
                use io::{Read, Write};
                let mut stream = StdStream::connect(address).unwrap();
                // Closed before or after it has spoken.
                stream.write_all(&Hello::OURS.encode()).and_then(|()| stream.read_exact(&mut [0; 8])).is_ok()
            })
            .join()
            .unwrap()
        });
        assert_eq!(hello.await.unwrap(), answered, "group {group}");
    }
    stopping.cancel();
    serving.await.unwrap().unwrap();
}

/// Makes this thread alone another user's: the kernel keeps credentials for each thread, only the C library keeps them
/// the same.
fn become_stranger(group: libc::gid_t) {
    let id: libc::c_long = 1234;
    // SAFETY: the pointer is to one group id, as the count says; the other arguments are numbers.
    let outcomes = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, 1, &raw const group),
            libc::syscall(libc::SYS_setresgid, id, id, id),
            libc::syscall(libc::SYS_setresuid, id, id, id),
        ]
    };
    assert_eq!(outcomes, [0; 3]);
}
