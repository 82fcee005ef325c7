//! The live tree as data: a node for every running part, and what can be read and ordered of it.

use super::child::ChildSpec;
use futures_util::task::AtomicWaker;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc};
use wharf_messages::{Answer, Refusal, supervision::ChildReport};

/// How many reports of restarts may wait for whoever writes them down; more are only logged.
const RESTARTS_WAITING_MAX: usize = 256;

/// A start that takes longer is worth a line in the log.
const START_SLOW: Duration = Duration::from_secs(5);
/// How long a restart by hand may take.
const RESTART_LIMIT: Duration = Duration::from_secs(10);
/// For how long a failure is the likely cause of what callers see.
const FAILURE_RECENT: Duration = Duration::from_secs(10);

/// Where a part stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// It has an address and does not run yet; messages wait.
    Seated = 0,
    /// It runs and reads what it must know; messages wait.
    Starting = 1,
    /// It runs.
    Running = 2,
    /// It failed and rests before it is started again; messages wait.
    Resting = 3,
    /// It failed too often, or its parent holds it back: it waits for its parent's order; messages wait.
    Held = 4,
    /// It is to end: takes no more messages, answers those it has.
    Draining = 5,
    /// It is gone.
    Ended = 6,
}

impl Phase {
    fn from_u8(n: u8) -> Self {
        [Self::Seated, Self::Starting, Self::Running, Self::Resting, Self::Held, Self::Draining]
            .into_iter()
            .find(|phase| *phase as u8 == n)
            .unwrap_or(Self::Ended)
    }
}

/// What a parent tells a child's supervision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    None = 0,
    /// Go on with a new incarnation.
    Restart = 1,
    /// Drop the incarnation and wait.
    Hold = 2,
    /// Go on after a hold, with a new incarnation.
    Resume = 3,
    /// Take no more messages, answer the waiting ones, end.
    Drain = 4,
    /// End now; what waits is refused.
    Kill = 5,
}

/// In `Node::queue`: the part takes no more messages.
const CLOSED: u32 = 1 << 31;

/// A restart, for whoever writes it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarted {
    /// Which part.
    pub path: String,
    /// Why.
    pub reason: String,
    /// How often, since the daemon started.
    pub restarts: u32,
}

/// One running part, as its callers, its parent and the report see it. The actor itself is elsewhere.
pub(crate) struct Node {
    pub(crate) path: Arc<str>,
    pub(crate) spec: &'static ChildSpec,
    tree: Arc<Tree>,
    /// Messages waiting, and [`CLOSED`].
    queue: AtomicU32,
    restarts: AtomicU32,
    phase: AtomicU8,
    order: AtomicU8,
    /// Set by the part itself while nothing keeps it from being passivated.
    idle: AtomicBool,
    /// Of the incarnation, in ms since the tree was made.
    started_ms: AtomicU64,
    last_failure: Mutex<Option<(Instant, Box<str>)>>,
    waker: AtomicWaker,
    changed: Notify,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.path, self.phase())
    }
}

impl Node {
    /// Lets one more message in, or says why not.
    pub(crate) fn admit(&self) -> Answer<()> {
        let admitted = self.queue.fetch_update(Ordering::AcqRel, Ordering::Acquire, |queue| {
            (queue & CLOSED == 0 && queue < self.spec.mailbox).then(|| queue + 1)
        });
        match admitted {
            Ok(_) => Ok(()),
            Err(queue) if queue & CLOSED != 0 => Err(self.gone()),
            Err(queue) => {
                Err(Refusal::unavailable(format!("{} is busy, {queue} messages wait already, retry", self.path)))
            }
        }
    }

