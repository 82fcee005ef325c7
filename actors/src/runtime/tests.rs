//! The runtime's guarantees, each tested through messages alone.

use super::{
    supervisor::{Notice, Parent},
    tree::{Order, Phase, stop},
    *,
};
use crate::route;
use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, mpsc};
use tracing_subscriber::{Registry, registry::LookupSpan};
use wharf_messages::{Answer, ContainerId, Meta, Namespace, Refusal, RefusalKind};

/// Declares requests with their fields.
macro_rules! requests {
    ($($name:ident { $($field:ident: $type:ty),* } -> $reply:ty;)*) => {$(
        #[derive(Debug, Clone)]
        struct $name { $($field: $type),* }

        impl Request for $name {
            type Reply = $reply;
            const NAME: &'static str = stringify!($name);
            const QUERY: bool = true;
        }
    )*};
}

requests! {
    Add { id: ContainerId, n: u32 } -> u32;
    Blow { id: ContainerId } -> ();
    BlowLater { id: ContainerId } -> ();
    Park { id: ContainerId } -> u32;
    Slow { id: ContainerId } -> u32;
    Work { id: ContainerId } -> String;
    Retire { id: ContainerId } -> ();
    Deaf { id: ContainerId } -> ();
    WhereAmI { id: ContainerId } -> Vec<Option<u64>>;
}

/// What a test shares with the actors it starts.
#[derive(Clone, Default)]
struct Seen(Arc<SeenInner>);

#[derive(Default)]
struct SeenInner {
    starts: AtomicU32,
    fail_starts: AtomicU32,
    cancelled: AtomicU32,
    stale_ends: AtomicU32,
    gate: Notify,
}

/// An actor that counts; its state is lost with an incarnation.
struct Counter {
    seen: Seen,
    total: u32,
    parked: Vec<ReplyTo<u32>>,
}

impl Counter {
    const SPEC: ChildSpec = ChildSpec::transient("counter")
        .intensity(3, Duration::from_secs(60))
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
        .mailbox(4096);

    fn new(seen: Seen) -> Self {
        Self { seen, total: 0, parked: Vec::new() }
    }
}

impl Actor for Counter {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Ctx<Self>) {
        self.seen.0.starts.fetch_add(1, Ordering::SeqCst);
        let fails = &self.seen.0.fail_starts;
        if fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            panic!("cannot start");
        }
        // A stand-in for reading its row: messages wait until it is here.
        ctx.exclusive(tokio::task::yield_now(), |counter, (), _| counter.total = 100);
    }
}

impl Supervised for Counter {
    fn restarting(&mut self, _: &mut Ctx<Self>) {
        *self = Self::new(self.seen.clone());
    }
}

impl Handler<Ask<Add>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<Add>, ctx: &mut Ctx<Self>) {
        assert!(self.total >= 100, "a message came before the row");
        ask.answer(|_, call| {
            self.total += call.n;
            Ok(self.total)
        });
        ctx.idle();
    }
}

impl Handler<Ask<Blow>> for Counter {
    type Result = ();

    fn handle(&mut self, _: Ask<Blow>, _: &mut Ctx<Self>) {
        panic!("a bug");
    }
}

impl Handler<Ask<BlowLater>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<BlowLater>, ctx: &mut Ctx<Self>) {
        ctx.concurrent(tokio::task::yield_now(), |_, (), _| {
            drop(ask);
            panic!("a later bug");
        });
    }
}

impl Handler<Ask<Park>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<Park>, _: &mut Ctx<Self>) {
        self.parked.push(ask.reply);
    }
}

impl Handler<Ask<Slow>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<Slow>, ctx: &mut Ctx<Self>) {
        let seen = self.seen.clone();
        ctx.exclusive(async move { seen.0.gate.notified().await }, |counter, (), _| ask.reply.send(Ok(counter.total)));
    }
}

