//! The event loops: actors on the calling thread's arbiter, everything that waits for the world on a worker.

use std::{future::Future, io, time::Duration};

/// The workers of the shared runtime: drivers. One, because they only ever wait (see [`super::Pool`]), and because of two
/// each would wake the other for every message.
const WORKERS: usize = 1;
/// The most threads for short blocking work. Each may read the store while another waits for the disk.
const BLOCKING_THREADS_MAX: usize = 16;
/// How long an unused one of them stays.
const BLOCKING_THREAD_IDLE: Duration = Duration::from_secs(2);

/// Runs a future, and the actors it starts, on this thread.
///
/// # Errors
/// If the system has no threads or no event loop to give.
pub(crate) fn block_on<T>(main: impl Future<Output = T>) -> io::Result<T> {
    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_THREAD_IDLE)
        .thread_name("worker")
        .enable_all()
        .build()?;
    Ok(actix::System::with_tokio_rt(|| workers).block_on(main))
}
