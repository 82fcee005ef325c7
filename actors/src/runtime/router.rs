//! Routing: a plural actor and its keyed children. Two callers of one name meet in that name's child, whose mailbox puts
//! their commands in order; a name nobody talks about costs nothing.
//!
//! ```text
//!  ask -> plural --(key)--> child        starts it if it does not run
//!                  child says idle  -->  after LINGER without a message: drained and forgotten (its row stays)
//!                  child fails beyond its intensity --> forgotten, a failure of the plural: beyond the plural's own
//!                                                       patience the plural fails too
//!  restart of the plural: children are killed;  stop of the plural: children are drained
//! ```
//!
//! **Invariant ROUTER-1:** all requests for a child come through its plural, so a child that is idle with an empty mailbox
//! when the plural looks can be forgotten without losing one, and no two incarnations of a name work at once.

use super::{
    child::{ChildSpec, Failures, Intensity},
    ctx::Ctx,
    handle::{Ask, Handle, Request},
    supervisor::{Notice, Seat},
    tree::{Node, Order, Phase},
};
use actix::{Actor, Handler, Supervised};
use std::{
    collections::{HashMap, VecDeque},
    fmt::{self, Display},
    hash::Hash,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use wharf_messages::{Answer, Meta, Namespace, Refusal};

/// How many children may fail beyond their intensity within how long before the plural itself counts as failed. One bad
/// row must not take its siblings down; many at once are not the rows' fault.
const PATIENCE: Intensity = Intensity { restarts: 16, within: Duration::from_secs(60) };

/// An object's name within a namespace: the usual key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scoped<I> {
    /// Where it lives.
    pub namespace: Namespace,
    /// Its name there.
    pub id: I,
}

impl<I: Clone> Scoped<I> {
    /// The key of an object in the call's namespace.
    ///
    /// # Errors
    /// `FailedPrecondition` if the call came without a namespace.
    pub fn of(meta: &Meta, id: &I) -> Answer<Self> {
        Ok(Self { namespace: meta.namespace()?.clone(), id: id.clone() })
    }
}

impl<I: Display> Display for Scoped<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.id)
    }
}

/// An actor that routes to keyed children.
pub trait Plural: Supervised + Actor<Context = Ctx<Self>> {
    /// What tells children apart; its text is the children's path below the plural.
    type Key: Clone + Eq + Hash + Display + 'static;
    /// What they are.
    type Child: Supervised + Actor<Context = Ctx<Self::Child>>;
    /// How they are restarted, stopped and bounded.
    const CHILD: &'static ChildSpec;
    /// How many may live at once.
    const CHILDREN_MAX: usize = 65_536;
    /// How long an idle one is kept, in case more is wanted of it.
    const LINGER: Duration = Duration::from_secs(5);

    /// Where the children are kept. A restart must replace it (`*self = Self::new(..)`), which ends them.
    fn router(&mut self) -> &mut Router<Self>;

    /// Makes a child, which reads what it must know when it starts.
    fn child(&mut self, key: &Self::Key) -> Self::Child;
}

/// A plural's children.
pub struct Router<P: Plural> {
    children: HashMap<P::Key, Entry<P::Child>>,
    /// Who said idle, and when; each at most once.
    idle: VecDeque<(Instant, P::Key)>,
    sweeping: bool,
    /// Where children's notices go, and whose router it is; set when the first child starts.
    root: Option<Root<P::Key>>,
    given_up: Failures,
    children_made: u64,
}

/// What a child said, by name and number.
type Told<K> = (K, u64, Notice);
type Root<K> = (mpsc::UnboundedSender<Told<K>>, Arc<Node>);

struct Entry<C: Actor<Context = Ctx<C>>> {
    handle: Handle<C>,
    /// Tells this child from an earlier one of the same name, whose notices may still be under way.
    number: u64,
    /// Set while the child is in the queue of idle ones.
    idle_since: Option<Instant>,
}

impl<P: Plural> fmt::Debug for Router<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Router({} children)", self.children.len())
    }
}