impl Handler<Ask<Work>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<Work>, ctx: &mut Ctx<Self>) {
        let (seen, ended) = (self.seen.clone(), self.seen.clone());
        let work = move |job: JobToken| async move {
            tokio::select! {
                () = seen.0.gate.notified() => Ok("done".to_owned()),
                () = job.cancel.cancelled() => {
                    seen.0.cancelled.fetch_add(1, Ordering::SeqCst);
                    Err(Refusal::canceled("work"))
                }
            }
        };
        ctx.job("work", work, move |_, end, ctx| {
            if end.is_err() && ctx.epoch() > 1 {
                ended.0.stale_ends.fetch_add(1, Ordering::SeqCst);
            }
            ask.reply.send(end);
            ctx.idle();
        });
    }
}

impl Handler<Ask<Deaf>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<Deaf>, ctx: &mut Ctx<Self>) {
        let seen = self.seen.clone();
        let work = async move |_| {
            std::future::pending::<()>().await;
            drop(seen);
            Ok(())
        };
        ctx.job("listen", work, |_, end, _| ask.reply.send(end));
    }
}

/// The span that the caller is in.
fn here() -> Option<u64> {
    tracing::dispatcher::get_default(|dispatch| {
        let registry: &Registry = dispatch.downcast_ref()?;
        // The outermost: what is made for traces on the way is within.
        let outermost = registry.span(dispatch.current_span().id()?)?.scope().from_root().next()?;
        Some(outermost.id().into_u64())
    })
}

impl Handler<Ask<WhereAmI>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<WhereAmI>, ctx: &mut Ctx<Self>) {
        let handler = here();
        ctx.exclusive(async { here() }, move |_, exclusive, ctx| {
            ctx.job(
                "look",
                async |_| Ok(here()),
                move |_, job, _| {
                    ask.reply.send(job.map(|job| vec![handler, exclusive, job, here()]));
                },
            );
        });
    }
}

impl Handler<Ask<Retire>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<Retire>, ctx: &mut Ctx<Self>) {
        ask.reply.send(Ok(()));
        ctx.stop();
    }
}

/// The plural of counters.
struct Counters {
    seen: Seen,
    router: Router<Self>,
}

impl Counters {
    const SPEC: ChildSpec = ChildSpec::permanent("counters").intensity(2, Duration::from_secs(60)).mailbox(100_000);

    fn new(seen: Seen) -> Self {
        Self { seen, router: Router::default() }
    }
}

impl Actor for Counters {
    type Context = Ctx<Self>;
}

impl Supervised for Counters {
    fn restarting(&mut self, _: &mut Ctx<Self>) {
        *self = Self::new(self.seen.clone());
    }
}

impl Plural for Counters {
    type Key = Scoped<ContainerId>;
    type Child = Counter;
    const CHILD: &'static ChildSpec = &Counter::SPEC;
    const CHILDREN_MAX: usize = 8;
    const LINGER: Duration = Duration::from_millis(1);

    fn router(&mut self) -> &mut Router<Self> {
        &mut self.router
    }

    fn child(&mut self, _: &Self::Key) -> Counter {
        Counter::new(self.seen.clone())
    }
}

route!(Counters by id: Add, Blow, BlowLater, Park, Slow, Work, Deaf, WhereAmI);
route!(Counters: |counters, meta, call| {
    assert!(counters.router.len() <= 8);
    Scoped::of(meta, &call.id)
}; Retire);

fn id(name: &str) -> ContainerId {
    ContainerId::new(name).unwrap()
}

fn meta() -> Meta {
    Meta::in_namespace(Namespace::new("default").unwrap())
}

fn kind<T>(answer: Answer<T>) -> Option<RefusalKind> {
    answer.err().map(|refusal| refusal.kind)
}

/// Runs a test on an arbiter of its own.
fn run(test: impl AsyncFnOnce(Arc<Tree>, mpsc::Receiver<Restarted>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tree, restarts) = Tree::new();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), test(tree, restarts)).await.expect("the test hangs");
    });
}

fn nobody() -> Parent {
    Arc::new(|_| {})
}

fn counter(tree: &Arc<Tree>, parent: Parent) -> (Handle<Counter>, Seen) {
    let (seat, seen) = (Seat::new(tree, "counter".to_owned(), &Counter::SPEC), Seen::default());
    let handle = seat.handle();
    seat.start(Counter::new(seen.clone()), parent);
    (handle, seen)
}

