//! What probes say of a task: a pure machine.
//!
//! ```text
//!   Starting --passed--> Healthy --failed `retries` times in a row--> Unhealthy
//!       |                   ^                                            |  ^
//!       |                   `-----------------passed---------------------'  |
//!       `-------failed `retries` times in a row, after the start period-----'
//! ```
//!
//! # Spec
//! Docker's `HEALTHCHECK`: failures within the start period do not count until one probe has passed.

use wharf_messages::health::HealthStatus;

/// How a task fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// As it is told.
    pub status: HealthStatus,
    /// How many probes in a row have failed.
    pub failing: u32,
}

impl Health {
    /// Of a task that has just started.
    pub const STARTING: Self = Self { status: HealthStatus::Starting, failing: 0 };

    /// How it fares after one more probe.
    #[must_use]
    pub fn after(self, passed: bool, in_start_period: bool, retries: u32) -> Self {
        if passed {
            return Self { status: HealthStatus::Healthy, failing: 0 };
        }
        if self.status == HealthStatus::Starting && in_start_period {
            return self;
        }
        let failing = self.failing.saturating_add(1);
        let status = if failing >= retries { HealthStatus::Unhealthy } else { self.status };
        Self { status, failing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthStatus::{Healthy, Starting, Unhealthy};

    #[test]
    fn every_state_after_every_probe() {
        let at = |status, failing| Health { status, failing };
        #[rustfmt::skip]
        let table = [
            // before                passed  starting   after
            (at(Starting, 0),        true,   true,      at(Healthy, 0)),
            (at(Starting, 0),        true,   false,     at(Healthy, 0)),
            (at(Starting, 0),        false,  true,      at(Starting, 0)),
            (at(Starting, 0),        false,  false,     at(Starting, 1)),
            (at(Starting, 1),        false,  false,     at(Unhealthy, 2)),
            (at(Starting, 1),        true,   false,     at(Healthy, 0)),
            (at(Healthy, 0),         true,   true,      at(Healthy, 0)),
            // Once it has been healthy, the start period protects it no longer.
            (at(Healthy, 0),         false,  true,      at(Healthy, 1)),
            (at(Healthy, 1),         false,  true,      at(Unhealthy, 2)),
            (at(Healthy, 1),         false,  false,     at(Unhealthy, 2)),
            (at(Healthy, 1),         true,   false,     at(Healthy, 0)),
            (at(Unhealthy, 2),       false,  false,     at(Unhealthy, 3)),
            (at(Unhealthy, 2),       true,   false,     at(Healthy, 0)),
            (at(Unhealthy, u32::MAX), false, false,     at(Unhealthy, u32::MAX)),
        ];
        for (before, passed, in_start_period, after) in table {
            assert_eq!(before.after(passed, in_start_period, 2), after, "{before:?}, {passed}, {in_start_period}");
        }
    }
}
