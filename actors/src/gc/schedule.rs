//! When to collect: as soon as something may have become garbage, and no more often than the pauses allow.
//!
//! ```text
//!   asked for, or enough deletions       after the delay
//!   some deletion, enough changes,       after the delay, and after the pause that the collections so far demand
//!   the end of something kept till then
//!   the start of the daemon              after the start's delay
//! ```
//!
//! # Spec
//! API reference, section 3 "GC behaviour", scheduler defaults.

use std::time::Duration;
use tokio::time::Instant;

/// The share of time that collecting may take at the most, whatever is configured.
const PAUSE_THRESHOLD_MAX: f64 = 0.5;
/// How long a collection that failed is let alone: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// When garbage is collected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GcConfig {
    /// The share of time that collecting may take, from 0 to 0.5; 0 means that it may take all.
    pub pause_threshold: f64,
    /// After so many deletions it is not waited for the pause to end; 0 means that it always is.
    pub deletion_threshold: u64,
    /// After so many changes it is looked for garbage even if nothing was deleted; 0 means never.
    pub mutation_threshold: u64,
    /// How long to wait after the reason for a collection, for more of them.
    pub schedule_delay: Duration,
    /// How long after the start to collect what is left from before; 0 means not for that reason.
    pub startup_delay: Duration,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}

/// Why and when the next collection begins. It knows no clock: who asks says what time it is.
#[derive(Debug)]
pub(super) struct Schedule {
    config: GcConfig,
    deletions: u64,
    mutations: u64,
    /// When the first of the reasons came that wait for the pause to end.
    pending: Option<Instant>,
    /// When the first came that do not.
    urgent: Option<Instant>,
    /// When something ends that is kept until then.
    end: Option<Instant>,
    /// The start's own collection.
    first: Option<Instant>,
    /// Until when the collections so far demand a pause.
    paused_until: Instant,
    spent: Duration,
    collections: u32,
    failures: u32,
}

impl Schedule {
    /// At the start of the daemon.
    pub fn new(config: GcConfig, now: Instant) -> Self {
        Self {
            config,
            deletions: 0,
            mutations: 0,
            pending: None,
            urgent: None,
            end: None,
            first: (!config.startup_delay.is_zero()).then(|| now + config.startup_delay),
            // The first one sets the base for the pauses.
            paused_until: now + config.startup_delay,
            spent: Duration::ZERO,
            collections: 0,
            failures: 0,
        }
    }

    /// Things were changed, and of these some deleted.
    pub fn changed(&mut self, mutations: u64, deletions: u64, now: Instant) {
        self.mutations += mutations;
        self.deletions += deletions;
        let GcConfig { deletion_threshold, mutation_threshold, .. } = self.config;
        if self.deletions > 0 || (mutation_threshold > 0 && self.mutations >= mutation_threshold) {
            self.pending.get_or_insert(now);
        }
        if deletion_threshold > 0 && self.deletions >= deletion_threshold {
            self.urgent.get_or_insert(now);
        }
    }

    /// Somebody waits for one.
    pub fn asked(&mut self, now: Instant) {
        self.urgent.get_or_insert(now);
    }

    /// Something is kept until then and no longer.
    pub fn ends(&mut self, at: Instant) {
        self.end = Some(self.end.map_or(at, |end| end.min(at)));
    }

    /// When the next one is due.
    pub fn due(&self) -> Option<Instant> {
        let delay = self.config.schedule_delay;
        let patient = [self.pending.map(|at| at + delay), self.end].into_iter().flatten();
        let patient = patient.min().map(|at| at.max(self.paused_until));
        [patient, self.urgent.map(|at| at + delay), self.first].into_iter().flatten().min()
    }

    /// One begins: what comes from here on is a reason for the next.
    pub fn begun(&mut self) -> Begun {
        let begun = Begun { deletions: self.deletions, mutations: self.mutations };
        (self.deletions, self.mutations) = (0, 0);
        (self.pending, self.urgent, self.end, self.first) = (None, None, None, None);
        begun
    }

