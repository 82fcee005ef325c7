//! Users and groups as a container's own root file system knows them.

use super::process;
use crate::mount;
use oci_spec::runtime::User;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use std::{fs::File, io::Read, os::fd::BorrowedFd, path::Path};
use wharf_messages::{Answer, Mount, Refusal};

/// The largest passwd or group file that is read; a container's file can be anything.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// The users and groups of a root file system; the default has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Users {
    users: Vec<Entry>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Users {
    /// Reads them from the root file system that these mounts make. Nothing stays mounted: the mounts live in a
    /// mount namespace of their own that ends with the call. Blocks.
    ///
    /// # Errors
    /// `PermissionDenied` unless this process may mount; what mounting or reading refuses.
    pub fn of_mounts(mounts: &[Mount]) -> Answer<Self> {
        mount::look_into(mounts, Self::of_root)
    }

    /// Reads them from a root file system at a path. Blocks.
    ///
    /// # Errors
    /// `NotFound` for the root; files in it that are not there are empty.
    pub fn of_path(root: &Path) -> Answer<Self> {
        let root = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Refusal::io(format!("open root file system {}", root.display()), &error.into()))?;
        Self::of_root(std::os::fd::AsFd::as_fd(&root))
    }

    fn of_root(root: BorrowedFd<'_>) -> Answer<Self> {
        Ok(Self::parse(&read_beneath(root, "etc/passwd")?, &read_beneath(root, "etc/group")?))
    }

    /// Reads the texts of a passwd and a group file; lines of another form are passed over.
    #[must_use]
    pub fn parse(passwd: &str, group: &str) -> Self {
        let user = |line: &str| {
            let mut fields = line.trim().split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Entry { name, uid, gid })
        };
        let group_of = |line: &str| {
            let mut fields = line.trim().split(':');
            let name = fields.next()?.to_owned();
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or("");
            let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
            Some(Group { name, gid, members })
        };
        Self { users: passwd.lines().filter_map(user).collect(), groups: group.lines().filter_map(group_of).collect() }
    }

    /// The user that `USER[:GROUP]` means, with the groups it is in. The empty text is root.
    ///
    /// # Errors
    /// `NotFound` for a name that is not in the root file system; a number need not be.
    ///
    /// # Spec
    /// containerd `oci.WithUser` and `oci.WithAdditionalGIDs`.
    pub fn find(&self, text: &str) -> Answer<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let (entry, uid) = match user.parse::<u32>() {
            Ok(uid) => (self.users.iter().find(|entry| entry.uid == uid), uid),
            Err(_) if user.is_empty() => (self.users.iter().find(|entry| entry.uid == 0), 0),
            Err(_) => {
                let entry = self
                    .users
                    .iter()
                    .find(|entry| entry.name == user)
                    .ok_or_else(|| Refusal::not_found(format!("user {user:?} in the container's /etc/passwd")))?;
                (Some(entry), entry.uid)
            }
        };
        let gid = match group {
            None => entry.map_or(0, |entry| entry.gid),
            Some("") => 0,
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => {
                    let known = self.groups.iter().find(|known| known.name == group);
                    known
                        .map(|known| known.gid)
                        .ok_or_else(|| Refusal::not_found(format!("group {group:?} in the container's /etc/group")))?
                }
            },
        };
        // The kernel checks supplementary groups too, so the first is always the group itself (CVE-2023-25173).
        let mut gids = vec![gid];
        if let Some(entry) = entry {
            let of = self.groups.iter().filter(|group| group.members.contains(&entry.name)).map(|group| group.gid);
            for gid in of {
                if !gids.contains(&gid) {
                    gids.push(gid);
                }
            }
        }
        Ok(process::user(uid, gid, gids))
    }
}

/// Reads a file of a root file system that nobody vouches for: links stay within it, and only a plain file is read.
fn read_beneath(root: BorrowedFd<'_>, path: &str) -> Answer<String> {
    let failed = |error: std::io::Error| Refusal::io(format!("read /{path} of the container's root"), &error);
    // Without waiting: the "file" may be a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(failed(error.into())),
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::invalid(format!("/{path} of the container's root is not a plain file")));
    }
    let mut bytes = Vec::new();
    File::from(file).take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(Refusal::invalid(format!("/{path} of the container's root is larger than {FILE_MAX_BYTES} bytes")));
    }
    // Names that are not UTF-8 cannot be asked for; the others still can.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
