//! Where a shim listens.

use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use sha2::{Digest, Sha256};
use wharf_messages::{Answer, Refusal};

/// Where containerd's shims listen.
const FOLDER: &str = "/run/containerd/s";

/// The folder of the sockets.
#[must_use]
pub fn folder() -> PathBuf {
    std::env::var_os("WHARF_SHIM_SOCKET_DIR").filter(|dir| !dir.is_empty()).map_or_else(|| FOLDER.into(), PathBuf::from)
}

/// The socket of a shim: a name that only a daemon, a namespace and a group of containers have together.
#[must_use]
pub fn socket(folder: &Path, daemon: &str, namespace: &str, group: &str) -> PathBuf {
    use std::fmt::Write;
    // As Go joins paths: without empty parts, and without doubled slashes.
    let parts = [daemon, namespace, group].into_iter().flat_map(|part| part.split('/')).filter(|part| !part.is_empty());
    let mut key = parts.collect::<Vec<_>>().join("/");
    if daemon.starts_with('/') {
        key.insert(0, '/');
    }
    let mut name = String::with_capacity(64);
    for byte in Sha256::digest(key.as_bytes()) {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    folder.join(name)
}

/// What [`listen`] found.
#[derive(Debug)]
pub enum Listening {
    /// The socket is ours.
    New(UnixListener),
    /// A shim listens there already.
    Served,
}

/// Takes the socket, or finds that a shim has it. What a dead shim left is removed.
///
/// # Errors
/// Whatever binding answers.
pub fn listen(path: &Path) -> Answer<Listening> {
    let refuse = |error: &io::Error| Refusal::io(format!("listen on {}", path.display()), error);
    if let Some(folder) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
        made.map_err(|error| refuse(&error))?;
    }
    match bind(path) {
        Ok(listener) => Ok(Listening::New(listener)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(Listening::Served);
            }
            std::fs::remove_file(path).map_err(|error| refuse(&error))?;
            bind(path).map(Listening::New).map_err(|error| refuse(&error))
        }
        Err(error) => Err(refuse(&error)),
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    // Nobody but root is to connect, not even between here and a later chmod.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_containerds() {
        let path = socket(Path::new("/run/containerd/s"), "/run/containerd/containerd.sock", "default", "web");
        // printf %s /run/containerd/containerd.sock/default/web | sha256sum
        let expected = "/run/containerd/s/2cde4450fa38c74f53603e01d2afd903b315a27a596f12a151414cd59897d883";
        assert_eq!(path, Path::new(expected));
        let again = socket(Path::new("/run/containerd/s"), "/run//containerd/containerd.sock/", "default", "web");
        assert_eq!(path, again);
    }

    #[test]
    fn a_served_socket_is_found_and_a_dead_one_replaced() {
        let _quiet = crate::sys::testing::no_children();
        let folder = std::env::temp_dir().join(format!("wharf-shim-address-{}", std::process::id()));
        let path = socket(&folder, "/d.sock", "ns", "web");
        let Listening::New(listener) = listen(&path).unwrap() else { panic!("nobody has it") };
        assert!(matches!(listen(&path).unwrap(), Listening::Served));
        drop(listener);
        assert!(matches!(listen(&path).unwrap(), Listening::New(_)));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
