//! The child spec: how a part of the tree is restarted, stopped and bounded, as data.

use std::time::{Duration, Instant};

pub use wharf_messages::supervision::{Restart, Strategy};

/// How many restarts a child may need within how long before its parent has to do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts that are still fine.
    pub restarts: u32,
    /// Within this window.
    pub within: Duration,
}

/// How long a failed child rests before it is started again: doubling from `first` up to `max` with each failure
/// within the intensity's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub max: Duration,
}

/// What a supervisor needs to know about a child.
///
/// # Spec
/// Erlang/OTP design principles, "Supervisor behaviour", child specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildSpec {
    /// Its name: the segment of its path, or the noun's singular for children that have keys.
    pub name: &'static str,
    /// When it is started again.
    pub restart: Restart,
    /// How often that is fine.
    pub intensity: Intensity,
    /// How long it rests before.
    pub backoff: Backoff,
    /// How long a graceful stop may take before it is dropped where it stands.
    pub stop_budget: Duration,
    /// How many messages may wait; the next is refused.
    pub mailbox: u32,
}

impl ChildSpec {
    /// A child that is always started again.
    #[must_use]
    pub const fn permanent(name: &'static str) -> Self {
        Self {
            name,
            restart: Restart::Permanent,
            intensity: Intensity { restarts: 3, within: Duration::from_secs(5) },
            backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_secs(1) },
            stop_budget: Duration::from_secs(5),
            mailbox: 1024,
        }
    }

    /// A child that is started again after a failure, not after its end.
    #[must_use]
    pub const fn transient(name: &'static str) -> Self {
        Self { restart: Restart::Transient, mailbox: 64, ..Self::permanent(name) }
    }

    /// A child that is never started again.
    #[must_use]
    pub const fn temporary(name: &'static str) -> Self {
        Self { restart: Restart::Temporary, mailbox: 64, ..Self::permanent(name) }
    }

    /// With this intensity.
    #[must_use]
    pub const fn intensity(self, restarts: u32, within: Duration) -> Self {
        Self { intensity: Intensity { restarts, within }, ..self }
    }

    /// With this backoff.
    #[must_use]
    pub const fn backoff(self, first: Duration, max: Duration) -> Self {
        Self { backoff: Backoff { first, max }, ..self }
    }

    /// With this long to stop.
    #[must_use]
    pub const fn stop_budget(self, stop_budget: Duration) -> Self {
        Self { stop_budget, ..self }
    }

    /// With room for this many messages.
    #[must_use]
    pub const fn mailbox(self, mailbox: u32) -> Self {
        Self { mailbox, ..self }
    }
}

/// The failures within an intensity's window. Empty until the first failure, so it costs a healthy child nothing.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Instant>);

impl Failures {
    /// Counts one more failure; answers how long to rest, or `None` if the window is over its limit.
    pub(crate) fn count(&mut self, now: Instant, intensity: Intensity, backoff: Backoff) -> Option<Duration> {
        self.0.retain(|at| now.duration_since(*at) < intensity.within);
        self.0.push(now);
        let failures = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if failures > intensity.restarts {
            return None;
        }
        Some(backoff.first.saturating_mul(1 << (failures - 1).min(20)).min(backoff.max))
    }

    /// Forgets them: the parent has taken the matter over.
    pub(crate) fn forget(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: ChildSpec = ChildSpec::permanent("x")
        .intensity(3, Duration::from_secs(5))
        .backoff(Duration::from_millis(10), Duration::from_millis(25));

    #[test]
    fn rests_longer_each_time_and_gives_up_over_the_limit() {
        let (mut failures, t0) = (Failures::default(), Instant::now());
        let mut fail = |ms| failures.count(t0 + Duration::from_millis(ms), SPEC.intensity, SPEC.backoff);
        assert_eq!(fail(0), Some(Duration::from_millis(10)));
        assert_eq!(fail(1), Some(Duration::from_millis(20)));
        assert_eq!(fail(2), Some(Duration::from_millis(25)));
        assert_eq!(fail(3), None);
    }

    #[test]
    fn failures_outside_the_window_do_not_count() {
        let (mut failures, t0) = (Failures::default(), Instant::now());
        for n in 0..10 {
            let at = t0 + Duration::from_secs(5 * n);
            assert_eq!(failures.count(at, SPEC.intensity, SPEC.backoff), Some(Duration::from_millis(10)));
        }
    }
}
