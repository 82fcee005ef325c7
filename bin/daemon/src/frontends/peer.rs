//! Who is at the other end of a connection, and whether that is somebody who may be.

use nix::sys::socket::{getsockopt, sockopt};
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};
use wharf_messages::meta::Peer;

/// The most supplementary groups that are looked at; the kernel's own limit.
const GROUPS_MAX: usize = 65_536;

/// Who may use the socket. The file's mode says the same to whoever connects by its path; this holds also for a connection
/// that was handed over, and for a socket whose mode somebody widened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// The daemon's own user, who may as root may.
    pub uid: u32,
    /// The socket's group; members may. Group 0 adds nobody but root's group.
    pub gid: u32,
}

impl Allowed {
    /// Whether this peer may use the socket.
    #[must_use]
    pub fn admits(self, peer: Peer, groups: &[u32]) -> bool {
        peer.uid == 0 || peer.uid == self.uid || peer.gid == self.gid || groups.contains(&self.gid)
    }
}

/// The credentials of whoever connected, as the kernel took them at that moment.
///
/// # Errors
/// What the kernel says of a socket that is not connected.
pub fn credentials(socket: &impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
    Ok(Peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
}

/// The supplementary groups of whoever connected, likewise.
///
/// # Errors
/// What the kernel says of a socket that is not connected.
pub fn groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the pointer and the length describe the vector, which outlives the call, and any bytes are valid gids.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).map_err(io::Error::other)? / size_of::<libc::gid_t>();
        if outcome == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // With ERANGE the kernel says how much room it wants.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn root_the_daemons_user_and_the_group_are_admitted() {
        let allowed = Allowed { uid: 7, gid: 9 };
        let peer = |uid, gid| Peer { pid: 1, uid, gid };
        assert!(allowed.admits(peer(0, 5), &[]));
        assert!(allowed.admits(peer(7, 5), &[]));
        assert!(allowed.admits(peer(8, 9), &[]));
        assert!(allowed.admits(peer(8, 5), &[4, 9]));
        assert!(!allowed.admits(peer(8, 5), &[4, 0]));
    }

    #[test]
    fn the_kernel_vouches_for_the_peer() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = credentials(&one).unwrap();
        assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        let mut ours: Vec<_> = nix::unistd::getgroups().unwrap().into_iter().map(|gid| gid.as_raw()).collect();
        let mut theirs = groups(&one).unwrap();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(theirs, ours);
    }
}
