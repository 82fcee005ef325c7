//! What the journal counts as it works, for whoever scrapes: a few numbers that are moved without a lock.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use wharf_store::LogSize;

/// Numbers sorted into buckets by upper bounds, as Prometheus has histograms.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// The last is for what is above all bounds.
    counts: [AtomicU64; N],
    above: AtomicU64,
    /// In millionths, so that it can be added to in one step.
    sum_micro: AtomicU64,
}

/// A histogram as it was at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// For each bound, how many were at or below it; then how many there were.
    pub cumulative: Vec<(f64, u64)>,
    /// How many there were.
    pub count: u64,
    /// All of them added up.
    pub sum: f64,
}

impl<const N: usize> Histogram<N> {
    const fn new(bounds: [f64; N]) -> Self {
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum_micro: AtomicU64::new(0),
        }
    }

    fn count(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        bucket.map_or(&self.above, |bucket| &self.counts[bucket]).fetch_add(1, Ordering::Relaxed);
        self.sum_micro.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// The histogram now.
    #[must_use]
    pub fn buckets(&self) -> Buckets {
        let mut count = 0;
        let mut up_to = |counted: &AtomicU64| {
            count += counted.load(Ordering::Relaxed);
            count
        };
        let cumulative =
            self.bounds.iter().zip(&self.counts).map(|(bound, counted)| (*bound, up_to(counted))).collect();
        let count = up_to(&self.above);
        Buckets { cumulative, count, sum: self.sum_micro.load(Ordering::Relaxed) as f64 / 1e6 }
    }
}

/// The journal's figures.
#[derive(Debug)]
pub struct Figures {
    /// Commits that shared a transaction.
    pub batch_commits: Histogram<9>,
    /// How long a transaction took, in seconds.
    pub transaction_seconds: Histogram<10>,
    refused: AtomicU64,
    reopened: AtomicU64,
    log: Mutex<LogSize>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            batch_commits: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            transaction_seconds: Histogram::new([1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.05, 0.25, 1.0]),
            refused: AtomicU64::new(0),
            reopened: AtomicU64::new(0),
            log: Mutex::default(),
        }
    }
}

impl Figures {
    pub(crate) fn wrote(&self, commits: usize, refused: usize, took: Duration, log: LogSize) {
        self.batch_commits.count(commits as f64);
        self.transaction_seconds.count(took.as_secs_f64());
        self.refused.fetch_add(refused as u64, Ordering::Relaxed);
        self.is(log);
    }

    pub(crate) fn is(&self, log: LogSize) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log;
    }

    pub(crate) fn reopened(&self) {
        self.reopened.fetch_add(1, Ordering::Relaxed);
    }

    /// The log as it lies.
    #[must_use]
    pub fn log(&self) -> LogSize {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How often the database was opened again after an error of the disk.
    #[must_use]
    pub fn reopenings(&self) -> u64 {
        self.reopened.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_their_bucket_and_all_above_it() {
        let histogram = Histogram::new([1.0, 10.0]);
        for value in [0.5, 1.0, 2.0, 11.0] {
            histogram.count(value);
        }
        let buckets = histogram.buckets();
        assert_eq!(buckets, Buckets { cumulative: vec![(1.0, 2), (10.0, 3)], count: 4, sum: 14.5 });
    }
}
