//! Clients that do not keep to the protocol: the daemon ends the conversation and serves the others.

use crate::fixture::{BUSYBOX, with_busybox};
use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    time::Duration,
};
use wharf_tests::Daemon;

/// Sends bytes, says that there will be no more, and waits until the daemon hangs up.
fn sends(daemon: &Daemon, bytes: &[u8]) {
    let mut stream = UnixStream::connect(daemon.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The daemon may hang up in the middle; that is an answer too.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it does not hang up: {error}"),
    }
}

#[test]
fn bytes_that_are_no_frames() {
    let daemon = with_busybox();
    let before = wharf_tests::process::own_kilobytes(daemon.pid()).unwrap();
    sends(&daemon, b"");
    sends(&daemon, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    sends(&daemon, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    sends(&daemon, &[0; 4096]);
    sends(&daemon, &[0xff; 4096]);
    // Whatever the first bytes mean, lengths of gigabytes follow.
    for first in [&b"wharf"[..], b"WHRF", b"\x01", b""] {
        let mut bytes = first.to_vec();
        for _ in 0..64 {
            bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        }
        sends(&daemon, &bytes);
    }
    // A sequence that is the same each time, cut at many places.
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(5000)
    .collect();
    for length in (1..200).chain([1000, 5000]) {
        sends(&daemon, &noise[..length]);
    }
    daemon.ok(["run", "--rm", BUSYBOX, "a", "echo", "still here"]).prints("still here");
    let after = wharf_tests::process::own_kilobytes(daemon.pid()).unwrap();
    assert!(after < before + 32 * 1024, "memory went from {before} to {after} kB");
}

#[test]
fn a_client_that_only_listens_is_not_waited_for() {
    let daemon = with_busybox();
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(daemon.address()).unwrap()).collect();
    daemon.ok("images ls -q").prints(BUSYBOX);
    drop(silent);
    daemon.ok("images ls -q").prints(BUSYBOX);
}

#[test]
fn the_socket_is_roots_alone() {
    let daemon = Daemon::start();
    let mode = std::fs::metadata(daemon.address()).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "others may not connect: {mode:o}");
}
