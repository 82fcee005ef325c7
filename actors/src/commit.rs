//! What most commands are: one commit, then the answer.

use crate::{
    journal::Journal,
    runtime::{Actor, Ctx, ReplyTo},
};
use wharf_messages::Refusal;
use wharf_store::{Commit, Committed};

/// Commits, answers with what `pick` takes from the outcome, and says idle. No other message of the actor is read in
/// between, so the next command of the same object sees this one's outcome.
pub fn answer_after_commit<A, T>(
    journal: &Journal,
    commit: Commit,
    reply: ReplyTo<T>,
    ctx: &mut Ctx<A>,
    pick: impl FnOnce(Committed) -> Option<T> + 'static,
) where
    A: Actor<Context = Ctx<A>>,
    T: 'static,
{
    let journal = journal.clone();
    ctx.exclusive(async move { journal.commit(commit).await }, move |_, committed, ctx| {
        reply.send(committed.and_then(|committed| {
            pick(committed).ok_or_else(|| Refusal::internal("the commit had another outcome than its change has"))
        }));
        ctx.idle();
    });
}
