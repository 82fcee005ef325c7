//! The root of the supervision tree: what there is, in which order it starts, and how the whole begins and ends.
//!
//! Parent: none, the process itself. Strategy: one for all, once in 5 seconds; beyond that the process exits, and whoever
//! runs the daemon starts it again. Children start in the order of the table, each when the one before takes messages, and
//! stop in reverse; front ends are served after the last has started and are told to stop before the first is.

use crate::{
    System, Wharf,
    bus::Bus,
    config::SystemConfig,
    drivers::Drivers,
    journal::{self, Journal, JournalSeat},
    runtime::{self, Actor, ChildSpec, Clock, Ctx, GaveUp, Group, Pool, Restarted, Supervised, Tree},
    serve::{Attempts, CallIo, Serve},
};
use std::{future::Future, io, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Meta,
    event::Event,
    supervision::{ChildReport, GetSupervisionTree, RestartChild},
};
use wharf_store::{Commit, OpenError};

/// How the root itself is restarted.
pub const ROOT: ChildSpec = ChildSpec::permanent("root")
    .intensity(1, Duration::from_secs(5))
    .backoff(Duration::from_millis(50), Duration::from_millis(50));

/// How long front ends may take to end what they are doing.
const FRONT_ENDS_BUDGET: Duration = Duration::from_secs(5);
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
            fn new(group: &Group) -> Self {
                Self { $($field: group.seat(<$actor as Fixed>::SPEC),)* }
            }

            fn handles(&self) -> Actors {
                Actors { $($field: self.$field.handle(),)* }
            }

            async fn start(self, group: &mut Group, wharf: &Wharf) -> Result<(), GaveUp> {
                $(group.start(self.$field, <$actor as Fixed>::new(wharf)).await?;)*
                Ok(())
            }
        }

        /// The tree below the root, in the order of its start.
        pub const TREE: &[Declared] = &[
            Declared { spec: &journal::SPEC, child: None },
            $(Declared { spec: <$actor as Fixed>::SPEC, child: <$actor as Fixed>::CHILD },)*
        ];
    };
}

tree! {
    /// Namespaces, leases, clients' own events.
    namespaces: crate::namespaces::Namespaces;
    /// Who writes which blob.
    content: crate::content::Content;
    /// Snapshots, each an actor.
    snapshots: crate::snapshots::Snapshots;
    /// Images, each an actor.
    images: crate::images::Images;
    /// Containers, each an actor.
    containers: crate::containers::Containers;
    /// Tasks, each an actor.
    tasks: crate::tasks::Tasks;
    /// Removes what nothing keeps.
    gc: crate::gc::Gc;
    /// Restart policies, each an actor.
    restarts: crate::restarts::Restarts;
    /// Health checks, each an actor.
    healths: crate::healths::Healths;
}

/// Why the system could not run, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The root folder cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A driver cannot work here.
    #[error("start the drivers")]
    Drivers(#[source] wharf_messages::Refusal),
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
    let ended = runtime::block_on(live(config, serve, shutdown)).map_err(RunError::Runtime)?;
    if let Err(RunError::GaveUp(GaveUp { path, reason })) = &ended {
        tracing::error!(path, reason, "the daemon cannot go on and exits");
    }
    ended
}

/// Has panics logged with their place, where the default prints them past the log. What they mean for the part they
/// happened in is its supervisor's to say. For the whole process, so the daemon's `main` decides it.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = runtime::panic_message(panic.payload());
        tracing::error!(thread = thread.name().unwrap_or_default(), place, message, "panicked");
    }));
}

async fn live<F>(
    config: SystemConfig,
    serve: impl FnOnce(Wharf, CancellationToken) -> F,
    shutdown: CancellationToken,
) -> Result<(), RunError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (wharf, mut group) = start(config, Clock::system()).await?;
    let serving = CancellationToken::new();
    let mut front_ends = tokio::spawn(serve(wharf, serving.clone()));
    let ended = tokio::select! {
        failed = group.watch() => Err(failed),
        () = shutdown.cancelled() => Ok(()),
        end = &mut front_ends => {
            tracing::warn!(ok = end.is_ok(), "the front ends ended by themselves");
            Ok(())
        }
    };
    serving.cancel();
    if !front_ends.is_finished() && tokio::time::timeout(FRONT_ENDS_BUDGET, &mut front_ends).await.is_err() {
        tracing::warn!(budget_ms = FRONT_ENDS_BUDGET.as_millis(), "the front ends did not stop within their budget");
        front_ends.abort();
    }
    group.stop().await;
    ended.map_err(RunError::GaveUp)
}

