//! A command is done once, however often it is asked for under one request id.
//!
//! ```text
//!   attempt -> another one of this id at work? wait for its end
//!           -> done (the journal wrote the id with the change)?  ------------------> the answer, as the rows have it now
//!           -> ask the actor -> refused or lost -> done nevertheless? -------------> the same
//!                                               -> not done -----------------------> refused: nothing was changed
//! ```
//!
//! So a panic between a commit and its answer is not heard of, and a retry after a crash finds what was done before it. What
//! changes no row (a signal, a size) is done again by a retry.

use crate::Wharf;
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tracing::Instrument;
use wharf_messages::{Answer, Refusal, event::Seq};

/// The requests that are being done.
#[derive(Default)]
pub struct Attempts(Arc<Mutex<HashMap<u64, Turn>>>);

/// Whose turn it is among the attempts of one request, and how many there are.
type Turn = (Arc<tokio::sync::Mutex<()>>, usize);

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempts({})", lock(&self.0).len())
    }
}

fn lock(turns: &Mutex<HashMap<u64, Turn>>) -> MutexGuard<'_, HashMap<u64, Turn>> {
    // Each change of it is a single step: a panic elsewhere cannot leave it half done.
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Attempts {
    fn begin(&self, id: u64) -> Attempt {
        let mut turns = lock(&self.0);
        let turn = turns.entry(id).or_default();
        turn.1 += 1;
        Attempt { turns: Arc::clone(&self.0), id, turn: Arc::clone(&turn.0) }
    }
}

/// One attempt, waiting or at work.
struct Attempt {
    turns: Arc<Mutex<HashMap<u64, Turn>>>,
    id: u64,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut turns = lock(&self.turns);
        if let Some(turn) = turns.get_mut(&self.id) {
            turn.1 -= 1;
            if turn.1 == 0 {
                turns.remove(&self.id);
            }
        }
    }
}

/// Does a command once: `work` is one attempt, `recall` answers for one that was done, from where the log ended then.
///
/// # Errors
/// Those of `work`; of `recall`, if what was done is gone meanwhile.
///
/// # Cancel safety
/// Work that was begun goes on to its end when the future is dropped; a retry waits for it.
pub async fn once<T, R>(
    wharf: &Wharf,
    request: u64,
    work: impl Future<Output = Answer<T>> + Send + 'static,
    recall: impl FnOnce(Wharf, Seq) -> R,
) -> Answer<T>
where
    T: Send + 'static,
    R: Future<Output = Answer<T>>,
{
    if request == 0 {
        return work.await;
    }
    let attempt = wharf.attempts.begin(request);
    let turn = Arc::clone(&attempt.turn).lock_owned().await;
    if let Some(seq) = wharf.store.done(request) {
        return recall(wharf.clone(), seq).await;
    }
    // A task of its own: a client that goes away must not end the turn before the work has.
    let working = async move {
        let answer = work.await;
        drop((turn, attempt));
        answer
    };
    let working = tokio::spawn(working.in_current_span());
    let answer = working.await.unwrap_or_else(|error| Err(Refusal::unavailable(format!("cut short: {error}"))));
    match (answer, wharf.store.done(request)) {
        (Err(_), Some(seq)) => recall(wharf.clone(), seq).await,
        (answer, _) => answer,
    }
}
