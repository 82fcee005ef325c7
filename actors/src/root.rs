//! The root of the supervision tree: what there is, in which order it starts, and how the whole begins and ends.
//!
//! Parent: none, the process itself. Strategy: one for all, once in 5 seconds; beyond that the process exits, and whoever
//! runs the daemon starts it again. Children start in the order of the table, each when the one before takes messages, and
//! stop in reverse; front ends are served after the last has started and are told to stop before the first is.

use crate::{
    System, Wharf,
    config::SystemConfig,
    runtime::{Actor, ChildSpec, Clock, Ctx, GaveUp, Group, Pool, Restart, Restarted, Supervised, Tree},
};
use std::{future::Future, io, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How the root itself is restarted.
pub const ROOT: ChildSpec = ChildSpec::permanent("root")
    .intensity(1, Duration::from_secs(5))
    .backoff(Duration::from_millis(50), Duration::from_millis(50));

/// How long front ends may take to end what they are doing.
const FRONT_ENDS_BUDGET: Duration = Duration::from_secs(5);
/// The workers of the shared runtime: front ends and drivers. Two, because they only ever wait; see the pool for the rest.
const WORKERS: usize = 2;
/// The most threads for short blocking work. Each may read the store while another waits for the disk.
const BLOCKING_THREADS_MAX: usize = 16;
/// How long an unused one of them stays.
const BLOCKING_THREAD_IDLE: Duration = Duration::from_secs(2);

/// An actor that the root starts and that is always there.
pub trait Fixed: Supervised + Actor<Context = Ctx<Self>> {
    /// Its name, and how it is restarted, stopped and bounded.
    const SPEC: &'static ChildSpec;
    /// Its keyed children, if it is a plural.
    const CHILD: Option<&'static ChildSpec> = None;

    /// Makes it. Everything in `wharf` is there; what starts after it answers later.
    fn new(wharf: &Wharf) -> Self;
}

/// A row of the drawn tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declared {
    /// A child of the root.
    pub spec: &'static ChildSpec,
    /// Its keyed children, if it has any.
    pub child: Option<&'static ChildSpec>,
}

/// Makes the tree from its table: the handles, the order of starting, and the tree as data.
macro_rules! tree {
    ($($(#[$doc:meta])* $field:ident: $actor:ty;)*) => {
        /// How the actors that are always there are reached.
        #[derive(Debug)]
        pub struct Actors {
            $($(#[$doc])* pub $field: $crate::runtime::Handle<$actor>,)*
        }

        struct Seats {
            $($field: $crate::runtime::Seat<$actor>,)*
        }

        impl Seats {
            #[allow(unused_variables, reason = "while the table is empty")]
            fn new(group: &Group) -> Self {
                Self { $($field: group.seat(<$actor as Fixed>::SPEC),)* }
            }

            fn handles(&self) -> Actors {
                Actors { $($field: self.$field.handle(),)* }
            }

            #[allow(unused_variables, clippy::unused_async, reason = "while the table is empty")]
            async fn start(self, group: &mut Group, wharf: &Wharf) -> Result<(), GaveUp> {
                $(group.start(self.$field, <$actor as Fixed>::new(wharf)).await?;)*
                Ok(())
            }
        }

        /// The tree below the root, in the order of its start.
        pub const TREE: &[Declared] =
            &[$(Declared { spec: <$actor as Fixed>::SPEC, child: <$actor as Fixed>::CHILD },)*];
    };
}

tree! {}

/// Why the system could not run, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No threads, no event loop.
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    /// A part could not be kept alive.
    #[error(transparent)]
    GaveUp(#[from] GaveUp),
}

/// Runs the actor system on this thread until `shutdown` is cancelled and everything has stopped.
///
/// `serve` is called when every part takes messages, and answers the front ends as one future; it runs on the shared
/// runtime and ends soon after its token is cancelled.
///
/// # Errors
/// If the root cannot be opened, or if a part cannot be kept alive.
pub fn run<F>(
    config: SystemConfig,
    serve: impl FnOnce(Wharf, CancellationToken) -> F,
    shutdown: CancellationToken,
) -> Result<(), RunError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_THREAD_IDLE)
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let system = actix::System::with_tokio_rt(|| workers);
    system.block_on(live(config, serve, shutdown))
}

async fn live<F>(
    config: SystemConfig,
    serve: impl FnOnce(Wharf, CancellationToken) -> F,
    shutdown: CancellationToken,
) -> Result<(), RunError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (tree, restarts) = Tree::new();
    let mut group = Group::new(&tree, &ROOT);
    let seats = Seats::new(&group);
    let wharf = Wharf::new(System {
        actors: seats.handles(),
        clock: Clock::system(),
        config,
        pool: Pool::start().map_err(RunError::Runtime)?,
        tree,
    });
    let writing_restarts = tokio::task::spawn_local(write_restarts(restarts));
    if let Err(gave_up) = seats.start(&mut group, &wharf).await {
        group.stop().await;
        return Err(gave_up.into());
    }

    let serving = CancellationToken::new();
    let mut front_ends = tokio::spawn(serve(wharf, serving.clone()));
    let ended = tokio::select! {
        // Whoever drives the group hears a failure at once, whatever the front ends do.
        biased;
        failed = group.watch() => Err(failed),
        () = shutdown.cancelled() => Ok(()),
        _ = &mut front_ends => Ok(()),
    };
    serving.cancel();
    if !front_ends.is_finished() && tokio::time::timeout(FRONT_ENDS_BUDGET, &mut front_ends).await.is_err() {
        tracing::warn!(budget_ms = FRONT_ENDS_BUDGET.as_millis(), "front ends did not stop within their budget");
        front_ends.abort();
    }
    group.stop().await;
    writing_restarts.abort();
    ended.map_err(RunError::GaveUp)
}

/// Writes restarts into the log.
async fn write_restarts(mut restarts: mpsc::Receiver<Restarted>) {
    while let Some(restarted) = restarts.recv().await {
        tracing::info!(path = restarted.path, restarts = restarted.restarts, "was restarted");
    }
}

/// The tree as it must be while nothing is going on: path and restart of each part.
#[must_use]
pub fn declared() -> Vec<(&'static str, Restart)> {
    TREE.iter().map(|row| (row.spec.name, row.spec.restart)).collect()
}
