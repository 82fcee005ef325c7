//! Supervision of one actor: what stock actix does not do when a handler panics.
//!
//! The mailbox and the messages in it survive; the message in hand and whatever the incarnation had running are dropped
//! (their callers hear "restarting, retry"), its jobs are cancelled, and after a rest the actor resets itself
//! (`restarting`) and starts again (`started`). Failures beyond the child spec's intensity go to the parent.
//!
//! ```text
//!            start               read its rows
//!  Seated ----------> Starting ----------------> Running --- end ---> Ended
//!                        ^  \___________ _____________/ ^
//!                   rest |        panic v               | order: resume
//!                        +------------ Resting --------- | ---------------> Held  (over intensity, or order: hold)
//!                                                        +-------------------+
//!  any phase -- order: drain --> Draining --- empty ---> Ended;   any phase -- order: kill --> Ended
//! ```

use super::{
    child::{ChildSpec, Failures},
    ctx::{Ctx, short},
    handle::{Handle, Shared},
    job::panic_message,
    tree::{Node, Order, Phase, Tree},
};
use actix::dev::channel::{self, AddressReceiver};
use actix::dev::{AsyncContextParts, ContextFut, ContextParts, Mailbox};
use actix::{Actor, Supervised};
use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::time::{Instant, Sleep};
use wharf_messages::supervision::Restart;

/// The reason of a restart that nothing made necessary.
pub(crate) const BY_HAND: &str = "restarted by hand";

/// What a parent hears of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Nothing keeps it; it may be passivated.
    Idle,
    /// It ended by itself or by order.
    Ended,
    /// It failed beyond its intensity and is held, for this reason.
    Failed(String),
}

/// How a parent hears of a child.
pub(crate) type Parent = Arc<dyn Fn(Notice)>;

/// An actor's place before it runs: it has an address, and messages wait in its mailbox.
pub struct Seat<A: Actor<Context = Ctx<A>>> {
    mailbox: AddressReceiver<A>,
    handle: Handle<A>,
}

impl<A: Actor<Context = Ctx<A>>> fmt::Debug for Seat<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({:?})", self.handle)
    }
}

impl<A: Supervised + Actor<Context = Ctx<A>>> Seat<A> {
    /// Makes a place in the tree.
    pub(crate) fn new(tree: &Arc<Tree>, path: String, spec: &'static ChildSpec) -> Self {
        // 0: without actix's own bound; `Node::admit` is ours.
        let (sender, mailbox) = channel::channel(0);
        let node = tree.plant(path, spec);
        Self { mailbox, handle: Handle(Arc::new(Shared { sender, node })) }
    }

    /// How callers reach the actor that will sit here.
    #[must_use]
    pub fn handle(&self) -> Handle<A> {
        self.handle.clone()
    }

    /// Runs the actor on this thread's arbiter, supervised.
    pub(crate) fn start(self, actor: A, parent: Parent) {
        let mailbox = Mailbox::new(self.mailbox);
        let parts = ContextParts::new(mailbox.sender_producer());
        let node = Arc::clone(&self.handle.0.node);
        let on_idle = Arc::clone(&parent);
        let ctx = Ctx::new(parts, self.handle, Some(Box::new(move || on_idle(Notice::Idle))));
        node.set_phase(Phase::Starting);
        let running = ContextFut::new(ctx, actor, mailbox);
        tokio::task::spawn_local(Supervise {
            running: Some(running),
            node,
            parent,
            failures: Failures::default(),
            rest: None,
        });
    }
}

/// The future that runs one actor through all its incarnations.
struct Supervise<A: Supervised + Actor<Context = Ctx<A>>> {
    running: Option<ContextFut<A, Ctx<A>>>,
    node: Arc<Node>,
    parent: Parent,
    failures: Failures,
    rest: Option<Pin<Box<Sleep>>>,
}

