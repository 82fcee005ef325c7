//! The daemon as a process: its memory and its limits.

use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
    stat::{Mode, umask},
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Arenas of the C library's allocator. One for every thread, as it likes, would keep what each thread once needed; two
/// are enough for two workers.
const ARENAS: libc::c_int = 2;

/// Makes the allocator frugal. Before the first thread.
pub fn keep_memory_small() {
    // SAFETY: no other thread runs yet, and the call takes two numbers. A refusal only means more memory.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

/// How long nothing may happen before the process counts as quiet.
const QUIET: Duration = Duration::from_secs(1);
/// How often a process that has given everything back looks whether something has happened.
const LOOK: Duration = Duration::from_secs(5);
/// Page faults that make a look worth it; fewer in a second are quiet.
const FAULTS: i64 = 64;

/// Gives memory back whenever something has happened and it is quiet again: the heap's free pages, and the pages of the
/// program that only what has happened needed (starting up is most of it). What is needed again comes back by itself from
/// the page cache, some sixteen pages at a fault.
pub async fn give_memory_back(stopping: CancellationToken) {
    let mut seen = page_faults();
    loop {
        while stopping.run_until_cancelled(tokio::time::sleep(QUIET)).await.is_some() {
            let now = page_faults();
            if now - seen < FAULTS {
                break;
            }
            seen = now;
        }
        if stopping.is_cancelled() {
            return;
        }
        // SAFETY: it takes a number, and touches only memory that nobody has.
        unsafe { libc::malloc_trim(0) };
        // SAFETY: the callback gets what it is declared to get, and uses it only while it runs.
        unsafe { libc::dl_iterate_phdr(Some(drop_clean_pages), std::ptr::null_mut()) };
        seen = page_faults();
        while page_faults() - seen < FAULTS {
            if stopping.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }
}

/// How often a page had to be mapped.
fn page_faults() -> i64 {
    // Without an answer nothing ever happens, and nothing is given back.
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.minor_page_faults())
}

/// Unmaps the pages of one object's segments that cannot be written: they are the file's, and are read again when needed.
///
/// # Spec
/// dl_iterate_phdr(3), madvise(2) MADV_DONTNEED, elf(5).
unsafe extern "C" fn drop_clean_pages(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: usize = 4096;
    // SAFETY: the loader passes a valid description, with as many headers as it says, for the time of this call.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr as usize, std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)))
    };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let start = (base + header.p_vaddr as usize) & !(PAGE - 1);
        let end = (base + header.p_vaddr as usize + header.p_filesz as usize) & !(PAGE - 1);
        if end > start {
            // SAFETY: the range is of a segment that the loader mapped from the file without leave to write: dropping its
            // pages loses nothing. A refusal only means more memory.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
    0
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
