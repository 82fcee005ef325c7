//! Rows that lie in the database's pages while their client takes them.
//!
//! To copy a thousand specs takes as long as the rest of their call, and a client that reads does not need it. One that
//! does not read may take as long as it likes, and no page of its moment of the database could be used again: what it has
//! not taken in time is copied.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
    vec,
};
use tokio_util::task::AbortOnDropHandle;

/// How long a client has to take all its rows where they lie.
const LENT: Duration = Duration::from_secs(1);

/// The rows one after the other, taken `apart` once they have been lent for too long. To be called in a runtime.
pub fn lend<T: Send + 'static>(rows: Vec<T>, apart: fn(T) -> T) -> impl Iterator<Item = T> + Send {
    let rows = Arc::new(Mutex::new(rows.into_iter()));
    let lent = rows.clone();
    let recall = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::time::sleep(LENT).await;
        let mut rows = lent.lock().unwrap_or_else(PoisonError::into_inner);
        *rows = mem::take::<vec::IntoIter<T>>(&mut rows).map(apart).collect::<Vec<T>>().into_iter();
    }));
    std::iter::from_fn(move || {
        // It belongs to the iterator, and ends with it.
        let _recall = &recall;
        rows.lock().unwrap_or_else(PoisonError::into_inner).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_in_time_is_taken_apart() {
        let mut rows = lend(vec![1, 2, 3], |row| row * 10);
        assert_eq!(rows.next(), Some(1));
        tokio::time::sleep(LENT / 2).await;
        assert_eq!(rows.next(), Some(2));
        tokio::time::sleep(LENT).await;
        assert_eq!(rows.collect::<Vec<_>>(), [30]);
    }

    #[tokio::test(start_paused = true)]
    async fn rows_that_nobody_wants_any_more_go_at_once() {
        let row = Arc::new(());
        drop(lend(vec![row.clone()], |row| row));
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&row), 1);
    }
}
