//! Bundles: a task's folder under the state folder, shared by the daemon and its shim.
//!
//! ```text
//! STATE/io.containerd.runtime.v2.task/NAMESPACE/ID/
//!   config.json    the OCI runtime spec
//!   rootfs/        where the shim mounts the root file system
//!   log            FIFO: the shim's own log
//!   address        where the shim listens (the shim writes it)
//!   shim-binary-path   the shim's program, written before it is started: for cleaning up after one that no row names
//!   exits/         a JSON file a process that has ended (the shim writes them)
//! ```

use super::{CHECKPOINT_FOLDER, TaskId};
use crate::drivers::{files::remove_tree, mount::mount_points};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::stat::Mode,
    unistd::mkfifo,
};
use serde::Deserialize;
use std::{
    fs, io,
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::DirBuilderExt,
        net::UnixStream,
    },
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, ContainerId, ExecId, Namespace, Refusal, Timestamp, task::Exit};

const FOLDER: &str = "io.containerd.runtime.v2.task";
/// # Spec
/// API reference, section 3 "Shim bootstrap": the bundle's files.
const BINARY_FILE: &str = "shim-binary-path";
/// A record is a few hundred bytes; more is not ours.
const EXIT_RECORD_MAX_BYTES: u64 = 64 << 10;

/// The version of an exit record that is understood.
const EXIT_RECORD_VERSION: u32 = 1;

/// What wharf's shim writes down when a process ends, before it tells anybody. Its format is described where it is
/// written, in the shim's `exit_record.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ExitRecord {
    /// 1.
    pub version: u32,
    /// In the host's pid namespace.
    pub pid: u32,
    /// Exit code, or 128 + signal.
    pub status: u32,
    /// Nanoseconds since the epoch.
    pub exited_at_ns: i64,
    /// Whether the OOM killer struck in its cgroup.
    pub oom_killed: bool,
    /// Whether its command had been told to run; records of earlier shims do not say, and then it had.
    #[serde(default = "yes")]
    pub started: bool,
}

fn yes() -> bool {
    true
}

impl From<ExitRecord> for Exit {
    fn from(record: ExitRecord) -> Self {
        Self { code: record.status, exited_at: Timestamp(record.exited_at_ns), oom: record.oom_killed }
    }
}

/// A bundle's folder.
#[derive(Debug, Clone)]
pub struct Bundle {
    path: PathBuf,
}

impl Bundle {
    /// The bundle of a task, whether it exists or not.
    #[must_use]
    pub fn of(state: &Path, task: &TaskId) -> Self {
        Self { path: state.join(FOLDER).join(task.namespace.as_str()).join(task.container.as_str()) }
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder and what the shim expects in it.
    ///
    /// # Errors
    /// `AlreadyExists` if it is there; then nothing was touched. On any other error nothing is left.
    pub fn create(&self, spec_json: &[u8]) -> Answer<()> {
        let doing = || format!("create bundle {}", self.path.display());
        let parent = self.path.parent().unwrap_or(&self.path);
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(|e| Refusal::io(doing(), &e))?;
        // A user namespace's root must be able to pass through to rootfs, hence x for others.
        fs::DirBuilder::new().mode(0o711).create(&self.path).map_err(|e| Refusal::io(doing(), &e))?;
        wharf_failpoints::failpoint!("bundle/make");
        let fill = || -> io::Result<()> {
            fs::DirBuilder::new().mode(0o711).create(self.path.join("rootfs"))?;
            fs::write(self.path.join("config.json"), spec_json)?;
            mkfifo(&self.path.join("log"), Mode::from_bits_truncate(0o700))?;
            Ok(())
        };
        fill().map_err(|e| {
            if let Err(left) = fs::remove_dir_all(&self.path) {
                tracing::warn!(bundle = %self.path.display(), error = %left, "half-made bundle could not be removed");
            }
            Refusal::io(doing(), &e)
        })
    }

    /// Takes over a folder with a checkpoint, which is on the same file system.
    ///
    /// # Errors
    /// What the disk says.
    pub fn take_checkpoint(&self, folder: &Path) -> Answer<()> {
        let path = self.path.join(CHECKPOINT_FOLDER);
        fs::rename(folder, &path).map_err(|e| Refusal::io(format!("move a checkpoint to {}", path.display()), &e))
    }

    /// Notes the shim's program.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note_binary(&self, binary: &Path) -> Answer<()> {
        let path = self.path.join(BINARY_FILE);
        fs::write(&path, binary.as_os_str().as_bytes())
            .map_err(|e| Refusal::io(format!("write {}", path.display()), &e))
    }

