//! A container's cgroups: where they are, who is in them, freezing, killing and removing them.
//!
//! Version 1, version 2, and both at once (hybrid: controllers on version 1 and an empty version 2 beside them). The
//! kernel's `/proc/<pid>/cgroup` says where a process is, whichever runtime put it there.

pub mod devices;
pub mod memory;
pub mod stats;
pub mod stats_v1;
pub mod stats_v2;
pub mod update;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wharf_messages::{Answer, Refusal};

use crate::sys;

const ROOT: &str = "/sys/fs/cgroup";
/// Where a container's cgroups are written down in its bundle.
const FILE: &str = "cgroups.json";
/// How long a freezer may take: it waits for every process to leave the kernel.
const FREEZE_MAX: Duration = Duration::from_millis(500);
/// How deep below its own a container's cgroups are looked at.
const DEPTH_MAX: usize = 16;

/// The controllers of version 1 that libcontainer puts a container's processes under.
const LIBRARY_CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];

/// Which interface the kernel's controllers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all of them.
    V2,
}

/// A cgroup in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    /// The hierarchy's controllers, comma-separated; empty for version 2.
    controllers: String,
    /// Its folder.
    folder: PathBuf,
    /// It is not one that the shim itself is in: it can be frozen, killed and removed.
    own: bool,
}

/// A process's cgroups in all hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    version: Version,
    nodes: Vec<Node>,
}

impl Cgroup {
    /// The cgroups that a process is in.
    ///
    /// # Errors
    /// Not found, if there is no such process.
    pub fn of(pid: i32) -> Answer<Self> {
        let read =
            |path: String| fs::read_to_string(&path).map_err(|error| Refusal::io(format!("read {path}"), &error));
        let theirs = read(format!("/proc/{pid}/cgroup"))?;
        let ours = read("/proc/self/cgroup".into())?;
        Ok(Self::parse(&theirs, &ours, is_unified()))
    }

    /// The cgroups that the embedded runtime is about to make at a path, where they are not there yet: known before the
    /// runtime begins, they can be removed whatever becomes of it.
    ///
    /// # Errors
    /// If the shim's own cgroups cannot be read.
    pub fn planned(path: &Path) -> Answer<Self> {
        let ours = read(Path::new("/proc/self/cgroup"))?;
        let mut planned = Self::parse(&theirs_at(path, &ours), &ours, is_unified());
        for node in &mut planned.nodes {
            node.own &= !node.folder.exists();
        }
        Ok(planned)
    }

