//! The fixed children of the root: started in order, stopped in reverse, restarted together.
//!
//! One child that fails beyond its own intensity takes its siblings with it, because they hold what it told them. A group
//! that fails beyond its intensity ends, and the process with it.

use super::{
    child::{ChildSpec, Failures},
    ctx::Ctx,
    supervisor::{Notice, Parent, Seat},
    tree::{self, Node, Order, Phase, Tree},
};
use actix::{Actor, Supervised};
use std::{fmt, sync::Arc, time::Instant};
use tokio::sync::mpsc;

/// A group that could not be kept alive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} keeps failing: {reason}")]
pub struct GaveUp {
    /// Who failed last.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// The fixed children of a supervisor whose strategy is one for all.
pub struct Group {
    spec: &'static ChildSpec,
    tree: Arc<Tree>,
    /// In the order of their start.
    members: Vec<Arc<Node>>,
    told: (mpsc::UnboundedSender<GaveUp>, mpsc::UnboundedReceiver<GaveUp>),
    failures: Failures,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.members).finish()
    }
}

impl Group {
    /// A group without members; the spec's intensity is the whole group's.
    #[must_use]
    pub fn new(tree: &Arc<Tree>, spec: &'static ChildSpec) -> Self {
        Self {
            spec,
            tree: Arc::clone(tree),
            members: Vec::new(),
            told: mpsc::unbounded_channel(),
            failures: Failures::default(),
        }
    }

    pub(crate) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Makes a place for a member, so that others can be given its handle before it starts.
    pub fn seat<A: Supervised + Actor<Context = Ctx<A>>>(&self, spec: &'static ChildSpec) -> Seat<A> {
        Seat::new(&self.tree, spec.name.to_owned(), spec)
    }

    /// Starts the next member and waits until it takes messages.
    ///
    /// # Errors
    /// If it cannot be kept alive.
    pub async fn start<A>(&mut self, seat: Seat<A>, actor: A) -> Result<(), GaveUp>
    where
        A: Supervised + Actor<Context = Ctx<A>>,
    {
        let node = Arc::clone(&seat.handle().0.node);
        let parent = self.join(&node);
        seat.start(actor, parent);
        self.settle().await
    }

    /// Makes a part that is no actor a member; answers whom it tells of its failures.
    pub(crate) fn join(&mut self, node: &Arc<Node>) -> Parent {
        self.members.push(Arc::clone(node));
        let (told, path) = (self.told.0.clone(), node.path.to_string());
        Arc::new(move |notice| {
            if let Notice::Failed(reason) = notice {
                // A group that is gone has stopped its members already.
                let _ = told.send(GaveUp { path: path.clone(), reason });
            }
        })
    }

    /// Keeps the members alive for as long as it can be done; answers who could not be kept.
    ///
    /// # Cancel safety
    /// Dropped in the middle of a restart of all, some members stay held: then the group must be stopped.
    pub async fn watch(&mut self) -> GaveUp {
        loop {
            // The sender is the group's own, so this never ends.
            let Some(failed) = self.told.1.recv().await else { continue };
            if let Err(gave_up) = self.restart(failed).await {
                return gave_up;
            }
        }
    }

    /// Stops the members, last first, each within its budget.
    pub async fn stop(self) {
        for member in self.members.iter().rev() {
            tree::stop(member, member.spec.stop_budget).await;
        }
    }

    /// Holds all members, last first, and lets them go on in order, until all of them run or the group gives up.
    async fn restart(&mut self, mut failed: GaveUp) -> Result<(), GaveUp> {
        'again: loop {
            let GaveUp { path, reason } = &failed;
            let Some(rest) = self.failures.count(Instant::now(), self.spec.intensity, self.spec.backoff) else {
                return Err(failed);
            };
            tracing::error!(path, reason, rest_ms = rest.as_millis(), "every part is restarted");
            for member in self.members.iter().rev() {
                member.order(Order::Hold);
                let held = member.reached(|phase| phase == Phase::Held);
                if tokio::time::timeout(member.spec.stop_budget, held).await.is_err() {
                    let reason = "cannot be held back, it is stuck".to_owned();
                    return Err(GaveUp { path: member.path.to_string(), reason });
                }
            }
            tokio::time::sleep(rest).await;
            // What they said before they were held is settled by the restart.
            while self.told.1.try_recv().is_ok() {}
            for member in &self.members {
                member.order(Order::Resume);
                tokio::select! {
                    () = member.running() => {}
                    Some(next) = self.told.1.recv() => {
                        failed = next;
                        continue 'again;
                    }
                }
            }
            return Ok(());
        }
    }

    /// Waits until the newest member runs.
    async fn settle(&mut self) -> Result<(), GaveUp> {
        let Some(node) = self.members.last().map(Arc::clone) else { return Ok(()) };
        tokio::select! {
            () = node.running() => Ok(()),
            Some(failed) = self.told.1.recv() => self.restart(failed).await,
        }
    }
}
