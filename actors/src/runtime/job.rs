//! Jobs: the work that no handler may wait for. Waiting goes to the shared runtime, short blocking work to its
//! blocking threads, blocking work that waits for others to threads of its own, heavy bytes and CPU to a small pool of
//! niced threads.

use futures_util::FutureExt;
use std::{
    any::Any,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinError,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use wharf_messages::{Answer, Refusal};

/// What a job belongs to, and how it hears that it is no longer wanted.
#[derive(Debug, Clone)]
pub struct JobToken {
    /// The incarnation that started it.
    pub epoch: u64,
    /// Cancelled when that incarnation ends, or by whoever holds a clone.
    pub cancel: CancellationToken,
}

/// The words of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

/// How long a cancelled job may take to put things in order, before it is dropped at the next point where it waits. Well
/// within every stop budget, so that one job that does not listen does not cost its actor a graceful stop.
const GRACE: Duration = Duration::from_secs(2);

/// Starts a job on the shared runtime, in no span but its own; the future answered is its end.
pub(crate) fn start<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = Answer<T>> + Send + 'static,
    cancel: CancellationToken,
) -> impl Future<Output = Answer<T>> + 'static {
    // Caught here and not at the join, so that the reason reaches the actor in words.
    let work = AssertUnwindSafe(work).catch_unwind().map(move |end| {
        end.unwrap_or_else(|panic| Err(Refusal::internal(format!("{name} failed: {}", panic_message(&*panic)))))
    });
    let work = async move {
        let overdue = async {
            cancel.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            end = work => end,
            () = overdue => Err(Refusal::canceled(format!("{name} was dropped, it did not end when it was told to"))),
        }
    };
    let job = tokio::spawn(work);
    async move {
        job.await.unwrap_or_else(|_| Err(Refusal::unavailable(format!("{name} was cut short, the daemon is stopping"))))
    }
}

/// The span of work on a thread, for traces alone: it begins when the thread does, so what comes before is waiting.
fn step(name: &'static str) -> Span {
    tracing::trace_span!("blocking", otel.name = name)
}

/// Does work that must not stop halfway, even if the actor that waits for its end does not live so long.
///
/// # Errors
/// The work's own; `Internal` if it panics.
///
/// # Cancel safety
/// The work goes on to its end when the future is dropped.
pub async fn to_its_end<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = Answer<T>> + Send + 'static,
) -> Answer<T> {
    ended(name, tokio::spawn(work.in_current_span()).await)
}

/// How work that was spawned ended.
fn ended<T>(name: &str, end: Result<Answer<T>, JoinError>) -> Answer<T> {
    end.unwrap_or_else(|error| {
        Err(match error.try_into_panic() {
            Ok(panic) => Refusal::internal(format!("{name} failed: {}", panic_message(&*panic))),
            Err(_) => Refusal::unavailable(format!("{name} was cut short, the daemon is stopping")),
        })
    })
}

/// Does short blocking work (a read of the store, a few system calls) on the runtime's blocking threads.
///
/// # Errors
/// The work's own; `Internal` if it panics.
///
/// # Cancel safety
/// Work that has begun goes on to its end when the future is dropped.
pub async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let request = Span::current();
    ended(name, tokio::task::spawn_blocking(move || request.in_scope(|| step(name).in_scope(work))).await)
}

/// Pieces of work at a time that wait for whoever is at the other end. A thread that waits costs little, but it costs.
const WAITING_MAX: usize = 256;

static WAITING: Semaphore = Semaphore::const_new(WAITING_MAX);

/// Does blocking work that waits for a client or a server as long as it likes, on a thread of its own. On the threads
/// that all share, a few clients who do not read would stop everybody else's reads of the store.
///
/// # Errors
/// The work's own; `Internal` if it panics; `Unavailable` if too many wait already.
///
/// # Cancel safety
/// Work that has begun goes on to its end when the future is dropped; it ends by itself when its channel does.
pub async fn waiting<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let place = WAITING.try_acquire().map_err(|_| {
        Refusal::unavailable(format!("{name}: {WAITING_MAX} transfers wait for their other ends already"))
    })?;
    let (request, runtime) = (Span::current(), tokio::runtime::Handle::current());
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("transfer".to_owned()).spawn(move || {
        let entered = runtime.enter();
        let end = std::panic::catch_unwind(AssertUnwindSafe(|| request.in_scope(|| step(name).in_scope(work))));
        let end =
            end.unwrap_or_else(|panic| Err(Refusal::internal(format!("{name} failed: {}", panic_message(&*panic)))));
        drop((place, entered));
        // Nobody may be there to hear it.
        tell.send(end).ok();
    });
    thread.map_err(|e| Refusal::io(format!("{name}: start a thread"), &e))?;
    told.await.unwrap_or_else(|_| Err(Refusal::internal(format!("{name}: its thread said nothing"))))
}

/// How many pieces of heavy work run at once. Two saturate the disk or verify and unpack in a pipeline; more only
/// take time from the actors.
const POOL_THREADS: usize = 2;
/// How many pieces may wait for a thread; whoever brings more waits before the door.
const POOL_WAITING_MAX: usize = 64;
/// How nice the threads are: below everything that answers people.
const POOL_NICENESS: i32 = 10;

type Work = Box<dyn FnOnce() + Send>;

/// A small pool of niced threads for heavy bytes and CPU: hashing, unpacking, packing.
#[derive(Clone)]
pub struct Pool {
    work: mpsc::Sender<Work>,
    room: Arc<Semaphore>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {POOL_WAITING_MAX} places free)", self.room.available_permits())
    }
}

impl Pool {
    /// Starts the threads. They end when the last clone is dropped.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start() -> std::io::Result<Self> {
        let (work, waiting) = mpsc::channel::<Work>();
        let waiting = Arc::new(Mutex::new(waiting));
        for n in 0..POOL_THREADS {
            let waiting = Arc::clone(&waiting);
            std::thread::Builder::new().name(format!("heavy-{n}")).spawn(move || {
                // Linux applies a niceness to the calling thread alone.
                if let Err(error) = rustix::process::nice(POOL_NICENESS) {
                    tracing::warn!(%error, "heavy work runs at the daemon's own priority");
                }
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match next {
                        Ok(work) => work(),
                        Err(mpsc::RecvError) => return,
                    }
                }
            })?;
        }
        Ok(Self { work, room: Arc::new(Semaphore::new(POOL_THREADS + POOL_WAITING_MAX)) })
    }

    /// Does heavy work on the pool: waits for a place, then for the work.
    ///
    /// # Errors
    /// The work's own; `Internal` if it panics.
    ///
    /// # Cancel safety
    /// Work that has not begun when the future is dropped is not begun; work that has goes on, so long work must look at
    /// its [`JobToken`].
    pub async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let stopping = || Refusal::unavailable(format!("{name} was not begun, the daemon is stopping"));
        let place = Arc::clone(&self.room).acquire_owned().await.map_err(|_| stopping())?;
        let (done, end) = oneshot::channel();
        let request = Span::current();
        let work = Box::new(move || {
            if done.is_closed() {
                return;
            }
            let end = std::panic::catch_unwind(AssertUnwindSafe(|| request.in_scope(|| step(name).in_scope(work))));
            drop(place);
            // Whoever brought the work may have gone away while it was done.
            let _ = done.send(end);
        });
        self.work.send(work).map_err(|_| stopping())?;
        match end.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(Refusal::internal(format!("{name} failed: {}", panic_message(&*panic)))),
            Err(_) => Err(stopping()),
        }
    }
}