    /// The shim's program, if one was about to be started.
    #[must_use]
    pub fn binary(&self) -> Option<PathBuf> {
        let bytes = fs::read(self.path.join(BINARY_FILE)).ok().filter(|bytes| !bytes.is_empty())?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
    }

    /// Where its shim listens or listened, as the shim wrote it.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        let address = fs::read_to_string(self.path.join("address")).ok()?;
        address.starts_with("unix://").then_some(address)
    }

    /// Removes the socket that nobody listens on any more: containerd's shims leave theirs when they are killed. One that
    /// is served belongs to a shim that holds others of the group.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove_dead_socket(&self) -> io::Result<()> {
        let Some(address) = self.address() else { return Ok(()) };
        let path = Path::new(address.trim_end().trim_start_matches("unix://"));
        match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            _ => Ok(()),
        }
    }

    /// The serving process's id, as wharf's shim writes it down.
    #[must_use]
    pub fn shim_pid(&self) -> Option<i32> {
        fs::read_to_string(self.path.join("shim.pid")).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
    }

    /// Whether a process is a live one of this bundle's shim program: a number alone may be another's by now.
    #[must_use]
    pub fn is_shim(&self, pid: i32) -> bool {
        let name = |path: &Path| path.file_name().map(std::ffi::OsStr::to_owned);
        let running = fs::read_link(format!("/proc/{pid}/exe")).ok().as_deref().and_then(name);
        let program = self.binary().and_then(|path| fs::canonicalize(path).ok()).as_deref().and_then(name);
        running.is_some() && running == program
    }

    /// Unmounts what is left on its rootfs and removes the folder; fine if there is none.
    ///
    /// # Errors
    /// What the kernel says; the folder is then still there and can be removed again.
    pub fn remove(&self) -> Answer<()> {
        let doing = || format!("remove bundle {}", self.path.display());
        let rootfs = self.path.join("rootfs");
        // Several mounts may lie on top of each other.
        loop {
            match umount2(&rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(errno) => return Err(Refusal::io(doing(), &errno.into())),
            }
        }
        wharf_failpoints::try_failpoint!("bundle/unmounted");
        // What a runtime made in a rootfs/ on which nothing was mounted is nobody's. What is mounted below belongs to
        // somebody, and stays: then the folder cannot be removed.
        match fs::remove_dir(&rootfs) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && !mounted_below(&rootfs)? => {
                remove_tree(&rootfs).map_err(|e| Refusal::io(doing(), &e))?;
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Refusal::io(doing(), &e)),
            _ => {}
        }
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Refusal::io(doing(), &e)),
            _ => Ok(()),
        }
    }

    /// Reads the record of a process's end, if the shim has written one that can be read.
    #[must_use]
    pub fn exit_record(&self, exec: Option<&ExecId>) -> Option<ExitRecord> {
        // An exec may be called "init"; its file has a prefix of its own so that the two never meet.
        let name = exec.map_or_else(|| "init.json".to_owned(), |id| format!("exec-{id}.json"));
        let path = self.path.join("exits").join(name);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "exit record could not be opened");
                return None;
            }
        };
        let mut json = Vec::new();
        let read = file.take(EXIT_RECORD_MAX_BYTES).read_to_end(&mut json).map_err(|e| e.to_string());
        let parsed = read.and_then(|_| serde_json::from_slice::<ExitRecord>(&json).map_err(|e| e.to_string()));
        match parsed {
            Ok(record) if record.version == EXIT_RECORD_VERSION => Some(record),
            Ok(record) => {
                tracing::warn!(path = %path.display(), version = record.version, "exit record of an unknown version");
                None
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "exit record could not be read");
                None
            }
        }
    }

    /// Every bundle under a state folder; names that are none of ours are passed over.
    ///
    /// # Errors
    /// What reading the folders says.
    pub fn all(state: &Path) -> Answer<Vec<TaskId>> {
        let root = state.join(FOLDER);
        let mut found = Vec::new();
        for namespace in folders(&root)? {
            let Ok(name) = Namespace::new(&namespace) else { continue };
            for id in folders(&root.join(&namespace))? {
                if let Ok(container) = ContainerId::new(&id) {
                    found.push(TaskId { namespace: name.clone(), container });
                }
            }
        }
        Ok(found)
    }
}

