//! The record of an exit: what a daemon that was away finds in the bundle, whether or not the shim still lives.
//!
//! # Format
//! `<bundle>/exits/init.json` for the container's init, `<bundle>/exits/exec-<exec id>.json` for another process. Each
//! is one JSON object, written under a temporary name and renamed, so that whoever sees it sees the whole of it:
//!
//! ```json
//! {"version":1,"container_id":"web","exec_id":"","pid":4711,"status":137,"signal":9,
//!  "exited_at_ns":1764000000123456789,"oom_killed":true,"started":true}
//! ```
//!
//! - `version`: 1. A reader refuses a higher one.
//! - `container_id`, `exec_id`: whose; `exec_id` is empty for init.
//! - `pid`: the process id it had, in the shim's pid namespace.
//! - `status`: the exit code, or 128 plus the signal's number, as containerd reports it.
//! - `signal`: the number of the signal that ended it, or 0.
//! - `exited_at_ns`: when the shim saw it end, in nanoseconds since 1970-01-01T00:00:00Z.
//! - `oom_killed`: whether the kernel killed something in the container's cgroup for want of memory, ever.
//! - `started`: whether its command had been told to run; a record without it is of one that had.
//!
//! Its room is taken when the process is made, so that a disk that has become full meanwhile loses no exit.
//!
//! The record is there before any reply or event tells of the exit. Deleting an exec removes its record; init's stays
//! until the bundle goes. There is no fsync: a bundle lives in a state folder, and no process outlives its machine.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The format's version.
const VERSION: u32 = 1;
/// No record is longer: what is, is none.
const BYTES_MAX: u64 = 64 << 10;
/// The room that is taken for a record before there is one: a block of most file systems, and longer than any.
const ROOM_BYTES: usize = 4096;

/// How a process ended. See the module's documentation for the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ExitRecord {
    pub version: u32,
    pub container_id: String,
    pub exec_id: String,
    pub pid: i32,
    pub status: u32,
    pub signal: i32,
    pub exited_at_ns: i64,
    pub oom_killed: bool,
    #[serde(default = "yes")]
    pub started: bool,
}

fn yes() -> bool {
    true
}

impl ExitRecord {
    /// A record of the current version.
    #[must_use]
    pub fn new(container_id: &str, exec_id: &str, pid: i32) -> Self {
        Self {
            version: VERSION,
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            pid,
            status: 0,
            signal: 0,
            exited_at_ns: 0,
            oom_killed: false,
            started: true,
        }
    }

    /// Takes the room for a process's record.
    ///
    /// # Errors
    /// Whatever the file system answers, a full one too.
    pub fn take_room(bundle: &Path, exec_id: &str) -> io::Result<()> {
        fs::create_dir_all(bundle.join("exits"))?;
        let temporary = temporary(bundle, exec_id);
        fs::write(&temporary, [b' '; ROOM_BYTES]).inspect_err(|_| {
            // A part of it is in the way of nothing, and goes with the bundle if it cannot go now.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Writes the record into the bundle, where its room was taken if it was.
    ///
    /// # Errors
    /// Whatever the file system answers.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        let temporary = temporary(bundle, &self.exec_id);
        let bytes = serde_json::to_vec(self)?;
        fs::create_dir_all(bundle.join("exits"))?;
        // Not emptied first: on a full disk others would take the room.
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&temporary)?;
        file.write_all_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        fs::rename(&temporary, path(bundle, &self.exec_id))
    }

    /// Reads a process's record, if it has one.
    ///
    /// # Errors
    /// Whatever the file system answers, and `InvalidData` for what is no record of a version known here.
    pub fn read(bundle: &Path, exec_id: &str) -> io::Result<Option<Self>> {
        let path = path(bundle, exec_id);
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, BYTES_MAX), &mut bytes)?;
        let record: Self = serde_json::from_slice(&bytes)?;
        if record.version > VERSION {
            let message = format!("{}: version {} is not known here", path.display(), record.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Some(record))
    }

    /// Removes a process's record, if it has one.
    ///
    /// # Errors
    /// Whatever the file system answers.
    pub fn remove(bundle: &Path, exec_id: &str) -> io::Result<()> {
        for path in [path(bundle, exec_id), temporary(bundle, exec_id)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn path(bundle: &Path, exec_id: &str) -> PathBuf {
    let name = if exec_id.is_empty() { "init.json".to_owned() } else { format!("exec-{exec_id}.json") };
    bundle.join("exits").join(name)
}

fn temporary(bundle: &Path, exec_id: &str) -> PathBuf {
    path(bundle, exec_id).with_extension("tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bundle(PathBuf);

    impl Bundle {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-shim-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Bundle {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn a_record_comes_back_and_an_exec_called_init_is_not_init() {
        let bundle = Bundle::new("record");
        let init = ExitRecord { status: 137, signal: 9, oom_killed: true, ..ExitRecord::new("web", "", 7) };
        let exec = ExitRecord { status: 3, ..ExitRecord::new("web", "init", 8) };
        assert_eq!(ExitRecord::read(&bundle.0, "").unwrap(), None);
        init.write(&bundle.0).unwrap();
        exec.write(&bundle.0).unwrap();
        assert_eq!(ExitRecord::read(&bundle.0, "").unwrap(), Some(init));
        assert_eq!(ExitRecord::read(&bundle.0, "init").unwrap(), Some(exec));
        ExitRecord::remove(&bundle.0, "init").unwrap();
        assert_eq!(ExitRecord::read(&bundle.0, "init").unwrap(), None);
    }

    #[test]
    fn its_room_is_taken_before_and_given_back() {
        let bundle = Bundle::new("room");
        ExitRecord { status: 1, ..ExitRecord::new("web", "", 7) }.write(&bundle.0).unwrap();
        ExitRecord::remove(&bundle.0, "").unwrap();
        ExitRecord::take_room(&bundle.0, "").unwrap();
        assert_eq!(ExitRecord::read(&bundle.0, "").unwrap(), None);
        let taken = fs::read_dir(bundle.0.join("exits")).unwrap().next().unwrap().unwrap();
        assert_eq!(taken.metadata().unwrap().len(), ROOM_BYTES as u64);
        let record = ExitRecord { status: 2, ..ExitRecord::new("web", "", 8) };
        record.write(&bundle.0).unwrap();
        assert_eq!(ExitRecord::read(&bundle.0, "").unwrap(), Some(record));
        assert!(!taken.path().exists());
        ExitRecord::take_room(&bundle.0, "x").unwrap();
        ExitRecord::remove(&bundle.0, "x").unwrap();
        assert_eq!(fs::read_dir(bundle.0.join("exits")).unwrap().count(), 1);
    }

    #[test]
    fn a_record_of_a_later_version_is_refused() {
        let bundle = Bundle::new("later");
        ExitRecord { version: 2, ..ExitRecord::new("web", "", 7) }.write(&bundle.0).unwrap();
        assert_eq!(ExitRecord::read(&bundle.0, "").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
