//! A snapshot's files for a user namespace: each is given to whom the namespace's maps, which labels carry, say.
//!
//! It is done when the snapshot is prepared. An overlay has to copy every file up for that: a client that makes many
//! containers with the same maps does better to prepare one such snapshot, commit it, and put the others on it.

use crate::drivers::{
    files::{is_folder, open_root, walk},
    mount,
};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Uid, chmodat, chownat, fchown, fstat};
use std::{collections::HashMap, io, path::Path};
use wharf_messages::{
    Answer, Labels, Mount, Refusal,
    snapshot::{GID_MAPPING_LABEL, UID_MAPPING_LABEL},
};

/// The bits that a change of owner takes away, although here the program stays its owner's.
const SET_ID_BITS: u32 = 0o6000;

/// Whose are the ids of a user namespace outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maps {
    uids: Vec<Map>,
    gids: Vec<Map>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Map {
    within: u32,
    outside: u32,
    size: u32,
}

impl Maps {
    /// What a snapshot's labels say, if they say anything.
    ///
    /// # Errors
    /// `InvalidArgument` for a map of another form, and for one label without the other.
    pub(super) fn of(labels: &Labels) -> Answer<Option<Self>> {
        match (labels.get(UID_MAPPING_LABEL), labels.get(GID_MAPPING_LABEL)) {
            (None, None) => Ok(None),
            (Some(uids), Some(gids)) => Ok(Some(Self {
                uids: parse(uids).ok_or_else(|| bad(UID_MAPPING_LABEL, uids))?,
                gids: parse(gids).ok_or_else(|| bad(GID_MAPPING_LABEL, gids))?,
            })),
            _ => {
                Err(Refusal::invalid(format!("label {UID_MAPPING_LABEL} needs label {GID_MAPPING_LABEL}, and that it")))
            }
        }
    }

    /// Gives everything below a folder, and the folder, to whom the maps say. What is in no map stays whose it is: the
    /// namespace shows it as nobody's. Set-id bits stay; file capabilities do not, since they are the outer root's.
    ///
    /// # Errors
    /// What the kernel says; some of it is done then.
    pub(super) fn give(&self, root: &Path) -> io::Result<()> {
        let root = open_root(root)?;
        let (uid, gid) = self.owner(&fstat(&root)?);
        fchown(&root, Some(uid), Some(gid))?;
        let mut linked = HashMap::new();
        walk(&root, |found| {
            let stat = &found.stat;
            let (inode, has) = ((stat.st_dev, stat.st_ino), (stat.st_uid, stat.st_gid));
            let (uid, gid) = self.owner(stat);
            if !is_folder(stat) && stat.st_nlink > 1 {
                // An overlay parts the names of a file that it copies up, and may show the same number for both still:
                // it is done only if its owners say so.
                if linked.get(&inode) == Some(&has) {
                    return Ok(());
                }
                linked.insert(inode, (uid.as_raw(), gid.as_raw()));
            }
            chownat(found.folder, found.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & SET_ID_BITS != 0 {
                chmodat(found.folder, found.name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
            }
            Ok(())
        })
    }

    /// The same through mounts, which nobody else sees and which are gone when this answers. They are made on `place`,
    /// an empty folder.
    ///
    /// # Errors
    /// What mounting and the kernel say.
    pub(super) fn give_through(&self, mounts: &[Mount], place: &Path) -> io::Result<()> {
        let work = || -> io::Result<()> {
            // A mount namespace of this thread's own: should the daemon die, the mounts go with it.
            unshare(CloneFlags::CLONE_NEWNS)?;
            let apart = nix::mount::MsFlags::MS_SLAVE | nix::mount::MsFlags::MS_REC;
            nix::mount::mount(None::<&str>, "/", None::<&str>, apart, None::<&str>)?;
            let refused = |refusal: Refusal| io::Error::other(refusal.to_string());
            mount::mount_all(mounts, place).map_err(refused)?;
            let given = self.give(place);
            mount::unmount(place).map_err(refused)?;
            given
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("mapped".to_owned()).spawn_scoped(scope, work)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
        })
    }

    fn owner(&self, stat: &Stat) -> (Uid, Gid) {
        (Uid::from_raw(outside(&self.uids, stat.st_uid)), Gid::from_raw(outside(&self.gids, stat.st_gid)))
    }
}

fn bad(label: &str, text: &str) -> Refusal {
    Refusal::invalid(format!("label {label}={text}: must be container-id:host-id:length, several apart by commas"))
}

fn parse(text: &str) -> Option<Vec<Map>> {
    let map = |text: &str| {
        let numbers = text.split(':').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()?;
        let [within, outside, size] = numbers[..] else { return None };
        // The last number is none's.
        let fits = |first: u32| first.checked_add(size).is_some();
        (size > 0 && fits(within) && fits(outside)).then_some(Map { within, outside, size })
    };
    text.split(',').map(map).collect()
}

fn outside(maps: &[Map], id: u32) -> u32 {
    let map = maps.iter().find(|map| id.checked_sub(map.within).is_some_and(|distance| distance < map.size));
    map.map_or(id, |map| map.outside + (id - map.within))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(uids: &str, gids: &str) -> Labels {
        let given = [(UID_MAPPING_LABEL, uids), (GID_MAPPING_LABEL, gids)];
        given.iter().filter(|(_, text)| !text.is_empty()).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn labels_are_maps_or_refused() {
        assert_eq!(Maps::of(&Labels::new()).unwrap(), None);
        let maps = Maps::of(&labels("0:1000:10,10:5000:5", "0:2000:1")).unwrap().unwrap();
        let uids = [0, 9, 10, 14, 15].map(|id| outside(&maps.uids, id));
        assert_eq!(uids, [1000, 1009, 5000, 5004, 15]);
        assert_eq!(outside(&maps.gids, 1), 1);
        for (uids, gids) in [
            ("0:1:2", ""),
            ("", "0:1:2"),
            ("0:1", "0:1:2"),
            ("0:1:0", "0:1:2"),
            ("0:4294967295:1", "0:1:2"),
            ("a:1:2", "0:1:2"),
            ("0:1:2,", "0:1:2"),
        ] {
            assert!(Maps::of(&labels(uids, gids)).is_err(), "{uids} {gids}");
        }
    }
}
