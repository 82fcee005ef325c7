//! What callers hold of an actor, and the messages they send: asks, which are answered, and tells, which are not.

use super::{ctx::Ctx, tree::Node};
use actix::dev::channel::AddressSender;
use actix::{Actor, Handler, Message};
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::sync::oneshot;
use tracing::Instrument;
use wharf_messages::{Answer, Call, CallKind, Meta, Refusal, RefusalKind};

/// What can be asked of an actor: every [`Call`], and what actors ask each other.
pub trait Request: Send + 'static {
    /// What is answered.
    type Reply: Send + 'static;
    /// Its name, for people.
    const NAME: &'static str;
    /// Whether it changes nothing, so that it may be repeated.
    const QUERY: bool;
}

impl<C: Call> Request for C {
    type Reply = C::Reply;
    const NAME: &'static str = C::NAME;
    const QUERY: bool = matches!(C::KIND, CallKind::Query);
}

/// The message of a request: who asks, what, and whom to answer.
#[derive(Debug)]
pub struct Ask<R: Request> {
    /// The context of the call.
    pub meta: Meta,
    /// What is asked.
    pub call: R,
    /// Whom to answer.
    pub reply: ReplyTo<R::Reply>,
}

impl<R: Request> Message for Ask<R> {
    type Result = ();
}

impl<R: Request> Ask<R> {
    /// Makes the message and the place where its answer will arrive.
    pub fn new(meta: Meta, call: R) -> (Self, oneshot::Receiver<Answer<R::Reply>>) {
        let (reply, answer) = oneshot::channel();
        (Self { meta, call, reply: ReplyTo(reply) }, answer)
    }

    /// Answers at once.
    pub fn answer(self, decide: impl FnOnce(&Meta, R) -> Answer<R::Reply>) {
        let answer = decide(&self.meta, self.call);
        self.reply.send(answer);
    }
}

/// The message of a fact that nobody waits for.
#[derive(Debug)]
pub struct Tell<T>(pub T);

impl<T: Send + 'static> Message for Tell<T> {
    type Result = ();
}

/// Whom to answer. It may be kept in an actor's state until a job's end; dropped without an answer, the caller hears
/// that the actor was restarted or stopped.
pub struct ReplyTo<T>(oneshot::Sender<Answer<T>>);

impl<T> fmt::Debug for ReplyTo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_closed() { "ReplyTo(gone)" } else { "ReplyTo" })
    }
}

impl<T> ReplyTo<T> {
    /// Answers. A caller that has gone away meanwhile does not hear it.
    pub fn send(self, answer: Answer<T>) {
        // Not an error: whoever asked has stopped waiting, and the answer is nobody else's.
        let _ = self.0.send(answer);
    }

    /// Whether the caller has gone away.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the caller goes away.
    pub async fn closed(&mut self) {
        self.0.closed().await;
    }
}

/// How callers reach an actor. Cheap to clone; it outlives the actor's restarts.
pub struct Handle<A: Actor<Context = Ctx<A>>>(pub(crate) Arc<Shared<A>>);

pub(crate) struct Shared<A: Actor<Context = Ctx<A>>> {
    /// actix's own bound is off (it counts a slot per sender); [`Node::admit`] is the bound.
    pub(crate) sender: AddressSender<A>,
    pub(crate) node: Arc<Node>,
}

impl<A: Actor<Context = Ctx<A>>> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Actor<Context = Ctx<A>>> fmt::Debug for Handle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:?})", self.0.node)
    }
}

impl<A: Actor<Context = Ctx<A>>> Handle<A> {
    /// Asks, and waits for the answer however long the work takes. Dropping the future gives up waiting, which the actor
    /// can see ([`ReplyTo::closed`]).
    ///
    /// # Errors
    /// The actor's refusal; `Unavailable` if its mailbox is full, or if it was restarted or stopped before it answered.
    pub fn ask<R>(&self, meta: Meta, call: R) -> impl Future<Output = Answer<R::Reply>> + Send + use<A, R>
    where
        A: Handler<Ask<R>>,
        R: Request,
    {
        let span = tracing::trace_span!("ask", otel.name = R::NAME, actor = self.path()).or_current();
        let (ask, answer) = Ask::new(meta, call);
        let posted = span.in_scope(|| self.post(ask));
        let this = self.clone();
        let answered = async move {
            posted.map_err(|(refusal, _)| refusal)?;
            answer.await.unwrap_or_else(|_| Err(this.0.node.gone()))
        };
        answered.instrument(span)
    }

    /// Asks, and waits for the answer at most this long.
    ///
    /// # Errors
    /// As [`Handle::ask`], and `DeadlineExceeded`. A command may still be done after that.
    pub async fn ask_within<R>(&self, deadline: Duration, meta: Meta, call: R) -> Answer<R::Reply>
    where
        A: Handler<Ask<R>>,
        R: Request,
    {
        tokio::time::timeout(deadline, self.ask(meta, call)).await.unwrap_or_else(|_| {
            Err(Refusal::deadline_exceeded(format!(
                "{} did not answer {} within {} ms",
                self.path(),
                R::NAME,
                deadline.as_millis()
            )))
        })
    }

    /// Asks what changes nothing: once more if the actor was restarted under the first attempt.
    ///
    /// # Errors
    /// As [`Handle::ask`].
    pub async fn query<R>(&self, meta: Meta, call: R) -> Answer<R::Reply>
    where
        A: Handler<Ask<R>>,
        R: Request + Clone,
    {
        const { assert!(R::QUERY, "a command is not repeated on its own: use ask") };
        match self.ask(meta.clone(), call.clone()).await {
            Err(refusal) if refusal.is(RefusalKind::Unavailable) => self.ask(meta, call).await,
            answer => answer,
        }
    }

    /// Tells, without waiting.
    ///
    /// # Errors
    /// `Unavailable` if the mailbox is full or the actor stopped: then the actor was not told.
    pub fn tell<T>(&self, fact: T) -> Answer<()>
    where
        A: Handler<Tell<T>>,
        T: Send + 'static,
    {
        self.post(Tell(fact)).map_err(|(refusal, _)| refusal)
    }

    /// Hands an ask on, with its reply: the way from a plural to its child.
    pub(crate) fn forward<R>(&self, ask: Ask<R>)
    where
        A: Handler<Ask<R>>,
        R: Request,
    {
        if let Err((refusal, ask)) = self.post(ask) {
            ask.reply.send(Err(refusal));
        }
    }

    /// Puts a message into the mailbox, or hands it back.
    fn post<M>(&self, message: M) -> Result<(), (Refusal, M)>
    where
        A: Handler<M>,
        M: Message<Result = ()> + Send + 'static,
    {
        if let Err(refusal) = self.0.node.admit() {
            return Err((refusal, message));
        }
        self.0.sender.do_send(message).map_err(|error| {
            self.0.node.taken();
            (self.0.node.gone(), error.into_inner())
        })
    }

    /// Its path in the tree: `tasks/default/web`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.node.path
    }
}
