//! Clients that do not keep to the protocol: the others are served as before.

use crate::{
    client::{Daemon, within},
    proto::containerd::services::content::v1::{ListStatusesRequest, WriteContentRequest},
};
use futures_util::stream;
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
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused() {
    let daemon = Daemon::start();
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
}

#[tokio::test]
async fn a_thousand_that_say_nothing_more_hold_nobody_up() {
    let daemon = Daemon::start();
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
    drop(idle);
    is_served(&daemon).await;
}