    /// It ended well, and took so long while others waited.
    pub fn done(&mut self, took: Duration, now: Instant) {
        self.failures = 0;
        self.collections += 1;
        self.spent += took;
        let threshold = self.config.pause_threshold.clamp(0.0, PAUSE_THRESHOLD_MAX);
        if threshold > 0.0 {
            let average = self.spent.as_secs_f64() / f64::from(self.collections);
            self.paused_until = now + Duration::from_secs_f64(average / threshold - average);
        }
    }

    /// It failed, or left something to be done again: the reasons stand, after a while.
    pub fn failed(&mut self, begun: &Begun, now: Instant) {
        let (first, max) = RETRY;
        self.paused_until = now + first.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures += 1;
        self.mutations += begun.mutations;
        self.deletions += begun.deletions.max(1);
        self.pending.get_or_insert(now);
    }
}

/// The reasons of a collection that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    deletions: u64,
    mutations: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule whose start is over.
    fn schedule(config: GcConfig) -> (Schedule, Instant) {
        let now = Instant::now();
        let mut schedule = Schedule::new(config, now);
        assert_eq!(schedule.due(), Some(now + config.startup_delay), "the start's own");
        schedule.begun();
        schedule.done(Duration::ZERO, now);
        assert_eq!(schedule.due(), None);
        (schedule, now)
    }

    #[test]
    fn a_deletion_is_a_reason_and_few_changes_are_none() {
        let (mut schedule, now) = schedule(GcConfig::default());
        schedule.changed(99, 0, now);
        assert_eq!(schedule.due(), None);
        schedule.changed(1, 0, now + SECOND);
        assert_eq!(schedule.due(), Some(now + SECOND), "a hundred are");
        schedule.begun();
        schedule.done(Duration::ZERO, now);
        schedule.changed(1, 1, now);
        assert_eq!(schedule.due(), Some(now));
    }

    #[test]
    fn collecting_takes_its_share_of_time_and_no_more() {
        let (mut schedule, now) = schedule(GcConfig { schedule_delay: SECOND, ..GcConfig::default() });
        let begun = schedule.begun();
        assert_eq!((begun.mutations, begun.deletions), (0, 0));
        // With the start's own: 100 ms on average, so 4.9 s of every 5 are for others.
        schedule.done(Duration::from_millis(200), now);
        schedule.changed(1, 1, now);
        assert_eq!(schedule.due(), Some(now + Duration::from_millis(4900)));
        schedule.asked(now);
        assert_eq!(schedule.due(), Some(now + SECOND), "who waits does not wait for that");
        let (mut schedule, now) = self::schedule(GcConfig { pause_threshold: 9.0, ..GcConfig::default() });
        schedule.done(SECOND, now);
        schedule.changed(1, 1, now);
        assert_eq!(schedule.due(), Some(now + SECOND / 2), "half of the time is the most");
    }

    #[test]
    fn many_deletions_do_not_wait_for_the_pause() {
        let (mut schedule, now) = schedule(GcConfig { deletion_threshold: 3, ..GcConfig::default() });
        schedule.done(SECOND, now);
        schedule.changed(2, 2, now);
        assert!(schedule.due().unwrap() > now + SECOND);
        schedule.changed(1, 1, now);
        assert_eq!(schedule.due(), Some(now));
    }

    #[test]
    fn an_end_is_waited_for_and_the_first_comes_first() {
        let (mut schedule, now) = schedule(GcConfig::default());
        schedule.ends(now + SECOND * 5);
        schedule.ends(now + SECOND * 9);
        assert_eq!(schedule.due(), Some(now + SECOND * 5));
        schedule.begun();
        assert_eq!(schedule.due(), None, "a collection says anew what ends next");
    }

    #[test]
    fn what_failed_is_tried_again_ever_more_slowly() {
        let (mut schedule, now) = schedule(GcConfig::default());
        schedule.asked(now);
        for (failures, pause) in [(1, 1), (2, 2), (3, 4), (9, 60)] {
            while schedule.failures < failures {
                let begun = schedule.begun();
                schedule.failed(&begun, now);
            }
            assert_eq!(schedule.due(), Some(now + SECOND * pause));
        }
        schedule.asked(now);
        assert_eq!(schedule.due(), Some(now), "who asks is told how it goes now");
    }
}
