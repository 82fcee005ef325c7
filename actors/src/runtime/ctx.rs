//! The context of an actor: what its handlers can do besides changing their own state.

use super::{
    handle::Handle,
    job::{self, JobToken},
    tree::Phase,
};
use actix::dev::{
    AsyncContextParts, ContextParts, Envelope, EnvelopeProxy, MessageResponse, OneshotSender, ToEnvelope,
};
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, ActorContext, ActorFuture, ActorState, Addr, AsyncContext, Handler, Message, SpawnHandle};
use std::{collections::VecDeque, future::Future, pin::Pin, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use wharf_failpoints::failpoint;
use wharf_messages::Answer;

/// How many messages an actor handles before it lets the others on its thread have a turn.
const TURN_MESSAGES: u32 = 64;

type Exclusive<A> = Pin<Box<dyn ActorFuture<A, Output = ()>>>;

/// The context of an actor.
///
/// Everything that an incarnation has running is gone with it: continuations, timers and jobs' ends of an incarnation
/// that failed never reach its successor.
pub struct Ctx<A: Actor<Context = Self>> {
    parts: ContextParts<A>,
    handle: Handle<A>,
    /// Made when the incarnation starts its first job.
    cancel: Option<CancellationToken>,
    epoch: u64,
    pub(crate) exclusive: u32,
    /// Exclusive futures behind the one that runs.
    in_line: VecDeque<Exclusive<A>>,
    pub(crate) jobs: u32,
    pub(crate) turn: u32,
    pub(crate) failure: Option<String>,
    /// The type of the message in hand, or on whose behalf is being gone on, for the reason of a failure.
    pub(crate) in_hand: Option<&'static str>,
    pub(crate) on_idle: Option<Box<dyn Fn()>>,
}

impl<A: Actor<Context = Self>> std::fmt::Debug for Ctx<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ctx({:?}, epoch {})", self.handle, self.epoch)
    }
}

impl<A: Actor<Context = Self>> Ctx<A> {
    pub(crate) fn new(parts: ContextParts<A>, handle: Handle<A>, on_idle: Option<Box<dyn Fn()>>) -> Self {
        Self {
            parts,
            handle,
            cancel: None,
            epoch: 1,
            exclusive: 0,
            in_line: VecDeque::new(),
            jobs: 0,
            turn: 0,
            failure: None,
            in_hand: None,
            on_idle,
        }
    }

    /// The actor's own handle.
    #[must_use]
    pub fn handle(&self) -> &Handle<A> {
        &self.handle
    }

    /// The actor's path in the tree.
    #[must_use]
    pub fn path(&self) -> &str {
        self.handle.path()
    }

