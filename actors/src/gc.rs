//! Garbage collection as the system sees it: when to collect, and what is kept whatever the rows say.
//!
//! - Parent root; permanent; stop budget 5 s; mailbox 1,024.
//! - Handles `gc.collect` -> what was removed | refusals of the journal -> the deletion events of each noun, by the sweep.
//! - Jobs: the collection, one at a time, without a limit of its own.
//! - A restart knows of no changes before it, so it collects once, as the start of the daemon does; that also deletes
//!   what an earlier collection could not.
//!
//! ```text
//!             due, or asked for
//!   Waiting --------------------> Collecting     mark on a read, sweep in one commit, then delete files
//!      ^                              |
//!      `------------------------------'          answers who asked before it began; a failure is tried again
//! ```
//!
//! Invariants:
//! - **COLLECT-1** What was unreferenced when `gc.collect` was asked is gone when it is answered, files and all.
//! - **COLLECT-2** What a writer, a download or a job is using is not taken: it is a root of the mark, and what is
//!   written after that the sweep leaves (GC-1).
//! - **COLLECT-3** A file goes only after the last row that speaks of it; who has it open reads on.
//!
//! # Spec
//! API reference, section 3 "GC behaviour".

mod activity;
mod collect;
mod explain;
mod schedule;

pub use activity::{Activity, Counted};
pub use schedule::GcConfig;

use crate::{
    Wharf,
    content::ContentDeps,
    image::flights::Flights,
    root::Fixed,
    runtime::{Actor, Ask, ChildSpec, Clock, Ctx, Handler, Pool, ReplyTo, Supervised},
    snapshots::Snapshotters,
};
use schedule::{Begun, Schedule};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use wharf_messages::{
    Answer, Timestamp,
    gc::{CollectGarbage, Collected},
};

/// How long it is slept at the most until something ends: the wall clock, which says when that is, may be set.
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// What garbage collection needs from the rest of the system.
#[derive(Clone)]
pub struct GcDeps {
    /// Rows and files of blobs, and who writes them.
    pub content: ContentDeps,
    /// Downloads that are under way.
    pub flights: Flights,
    /// Folders of snapshots.
    pub snapshotters: Snapshotters,
    /// For deleting files.
    pub pool: Pool,
    /// What time it is.
    pub clock: Clock,
    /// What was changed.
    pub activity: Activity,
    /// When to collect.
    pub config: GcConfig,
}

impl GcDeps {
    fn new(wharf: &Wharf) -> Self {
        Self {
            content: wharf.drivers.content.clone(),
            flights: wharf.drivers.flights.clone(),
            snapshotters: wharf.drivers.snapshotters.clone(),
            pool: wharf.pool.clone(),
            clock: wharf.clock.clone(),
            activity: wharf.journal.activity().clone(),
            config: wharf.config.gc,
        }
    }
}

/// A collection that is under way.
struct Collecting {
    begun: Begun,
    /// Who asked before it began.
    waiting: Vec<ReplyTo<Collected>>,
}

/// The actor.
pub struct Gc {
    deps: Arc<GcDeps>,
    schedule: Schedule,
    collecting: Option<Collecting>,
    /// Who waits for the next one.
    waiting: Vec<ReplyTo<Collected>>,
    /// Until when a timer runs that looks again.
    timer: Option<Instant>,
    /// Whether there are files that no row speaks of.
    left: bool,
}

impl Gc {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(deps: GcDeps) -> Self {
        Self::over(Arc::new(deps))
    }

    fn over(deps: Arc<GcDeps>) -> Self {
        let schedule = Schedule::new(deps.config, Instant::now());
        Self { deps, schedule, collecting: None, waiting: Vec::new(), timer: None, left: false }
    }

    /// Waits for changes, and takes note of them.
    fn watch(&self, ctx: &mut Ctx<Self>) {
        let mut watch = self.deps.activity.watch();
        watch.mark_changed();
        self.listen(watch, ctx);
    }

    fn listen(&self, mut watch: tokio::sync::watch::Receiver<Counted>, ctx: &mut Ctx<Self>) {
        let changed = async move {
            let open = watch.changed().await;
            (open.is_ok(), watch)
        };
        ctx.background(changed, |gc, (open, watch), ctx| {
            let counted = gc.deps.activity.take();
            gc.schedule.changed(counted.mutations, counted.deletions, Instant::now());
            gc.ends(counted.first_end);
            gc.proceed(ctx);
            if open {
                gc.listen(watch, ctx);
            }
        });
    }

    /// Something is kept until then and no longer.
    fn ends(&mut self, end: Option<Timestamp>) {
        if let Some(end) = end {
            // What ends then is kept until that moment has passed.
            let ahead = end.since(self.deps.clock.now()) + Duration::from_millis(1);
            self.schedule.ends(Instant::now() + ahead);
        }
    }

    /// Collects if it is time, and otherwise sleeps until it is.
    fn proceed(&mut self, ctx: &mut Ctx<Self>) {
        if self.collecting.is_some() {
            return;
        }
        let Some(due) = self.schedule.due() else { return };
        let now = Instant::now();
        if due <= now {
            return self.collect(ctx);
        }
        let wake = due.min(now + SLEEP_MAX);
        if self.timer.is_none_or(|timer| wake < timer || timer <= now) {
            self.timer = Some(wake);
            ctx.later(wake - now, move |gc, ctx| {
                // One that was set later has taken its place.
                if gc.timer == Some(wake) {
                    gc.timer = None;
                    gc.proceed(ctx);
                }
            });
        }
    }

    fn collect(&mut self, ctx: &mut Ctx<Self>) {
        let collecting = Collecting { begun: self.schedule.begun(), waiting: std::mem::take(&mut self.waiting) };
        self.collecting = Some(collecting);
        let work = Arc::clone(&self.deps).collect(self.left);
        ctx.job("collect garbage", |_| work, Self::collected);
    }

    fn collected(&mut self, end: Answer<collect::Outcome>, ctx: &mut Ctx<Self>) {
        let Some(Collecting { begun, waiting }) = self.collecting.take() else { return };
        let now = Instant::now();
        let answer = match end {
            Ok(outcome) => {
                let collected = outcome.collected;
                if collected != (Collected { elapsed_nanos: collected.elapsed_nanos, ..Collected::default() }) {
                    tracing::info!(?collected, "collected garbage");
                }
                self.left = outcome.left.is_some();
                if self.left {
                    self.schedule.failed(&begun, now);
                } else {
                    self.schedule.done(Duration::from_nanos(collected.elapsed_nanos), now);
                }
                self.ends(outcome.next_end);
                Ok(collected)
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "garbage could not be collected");
                self.schedule.failed(&begun, now);
                Err(refusal.context("collect garbage"))
            }
        };
        for reply in waiting {
            reply.send(answer.clone());
        }
        self.proceed(ctx);
    }
}

impl Actor for Gc {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.watch(ctx);
        self.proceed(ctx);
    }
}

impl Supervised for Gc {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self { left: true, ..Self::over(Arc::clone(&self.deps)) };
    }
}

impl Handler<Ask<CollectGarbage>> for Gc {
    type Result = ();

    fn handle(&mut self, ask: Ask<CollectGarbage>, ctx: &mut Ctx<Self>) {
        self.waiting.push(ask.reply);
        self.schedule.asked(Instant::now());
        self.proceed(ctx);
    }
}

impl Fixed for Gc {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("gc");

    fn new(wharf: &Wharf) -> Self {
        Self::new(GcDeps::new(wharf))
    }
}

#[cfg(test)]
mod tests;
