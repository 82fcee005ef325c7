//! An image: a name for a manifest, and the pull that may be under way for it.
//!
//! - Parent `images`; transient; 3 restarts in 5 s; mailbox 64; passivated when idle.
//! - States: `Resting <-> Pulling`. A second pull of the same name and options joins the first.
//! - Handles `images.create|update|delete` of its name -> record | refusals of the commit -> `Image*` events;
//!   [`JoinPull`] -> a ticket | `Unavailable` (a pull with other options is under way) -> `ImagePulled`.
//! - Jobs: the pull, without a limit of its own (the registry driver gives up on a connection that is silent); cancelled
//!   when the last who wants it has gone.
//! - A restart cancels the pull: its callers hear "retry", and what was downloaded is gone on with.
//!
//! Invariants:
//! - **IMAGE-1** An image is named only after everything that was asked for is here and verified.
//!
//! # Spec
//! API reference, section 1 "Who calls what" and section 3 "Images and containers".

pub mod board;
pub mod claim;
pub mod convert;
pub mod derived;
pub mod document;
pub mod export;
pub mod flights;
pub mod import;
pub mod install;
pub mod pull;
pub mod push;
pub mod resolve;
pub mod sources;
pub mod unpack;

use crate::{
    commit::answer_after_commit,
    content::{Content, ContentDeps},
    drivers::{differ::ApplyOptions, registry::Registries},
    runtime::{Actor, Ask, Ctx, Handle, Handler, Pool, Request, Scoped, Supervised},
    snapshots::{Snapshots, Snapshotters},
};
use board::Board;
use flights::Flights;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, ImageName, Meta, Refusal,
    image::{CreateImage, DeleteImage, Image, PullImage, UpdateImage},
};
use wharf_store::{Change, Commit, Committed};

/// What images need from the rest of the system.
pub struct ImageDeps {
    /// Rows and files of blobs.
    pub content: ContentDeps,
    /// Grants the writing of blobs.
    pub ingests: Handle<Content>,
    /// Unpacks into them.
    pub snapshots: Handle<Snapshots>,
    /// The backends, for reading.
    pub snapshotters: Snapshotters,
    /// Makes registry clients.
    pub registries: Arc<dyn Registries>,
    /// Downloads that are under way.
    pub flights: Flights,
    /// For unpacking.
    pub pool: Pool,
    /// How layers are applied.
    pub apply: ApplyOptions,
    /// Blobs fetched at once for one pull, unless it says otherwise.
    pub max_concurrent_downloads: u32,
}

/// How many may wait for a cancelled pull's end.
const NEXT_MAX: usize = 64;

/// Asks to take part in an image's pull; the call's reference is the actor's name.
#[derive(Debug, Clone)]
pub struct JoinPull {
    /// The image.
    pub name: ImageName,
    /// How.
    pub call: PullImage,
}

impl Request for JoinPull {
    type Reply = Ticket;
    const NAME: &'static str = "image.join-pull";
    const QUERY: bool = false;
}

/// A part in a pull. The last to be dropped cancels it.
pub struct Ticket {
    /// What it shows.
    pub board: Board,
    end: watch::Receiver<Option<Answer<Image>>>,
    _interest: Interest,
}

impl Ticket {
    /// Waits for the pull's end.
    ///
    /// # Errors
    /// The pull's own; `Unavailable` if the actor was restarted meanwhile.
    pub async fn end(&mut self) -> Answer<Image> {
        let gone = || Refusal::unavailable("the pull was cut short by a restart, retry");
        let end = self.end.wait_for(Option::is_some).await.map_err(|_| gone())?;
        end.clone().unwrap_or_else(|| Err(gone()))
    }
}

/// How many want a pull.
struct Interest {
    count: Arc<AtomicUsize>,
    cancel: CancellationToken,
}

impl Drop for Interest {
    fn drop(&mut self) {
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.cancel.cancel();
        }
    }
}

/// A pull that is under way.
struct Pulling {
    call: PullImage,
    board: Board,
    end: watch::Sender<Option<Answer<Image>>>,
    count: Arc<AtomicUsize>,
    cancel: CancellationToken,
}

