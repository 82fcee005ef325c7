//! What most tests begin with.

use wharf_tests::{Daemon, images};

/// The name of the image that [`with_busybox`] imports.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// A shell that ends when told to by SIGTERM, with code 3, and says when it is ready for that.
pub const UNTIL_TERM: &str = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";

/// A daemon that has a busybox image.
pub fn with_busybox() -> Daemon {
    let daemon = Daemon::start();
    import_busybox(&daemon);
    daemon
}

/// Imports the busybox image.
pub fn import_busybox(daemon: &Daemon) {
    let archive = images::docker_archive(&images::busybox(), BUSYBOX);
    daemon.ok(["images", "import", archive.to_str().unwrap()]);
}

/// Starts a container in the background that sleeps.
pub fn sleeper(daemon: &Daemon, id: &str) {
    daemon.ok(["run", "-d", BUSYBOX, id, "sleep", "1000"]);
}