fn counters(tree: &Arc<Tree>) -> (Handle<Counters>, Seen) {
    let (seat, seen) = (Seat::new(tree, "counters".to_owned(), &Counters::SPEC), Seen::default());
    let handle = seat.handle();
    seat.start(Counters::new(seen.clone()), nobody());
    (handle, seen)
}

#[test]
fn messages_queued_behind_a_panic_are_answered_by_the_next_incarnation() {
    run(async |tree, mut restarts| {
        let (handle, seen) = counter(&tree, nobody());
        let id = id("a");
        assert_eq!(handle.ask(meta(), Add { id: id.clone(), n: 5 }).await, Ok(105));
        let blown = handle.ask(meta(), Blow { id: id.clone() });
        let queued: Vec<_> = (0..5).map(|_| handle.ask(meta(), Add { id: id.clone(), n: 1 })).collect();
        assert_eq!(kind(blown.await), Some(RefusalKind::Unavailable));
        for (n, answer) in (101..).zip(queued) {
            // 101 and not 106: the failed incarnation's state is gone.
            assert_eq!(answer.await, Ok(n));
        }
        assert_eq!(seen.0.starts.load(Ordering::SeqCst), 2);
        let restarted = restarts.recv().await.unwrap();
        assert_eq!((restarted.path.as_str(), restarted.restarts), ("counter", 1));
        assert!(restarted.reason.contains("a bug") && restarted.reason.contains("Blow"), "{}", restarted.reason);
        let report = &tree.report()[0];
        assert_eq!((report.restarts, report.mailbox_depth), (1, 0));
        assert_eq!(report.last_reason.as_deref(), Some(restarted.reason.as_str()));
    });
}