impl Pulling {
    fn ticket(&self) -> Ticket {
        self.count.fetch_add(1, Ordering::Relaxed);
        let interest = Interest { count: Arc::clone(&self.count), cancel: self.cancel.clone() };
        Ticket { board: self.board.clone(), end: self.end.subscribe(), _interest: interest }
    }
}

/// The actor.
pub struct ImageActor {
    deps: Arc<ImageDeps>,
    key: Scoped<ImageName>,
    pulling: Option<Pulling>,
    /// Who wants a pull while one that nobody wants any more is ending.
    next: Vec<Ask<JoinPull>>,
}

impl ImageActor {
    /// The actor of one name.
    #[must_use]
    pub fn new(deps: Arc<ImageDeps>, key: Scoped<ImageName>) -> Self {
        Self { deps, key, pulling: None, next: Vec::new() }
    }

    fn commit_then_answer<T: 'static>(
        &self,
        change: Change,
        request: u64,
        reply: crate::runtime::ReplyTo<T>,
        ctx: &mut Ctx<Self>,
        pick: impl FnOnce(Committed) -> Option<T> + 'static,
    ) {
        let commit = Commit::one(&self.key.namespace, change).request(request);
        answer_after_commit(&self.deps.content.journal, commit, reply, ctx, pick);
    }

    fn start_pull(&mut self, meta: Meta, call: PullImage, ctx: &mut Ctx<Self>) -> &Pulling {
        let (deps, board) = (Arc::clone(&self.deps), Board::default());
        let (shown, pulled) = (board.clone(), call.clone());
        let token = ctx.job(
            "pull image",
            |token| async move { pull::pull(deps, meta, pulled, shown, token.cancel).await },
            |image, end, ctx| {
                if let Some(pulling) = image.pulling.take() {
                    pulling.end.send_replace(Some(end));
                }
                for ask in std::mem::take(&mut image.next) {
                    image.join(ask, ctx);
                }
                ctx.idle();
            },
        );
        self.pulling.insert(Pulling {
            call,
            board,
            end: watch::channel(None).0,
            count: Arc::default(),
            cancel: token.cancel,
        })
    }
}

impl Actor for ImageActor {
    type Context = Ctx<Self>;
}

impl Supervised for ImageActor {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.deps), self.key.clone());
    }
}

impl Handler<Ask<CreateImage>> for ImageActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<CreateImage>, ctx: &mut Ctx<Self>) {
        self.commit_then_answer(
            Change::CreateImage(ask.call),
            ask.meta.request_id,
            ask.reply,
            ctx,
            Committed::into_image,
        );
    }
}

impl Handler<Ask<UpdateImage>> for ImageActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<UpdateImage>, ctx: &mut Ctx<Self>) {
        self.commit_then_answer(
            Change::UpdateImage(ask.call),
            ask.meta.request_id,
            ask.reply,
            ctx,
            Committed::into_image,
        );
    }
}

impl Handler<Ask<DeleteImage>> for ImageActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<DeleteImage>, ctx: &mut Ctx<Self>) {
        self.commit_then_answer(Change::DeleteImage(ask.call.name), ask.meta.request_id, ask.reply, ctx, |_| Some(()));
    }
}

impl Handler<Ask<JoinPull>> for ImageActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<JoinPull>, ctx: &mut Ctx<Self>) {
        self.join(ask, ctx);
    }
}

impl ImageActor {
    fn join(&mut self, ask: Ask<JoinPull>, ctx: &mut Ctx<Self>) {
        // Its last passenger has left and it is ending: there will be room in a moment.
        if self.pulling.as_ref().is_some_and(|pulling| pulling.cancel.is_cancelled()) && self.next.len() < NEXT_MAX {
            return self.next.push(ask);
        }
        let Ask { meta, call, reply } = ask;
        let ticket = match &self.pulling {
            Some(pulling) if pulling.cancel.is_cancelled() => {
                Err(Refusal::unavailable(format!("a pull of {} is being cancelled", call.name)))
            }
            Some(pulling) if pulling.call == call.call => Ok(pulling.ticket()),
            Some(_) => Err(Refusal::unavailable(format!("a pull of {} with other options is under way", call.name))),
            None => Ok(self.start_pull(meta, call.call, ctx).ticket()),
        };
        reply.send(ticket);
    }
}

#[cfg(test)]
pub(crate) mod tests;