    fn parse(theirs: &str, ours: &str, unified: bool) -> Self {
        let version = if unified { Version::V2 } else { Version::V1 };
        let mut nodes = Vec::new();
        for line in theirs.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            // A cgroup outside of the shim's own cgroup namespace has no path that means anything here.
            if path.contains("/..") || unified != controllers.is_empty() {
                continue;
            }
            let own = path != "/" && !ours.lines().any(|our| our == line);
            let hierarchy = if unified {
                PathBuf::from(ROOT)
            } else {
                Path::new(ROOT).join(controllers.strip_prefix("name=").unwrap_or(controllers))
            };
            let folder = hierarchy.join(path.trim_start_matches('/'));
            nodes.push(Node { controllers: controllers.to_owned(), folder, own });
        }
        Self { version, nodes }
    }

    /// Writes them into the container's bundle, for whoever cleans up after this process.
    ///
    /// # Errors
    /// Whatever the file system answers.
    pub fn save(&self, bundle: &Path) -> io::Result<()> {
        fs::write(bundle.join(FILE), serde_json::to_vec(self)?)
    }

    /// Reads them from a bundle, if they were written.
    ///
    /// # Errors
    /// Whatever the file system answers, and `InvalidData` for what is none of ours.
    pub fn load(bundle: &Path) -> io::Result<Option<Self>> {
        match fs::read(bundle.join(FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
        }
    }

    /// Which interface the controllers have.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The folder of a controller.
    #[must_use]
    pub fn folder(&self, controller: &str) -> Option<&Path> {
        let found = self.nodes.iter().find(|node| match self.version {
            Version::V1 => node.controllers.split(',').any(|name| name == controller),
            Version::V2 => true,
        });
        found.map(|node| node.folder.as_path())
    }

    /// The folder of a controller, if it is the container's own.
    #[must_use]
    pub fn own_folder(&self, controller: &str) -> Option<&Path> {
        self.folder(controller).filter(|folder| self.nodes.iter().any(|node| node.own && node.folder == *folder))
    }

    /// The folder that every process of the container is found below.
    fn members(&self) -> Option<&Path> {
        let best = ["freezer", "devices", "memory", "pids"].iter().find_map(|name| self.own_folder(name));
        best.or_else(|| self.nodes.iter().find(|node| node.own).map(|node| node.folder.as_path()))
    }

    /// Moves the calling process into these cgroups.
    ///
    /// # Errors
    /// Whatever the kernel answers.
    pub fn join(&self) -> Answer<()> {
        for node in self.nodes.iter().filter(|node| node.own) {
            let path = node.folder.join("cgroup.procs");
            write(&path, "0")?;
        }
        Ok(())
    }

    /// The processes in the container's cgroups.
    ///
    /// # Errors
    /// Whatever reading them answers.
    pub fn pids(&self) -> Answer<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(folder) = self.members() {
            collect_pids(folder, 0, &mut pids)
                .map_err(|error| Refusal::io(format!("list the processes in {}", folder.display()), &error))?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Stops every process of the container where it is.
    ///
    /// # Errors
    /// Not implemented without a freezer; failed precondition if the processes do not come to rest.
    pub fn freeze(&self) -> Answer<()> {
        let result = self.set_frozen(true);
        if result.is_err()
            && let Err(refusal) = self.set_frozen(false)
        {
            crate::warning!("a container that could not be frozen cannot be thawed: {refusal}");
        }
        result
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn thaw(&self) -> Answer<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Answer<()> {
        let folder = self.own_folder("freezer");
        let folder = folder.ok_or_else(|| Refusal::not_implemented("pausing needs the freezer of the cgroups"))?;
        let deadline = Instant::now() + FREEZE_MAX;
        loop {
            let done = match (self.version, frozen) {
                (Version::V1, _) => {
                    let state = folder.join("freezer.state");
                    let wanted = if frozen { "FROZEN" } else { "THAWED" };
                    // Written again each time: a process that was forked meanwhile may have escaped.
                    write(&state, wanted)?;
                    read(&state)?.trim() == wanted
                }
                (Version::V2, _) => {
                    write(&folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
                    let wanted = u64::from(frozen);
                    stats::lookup(&read(&folder.join("cgroup.events"))?, "frozen") == Some(wanted)
                }
            };
            if done {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Refusal::failed_precondition(format!("the processes in {} do not stop", folder.display())));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Sends a signal to every process of the container, new ones included.
    ///
    /// # Errors
    /// Whatever listing or killing answers.
    pub fn kill_all(&self, signal: i32) -> Answer<()> {
        let Some(folder) = self.members() else { return Ok(()) };
        if self.version == Version::V2 && signal == libc::SIGKILL && write(&folder.join("cgroup.kill"), "1").is_ok() {
            return Ok(());
        }
        // Frozen, none of them can fork while the list is worked through. Without a freezer it is done as well as
        // it can be.
        let frozen = self.freeze().is_ok();
        let killed = self.pids().map(|pids| {
            for pid in pids {
                match sys::kill(pid, signal) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                        crate::warning!("process {pid} does not get signal {signal}: {error}");
                    }
                    _ => {}
                }
            }
        });
        if frozen {
            self.thaw()?;
        }
        killed
    }

    /// Removes the container's cgroups. Gives `false` if something is still in them.
    ///
    /// # Errors
    /// Whatever the kernel answers, but that.
    pub fn remove(&self) -> Answer<bool> {
        let mut empty = true;
        for node in self.nodes.iter().filter(|node| node.own) {
            empty &= remove_tree(&node.folder, 0)
                .map_err(|error| Refusal::io(format!("remove cgroup {}", node.folder.display()), &error))?;
        }
        Ok(empty)
    }
}

/// What `/proc/<pid>/cgroup` will say of a process that libcontainer puts at a path: it handles some of version 1's
/// controllers, and leaves the other hierarchies as they are.
fn theirs_at(path: &Path, ours: &str) -> String {
    let normal = path.components().filter_map(|part| match part {
        std::path::Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let path = normal.fold(String::new(), |path, name| path + "/" + name);
    let unified = is_unified();
    let mut theirs = String::new();
    for line in ours.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers)) = (fields.next(), fields.next()) else { continue };
        let handled = controllers.split(',').any(|name| LIBRARY_CONTROLLERS.contains(&name));
        let line = if !path.is_empty() && (handled || (unified && controllers.is_empty())) {
            format!("{number}:{controllers}:{path}")
        } else {
            line.to_owned()
        };
        theirs.push_str(&line);
        theirs.push('\n');
    }
    theirs
}

/// Whether the machine has version 2 only.
#[must_use]
pub fn is_unified() -> bool {
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs(ROOT).is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC)
}

fn read(path: &Path) -> Answer<String> {
    fs::read_to_string(path).map_err(|error| Refusal::io(format!("read {}", path.display()), &error))
}

fn write(path: &Path, value: &str) -> Answer<()> {
    // Opened without O_CREAT: a cgroup file is there or the controller is not.
    let mut file = fs::OpenOptions::new().write(true).open(path);
    file.as_mut()
        .map_err(|error| io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))
        .and_then(|file| io::Write::write_all(file, value.as_bytes()))
        .map_err(|error| Refusal::io(format!("write {value:?} to {}", path.display()), &error))
}

