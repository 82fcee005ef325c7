//! A client in Go, on the client library that containerd's users build on.

use crate::{
    command::{self, Program},
    paths, wait,
};
use nix::fcntl::{Flock, FlockArg};
use std::{fs, path::PathBuf};

/// The program in `tests/clients/go`, built against Debian's packages of containerd's client library.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn flow() -> PathBuf {
    let target = paths::workspace().join("target/clients");
    fs::create_dir_all(&target).unwrap();
    let lock = fs::File::create(target.join("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    let program = target.join("flow");
    // Go's cache knows what is new.
    let go = Program::new("go").env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    let mut build = go.env("GOCACHE", target.join("cache")).command(["build", "-o", program.to_str().unwrap(), "."]);
    build.current_dir(paths::workspace().join("tests/clients/go"));
    let _ = command::run(build, b"", 10 * wait::PATIENCE).ok();
    program
}
