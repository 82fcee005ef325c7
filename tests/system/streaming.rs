//! Blobs through the daemon: its memory does not grow with them.

use std::{
    fs,
    io::{self, Read},
    process::{Command, Stdio},
};
use wharf_tests::{
    Daemon, TestDir,
    command::Program,
    process::{Watch, pss_kilobytes},
};

/// Many times what the daemon may hold of it.
const BLOB_BYTES: u64 = 192 << 20;
/// What the daemon may take on top of what it has when it is idle.
const GROWTH_KILOBYTES: u64 = 20 << 10;

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
        // The code that this runs is paged in: an idle daemon has given its pages back.
        let few = dir.join("few");
        fs::write(&few, name).unwrap();
        let mut command = client.command(["content", "ingest", "few"]);
        assert!(command.stdin(fs::File::open(&few).unwrap()).stdout(Stdio::null()).status().unwrap().success());
        let digest = client.run("content ls -q").ok().stdout.trim().to_owned();
        assert_eq!(drain(client.command(["content", "get", &digest])), name.len() as u64);
        let _ = client.run(["content", "rm", &digest]).ok();
        let before = pss_kilobytes(daemon.pid()).unwrap();
        let watch = Watch::of(daemon.pid());
        feed(client.command(["content", "ingest", "ref"]));
        let digest = client.run("content ls -q").ok().stdout.trim().to_owned();
        let (written, watch) = (watch.most_kilobytes(), Watch::of(daemon.pid()));
        assert_eq!(drain(client.command(["content", "get", &digest])), BLOB_BYTES);
        let read = watch.most_kilobytes();
        println!("{name}: {before} kB, writing {written} kB, reading {read} kB");
        assert!(written < before + GROWTH_KILOBYTES, "{name}: writing took {before} kB to {written} kB");
        assert!(read < before + GROWTH_KILOBYTES, "{name}: reading took {before} kB to {read} kB");
        let _ = client.run(["content", "rm", &digest]).ok();
    }
}