fn subfolders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn collect_pids(folder: &Path, depth: usize, pids: &mut Vec<i32>) -> io::Result<()> {
    let listed = match fs::read_to_string(folder.join("cgroup.procs")) {
        // A threaded cgroup of version 2 lists its processes in the one above it.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(());
        }
        other => other?,
    };
    pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth < DEPTH_MAX {
        for below in subfolders(folder)? {
            collect_pids(&below, depth + 1, pids)?;
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path, depth: usize) -> io::Result<bool> {
    match fs::remove_dir(folder) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) if error.raw_os_error() != Some(libc::EBUSY) => return Err(error),
        Err(_) => {}
    }
    // The container may have made cgroups of its own.
    if depth < DEPTH_MAX {
        for below in subfolders(folder)? {
            remove_tree(&below, depth + 1)?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "9:name=systemd:/\n4:memory:/system\n2:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn hybrid_hierarchies_are_found_and_only_the_containers_are_its_own() {
        let theirs = "9:name=systemd:/\n4:memory:/default/web\n2:cpu,cpuacct:/default/web\n0::/\n";
        let cgroup = Cgroup::parse(theirs, OURS, false);
        assert_eq!(cgroup.version(), Version::V1);
        assert_eq!(cgroup.folder("memory"), Some(Path::new("/sys/fs/cgroup/memory/default/web")));
        assert_eq!(cgroup.folder("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/default/web")));
        assert_eq!(cgroup.folder("pids"), None);
        let own: Vec<_> = cgroup.nodes.iter().map(|node| node.own).collect();
        assert_eq!(own, [false, true, true]);
        assert_eq!(cgroup.members(), Some(Path::new("/sys/fs/cgroup/memory/default/web")));
    }

    #[test]
    fn a_container_in_the_shims_own_cgroup_has_none_to_kill() {
        let cgroup = Cgroup::parse(OURS, OURS, false);
        assert_eq!(cgroup.members(), None);
        assert!(cgroup.set_frozen(true).is_err());
        assert_eq!(cgroup.remove(), Ok(true));
    }

    #[test]
    fn version_two_has_one_folder_for_everything() {
        let cgroup = Cgroup::parse("0::/default/web\n", "0::/\n", true);
        assert_eq!(cgroup.version(), Version::V2);
        assert_eq!(cgroup.folder("memory"), Some(Path::new("/sys/fs/cgroup/default/web")));
        assert_eq!(cgroup.members(), Some(Path::new("/sys/fs/cgroup/default/web")));
    }

    #[test]
    fn the_runtimes_cgroups_are_foretold() {
        let theirs = "9:name=systemd:/\n4:memory:/default/web\n2:cpu,cpuacct:/default/web\n";
        if !is_unified() {
            assert_eq!(theirs_at(Path::new("default/./web"), OURS), theirs.to_owned() + "0::/\n");
        }
        assert_eq!(theirs_at(Path::new("/"), OURS), OURS);
    }

    #[test]
    fn paths_outside_of_the_namespace_are_left_alone() {
        assert_eq!(Cgroup::parse("0::/../web\n", "0::/\n", true).members(), None);
    }
}
