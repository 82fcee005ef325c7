//! Clients that do not keep to the protocol: the others are served as before.

use crate::{
    client::{Daemon, origin, within},
    proto::containerd::{
        services::{
            content::v1::{InfoRequest, ListStatusesRequest, ReadContentRequest, WriteContentRequest},
            diff::v1::{ApplyRequest, diff_client::DiffClient},
            events::v1::{SubscribeRequest, events_client::EventsClient},
        },
        types::{Descriptor, Mount},
    },
};
use futures_util::{StreamExt, stream};
use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};
use tonic::Code;
use wharf_tests::wait::PATIENCE;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Asks something small of the daemon on a new connection.
async fn is_served(daemon: &Daemon) {
    let mut content = daemon.content().await;
    let asked = content.list_statuses(within("n", ListStatusesRequest::default()));
    tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();
}

/// Sends bytes and waits until the daemon hangs up, all within the time that the first words may take.
fn is_hung_up_on(daemon: &Daemon, bytes: &[u8]) {
    let mut stream = UnixStream::connect(daemon.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // It may hang up within the sending.
    stream.write_all(bytes).ok();
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

#[tokio::test]
async fn garbage_ends_its_own_connection() {
    let daemon = Daemon::start();
    let before = holds_at_rest(&daemon).await;
    for garbage in [&b"PRI * HTTP/1.0\r\n\r\nSM\r\n\r\n"[..], b"PRI \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"] {
        is_hung_up_on(&daemon, garbage);
    }
    // A frame that says it has 16 MiB, one of no known stream, and noise.
    for frames in [&[0xff; 9][..], &[0, 0, 4, 8, 0, 0, 0, 0, 9, 0, 0, 0, 0], &[0x55; 4096]] {
        is_hung_up_on(&daemon, &[PREFACE, SETTINGS, frames].concat());
    }
    // Less than a preface is waited for, and no longer than any first words.
    is_hung_up_on(&daemon, &PREFACE[..10]);
    is_served(&daemon).await;
    holds_again(&daemon, before).await;
}

/// A frame of HTTP/2 (RFC 9113, section 4.1) on the first stream.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = payload.len().to_be_bytes();
    [&[a, b, c, kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A header that no table has (RFC 7541, section 6.2.2).
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[tokio::test]
async fn calls_that_are_cut_anywhere_hold_nobody_up() {
    const WRITE: &str = "/containerd.services.content.v1.Content/Write";
    let daemon = Daemon::start();
    let before = holds_at_rest(&daemon).await;
    let headers = [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", WRITE),
        header(":authority", "localhost"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
        header("containerd-namespace", "n"),
    ];
    let message = WriteContentRequest { r#ref: REFERENCE.to_owned(), total: 10, ..Default::default() };
    let message = prost::Message::encode_to_vec(&message);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let data = [&[0], &length[..], &message].concat();
    let call = [PREFACE, SETTINGS, &frame(1, 4, &headers.concat()), &frame(0, 0, &data)].concat();
    let silent: Vec<_> = (PREFACE.len()..call.len())
        .map(|cut| {
            let mut stream = UnixStream::connect(daemon.address()).unwrap();
            stream.write_all(&call[..cut]).unwrap();
            stream
        })
        .collect();
    is_served(&daemon).await;
    // None of them has said its first message: nothing is begun, and the reference is anybody's. One more byte and it is.
    let mut content = daemon.content().await;
    let statuses = async |content: &mut _| {
        let content: &mut wharf_grpc::containerd::services::content::v1::content_client::ContentClient<_> = content;
        let asked = content.list_statuses(within("n", ListStatusesRequest::default())).await;
        asked.unwrap().into_inner().statuses.len()
    };
    assert_eq!(statuses(&mut content).await, 0);
    let mut whole = UnixStream::connect(daemon.address()).unwrap();
    whole.write_all(&call).unwrap();
    tokio::time::timeout(PATIENCE, async {
        while statuses(&mut content).await == 0 {
            tokio::task::yield_now().await
        }
    })
    .await
    .expect("the whole call is understood");
    drop((silent, whole, content));
    is_served(&daemon).await;
    holds_again(&daemon, before).await;
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused() {
    let daemon = Daemon::start();
    let before = holds_at_rest(&daemon).await;
    let mut content = daemon.content().await;
    let data = vec![0; 17 << 20].into();
    let message = WriteContentRequest { action: 1, r#ref: "r".to_owned(), data, ..WriteContentRequest::default() };
    let told = content.write(within("n", stream::iter([message]))).await;
    let status = match told {
        Err(status) => status,
        Ok(told) => told.into_inner().message().await.unwrap_err(),
    };
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    // The reference was never taken.
    is_served(&daemon).await;
    let left = content.list_statuses(within("n", ListStatusesRequest::default())).await.unwrap();
    assert!(left.into_inner().statuses.is_empty());
    drop(content);
    holds_again(&daemon, before).await;
}

#[tokio::test]
async fn a_thousand_that_say_nothing_more_hold_nobody_up() {
    let daemon = Daemon::start();
    let holds = holds_at_rest(&daemon).await;
    let before = memory_kilobytes(&daemon);
    let idle: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.address()).unwrap();
            stream.write_all(&[PREFACE, SETTINGS].concat()).unwrap();
            stream
        })
        .collect();
    // The last one is served, so all are.
    let mut answer = [0; 9];
    for mut stream in &idle {
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[3], 4, "the daemon's SETTINGS");
    }
    is_served(&daemon).await;
    let each = memory_kilobytes(&daemon).saturating_sub(before) / 1000;
    assert!(each < 32, "an idle connection costs {each} kB");
    drop(idle);
    is_served(&daemon).await;
    holds_again(&daemon, holds).await;
}

/// A blob that fills every buffer on the way.
const LARGE_BYTES: usize = 12 << 20;
const REFERENCE: &str = "r";

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

fn memory_kilobytes(daemon: &Daemon) -> u64 {
    wharf_tests::process::own_kilobytes(daemon.pid()).unwrap()
}

/// What the daemon holds: descriptors, and parts in its supervision tree.
async fn holds(daemon: &Daemon) -> (usize, usize) {
    // Before this asks itself.
    let open = descriptors(daemon);
    let client = wharf_client::Client::connect(&daemon.address()).await.unwrap();
    let tree = client.call(wharf_messages::supervision::GetSupervisionTree {}).await.unwrap();
    assert!(tree.iter().all(|part| part.restarts == 0), "{tree:?}");
    (open, tree.len())
}

/// What the daemon holds once those who were here have gone: what it holds at one look and at the next.
async fn holds_at_rest(daemon: &Daemon) -> (usize, usize) {
    let mut last = holds(daemon).await;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = holds(daemon).await;
        if now == last {
            return now;
        }
        last = now;
    }
}

/// Waits until the daemon holds no more than it did.
async fn holds_again(daemon: &Daemon, before: (usize, usize)) {
    let mut last = before;
    for _ in 0..400 {
        last = holds(daemon).await;
        if last.0 <= before.0 && last.1 <= before.1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let open: Vec<_> = open.map(|fd| std::fs::read_link(fd.unwrap().path())).collect();
    panic!("descriptors and parts went from {before:?} to {last:?}: {open:?}");
}

/// A client of the native protocol.
async fn native(daemon: &Daemon) -> wharf_client::Client {
    let client = wharf_client::Client::connect(&daemon.address()).await.unwrap();
    client.namespace(wharf_messages::Namespace::new("n").unwrap())
}

async fn put_large(daemon: &Daemon) -> String {
    let mut content = daemon.content().await;
    let write = |offset, action, data: Vec<u8>| WriteContentRequest {
        action,
        offset,
        r#ref: "large".to_owned(),
        data: data.into(),
        // What nothing names is collected.
        labels: crate::client::labels(&["containerd.io/gc.root=x"]),
        ..WriteContentRequest::default()
    };
    let half = LARGE_BYTES / 2;
    let messages = [write(0, 1, vec![7; half]), write(half as i64, 2, vec![8; half])];
    let mut told = content.write(within("n", stream::iter(messages))).await.unwrap().into_inner();
    told.message().await.unwrap();
    told.message().await.unwrap().unwrap().digest
}

/// Whether the reference can be written, at the offset answered.
async fn is_free(daemon: &Daemon) -> i64 {
    let content = daemon.content().await;
    crate::client::eventually(|| {
        let mut content = content.clone();
        async move {
            let stat = WriteContentRequest { r#ref: REFERENCE.to_owned(), ..WriteContentRequest::default() };
            let mut told = content.write(within("n", stream::iter([stat]))).await?.into_inner();
            Ok(told.message().await?.map_or(0, |answer| answer.offset))
        }
    })
    .await
}

#[tokio::test]
async fn a_write_that_is_dropped_leaves_no_lock_and_no_leak() {
    let daemon = Daemon::start();
    is_served(&daemon).await;
    // The first time opens what stays open.
    let before = holds_at_rest(&daemon).await;
    let message = |action, offset, data: &'static [u8]| WriteContentRequest {
        action,
        offset,
        r#ref: REFERENCE.to_owned(),
        data: data.into(),
        ..WriteContentRequest::default()
    };
    let (stat, write) = (message(0, 0, b""), message(1, 0, b"abc"));
    let (wrong, commit) = (message(1, 9, b"x"), message(2, 3, b""));
    // What was said when the client went, and where the reference is then. A commit may be done or not.
    for (said, offsets) in [
        (vec![], &[0][..]),
        (vec![stat.clone()], &[0]),
        (vec![write.clone()], &[3, 0]),
        (vec![stat.clone(), write.clone()], &[3, 0]),
        (vec![write.clone(), stat.clone()], &[3, 0]),
        (vec![write.clone(), wrong], &[3, 0]),
        (vec![write.clone(), commit], &[0, 3]),
    ] {
        for (answers, hangs_up) in [(0, false), (0, true), (said.len(), false), (said.len(), true)] {
            let (channel, socket) = daemon.connect_until().await;
            let mut content = crate::client::content(channel);
            // The client's half of the stream ends with it.
            let (gone, going) = tokio::sync::oneshot::channel::<()>();
            let going = stream::once(going).filter_map(|_| std::future::ready(None));
            let open = stream::iter(said.clone()).chain(going);
            let opening = content.write(within("n", open));
            // Headers come with the first answer or, without one, never.
            if let Ok(Ok(told)) = tokio::time::timeout(Duration::from_millis(300), opening).await {
                let mut told = told.into_inner();
                for _ in 0..answers {
                    told.message().await.ok();
                }
            }
            if hangs_up {
                socket.shutdown(std::net::Shutdown::Both).unwrap();
            }
            drop((gone, content, socket));
            let offset = is_free(&daemon).await;
            assert!(offsets.contains(&offset), "{said:?}, {answers} answers: {offset}");
        }
    }
    holds_again(&daemon, before).await;
}

#[tokio::test]
async fn readers_that_stop_or_leave_hold_nothing_up() {
    let daemon = Daemon::start();
    let digest = put_large(&daemon).await;
    is_served(&daemon).await;
    let before = holds_at_rest(&daemon).await;
    let memory = memory_kilobytes(&daemon);
    let read = || within("n", ReadContentRequest { digest: digest.clone(), ..ReadContentRequest::default() });
    let mut stopped = Vec::new();
    for n in 0..64 {
        let mut content = daemon.content().await;
        let mut told = content.read(read()).await.unwrap().into_inner();
        if n % 2 == 0 {
            told.message().await.unwrap().unwrap();
        }
        stopped.push((content, told));
    }
    // As the native protocol's clients do it.
    let client = native(&daemon).await;
    let mut items = Vec::new();
    for _ in 0..64 {
        let digest = wharf_messages::Digest::new(&digest).unwrap();
        let read = wharf_messages::content::ReadContent { digest, offset_bytes: 0, size_bytes: 0 };
        items.push(client.items(read).await.unwrap());
    }
    for _ in 0..20 {
        let mut content = daemon.content().await;
        let asked = content.info(within("n", InfoRequest { digest: digest.clone() }));
        let served = tokio::time::timeout(PATIENCE, asked).await;
        served.expect("somebody who does not read holds others up").unwrap();
    }
    let grown = memory_kilobytes(&daemon).saturating_sub(memory);
    assert!(grown < 128 * 1536, "128 readers that do not read cost {grown} kB");
    // Who goes on reading gets all of it.
    let (_, mut told) = stopped.remove(1);
    let mut bytes = 0;
    while let Some(part) = told.message().await.unwrap() {
        bytes += part.data.len();
    }
    assert_eq!(bytes, LARGE_BYTES);
    drop((stopped, told, items, client));
    holds_again(&daemon, before).await;
}

#[tokio::test]
async fn uploads_that_stop_hold_nothing_up() {
    let daemon = Daemon::start();
    is_served(&daemon).await;
    let before = holds_at_rest(&daemon).await;
    let client = native(&daemon).await;
    let mut stopped = Vec::new();
    for n in 0..40 {
        let (mut source, coming) = tokio::io::duplex(4096);
        tokio::io::AsyncWriteExt::write_all(&mut source, b"half of it").await.unwrap();
        let write = wharf_messages::content::WriteContent {
            reference: wharf_messages::IngestRef::new(format!("r{n}")).unwrap(),
            offset_bytes: None,
            total_bytes: 100,
            expected: None,
            labels: Default::default(),
            commit: true,
        };
        let call = client.clone();
        stopped.push((source, tokio::spawn(async move { call.upload(write, coming).await.map(|_| ()) })));
        let (source, coming) = tokio::io::duplex(4096);
        let call = client.clone();
        let import = wharf_messages::image::ImportImages::default();
        let importing = async move {
            let items = call.upload_items(import, coming).await?;
            items.reply().await.map(|_| ())
        };
        stopped.push((source, tokio::spawn(importing)));
    }
    // Each has come as far as it will.
    let mut content = daemon.content().await;
    let arrived = async {
        loop {
            let listed = content.list_statuses(within("n", ListStatusesRequest::default())).await.unwrap().into_inner();
            if listed.statuses.iter().filter(|status| status.offset == 10).count() == 40 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("what was uploaded is not told of");
    tokio::time::timeout(PATIENCE, is_served(&daemon)).await.expect("uploads that stop hold others up");
    for (source, call) in stopped {
        call.abort();
        drop(source);
    }
    drop((client, content));
    holds_again(&daemon, before).await;
    // What came is there to go on with, and nobody has it.
    let listed = daemon.content().await.list_statuses(within("n", ListStatusesRequest::default())).await.unwrap();
    assert!(listed.into_inner().statuses.iter().all(|status| status.offset == 10 || status.offset == 0));
}

#[tokio::test]
async fn subscribers_and_appliers_may_leave_at_any_time() {
    let daemon = Daemon::start();
    let digest = put_large(&daemon).await;
    is_served(&daemon).await;
    let before = holds_at_rest(&daemon).await;
    let target = tempfile::tempdir().unwrap();
    for n in 0..20 {
        let (channel, socket) = daemon.connect_until().await;
        let mut events = EventsClient::with_origin(channel.clone(), origin());
        let mut told = events.subscribe(tonic::Request::new(SubscribeRequest::default())).await.unwrap().into_inner();
        let mut differ = DiffClient::with_origin(channel, origin());
        // No tar: it is refused, unless the client has gone before.
        let diff = Some(Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            digest: digest.clone(),
            size: LARGE_BYTES as i64,
            ..Descriptor::default()
        });
        let source = target.path().to_str().unwrap().to_owned();
        let options = vec!["rbind".to_owned(), "rw".to_owned()];
        let mounts = vec![Mount { r#type: "bind".to_owned(), source, options, ..Mount::default() }];
        let applying = differ.apply(within("n", ApplyRequest { diff, mounts, ..ApplyRequest::default() }));
        match n % 4 {
            0 => drop(applying),
            1 => drop(tokio::time::timeout(Duration::from_millis(n), applying).await),
            2 => drop(applying.await.unwrap_err()),
            _ => socket.shutdown(std::net::Shutdown::Both).unwrap(),
        }
        if n % 2 == 0 {
            tokio::time::timeout(Duration::from_millis(1), told.message()).await.ok();
        }
    }
    is_served(&daemon).await;
    holds_again(&daemon, before).await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_are_forgotten() {
    let daemon = Daemon::start();
    is_served(&daemon).await;
    let before = holds_at_rest(&daemon).await;
    let memory = memory_kilobytes(&daemon);
    let content = daemon.content().await;
    for _ in 0..2000 {
        let mut content = content.clone();
        let asked = content.list_statuses(within("n", ListStatusesRequest::default()));
        // Polled once, so that it is sent, and dropped, so that it is reset.
        drop(futures_util::FutureExt::now_or_never(asked));
        tokio::task::yield_now().await;
    }
    is_served(&daemon).await;
    drop(content);
    holds_again(&daemon, before).await;
    let grown = memory_kilobytes(&daemon).saturating_sub(memory);
    assert!(grown < 16 * 1024, "2,000 streams that were reset cost {grown} kB");
}