fn folders(path: &Path) -> Answer<Vec<String>> {
    let refuse = |e: io::Error| Refusal::io(format!("read {}", path.display()), &e);
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(refuse)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(refuse)?;
        if entry.file_type().map_err(refuse)?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether anything is mounted in a folder.
fn mounted_below(folder: &Path) -> Answer<bool> {
    let points = mount_points().map_err(|e| Refusal::io("read the table of mounts", &e))?;
    Ok(points.iter().any(|point| point.path.starts_with(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str) -> TaskId {
        TaskId { namespace: Namespace::new("ns").unwrap(), container: ContainerId::new(id).unwrap() }
    }

    #[test]
    fn a_bundle_is_made_once_found_and_removed() {
        let state = tempfile::tempdir().unwrap();
        let bundle = Bundle::of(state.path(), &task("one"));
        bundle.create(b"{}").unwrap();
        assert_eq!(bundle.create(b"{}").unwrap_err().kind, wharf_messages::RefusalKind::AlreadyExists);
        assert_eq!(Bundle::all(state.path()).unwrap(), [task("one")]);
        assert_eq!(bundle.binary(), None);
        bundle.note_binary(Path::new("/bin/a-shim")).unwrap();
        assert_eq!(bundle.binary(), Some("/bin/a-shim".into()));
        // As a runtime leaves it that was given nothing to mount.
        fs::create_dir(bundle.path().join("rootfs/proc")).unwrap();
        bundle.remove().unwrap();
        bundle.remove().unwrap();
        assert!(Bundle::all(state.path()).unwrap().is_empty());
    }

    #[test]
    fn a_socket_goes_when_nobody_listens() {
        let state = tempfile::tempdir().unwrap();
        let bundle = Bundle::of(state.path(), &task("one"));
        bundle.create(b"{}").unwrap();
        bundle.remove_dead_socket().unwrap();
        let path = state.path().join("sock");
        fs::write(bundle.path().join("address"), format!("unix://{}", path.display())).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        bundle.remove_dead_socket().unwrap();
        assert!(path.exists(), "it is served");
        drop(listener);
        bundle.remove_dead_socket().unwrap();
        assert!(!path.exists());
        bundle.remove_dead_socket().unwrap();
    }

    #[test]
    fn exit_records_are_read_and_damage_is_not_believed() {
        let state = tempfile::tempdir().unwrap();
        let bundle = Bundle::of(state.path(), &task("one"));
        bundle.create(b"{}").unwrap();
        assert_eq!(bundle.exit_record(None), None);
        let exits = bundle.path().join("exits");
        fs::create_dir(&exits).unwrap();
        fs::write(exits.join("init.json"), r#"{"version":1,"container_id":"one","exec_id":"","pid":7,"status":137,"signal":9,"exited_at_ns":5,"oom_killed":true}"#).unwrap();
        let record = ExitRecord { version: 1, pid: 7, status: 137, exited_at_ns: 5, oom_killed: true, started: true };
        assert_eq!(bundle.exit_record(None), Some(record));
        fs::write(exits.join("exec-x.json"), r#"{"pid":7,"#).unwrap();
        assert_eq!(bundle.exit_record(Some(&ExecId::new("x").unwrap())), None);
    }
}