impl<P: Plural> Default for Router<P> {
    fn default() -> Self {
        Self {
            children: HashMap::new(),
            idle: VecDeque::new(),
            sweeping: false,
            root: None,
            given_up: Failures::default(),
            children_made: 0,
        }
    }
}

impl<P: Plural> Router<P> {
    /// How many children live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.children.len()
    }

    /// Whether no child lives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// A child, if it lives.
    pub fn get(&self, key: &P::Key) -> Option<Handle<P::Child>> {
        self.children.get(key).filter(|entry| entry.alive()).map(|entry| entry.handle.clone())
    }

    /// Drains those that have been idle for `LINGER`; answers when to look again.
    fn sweep(&mut self, now: Instant) -> Option<Instant> {
        while let Some((since, _)) = self.idle.front() {
            let due = *since + P::LINGER;
            if due > now {
                return Some(due);
            }
            let Some((_, key)) = self.idle.pop_front() else { break };
            let Some(entry) = self.children.get_mut(&key) else { continue };
            match entry.idle_since.take() {
                // It was asked something and became idle again meanwhile: it gets its time from then.
                Some(since) if entry.is_idle() && since + P::LINGER > now => {
                    entry.idle_since = Some(since);
                    self.idle.push_back((since, key));
                }
                Some(_) if entry.is_idle() => self.passivate(&key),
                // Busy again: it will say so when it is not.
                _ => {}
            }
        }
        None
    }

    /// Makes room by passivating the child that has been idle longest; answers whether there was one.
    fn make_room(&mut self) -> bool {
        while let Some((_, key)) = self.idle.pop_front() {
            if let Some(entry) = self.children.get_mut(&key) {
                entry.idle_since = None;
                if entry.is_idle() {
                    self.passivate(&key);
                    return true;
                }
            }
        }
        false
    }

    fn passivate(&mut self, key: &P::Key) {
        if let Some(entry) = self.children.remove(key) {
            entry.handle.0.node.order(Order::Drain);
        }
    }
}

impl<P: Plural> Drop for Router<P> {
    fn drop(&mut self) {
        let stopping = self.root.as_ref().is_some_and(|(_, plural)| plural.phase() >= Phase::Draining);
        for entry in self.children.values() {
            entry.handle.0.node.order(if stopping { Order::Drain } else { Order::Kill });
        }
    }
}

impl<C: Actor<Context = Ctx<C>>> Entry<C> {
    fn alive(&self) -> bool {
        self.handle.0.node.phase() < Phase::Draining
    }

    fn is_idle(&self) -> bool {
        self.handle.0.node.is_idle()
    }
}

/// The child with this key, started if it does not run.
///
/// # Errors
/// `ResourceExhausted` if as many live already as may, and none is idle.
pub fn child<P: Plural>(plural: &mut P, key: &P::Key, ctx: &mut Ctx<P>) -> Answer<Handle<P::Child>> {
    let router = plural.router();
    if let Some(handle) = router.get(key) {
        return Ok(handle);
    }
    if router.children.len() >= P::CHILDREN_MAX && !router.children.contains_key(key) && !router.make_room() {
        return Err(Refusal::resource_exhausted(format!(
            "{}/{key} cannot be started, {} are busy already",
            ctx.path(),
            P::CHILDREN_MAX
        )));
    }
    router.children_made += 1;
    let number = router.children_made;
    let notices = match &router.root {
        Some((notices, _)) => notices.clone(),
        None => {
            let (notices, told) = mpsc::unbounded_channel();
            router.root = Some((notices.clone(), Arc::clone(&ctx.handle().0.node)));
            listen(told, ctx);
            notices
        }
    };
    let actor = plural.child(key);
    let path = format!("{}/{key}", ctx.path());
    let seat = Seat::new(ctx.handle().0.node.tree(), path, P::CHILD);
    let handle = seat.handle();
    let name = key.clone();
    seat.start(
        actor,
        Arc::new(move |notice| {
            // A plural that is gone has no use for it.
            let _ = notices.send((name.clone(), number, notice));
        }),
    );
    plural.router().children.insert(key.clone(), Entry { handle: handle.clone(), number, idle_since: None });
    Ok(handle)
}

