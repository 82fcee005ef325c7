//! Blobs through the daemon: its memory does not grow with them.

use std::{
    fs,
    io::{self, Read},
    process::{Command, Stdio},
};
use wharf_tests::{
    Daemon, TestDir,
    command::Program,
    eventually,
    process::{Watch, own_kilobytes},
};

/// Many times what the daemon may hold of it.
const BLOB_BYTES: u64 = 96 << 20;
/// What the daemon may take on top of what it has when it is idle.
const GROWTH_KILOBYTES: u64 = 12 << 10;

/// Bytes that are not all the same, without any work for the test.
struct Blob(u64);

impl Read for Blob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = (out.len() as u64).min(BLOB_BYTES - self.0) as usize;
        out[..length].fill((self.0 >> 16) as u8);
        self.0 += length as u64;
        Ok(length)
    }
}

/// Sends the blob to a command's input.
fn feed(mut command: Command) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    io::copy(&mut Blob(0), &mut child.stdin.take().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Counts what a command prints.
fn drain(mut command: Command) -> u64 {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let length = io::copy(&mut child.stdout.take().unwrap(), &mut io::sink()).unwrap();
    assert!(child.wait().unwrap().success());
    length
}

#[test]
fn memory_does_not_grow_with_blobs() {
    let (daemon, dir) = (Daemon::start(), TestDir::new());
    let ctr = Program::new("ctr").env("CONTAINERD_ADDRESS", daemon.address());
    let ctr = ctr.env("CONTAINERD_NAMESPACE", daemon.namespace());
    for (name, client) in [("wharf", daemon.client()), ("ctr", ctr)] {
        // What the first call needs for good is there.
        let few = dir.join("few");
        fs::write(&few, name).unwrap();
        // Nothing refers to it, so the collection soon after the start may take it: then it is brought again.
        let digest = eventually("a small blob to come and go", || {
            let mut command = client.command(["content", "ingest", "few"]);
            assert!(command.stdin(fs::File::open(&few).unwrap()).stdout(Stdio::null()).status().unwrap().success());
            let digest = client.run("content ls -q").ok().stdout.trim().to_owned();
            let read = client.run(["content", "get", &digest]);
            (read.code == 0 && read.stdout == name).then_some(digest)
        });
        let _ = client.run(["content", "rm", &digest]);
        let before = own_kilobytes(daemon.pid()).unwrap();
        let watch = Watch::of(daemon.pid(), own_kilobytes);
        feed(client.command(["content", "ingest", "ref"]));
        let digest = client.run("content ls -q").ok().stdout.trim().to_owned();
        let (written, watch) = (watch.most_kilobytes(), Watch::of(daemon.pid(), own_kilobytes));
        assert_eq!(drain(client.command(["content", "get", &digest])), BLOB_BYTES);
        let read = watch.most_kilobytes();
        println!("{name}: {before} kB, writing {written} kB, reading {read} kB");
        assert!(written < before + GROWTH_KILOBYTES, "{name}: writing took {before} kB to {written} kB");
        assert!(read < before + GROWTH_KILOBYTES, "{name}: reading took {before} kB to {read} kB");
        let _ = client.run(["content", "rm", &digest]).ok();
    }
}
