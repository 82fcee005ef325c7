//! Terminals: the socket on which an OCI runtime hands over the master of a new container's terminal.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use wharf_messages::{Answer, Refusal};

use crate::sys;

/// A console socket that waits for a runtime.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    folder: OwnedFd,
    name: String,
}

impl ConsoleSocket {
    /// Makes the socket in the bundle, for init or for an exec.
    ///
    /// # Errors
    /// Whatever binding answers.
    pub fn bind(bundle: &Path, exec_id: &str) -> Answer<Self> {
        let name = if exec_id.is_empty() { "init.pty".to_owned() } else { format!("exec-{exec_id}.pty") };
        let refuse = |error| Refusal::io(format!("make console socket {name} in {}", bundle.display()), &error);
        let folder = rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| refuse(error.into()))?;
        let mut socket = Self::listen(&folder, &name);
        if matches!(&socket, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            // A socket that an earlier, failed attempt left.
            rustix::fs::unlinkat(&folder, &name, AtFlags::empty()).map_err(|error| refuse(error.into()))?;
            socket = Self::listen(&folder, &name);
        }
        let listener = socket.map_err(refuse)?;
        Ok(Self { listener, folder, name })
    }

    fn listen(folder: &OwnedFd, name: &str) -> io::Result<UnixListener> {
        // Bundles have long names, and a socket's path has 108 bytes.
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// A short path to the socket, good for any process while this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}/{}", std::process::id(), self.folder.as_raw_fd(), self.name).into()
    }

    /// Takes the master that the runtime has sent; to be called when the runtime is done.
    ///
    /// # Errors
    /// Internal, if it sent none.
    pub fn receive(&self) -> Answer<Console> {
        let refuse = |error| Refusal::io("take the terminal from the runtime", &error);
        let (socket, _) = self.listener.accept().map_err(refuse)?;
        socket.set_nonblocking(true).map_err(refuse)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 4096];
        recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .map_err(|error| refuse(error.into()))?;
        let received = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let master = received.ok_or_else(|| Refusal::internal("the runtime sent no terminal"))?;
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| refuse(error.into()))?;
        Ok(Console { master })
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // The bundle may be gone already, and the socket with it.
        let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
    }
}

/// The master of a terminal.
#[derive(Debug)]
pub struct Console {
    master: OwnedFd,
}

impl Console {
    /// Gives the terminal a size.
    ///
    /// # Errors
    /// Whatever the terminal answers.
    pub fn resize(&self, width: u16, height: u16) -> Answer<()> {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).map_err(|error| Refusal::io("resize the terminal", &error.into()))
    }

    /// Gives the terminal's other side to a user, who may want to open it by its name.
    pub fn give_to(&self, uid: u32) {
        let given = sys::terminal_peer(self.master.as_fd())
            .and_then(|peer| Ok(rustix::fs::fchown(peer, Some(rustix::fs::Uid::from_raw(uid)), None)?));
        if let Err(error) = given {
            crate::debug!("the terminal stays root's: {error}");
        }
    }

    /// Another descriptor of the master.
    ///
    /// # Errors
    /// When there are no more.
    pub fn master(&self) -> Answer<OwnedFd> {
        self.master.try_clone().map_err(|error| Refusal::io("duplicate the terminal", &error))
    }
}