/// Hands a request on to the child with this key. [`crate::route!`] writes the handlers that call it.
pub fn route<P, R>(plural: &mut P, key: Answer<P::Key>, ask: Ask<R>, ctx: &mut Ctx<P>)
where
    P: Plural,
    P::Child: Handler<Ask<R>>,
    R: Request,
{
    match key.and_then(|key| child(plural, &key, ctx)) {
        Ok(handle) => handle.forward(ask),
        Err(refusal) => ask.reply.send(Err(refusal)),
    }
}

/// Waits for what the children say.
fn listen<P: Plural>(mut told: mpsc::UnboundedReceiver<Told<P::Key>>, ctx: &mut Ctx<P>) {
    let next = async move { (told.recv().await, told) };
    ctx.background(next, |plural, (first, mut told), ctx| {
        let mut next = first;
        while let Some((key, number, notice)) = next {
            hear(plural, key, number, notice, ctx);
            next = told.try_recv().ok();
        }
        if !told.is_closed() {
            listen(told, ctx);
        }
    });
}

/// Acts on what a child said.
fn hear<P: Plural>(plural: &mut P, key: P::Key, number: u64, notice: Notice, ctx: &mut Ctx<P>) {
    let router = plural.router();
    let Some(entry) = router.children.get_mut(&key).filter(|entry| entry.number == number) else { return };
    match notice {
        Notice::Idle => {
            let now = Instant::now();
            if entry.idle_since.replace(now).is_none() {
                router.idle.push_back((now, key));
            }
            schedule_sweep(plural, ctx);
        }
        Notice::Ended => {
            router.children.remove(&key);
        }
        Notice::Failed(reason) => {
            entry.handle.0.node.order(Order::Kill);
            router.children.remove(&key);
            let patient = router.given_up.count(std::time::Instant::now(), PATIENCE, P::CHILD.backoff).is_some();
            if !patient {
                ctx.fail(format!(
                    "more than {} children failed too often within {} s, {key} last: {reason}",
                    PATIENCE.restarts,
                    PATIENCE.within.as_secs()
                ));
            }
        }
    }
}

fn schedule_sweep<P: Plural>(plural: &mut P, ctx: &mut Ctx<P>) {
    let router = plural.router();
    if router.sweeping {
        return;
    }
    if let Some(due) = router.sweep(Instant::now()) {
        router.sweeping = true;
        ctx.background(tokio::time::sleep_until(due), |plural, (), ctx| {
            plural.router().sweeping = false;
            schedule_sweep(plural, ctx);
        });
    }
}

/// Writes a plural's handlers for the requests that go to its children.
///
/// `route!(Tasks by container_id: StartTask, KillTask)` takes the key [`Scoped::of`] the call's namespace and that field;
/// `route!(Snapshots: |snapshots, meta, call| snapshots.key(meta, &call.key); RemoveSnapshot, StatSnapshot)` takes the
/// key that the expression answers.
#[macro_export]
macro_rules! route {
    ($plural:ident: |$this:ident, $meta:ident, $call:ident| $key:expr; $($request:ty),+ $(,)?) => {$(
        impl $crate::runtime::Handler<$crate::runtime::Ask<$request>> for $plural {
            type Result = ();

            fn handle(&mut self, ask: $crate::runtime::Ask<$request>, ctx: &mut $crate::runtime::Ctx<Self>) {
                let key = {
                    #[allow(unused_variables, reason = "not every key needs all three")]
                    let ($this, $meta, $call) = (&*self, &ask.meta, &ask.call);
                    // A closure, so that the expression may use `?`.
                    #[allow(clippy::redundant_closure_call)]
                    (|| $key)()
                };
                $crate::runtime::route(self, key, ask, ctx);
            }
        }
    )+};
    ($plural:ident by $($field:ident).+: $($request:ty),+ $(,)?) => {
        $crate::route!($plural: |this, meta, call| $crate::runtime::Scoped::of(meta, &call.$($field).+); $($request),+);
    };
}