#[test]
fn a_panic_in_a_continuation_restarts_too_and_refuses_what_was_parked() {
    run(async |tree, _| {
        let (handle, seen) = counter(&tree, nobody());
        let parked = handle.ask(meta(), Park { id: id("a") });
        let blown = handle.ask(meta(), BlowLater { id: id("a") });
        let refusal = parked.await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
        assert!(refusal.detail.contains("a later bug"), "{refusal}");
        assert_eq!(kind(blown.await), Some(RefusalKind::Unavailable));
        assert_eq!(handle.ask(meta(), Add { id: id("a"), n: 1 }).await, Ok(101));
        assert_eq!(seen.0.starts.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_panic_at_the_start_is_tried_again() {
    run(async |tree, _| {
        let seat = Seat::new(&tree, "counter".to_owned(), &Counter::SPEC);
        let (handle, seen) = (seat.handle(), Seen::default());
        seen.0.fail_starts.store(2, Ordering::SeqCst);
        seat.start(Counter::new(seen.clone()), nobody());
        assert_eq!(handle.ask(meta(), Add { id: id("a"), n: 1 }).await, Ok(101));
        assert_eq!(seen.0.starts.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn a_query_is_asked_again_when_its_actor_restarts_under_it() {
    run(async |tree, _| {
        let (handle, _) = counter(&tree, nobody());
        let parked = handle.query(meta(), Park { id: id("a") });
        tokio::pin!(parked);
        assert!(futures_util::poll!(&mut parked).is_pending());
        assert_eq!(kind(handle.ask(meta(), Blow { id: id("a") }).await), Some(RefusalKind::Unavailable));
        // Parked anew in the second incarnation, and refused only when that one ends too.
        assert!(futures_util::poll!(&mut parked).is_pending());
        handle.ask(meta(), Retire { id: id("a") }).await.unwrap();
        assert_eq!(kind(parked.await), Some(RefusalKind::Unavailable));
    });
}

#[test]
fn too_many_failures_go_to_the_parent_and_messages_wait_for_its_decision() {
    run(async |tree, _| {
        let (told, mut notices) = mpsc::unbounded_channel();
        let (handle, seen) = counter(&tree, Arc::new(move |notice| told.send(notice).unwrap()));
        for _ in 0..4 {
            assert_eq!(kind(handle.ask(meta(), Blow { id: id("a") }).await), Some(RefusalKind::Unavailable));
        }
        assert!(matches!(notices.recv().await, Some(Notice::Failed(reason)) if reason.contains("a bug")));
        let node = &handle.0.node;
        assert_eq!(node.phase(), Phase::Held);
        let waiting = handle.ask(meta(), Add { id: id("a"), n: 1 });
        node.order(Order::Resume);
        assert_eq!(waiting.await, Ok(101));
        assert_eq!(seen.0.starts.load(Ordering::SeqCst), 5);
        // Its failures are forgiven with the resumption.
        assert_eq!(kind(handle.ask(meta(), Blow { id: id("a") }).await), Some(RefusalKind::Unavailable));
        assert_eq!(handle.ask(meta(), Add { id: id("a"), n: 1 }).await, Ok(101));
    });
}

#[test]
fn a_full_mailbox_is_an_answer_and_the_bound_is_exact() {
    run(async |tree, _| {
        let (handle, seen) = counter(&tree, nobody());
        let slow = handle.ask(meta(), Slow { id: id("a") });
        tokio::task::yield_now().await;
        handle.0.node.reached(|phase| phase == Phase::Running || phase == Phase::Starting).await;
        while handle.0.node.depth() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting: Vec<_> =
            (0..Counter::SPEC.mailbox).map(|_| handle.clone().ask(meta(), Add { id: id("a"), n: 0 })).collect();
        let refusal = handle.ask(meta(), Add { id: id("a"), n: 0 }).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
        assert!(refusal.detail.contains("busy"), "{refusal}");
        assert_eq!(tree.report()[0].mailbox_depth, Counter::SPEC.mailbox);
        seen.0.gate.notify_one();
        assert_eq!(slow.await, Ok(100));
        for answer in waiting {
            assert_eq!(answer.await, Ok(100));
        }
    });
}

#[test]
fn an_ask_has_a_deadline() {
    run(async |tree, _| {
        let (handle, _) = counter(&tree, nobody());
        let answer = handle.ask_within(Duration::from_millis(1), meta(), Park { id: id("a") }).await;
        assert_eq!(kind(answer), Some(RefusalKind::DeadlineExceeded));
    });
}

#[test]
fn a_restart_cancels_jobs_and_their_ends_reach_nobody() {
    run(async |tree, _| {
        let (handle, seen) = counter(&tree, nobody());
        let work = handle.ask(meta(), Work { id: id("a") });
        assert_eq!(kind(handle.ask(meta(), Blow { id: id("a") }).await), Some(RefusalKind::Unavailable));
        assert_eq!(kind(work.await), Some(RefusalKind::Unavailable));
        while seen.0.cancelled.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let work = handle.ask(meta(), Work { id: id("a") });
        tokio::task::yield_now().await;
        seen.0.gate.notify_one();
        assert_eq!(work.await, Ok("done".to_owned()));
        assert_eq!(seen.0.stale_ends.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_stop_answers_what_waits_and_lets_jobs_end() {
    run(async |tree, _| {
        let (handle, seen) = counter(&tree, nobody());
        let work = handle.ask(meta(), Work { id: id("a") });
        let add = handle.ask(meta(), Add { id: id("a"), n: 1 });
        stop(&handle.0.node, Duration::from_secs(30)).await;
        assert_eq!(add.await, Ok(101));
        // The job heard the cancellation, and its end was answered by the actor.
        assert_eq!(kind(work.await), Some(RefusalKind::Canceled));
        assert_eq!(seen.0.cancelled.load(Ordering::SeqCst), 1);
        assert_eq!(kind(handle.ask(meta(), Add { id: id("a"), n: 1 }).await), Some(RefusalKind::Unavailable));
        assert!(tree.report().is_empty());
    });
}

#[test]
fn a_stop_beyond_its_budget_drops_the_actor_where_it_stands() {
    run(async |tree, _| {
        let (handle, _) = counter(&tree, nobody());
        let slow = handle.ask(meta(), Slow { id: id("a") });
        stop(&handle.0.node, Duration::from_millis(1)).await;
        assert_eq!(kind(slow.await), Some(RefusalKind::Unavailable));
        assert!(tree.report().is_empty());
    });
}

#[test]
fn callers_of_one_name_meet_in_one_actor_and_others_do_not() {
    run(async |tree, _| {
        let (handle, seen) = counters(&tree);
        let (a1, a2, b) = (
            handle.ask(meta(), Add { id: id("a"), n: 1 }),
            handle.ask(meta(), Add { id: id("a"), n: 1 }),
            handle.ask(meta(), Add { id: id("b"), n: 1 }),
        );
        assert_eq!((a1.await, a2.await, b.await), (Ok(101), Ok(102), Ok(101)));
        assert_eq!(seen.0.starts.load(Ordering::SeqCst), 2);
        assert_eq!(paths(&tree), ["counters", "counters/default/a", "counters/default/b"]);
        let nowhere = handle.ask(Meta::default(), Add { id: id("a"), n: 1 }).await;
        assert_eq!(kind(nowhere), Some(RefusalKind::FailedPrecondition));
    });
}

#[test]
fn passivation_under_load_loses_nothing() {
    run(async |tree, _| {
        let (handle, seen) = counters(&tree);
        let names: Vec<_> = (0..8).map(|n| id(&format!("c{n}"))).collect();
        for round in 0..200_u32 {
            let asks: Vec<_> =
                names.iter().cycle().take(64).map(|id| handle.ask(meta(), Add { id: id.clone(), n: 1 })).collect();
            for ask in asks {
                assert!(ask.await.unwrap() > 100);
            }
            if round % 16 == 0 {
                tokio::time::sleep(Counters::LINGER * 2).await;
            }
        }
        while tree.report().len() > 1 {
            tokio::time::sleep(Counters::LINGER).await;
        }
        assert!(seen.0.starts.load(Ordering::SeqCst) > 8, "nothing was ever passivated");
        assert_eq!(handle.ask(meta(), Add { id: id("c0"), n: 1 }).await, Ok(101));
    });
}

#[test]
fn a_busy_child_is_not_passivated() {
    run(async |tree, _| {
        let (handle, seen) = counters(&tree);
        let work = handle.ask(meta(), Work { id: id("a") });
        handle.ask(meta(), Add { id: id("a"), n: 1 }).await.unwrap();
        handle.ask(meta(), Add { id: id("b"), n: 1 }).await.unwrap();
        while tree.report().iter().any(|child| child.path.ends_with("/b")) {
            tokio::time::sleep(Counters::LINGER).await;
        }
        assert!(tree.report().iter().any(|child| child.path.ends_with("/a")));
        seen.0.gate.notify_one();
        assert_eq!(work.await, Ok("done".to_owned()));
        while tree.report().len() > 1 {
            tokio::time::sleep(Counters::LINGER).await;
        }
    });
}

#[test]
fn the_number_of_children_is_bounded_and_idle_ones_make_room() {
    run(async |tree, _| {
        let (handle, _) = counters(&tree);
        let parked: Vec<_> = (0..8).map(|n| handle.ask(meta(), Park { id: id(&format!("p{n}")) })).collect();
        let refusal = handle.ask(meta(), Add { id: id("one-more"), n: 1 }).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::ResourceExhausted);
        assert!(refusal.detail.contains("counters/default/one-more"), "{refusal}");
        drop(parked);
        for n in 0..8 {
            handle.ask(meta(), Add { id: id(&format!("p{n}")), n: 1 }).await.unwrap();
        }
        assert_eq!(handle.ask(meta(), Add { id: id("one-more"), n: 1 }).await, Ok(101));
    });
}

#[test]
fn one_child_that_always_fails_takes_nobody_down() {
    run(async |tree, _| {
        let (handle, _) = counters(&tree);
        handle.ask(meta(), Add { id: id("good"), n: 1 }).await.unwrap();
        let parked = handle.ask(meta(), Park { id: id("good") });
        for _ in 0..12 {
            let refusal = handle.ask(meta(), Blow { id: id("bad") }).await.unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Unavailable);
        }
        drop(parked);
        assert!(handle.ask(meta(), Add { id: id("good"), n: 1 }).await.unwrap() >= 102);
        assert_eq!(handle.0.node.last_reason(), None);
        // A child that ended by itself comes back when it is asked.
        handle.ask(meta(), Retire { id: id("good") }).await.unwrap();
        assert_eq!(handle.ask(meta(), Add { id: id("good"), n: 1 }).await, Ok(101));
    });
}

#[test]
fn many_failing_children_are_a_failure_of_the_plural() {
    run(async |tree, mut restarts| {
        let (handle, _) = counters(&tree);
        let reason = loop {
            for n in 0..6 {
                let blown = handle.ask(meta(), Blow { id: id(&format!("bad{n}")) }).await;
                assert_eq!(kind(blown), Some(RefusalKind::Unavailable));
            }
            let mut told = std::iter::from_fn(|| restarts.try_recv().ok());
            if let Some(restarted) = told.find(|restarted| restarted.path == "counters") {
                break restarted.reason;
            }
        };
        assert!(reason.contains("children failed too often"), "{reason}");
        assert_eq!(handle.ask(meta(), Add { id: id("good"), n: 1 }).await, Ok(101));
    });
}

#[test]
fn stopping_a_plural_drains_its_children() {
    run(async |tree, _| {
        let (handle, _) = counters(&tree);
        let work = handle.ask(meta(), Work { id: id("a") });
        let add = handle.ask(meta(), Add { id: id("b"), n: 1 });
        stop(&handle.0.node, Duration::from_secs(30)).await;
        assert_eq!(add.await, Ok(101));
        assert_eq!(kind(work.await), Some(RefusalKind::Canceled));
        assert!(tree.report().is_empty());
    });
}

#[test]
fn an_actor_that_is_never_out_of_messages_lets_others_have_their_turn() {
    run(async |tree, _| {
        let (handle, _) = counter(&tree, nobody());
        let turns = Rc::new(Cell::new(0_u32));
        let other = Rc::clone(&turns);
        let ticking = tokio::task::spawn_local(async move {
            loop {
                other.set(other.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let asks: Vec<_> = (0..4000).map(|_| handle.ask(meta(), Add { id: id("a"), n: 0 })).collect();
        for ask in asks {
            ask.await.unwrap();
        }
        assert!(turns.get() >= 30, "the other task ran only {} times", turns.get());
        ticking.abort();
    });
}

#[test]
fn the_pool_answers_refuses_and_survives_panics() {
    run(async |_, _| {
        let pool = Pool::start().unwrap();
        assert_eq!(pool.run("sum", || Ok(1 + 1)).await, Ok(2));
        let refusal = pool.run::<()>("hash", || panic!("bad bytes")).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.detail.as_str()), (RefusalKind::Internal, "hash failed: bad bytes"));
        let refusal = blocking::<()>("read", || panic!("bad row")).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.detail.as_str()), (RefusalKind::Internal, "read failed: bad row"));
        let many = (0..500).map(|n| pool.run("square", move || Ok(n * n)));
        let squares: Answer<Vec<u64>> = futures_util::future::join_all(many).await.into_iter().collect();
        assert_eq!(squares.unwrap()[499], 499 * 499);
        assert!(format!("{pool:?}").contains("66 of"), "places were lost: {pool:?}");
    });
}

const ROOT: ChildSpec = ChildSpec::permanent("").intensity(1, Duration::from_secs(60));

/// The path of every part, in the order of the report.
fn paths(tree: &Tree) -> Vec<String> {
    tree.report().into_iter().map(|child| child.path).collect()
}

/// Fails a counter beyond its intensity.
async fn break_down(handle: &Handle<Counter>) {
    for _ in 0..=Counter::SPEC.intensity.restarts {
        assert_eq!(kind(handle.ask(meta(), Blow { id: id("a") }).await), Some(RefusalKind::Unavailable));
    }
}

#[test]
fn a_group_restarts_as_one_then_gives_up() {
    run(async |tree, _| {
        let mut group = Group::new(&tree, &ROOT);
        let (first, second) = (group.seat::<Counter>(&Counter::SPEC), group.seat::<Counters>(&Counters::SPEC));
        let (one, other, seen) = (first.handle(), second.handle(), Seen::default());
        group.start(first, Counter::new(seen.clone())).await.unwrap();
        group.start(second, Counters::new(seen.clone())).await.unwrap();
        let group = tokio::task::spawn_local(async move {
            let gave_up = group.watch().await;
            group.stop().await;
            gave_up
        });

        let parked = other.ask(meta(), Park { id: id("a") });
        break_down(&one).await;
        assert_eq!(kind(parked.await), Some(RefusalKind::Unavailable));
        // The same handles reach the new incarnations.
        assert_eq!(one.ask(meta(), Add { id: id("a"), n: 1 }).await, Ok(101));
        assert_eq!(other.ask(meta(), Add { id: id("a"), n: 1 }).await, Ok(101));

        break_down(&one).await;
        let gave_up = group.await.unwrap();
        assert_eq!(gave_up.path, "counter");
        assert!(gave_up.to_string().contains("a bug"), "{gave_up}");
        assert!(tree.report().is_empty());
    });
}

#[test]
fn a_member_that_cannot_start_ends_the_group() {
    run(async |tree, _| {
        let mut group = Group::new(&tree, &ROOT);
        let (seat, seen) = (group.seat::<Counter>(&Counter::SPEC), Seen::default());
        seen.0.fail_starts.store(u32::MAX, Ordering::SeqCst);
        let gave_up = group.start(seat, Counter::new(seen.clone())).await.unwrap_err();
        assert!(gave_up.reason.contains("cannot start"), "{gave_up}");
        assert_eq!(seen.0.starts.load(Ordering::SeqCst), 8);
        group.stop().await;
        assert!(tree.report().is_empty());
    });
}

#[test]
fn a_group_stops_in_reverse_order() {
    run(async |tree, _| {
        let mut group = Group::new(&tree, &ROOT);
        let (first, second) = (group.seat::<Counter>(&Counter::SPEC), group.seat::<Counters>(&Counters::SPEC));
        let (one, other, seen) = (first.handle(), second.handle(), Seen::default());
        group.start(first, Counter::new(seen.clone())).await.unwrap();
        group.start(second, Counters::new(seen.clone())).await.unwrap();
        let work = other.ask(meta(), Work { id: id("a") });
        tokio::task::yield_now().await;
        let mut one_ran_when_other_ended = false;
        let watching = async {
            other.0.node.reached(|_| false).await;
            one_ran_when_other_ended = one.0.node.phase() == Phase::Running;
        };
        tokio::join!(watching, group.stop());
        assert!(one_ran_when_other_ended);
        assert_eq!(kind(work.await), Some(RefusalKind::Canceled));
        assert_eq!(paths(&tree), [""; 0]);
    });
}

#[test]
fn a_job_that_does_not_listen_is_dropped_after_its_grace() {
    run(async |tree, _| {
        let (handle, seen) = counter(&tree, nobody());
        let deaf = handle.ask(meta(), Deaf { id: id("a") });
        tokio::task::yield_now().await;
        tokio::time::pause();
        stop(&handle.0.node, Duration::from_secs(30)).await;
        assert_eq!(kind(deaf.await), Some(RefusalKind::Canceled));
        assert_eq!(Arc::strong_count(&seen.0), 1, "something of it is still there");
    });
}

#[test]
fn the_span_of_a_request_follows_it_into_continuations_and_jobs() {
    run(async |tree, _| {
        let (handle, _) = counter(&tree, nobody());
        let subscriber = tracing_subscriber::registry();
        let _guard = tracing::subscriber::set_default(subscriber);
        let span = tracing::info_span!("request", id = 7);
        let asked = span.in_scope(|| handle.ask(meta(), WhereAmI { id: id("a") }));
        assert_eq!(asked.await, Ok(vec![span.id().map(|id| id.into_u64()); 4]));
    });
}