    /// Lets one more message in without a bound of our own: whoever sends waits for a place in the queue itself.
    pub(crate) fn enter(&self) -> Answer<()> {
        let entered = self
            .queue
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |queue| (queue & CLOSED == 0).then(|| queue + 1));
        entered.map(drop).map_err(|_| self.gone())
    }

    /// One message has left the queue.
    pub(crate) fn taken(&self) {
        self.queue.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn depth(&self) -> u32 {
        self.queue.load(Ordering::Acquire) & !CLOSED
    }

    pub(crate) fn close(&self) {
        self.queue.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// What callers hear of a part that ended or was restarted under them.
    pub(crate) fn gone(&self) -> Refusal {
        let what = match self.phase() {
            Phase::Draining | Phase::Ended => "has been stopped",
            _ => "is restarting",
        };
        match &*lock(&self.last_failure) {
            Some((at, reason)) if at.elapsed() < FAILURE_RECENT => {
                Refusal::unavailable(format!("{} {what} after a failure ({reason}), retry", self.path))
            }
            _ => Refusal::unavailable(format!("{} {what}, retry", self.path)),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        if phase == Phase::Starting {
            self.started_ms.store(self.tree.elapsed_ms(), Ordering::Relaxed);
        }
        self.phase.store(phase as u8, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until the part is in a phase that `enough` accepts; an ended part is always enough.
    pub(crate) async fn reached(&self, enough: impl Fn(Phase) -> bool) {
        loop {
            let changed = self.changed.notified();
            let phase = self.phase();
            if phase == Phase::Ended || enough(phase) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn set_idle(&self, idle: bool) -> bool {
        self.idle.swap(idle, Ordering::AcqRel)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire) && self.depth() == 0
    }

    /// Gives an order. One that ends the part is not taken back by a later, weaker one.
    pub(crate) fn order(&self, order: Order) {
        if matches!(order, Order::Drain | Order::Kill) {
            self.close();
        }
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Takes the order that waits, if any.
    pub(crate) fn take_order(&self, waker: &std::task::Waker) -> Order {
        self.waker.register(waker);
        match self.order.swap(Order::None as u8, Ordering::AcqRel) {
            1 => Order::Restart,
            2 => Order::Hold,
            3 => Order::Resume,
            4 => Order::Drain,
            5 => Order::Kill,
            _ => Order::None,
        }
    }

    /// Writes down why the part failed.
    pub(crate) fn failed(&self, reason: &str) {
        *lock(&self.last_failure) = Some((Instant::now(), reason.into()));
    }

    /// Counts a restart and tells whoever writes them down.
    pub(crate) fn restarted(&self, reason: &str) {
        let restarts = self.restarts.fetch_add(1, Ordering::AcqRel) + 1;
        self.tree.tell_restart(Restarted { path: self.path.to_string(), reason: reason.to_owned(), restarts });
    }

    pub(crate) fn last_reason(&self) -> Option<String> {
        lock(&self.last_failure).as_ref().map(|(_, reason)| reason.to_string())
    }

    pub(crate) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Waits until the part takes messages, and says so if that takes long.
    pub(crate) async fn running(&self) {
        let running = |phase| phase == Phase::Running;
        while tokio::time::timeout(START_SLOW, self.reached(running)).await.is_err() {
            tracing::warn!(path = &*self.path, phase = ?self.phase(), "takes long to start");
        }
    }

    /// Leaves the tree.
    pub(crate) fn end(self: &Arc<Self>) {
        self.close();
        let mut nodes = lock(&self.tree.nodes);
        // A successor may already sit under the same path.
        if nodes.get(&self.path).is_some_and(|node| Arc::ptr_eq(node, self)) {
            nodes.remove(&self.path);
        }
        drop(nodes);
        self.set_phase(Phase::Ended);
    }

    fn report(&self) -> ChildReport {
        ChildReport {
            path: self.path.to_string(),
            restart: self.spec.restart,
            restarts: self.restarts.load(Ordering::Acquire),
            last_reason: self.last_reason(),
            mailbox_depth: self.depth(),
            age_ms: self.tree.elapsed_ms().saturating_sub(self.started_ms.load(Ordering::Relaxed)),
        }
    }
}

/// Every part that lives, by path.
pub struct Tree {
    nodes: Mutex<BTreeMap<Arc<str>, Arc<Node>>>,
    began: Instant,
    restarts: mpsc::Sender<Restarted>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.nodes).keys()).finish()
    }
}

/// No code that can panic runs under these locks, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    /// A tree without parts, and where its restarts are told.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::Receiver<Restarted>) {
        let (restarts, told) = mpsc::channel(RESTARTS_WAITING_MAX);
        (Arc::new(Self { nodes: Mutex::default(), began: Instant::now(), restarts }), told)
    }

    /// Puts a part into the tree.
    pub(crate) fn plant(self: &Arc<Self>, path: String, spec: &'static ChildSpec) -> Arc<Node> {
        let node = Arc::new(Node {
            path: path.into(),
            spec,
            tree: Arc::clone(self),
            queue: AtomicU32::new(0),
            restarts: AtomicU32::new(0),
            phase: AtomicU8::new(Phase::Seated as u8),
            order: AtomicU8::new(Order::None as u8),
            idle: AtomicBool::new(false),
            started_ms: AtomicU64::new(self.elapsed_ms()),
            last_failure: Mutex::default(),
            waker: AtomicWaker::new(),
            changed: Notify::new(),
        });
        lock(&self.nodes).insert(Arc::clone(&node.path), Arc::clone(&node));
        node
    }

    /// Reads the tree, parents before children.
    #[must_use]
    pub fn report(&self) -> Vec<ChildReport> {
        // '/' sorts before every character that a name may go on with except "-" and ".", and a parent's path is a prefix
        // of its children's: parents come first in any case.
        lock(&self.nodes).values().map(|node| node.report()).collect()
    }

    /// The parts below a path.
    pub(crate) fn below(&self, path: &str) -> Vec<Arc<Node>> {
        let prefix = format!("{path}/");
        let nodes = lock(&self.nodes);
        nodes
            .range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(&prefix))
            .map(|(_, node)| Arc::clone(node))
            .collect()
    }

    /// Restarts a part by hand, and waits until it takes messages again. It counts as no failure.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for the root, and for a part that is not running; `DeadlineExceeded` if it does
    /// not come back within 10 s.
    pub async fn restart(&self, path: &str) -> Answer<()> {
        if matches!(path, "" | "root" | "/") {
            return Err(Refusal::failed_precondition("the root is not restarted by hand: restart the daemon"));
        }
        let node = lock(&self.nodes).get(path).map(Arc::clone);
        let node = node.ok_or_else(|| Refusal::not_found(format!("part {path:?} of the supervision tree")))?;
        if node.phase() != Phase::Running {
            return Err(Refusal::failed_precondition(format!("{path} is not running but {:?}", node.phase())));
        }
        let before = node.restarts.load(Ordering::Acquire);
        node.order(Order::Restart);
        let back = node.reached(|phase| phase == Phase::Running && node.restarts.load(Ordering::Acquire) > before);
        if tokio::time::timeout(RESTART_LIMIT, back).await.is_err() {
            let seconds = RESTART_LIMIT.as_secs();
            return Err(Refusal::deadline_exceeded(format!(
                "{path} does not take messages {seconds} s after its restart"
            )));
        }
        Ok(())
    }

    fn tell_restart(&self, restarted: Restarted) {
        if let Err(error) = self.restarts.try_send(restarted) {
            tracing::debug!(%error, "a restart was not told");
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Stops a part and what is below it: first gracefully, then, after its budget, where it stands.
pub(crate) async fn stop(node: &Arc<Node>, budget: Duration) {
    node.order(Order::Drain);
    let graceful = async {
        node.reached(|_| false).await;
        for child in node.tree.below(&node.path) {
            child.reached(|_| false).await;
        }
    };
    if tokio::time::timeout(budget, graceful).await.is_err() {
        tracing::warn!(path = %node.path, budget_ms = budget.as_millis(), "did not stop within its budget");
        for child in node.tree.below(&node.path) {
            child.order(Order::Kill);
            child.reached(|_| false).await;
        }
        node.order(Order::Kill);
        node.reached(|_| false).await;
    }
}