/// Opens the root and starts every part; all take messages when it answers.
pub(crate) async fn start(config: SystemConfig, clock: Clock) -> Result<(Wharf, Group), RunError> {
    let (store, writer) = wharf_store::open(&config.root, wharf_store::Options::default())?;
    let (tree, restarts) = Tree::new();
    let mut group = Group::new(&tree, &ROOT);
    let journal = JournalSeat::new(&group);
    let seats = Seats::new(&group);
    let (bus, tail) = Bus::new(store.clone(), clock.clone(), journal.journal());
    let drivers = Drivers::open(&config, &store, &journal.journal()).map_err(RunError::Drivers)?;
    let wharf = Wharf::new(System {
        actors: seats.handles(),
        attempts: Attempts::default(),
        bus,
        drivers,
        started_at: clock.now(),
        started_after: writer.last_seq(),
        journal: journal.journal(),
        pool: Pool::start().map_err(RunError::Runtime)?,
        store,
        tree,
        clock: clock.clone(),
        config,
    });
    journal.start(&mut group, writer, tail, clock, wharf.config.retention).map_err(RunError::Runtime)?;
    tokio::task::spawn_local(write_restarts(restarts, wharf.journal.clone()));
    match seats.start(&mut group, &wharf).await {
        Ok(()) => Ok((wharf, group)),
        Err(gave_up) => {
            group.stop().await;
            Err(gave_up.into())
        }
    }
}

/// Writes restarts into the log, until the tree is gone.
pub(crate) async fn write_restarts(mut restarts: mpsc::Receiver<Restarted>, journal: Journal) {
    while let Some(Restarted { path, reason, restarts }) = restarts.recv().await {
        let event = Event::ChildRestarted { path: path.clone(), reason, restarts };
        let commit = Commit { events: vec![event], ..Commit::default() };
        if let Err(refusal) = journal.commit(commit).await {
            tracing::warn!(path, restarts, %refusal, "a restart was not written down");
        }
    }
}

impl Serve for GetSupervisionTree {
    async fn serve(self, wharf: Wharf, _: Meta, _: CallIo<()>) -> Answer<Vec<ChildReport>> {
        Ok(wharf.tree.report())
    }
}

impl Serve for RestartChild {
    async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<()> {
        tracing::info!(path = self.path, peer = ?meta.peer, "to be restarted by hand");
        wharf.tree.restart(&self.path).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::Timestamp;

    #[test]
    fn the_tree_is_drawn_in_the_readme_as_it_is_declared() {
        let readme = include_str!("../../README.md");
        // `|- tasks   permanent -> task   transient, ...`: name, restart, and the keyed child with its own.
        let drawn: Vec<Vec<&str>> = readme
            .lines()
            .filter_map(|line| line.strip_prefix("|- ").or_else(|| line.strip_prefix("`- ")))
            .map(|line| {
                let words: Vec<_> = line.split([' ', ',', ':']).filter(|word| !word.is_empty()).collect();
                let keep = if words.get(2) == Some(&"->") { 5 } else { 2 };
                words.into_iter().take(keep).collect()
            })
            .collect();
        let declared: Vec<Vec<String>> = TREE
            .iter()
            .map(|row| {
                let spec = |spec: &ChildSpec| [spec.name.to_owned(), format!("{:?}", spec.restart).to_lowercase()];
                let child = row.child.map(|child| [vec!["->".to_owned()], spec(child).to_vec()].concat());
                [spec(row.spec).to_vec(), child.unwrap_or_default()].concat()
            })
            .collect();
        assert_eq!(drawn, declared);
    }

    #[test]
    fn the_running_tree_is_the_declared_one() {
        let dir = tempfile::tempdir().unwrap();
        runtime::block_on(async {
            let config = SystemConfig::new(dir.path().join("root"), dir.path().join("state"));
            let (wharf, group) = start(config, Clock::manual(Timestamp::ZERO)).await.unwrap();
            let mut declared: Vec<_> = TREE.iter().map(|row| (row.spec.name.to_owned(), row.spec.restart)).collect();
            declared.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            let running: Vec<_> = wharf.tree.report().into_iter().map(|child| (child.path, child.restart)).collect();
            assert_eq!(running, declared);
            group.stop().await;
            assert_eq!(wharf.tree.report(), []);
        })
        .unwrap();
    }

    #[test]
    fn the_system_serves_until_it_is_told_to_stop_and_leaves_the_root_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let config = || SystemConfig::new(dir.path().join("root"), dir.path().join("state"));
        for round in 1..=2 {
            let shutdown = CancellationToken::new();
            let stop = shutdown.clone();
            let serve = |wharf: Wharf, stopping: CancellationToken| async move {
                let event = Event::ChildRestarted { path: "x".to_owned(), reason: "test".to_owned(), restarts: round };
                let commit = Commit { events: vec![event], ..Commit::default() };
                assert_eq!(wharf.journal.commit(commit).await.unwrap().last_seq.0, u64::from(round));
                stop.cancel();
                stopping.cancelled().await;
                // The journal still takes commits: front ends stop first.
                let commit = Commit { events: Vec::new(), ..Commit::default() };
                wharf.journal.commit(commit).await.unwrap();
            };
            run(config(), serve, shutdown).unwrap();
        }
    }

    #[test]
    fn a_root_in_use_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = || SystemConfig::new(dir.path().join("root"), dir.path().join("state"));
        let _held = wharf_store::open(&config().root, wharf_store::Options::default()).unwrap();
        let error = run(config(), |_, _| async {}, CancellationToken::new()).unwrap_err();
        assert!(matches!(error, RunError::Open(OpenError::InUse { .. })), "{error}");
    }
}
