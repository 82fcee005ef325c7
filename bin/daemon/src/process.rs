//! The daemon as a process: its memory and its limits.

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};

/// Arenas of the C library's allocator. One for every thread, as it likes, would keep what each thread once needed; two
/// are enough for two workers.
const ARENAS: libc::c_int = 2;

/// Makes the allocator frugal. Before the first thread.
pub fn keep_memory_small() {
    // SAFETY: no other thread runs yet, and the call takes two numbers. A refusal only means more memory.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

/// Gives new files the modes that they are made with, whatever the daemon was started from. Before the first thread.
pub fn set_umask() {
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
}

/// Raises the limit of open files as far as it is allowed, and warns if that is not as far as wanted.
pub fn raise_open_files(wanted: u64) {
    let outcome = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft >= wanted {
            return Ok(soft);
        }
        // Above the hard limit only with CAP_SYS_RESOURCE.
        if wanted > hard && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
            return Ok(wanted);
        }
        let most = wanted.min(hard);
        setrlimit(Resource::RLIMIT_NOFILE, most, hard.max(most)).map(|()| most)
    });
    match outcome {
        Ok(limit) if limit >= wanted => {}
        Ok(limit) => tracing::warn!(limit, wanted, "fewer open files than configured: the hard limit is lower"),
        Err(error) => tracing::warn!(%error, wanted, "the limit of open files could not be raised"),
    }
}