    /// Which incarnation this is: 1, and one more with every restart.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Runs a short future to its end before the next message is taken, then `then` with its output.
    ///
    /// Several run one after the other, in the order of the calls: what is committed first is first in the log.
    /// For a commit or a read of the actor's own rows; the future runs on the arbiter, so it must only wait.
    pub fn exclusive<F>(&mut self, future: F, then: impl FnOnce(&mut A, F::Output, &mut Self) + 'static)
    where
        F: Future + 'static,
    {
        self.handle.0.node.set_idle(false);
        self.exclusive += 1;
        let (span, in_hand) = (Span::current(), self.in_hand);
        let future = wrap_future::<_, A>(future.instrument(span.clone()));
        let future = future.map(move |output, actor: &mut A, ctx: &mut Self| {
            ctx.exclusive -= 1;
            // actix runs the newest of several first, so it is only ever given one.
            if let Some(next) = ctx.in_line.pop_front() {
                ctx.parts.wait(next);
            }
            ctx.with_in_hand(in_hand, |ctx| {
                failpoint!("{}/{}/waited", ctx.handle.0.node.spec.name, short(in_hand));
                span.in_scope(|| then(actor, output, ctx));
            });
        });
        if self.exclusive == 1 {
            self.parts.wait(future);
        } else {
            self.in_line.push_back(Box::pin(future));
        }
    }

    /// Runs a future beside the messages, then `then` with its output.
    ///
    /// The future runs on the arbiter, so it must only wait: for a reply, a channel, a clock.
    pub fn concurrent<F>(&mut self, future: F, then: impl FnOnce(&mut A, F::Output, &mut Self) + 'static)
    where
        F: Future + 'static,
    {
        let span = Span::current();
        self.background(future.instrument(span.clone()), move |actor, output, ctx| {
            span.in_scope(|| then(actor, output, ctx));
        });
    }

    /// As [`Ctx::concurrent`], for what outlives the request in hand and so is none of its span.
    pub fn background<F>(&mut self, future: F, then: impl FnOnce(&mut A, F::Output, &mut Self) + 'static)
    where
        F: Future + 'static,
    {
        let in_hand = self.in_hand;
        let future = wrap_future::<F, A>(future);
        self.parts.spawn(future.map(move |output, actor: &mut A, ctx: &mut Self| {
            ctx.with_in_hand(in_hand, |ctx| {
                failpoint!("{}/{}/resumed", ctx.handle.0.node.spec.name, short(in_hand));
                then(actor, output, ctx);
            });
        }));
    }

    /// Does something on behalf of a message, so that its failure is told as that message's.
    fn with_in_hand(&mut self, in_hand: Option<&'static str>, action: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.in_hand, in_hand);
        action(self);
        self.in_hand = outer;
    }

    /// Does `then` after a while, unless the incarnation ends before.
    pub fn later(&mut self, delay: Duration, then: impl FnOnce(&mut A, &mut Self) + 'static) {
        self.background(tokio::time::sleep(delay), move |actor, (), ctx| then(actor, ctx));
    }

    /// Starts a job on the shared runtime and does `end` in the actor when it is over.
    ///
    /// The job belongs to this incarnation: a restart or a stop cancels its token, drops it two seconds later if it has
    /// not ended, and the end of a job of an earlier incarnation is never delivered. A job that panics ends with a refusal
    /// of kind `Internal`. Work that blocks goes through [`job::blocking`] or [`super::Pool::run`] inside the job.
    pub fn job<F, T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(JobToken) -> F,
        end: impl FnOnce(&mut A, Answer<T>, &mut Self) + 'static,
    ) -> JobToken
    where
        F: Future<Output = Answer<T>> + Send + 'static,
        T: Send + 'static,
    {
        let span = tracing::trace_span!("job", otel.name = name, actor = self.path()).or_current();
        let request = Span::current();
        self.start_job(name, span, work, move |actor, result, ctx| request.in_scope(|| end(actor, result, ctx)))
    }

    /// As [`Ctx::job`], for what outlives the request in hand and so is none of its span.
    pub fn lasting_job<F, T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(JobToken) -> F,
        end: impl FnOnce(&mut A, Answer<T>, &mut Self) + 'static,
    ) -> JobToken
    where
        F: Future<Output = Answer<T>> + Send + 'static,
        T: Send + 'static,
    {
        self.start_job(name, Span::none(), work, end)
    }

    fn start_job<F, T>(
        &mut self,
        name: &'static str,
        span: Span,
        work: impl FnOnce(JobToken) -> F,
        end: impl FnOnce(&mut A, Answer<T>, &mut Self) + 'static,
    ) -> JobToken
    where
        F: Future<Output = Answer<T>> + Send + 'static,
        T: Send + 'static,
    {
        let cancel = self.cancel.get_or_insert_with(CancellationToken::new).child_token();
        let token = JobToken { epoch: self.epoch, cancel };
        if self.handle.0.node.phase() == Phase::Draining {
            // The actor still answers what waited when its stop began, but begins nothing long any more.
            token.cancel.cancel();
        }
        let over = job::start(name, work(token.clone()).instrument(span), token.cancel.clone());
        self.handle.0.node.set_idle(false);
        self.jobs += 1;
        self.background(over, move |actor, result, ctx| {
            ctx.jobs -= 1;
            end(actor, result, ctx);
        });
        token
    }

    /// Says that nothing keeps the actor: it may be passivated if no message comes. Its rows stay, and the next message
    /// starts it again. Every message takes the word back. While a job or an exclusive future runs it says nothing, so it
    /// belongs at the end of their ends too. An actor without a plural ignores it.
    pub fn idle(&mut self) {
        if let Some(tell) = &self.on_idle
            && self.jobs == 0
            && self.exclusive == 0
            && !self.handle.0.node.set_idle(true)
        {
            tell();
        }
    }

    /// Ends the actor after the message in hand. A permanent one is started again.
    pub fn stop(&mut self) {
        self.parts.stop();
    }

    /// Gives the incarnation up after the message in hand, as a panic would: for an invariant found broken. The supervisor
    /// answers with a restart.
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.failure = Some(reason.into());
    }