impl<A: Supervised + Actor<Context = Ctx<A>>> Future for Supervise<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            if this.obey(cx).is_ready() {
                return Poll::Ready(());
            }
            match this.node.phase() {
                Phase::Ended => return Poll::Ready(()),
                Phase::Held | Phase::Seated => return Poll::Pending,
                Phase::Resting => {
                    if let Some(rest) = &mut this.rest
                        && rest.as_mut().poll(cx).is_pending()
                    {
                        return Poll::Pending;
                    }
                    this.rest = None;
                    this.node.set_phase(Phase::Starting);
                }
                Phase::Starting | Phase::Running | Phase::Draining => {
                    if this.run(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl<A: Supervised + Actor<Context = Ctx<A>>> Supervise<A> {
    /// Does what the parent has ordered; ready once the actor is gone.
    fn obey(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.node.take_order(cx.waker()) {
            Order::None => {}
            Order::Kill => {
                self.end();
                return Poll::Ready(());
            }
            Order::Drain => {
                let phase = self.node.phase();
                if phase == Phase::Held || (phase == Phase::Resting && self.node.depth() == 0) {
                    self.end();
                    return Poll::Ready(());
                }
                self.rest = None;
                if let Some(running) = &mut self.running {
                    running.ctx().cancel_jobs();
                }
                self.node.set_phase(Phase::Draining);
            }
            Order::Restart if self.node.phase() == Phase::Running => {
                tracing::info!(path = &*self.node.path, "restarted by hand");
                self.node.failed(BY_HAND);
                self.reset(BY_HAND);
                self.node.set_phase(Phase::Starting);
            }
            Order::Restart => {}
            Order::Hold if self.node.phase() == Phase::Held => {}
            Order::Hold => {
                self.reset("a sibling failed");
                self.rest = None;
                self.node.set_phase(Phase::Held);
            }
            Order::Resume if self.node.phase() == Phase::Held => {
                self.failures.forget();
                self.node.set_phase(Phase::Starting);
            }
            Order::Resume => {}
        }
        Poll::Pending
    }

    /// Lets the actor have a turn; pending if there is nothing more to do now.
    fn run(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(running) = &mut self.running else { return Poll::Ready(()) };
        running.ctx().turn = 0;
        if let Some(reason) = running.ctx().failure.take() {
            self.failed(&reason);
            return Poll::Ready(());
        }
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut *running).poll(cx)));
        let ctx = running.ctx();
        if let Some(reason) = ctx.failure.take() {
            self.failed(&reason);
            return Poll::Ready(());
        }
        match polled {
            Err(panic) => {
                let message = panic_message(&*panic);
                let reason = match ctx.in_hand {
                    Some(_) => format!("panicked while handling {}: {message}", short(ctx.in_hand)),
                    None => format!("panicked: {message}"),
                };
                self.failed(&reason);
                Poll::Ready(())
            }
            Ok(Poll::Ready(())) => {
                if self.node.spec.restart == Restart::Permanent && self.node.phase() != Phase::Draining {
                    self.failed("ended by itself");
                } else {
                    self.end();
                }
                Poll::Ready(())
            }
            Ok(Poll::Pending) => {
                let busy = ctx.exclusive > 0;
                if self.node.phase() == Phase::Starting && !busy {
                    self.node.set_phase(Phase::Running);
                }
                if self.node.phase() == Phase::Draining && !busy && ctx.jobs == 0 && self.node.depth() == 0 {
                    actix::ActorContext::stop(ctx);
                    return Poll::Ready(());
                }
                if ctx.turn > 0 && actix::AsyncContext::waiting(ctx) && !busy {
                    // Its turn was over before its mailbox was empty.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// Answers a failure: rest and restart, or hand the matter to the parent.
    fn failed(&mut self, reason: &str) {
        let (spec, path) = (self.node.spec, &*self.node.path);
        self.node.failed(reason);
        if spec.restart == Restart::Temporary || self.node.phase() == Phase::Draining {
            tracing::error!(path, reason, "failed");
            self.end();
            return;
        }
        match self.failures.count(Instant::now().into_std(), spec.intensity, spec.backoff) {
            Some(rest) => {
                tracing::error!(path, reason, rest_ms = rest.as_millis(), "failed and is restarted");
                self.reset(reason);
                self.rest = Some(Box::pin(tokio::time::sleep(rest)));
                self.node.set_phase(Phase::Resting);
            }
            None => {
                tracing::error!(
                    path,
                    reason,
                    restarts = spec.intensity.restarts,
                    "failed too often, its parent decides"
                );
                self.reset(reason);
                self.node.set_phase(Phase::Held);
                (self.parent)(Notice::Failed(reason.to_owned()));
            }
        }
    }

    /// Drops what the incarnation had running and makes the next one, which does not run yet.
    fn reset(&mut self, reason: &str) {
        let Some(running) = &mut self.running else { return };
        running.ctx().reset();
        let reset = catch_unwind(AssertUnwindSafe(|| running.restart()));
        self.node.restarted(reason);
        if let Err(panic) = reset {
            // `restarting` must only assign; if even that fails there is no state to go on with.
            tracing::error!(path = %self.node.path, reason = panic_message(&*panic), "cannot be reset");
            running.ctx().failure = Some(format!("cannot be reset: {}", panic_message(&*panic)));
        }
    }

    /// Drops the actor. What still waits in the mailbox is refused by being dropped.
    fn end(&mut self) {
        if self.node.phase() == Phase::Ended {
            return;
        }
        if let Some(mut running) = self.running.take() {
            // Terminated, so that dropping does not poll it once more.
            running.ctx().parts().terminate();
            if let Err(panic) = catch_unwind(AssertUnwindSafe(move || drop(running))) {
                tracing::error!(path = %self.node.path, reason = panic_message(&*panic), "panicked while it was dropped");
            }
        }
        self.node.end();
        (self.parent)(Notice::Ended);
    }
}

impl<A: Supervised + Actor<Context = Ctx<A>>> Drop for Supervise<A> {
    fn drop(&mut self) {
        // The arbiter itself goes away: nobody will be polled again, so nobody may wait for this part.
        self.end();
    }
}
