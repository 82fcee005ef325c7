//! One download of a blob, however many ask for it: the first starts it, the others come aboard.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf_messages::{Answer, Digest, Namespace, Refusal};
use wharf_store::Growing;

/// How far a download has come.
#[derive(Debug, Clone, Default)]
pub struct Flight {
    /// Bytes here.
    pub offset_bytes: u64,
    /// Its bytes, once it writes some: for reading before all are here.
    pub growing: Option<Growing>,
    /// How it ended, once it has.
    pub end: Option<Answer<()>>,
}

/// All downloads that are under way. Cheap to clone.
#[derive(Clone, Default)]
pub struct Flights(Arc<Mutex<Inner>>);

/// A blob, and the only namespace whose pulls may come aboard, where they do not share.
type Route = (Option<Namespace>, Digest);

#[derive(Default)]
struct Inner {
    flying: HashMap<Route, Arc<Seats>>,
    /// How many passengers each blob has, landed or not: who has not got off has not claimed it yet.
    wanted: HashMap<Digest, usize>,
}

struct Seats {
    digest: Digest,
    flight: watch::Sender<Flight>,
    aboard: AtomicUsize,
    cancel: CancellationToken,
}

impl Flights {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Entries come and go whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blobs that somebody waits for, or has just got and not claimed yet.
    #[must_use]
    pub fn wanted(&self) -> Vec<Digest> {
        self.inner().wanted.keys().cloned().collect()
    }

    fn leave(&self, digest: &Digest) {
        let mut inner = self.inner();
        if let Some(count) = inner.wanted.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                inner.wanted.remove(digest);
            }
        }
    }

    /// How many downloads are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner().flying.len()
    }

    /// Whether none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner().flying.is_empty()
    }

    /// Comes aboard the download of a blob, which `start` begins if there is none. It goes on until its end or until the
    /// last passenger has left. With `only`, those of other namespaces have flights of their own.
    pub fn board<F>(
        &self,
        only: Option<&Namespace>,
        digest: &Digest,
        start: impl FnOnce(watch::Sender<Flight>) -> F,
    ) -> Passenger
    where
        F: Future<Output = Answer<()>> + Send + 'static,
    {
        let mut inner = self.inner();
        *inner.wanted.entry(digest.clone()).or_default() += 1;
        let route = (only.cloned(), digest.clone());
        if let Some(seats) = inner.flying.get(&route).filter(|seats| !seats.cancel.is_cancelled()) {
            seats.aboard.fetch_add(1, Ordering::Relaxed);
            let (seats, watch) = (Arc::clone(seats), seats.flight.subscribe());
            return Passenger { flights: self.clone(), seats, watch };
        }
        let (flight, watch) = watch::channel(Flight::default());
        let cancel = CancellationToken::new();
        let (own, aboard) = (digest.clone(), AtomicUsize::new(1));
        let seats = Arc::new(Seats { digest: own, flight: flight.clone(), aboard, cancel: cancel.clone() });
        inner.flying.insert(route.clone(), Arc::clone(&seats));
        let work = start(flight.clone());
        let (flights, digest, own) = (self.clone(), digest.clone(), Arc::clone(&seats));
        tokio::spawn(async move {
            let end = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Refusal::canceled(format!("download of {digest}"))),
                end = work => end,
            };
            // Off the map first: whoever comes now starts anew.
            let mut inner = flights.inner();
            if inner.flying.get(&route).is_some_and(|seats| Arc::ptr_eq(seats, &own)) {
                inner.flying.remove(&route);
            }
            drop(inner);
            flight.send_modify(|flight| flight.end = Some(end));
        });
        Passenger { flights: self.clone(), seats, watch }
    }
}

/// Somebody who waits for a download. The last to be dropped cancels it.
pub struct Passenger {
    flights: Flights,
    seats: Arc<Seats>,
    watch: watch::Receiver<Flight>,
}

impl Drop for Passenger {
    fn drop(&mut self) {
        if self.seats.aboard.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.seats.cancel.cancel();
        }
        self.flights.leave(&self.seats.digest);
    }
}

impl Passenger {
    /// Waits until `ready` finds what it looks for, or the end.
    async fn until<T>(&mut self, mut ready: impl FnMut(&Flight) -> Option<T>) -> Answer<Option<T>> {
        loop {
            {
                let flight = self.watch.borrow_and_update();
                if let Some(found) = ready(&flight) {
                    return Ok(Some(found));
                }
                if let Some(end) = &flight.end {
                    return end.clone().map(|()| None);
                }
            }
            if self.watch.changed().await.is_err() {
                return Err(Refusal::unavailable("the download was cut short, the daemon is stopping"));
            }
        }
    }

    /// Waits for its bytes; none if it ended well without writing any (the blob came another way).
    ///
    /// # Errors
    /// The download's own.
    pub async fn growing(&mut self) -> Answer<Option<Growing>> {
        self.until(|flight| flight.growing.clone()).await
    }

    /// Waits for its end, telling `progress` of the bytes that have come.
    ///
    /// # Errors
    /// The download's own.
    pub async fn landed(&mut self, progress: impl Fn(u64)) -> Answer<()> {
        self.until(|flight| {
            progress(flight.offset_bytes);
            None::<()>
        })
        .await
        .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use tokio::sync::Notify;

    fn digest() -> Digest {
        Digest::from_sha256(&[1; 32])
    }

    #[tokio::test]
    async fn many_ask_and_one_flies() {
        let (flights, starts, land) = (Flights::default(), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let board = || {
            let (starts, land) = (Arc::clone(&starts), Arc::clone(&land));
            flights.board(None, &digest(), |_| async move {
                starts.fetch_add(1, Ordering::Relaxed);
                land.notified().await;
                Ok(())
            })
        };
        let (mut a, mut b) = (board(), board());
        drop(board());
        assert_eq!(flights.wanted(), [digest()]);
        land.notify_one();
        assert_eq!((a.landed(|_| ()).await, b.landed(|_| ()).await), (Ok(()), Ok(())));
        assert_eq!(starts.load(Ordering::Relaxed), 1);
        drop(a);
        assert_eq!(flights.wanted(), [digest()], "the other has not got off yet");
        drop(b);
        assert!(flights.wanted().is_empty());
        // The next one is another flight.
        let mut c = board();
        land.notify_one();
        c.landed(|_| ()).await.unwrap();
        assert_eq!(starts.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn the_last_to_leave_cancels() {
        let flights = Flights::default();
        let (told, gone) = tokio::sync::oneshot::channel::<()>();
        let a = flights.board(None, &digest(), |_| async move {
            let _told = told;
            std::future::pending().await
        });
        drop(a);
        // Its future is dropped, and what it held with it.
        assert!(gone.await.is_err());
        let mut b = flights.board(None, &digest(), |_| async { Err(Refusal::not_found("x")) });
        assert_eq!(b.landed(|_| ()).await, Err(Refusal::not_found("x")));
    }

    #[tokio::test]
    async fn those_who_do_not_share_fly_alone() {
        let (flights, name) = (Flights::default(), |name: &str| Namespace::new(name).unwrap());
        let board = |only: &str| flights.board(Some(&name(only)), &digest(), |_| std::future::pending());
        let (_a, _b, _again) = (board("a"), board("b"), board("a"));
        assert_eq!((flights.len(), flights.wanted()), (2, vec![digest()]));
    }
}
