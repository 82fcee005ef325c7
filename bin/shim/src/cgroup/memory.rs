//! Memory that runs out in a container's cgroup: being told of it, and knowing that it happened.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use wharf_messages::{Answer, Refusal};

use super::stats::{lookup, text};
use super::{Cgroup, Version, write};
use crate::reactor::Interest;

/// A descriptor that becomes ready when memory runs out.
#[derive(Debug)]
pub struct MemoryWatch {
    descriptor: OwnedFd,
    interest: Interest,
    told: u64,
}

impl MemoryWatch {
    /// Watches a container's cgroup; gives nothing where it has none of its own, or memory is not controlled.
    ///
    /// # Errors
    /// Whatever the kernel answers.
    pub fn new(cgroup: &Cgroup) -> Answer<Option<Self>> {
        let Some(folder) = cgroup.own_folder("memory") else { return Ok(None) };
        let refuse = |error| Refusal::io(format!("watch the memory of {}", folder.display()), &error);
        let name = match cgroup.version() {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let file = match File::open(folder.join(name)) {
            // The memory controller is not enabled here.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(refuse)?,
        };
        let (descriptor, interest) = match cgroup.version() {
            Version::V1 => {
                let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
                let descriptor = rustix::event::eventfd(0, flags).map_err(|error| refuse(error.into()))?;
                let order = format!("{} {}", descriptor.as_raw_fd(), file.as_raw_fd());
                write(&folder.join("cgroup.event_control"), &order)?;
                (descriptor, Interest::Read)
            }
            Version::V2 => (file.into(), Interest::Urgent),
        };
        Ok(Some(Self { descriptor, interest, told: 0 }))
    }

    /// What is to be watched, and how.
    #[must_use]
    pub fn source(&self) -> (BorrowedFd<'_>, Interest) {
        (self.descriptor.as_fd(), self.interest)
    }

    /// Whether memory ran out since the last look.
    pub fn check(&mut self, cgroup: &Cgroup) -> bool {
        match cgroup.version() {
            Version::V1 => {
                // Told before the kernel counts the kill. The end of the cgroup is told the same way.
                let mut count = [0; 8];
                let told = rustix::io::read(&self.descriptor, &mut count).is_ok()
                    && cgroup.own_folder("memory").is_some_and(Path::exists);
                self.told += u64::from(told);
                told
            }
            Version::V2 => {
                // Told of every change in the file, most of which are others.
                let kills = cgroup.memory_kills();
                kills > std::mem::replace(&mut self.told, kills)
            }
        }
    }

    /// A last look, when the container has ended: whether there is something yet to tell.
    pub fn check_last(&mut self, cgroup: &Cgroup) -> bool {
        let untold = self.told == 0;
        self.check(cgroup) || (untold && cgroup.memory_kills() > 0)
    }
}

impl Cgroup {
    /// How many processes the kernel killed in it for want of memory.
    #[must_use]
    pub fn memory_kills(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        lookup(&text(self.own_folder("memory"), file), "oom_kill").unwrap_or(0)
    }
}
