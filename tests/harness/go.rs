//! Programs in Go: a client on the library that containerd's users build on, containerd's own test suites, a plugin for
//! dockerd.

use crate::{
    command::{self, Program},
    paths, wait,
};
use nix::fcntl::{Flock, FlockArg};
use std::{fs, path::PathBuf};

/// The program in `tests/clients/go`, built against Debian's packages of containerd's client library.
#[must_use]
pub fn flow() -> PathBuf {
    build("go", "1", &["build"])
}

/// containerd's suites, put together in `tests/clients/suites`.
#[must_use]
pub fn suites() -> PathBuf {
    build("suites", "1", &["test", "-c"])
}

/// The program in `tests/clients/plugin`, which needs nothing around it.
#[must_use]
pub fn plugin() -> PathBuf {
    build("plugin", "0", &["build"])
}

fn build(name: &str, cgo: &str, how: &[&str]) -> PathBuf {
    let target = paths::workspace().join("target/clients");
    fs::create_dir_all(&target).unwrap();
    let lock = fs::File::create(target.join("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    let program = target.join(name);
    // Go's cache knows what is new. Without C, a program stands for itself; with it, Go's library need not be built anew.
    let go = Program::new("go").env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("CGO_ENABLED", cgo);
    let mut build = go.env("GOCACHE", target.join("cache")).command(how);
    build.args(["-o", program.to_str().unwrap(), "."]).current_dir(paths::workspace().join("tests/clients").join(name));
    let _ = command::run(build, b"", 10 * wait::PATIENCE).ok();
    program
}