    /// Cancels the incarnation's jobs.
    pub(crate) fn cancel_jobs(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel.cancel();
        }
    }

    /// Forgets the incarnation's own things; actix has dropped its futures.
    pub(crate) fn reset(&mut self) {
        self.cancel_jobs();
        self.epoch += 1;
        self.exclusive = 0;
        self.in_line = VecDeque::new();
        self.jobs = 0;
        self.turn = 0;
        self.failure = None;
        self.in_hand = None;
        self.handle.0.node.set_idle(false);
    }
}

impl<A: Actor<Context = Self>> Drop for Ctx<A> {
    fn drop(&mut self) {
        self.cancel_jobs();
    }
}

impl<A: Actor<Context = Self>> ActorContext for Ctx<A> {
    fn stop(&mut self) {
        self.parts.stop();
    }

    fn terminate(&mut self) {
        self.parts.terminate();
    }

    fn state(&self) -> ActorState {
        self.parts.state()
    }
}

impl<A: Actor<Context = Self>> AsyncContext<A> for Ctx<A> {
    fn address(&self) -> Addr<A> {
        self.parts.address()
    }

    fn spawn<F: ActorFuture<A, Output = ()> + 'static>(&mut self, future: F) -> SpawnHandle {
        self.parts.spawn(future)
    }

    fn wait<F: ActorFuture<A, Output = ()> + 'static>(&mut self, future: F) {
        self.parts.wait(future);
    }

    fn waiting(&self) -> bool {
        self.parts.waiting() || self.turn >= TURN_MESSAGES || self.failure.is_some()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }
}

impl<A: Actor<Context = Self>> AsyncContextParts<A> for Ctx<A> {
    fn parts(&mut self) -> &mut ContextParts<A> {
        &mut self.parts
    }
}

/// A message's name, for people: `StartTask` of `..::Ask<..::StartTask>`, and `start` where there is no message.
pub(crate) fn short(in_hand: Option<&'static str>) -> &'static str {
    let name = in_hand.unwrap_or("start").trim_end_matches('>');
    name.rsplit([':', '<']).next().unwrap_or(name)
}

/// A message in the mailbox, with the span of whoever sent it.
struct Letter<M> {
    message: Option<M>,
    span: Span,
}

impl<A, M> ToEnvelope<A, M> for Ctx<A>
where
    A: Actor<Context = Self> + Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    fn pack(message: M, _: Option<OneshotSender<()>>) -> Envelope<A> {
        Envelope::with_proxy(Box::new(Letter { message: Some(message), span: Span::current() }))
    }
}

impl<A, M> EnvelopeProxy<A> for Letter<M>
where
    A: Actor<Context = Ctx<A>> + Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    fn handle(&mut self, actor: &mut A, ctx: &mut Ctx<A>) {
        let Some(message) = self.message.take() else { return };
        let node = &ctx.handle.0.node;
        node.taken();
        node.set_idle(false);
        ctx.turn += 1;
        let in_hand = Some(std::any::type_name::<M>());
        let _entered = self.span.enter();
        ctx.with_in_hand(in_hand, |ctx| {
            failpoint!("{}/{}/received", ctx.handle.0.node.spec.name, short(in_hand));
            actor.handle(message, ctx).handle(ctx, None);
            failpoint!("{}/{}/handled", ctx.handle.0.node.spec.name, short(in_hand));
        });
    }
}
