//! When a task is started again: a pure machine. No clock, no I/O; the actor in `restart/mod.rs` gives it effects.
//!
//! ```text
//!             it ended, and its policy wants it                  due                     started
//!   (none) -----------------------------------------> Waiting ---------> Starting -----------------> (none)
//!     |                                                 ^ |                 | could not be started
//!     | unhealthy          ended                        | | a user's stop   |
//!     `-----------> Ending ---------------------------->' |                 v
//!                                                         `-> (none)     Waiting, or GivenUp after the last one
//! ```

use std::time::Duration;
use wharf_messages::{
    Timestamp,
    restart::{Policy, RestartPhase, RestartRecord, Wish},
};

/// How long tasks rest before they are started again.
///
/// # Spec
/// Docker's restart manager: 100 ms, doubling up to a minute, and from the beginning after a run of 10 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first restart.
    pub first: Duration,
    /// At most.
    pub max: Duration,
    /// A task that ran for so long ran well: what it did before is forgiven.
    pub good_run: Duration,
    /// How long a client that deletes a task or changes a container's labels has for what it wants to do next (start the
    /// task itself, delete the container), before the labels' wish is fulfilled. containerd looks as often.
    pub grace: Duration,
}

impl Backoff {
    /// Unless told otherwise.
    pub const DEFAULT: Self = Self {
        first: Duration::from_millis(100),
        max: Duration::from_secs(60),
        good_run: Duration::from_secs(10),
        grace: Duration::from_secs(10),
    };

    /// The rest before a restart, the first of a row being 1.
    fn before(&self, restart: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(restart.saturating_sub(1))).min(self.max)
    }
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// With which code.
    pub code: u32,
    /// When.
    pub at: Timestamp,
    /// How long it ran, if that is known.
    pub ran: Option<Duration>,
}

/// The container's task as its row has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskNow {
    /// There is none, since then; how the last one ended, if that was heard.
    Absent(Timestamp, Option<End>),
    /// It is being made or deleted.
    Passing,
    /// It is made and not started.
    Created,
    /// It runs or is frozen.
    Running,
    /// It has ended and is not deleted; it was made then.
    Ended(End, Timestamp),
}

/// All that a decision depends on.
#[derive(Debug, Clone)]
pub struct Look<'a> {
    /// What the labels wish; none means nothing.
    pub wish: Option<&'a Wish>,
    /// The task.
    pub task: TaskNow,
    /// What was decided before.
    pub record: Option<&'a RestartRecord>,
    /// Whether the daemon has just started: then `always` means even what a user had stopped.
    pub fresh: bool,
    /// Whether the task was found unhealthy just now.
    pub unhealthy: bool,
    /// A client was at work then: not before its grace is over.
    pub client_at: Option<Timestamp>,
    /// The time.
    pub now: Timestamp,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something happens.
    Rest,
    /// Nothing, until then.
    LookAgain(Duration),
    /// Forget what was decided.
    Forget,
    /// Forget it, and say why.
    Cancel(&'static str),
    /// End the task, and delete it: nobody wants it.
    Stop,
    /// Write down that the task is to be ended, which is unhealthy.
    End,
    /// End the task: that it will be is written down.
    Kill,
    /// Write down when the task will be started.
    Schedule {
        /// Which restart it is.
        restarts: u32,
        /// How long it rests.
        rest: Duration,
        /// Why.
        reason: String,
    },
    /// Write down that it will not be.
    GiveUp {
        /// How many restarts there were.
        restarts: u32,
        /// Why.
        reason: String,
    },
    /// Write down that the task is being started, then start it.
    Begin {
        /// Which restart it is.
        restarts: u32,
    },
    /// Start the task: that it is being started is written down.
    Start,
}

/// While something else is being done with the task, it is looked at again after so long.
const PASSING_REST: Duration = Duration::from_secs(1);

/// Decides.
#[must_use]
pub fn decide(look: &Look<'_>, backoff: &Backoff) -> Step {
    let forget = || if look.record.is_some() { Step::Forget } else { Step::Rest };
    let Some(wish) = look.wish else { return forget() };
    if look.task == TaskNow::Passing {
        return Step::LookAgain(PASSING_REST);
    }
    if !wish.running {
        return match look.task {
            TaskNow::Created | TaskNow::Running => Step::Stop,
            _ => forget(),
        };
    }
    match look.record {
        None => undecided(look, wish, backoff),
        Some(record) => match record.phase {
            RestartPhase::Ending => ending(look, wish, record, backoff),
            RestartPhase::Waiting => waiting(look, wish, record, backoff),
            RestartPhase::Starting => starting(look, wish, record, backoff),
            RestartPhase::GivenUp => match undecided(look, wish, backoff) {
                // It was told.
                Step::GiveUp { .. } => Step::Rest,
                Step::Rest if matches!(look.task, TaskNow::Created | TaskNow::Running) => Step::Forget,
                step => step,
            },
        },
    }
}

fn undecided(look: &Look<'_>, wish: &Wish, backoff: &Backoff) -> Step {
    match look.task {
        // One that would not be started again is better than none.
        TaskNow::Running if look.unhealthy && may(wish, false, Some(1)) && next(wish, wish.restarts).is_some() => {
            Step::End
        }
        TaskNow::Passing | TaskNow::Created | TaskNow::Running => Step::Rest,
        TaskNow::Absent(since, end) => ended(look, wish, end, Some(since), &how(end), backoff),
        TaskNow::Ended(end, _) => ended(look, wish, Some(end), None, &how(Some(end)), backoff),
    }
}

/// An unhealthy task that is to be ended.
fn ending(look: &Look<'_>, wish: &Wish, record: &RestartRecord, backoff: &Backoff) -> Step {
    match look.task {
        TaskNow::Running if wish.stopped_by_user => Step::Forget,
        TaskNow::Running => Step::Kill,
        TaskNow::Passing | TaskNow::Created => Step::Forget,
        // It failed, however long it ran and whatever code it chose.
        TaskNow::Absent(..) => failed(look, wish, &record.reason, backoff),
        TaskNow::Ended(..) => failed(look, wish, &record.reason, backoff),
    }
}

fn waiting(look: &Look<'_>, wish: &Wish, record: &RestartRecord, backoff: &Backoff) -> Step {
    if wish.stopped_by_user {
        return Step::Cancel("a user has stopped it");
    }
    if wish.policy == Policy::No {
        return Step::Cancel("its policy is no longer to be restarted");
    }
    let left = record.due_at.since(look.now).min(backoff.max);
    match look.task {
        // Somebody else has started it.
        TaskNow::Created | TaskNow::Running => Step::Forget,
        TaskNow::Passing => Step::LookAgain(PASSING_REST),
        TaskNow::Absent(since, _) => begin(look, Some(since), left, record.restarts, backoff),
        TaskNow::Ended(..) => begin(look, None, left, record.restarts, backoff),
    }
}

fn starting(look: &Look<'_>, wish: &Wish, record: &RestartRecord, backoff: &Backoff) -> Step {
    match look.task {
        // A user's stop came while it was being started.
        TaskNow::Created | TaskNow::Running if wish.stopped_by_user => Step::Stop,
        TaskNow::Running => Step::Forget,
        TaskNow::Passing => Step::LookAgain(PASSING_REST),
        _ if wish.stopped_by_user => Step::Cancel("a user has stopped it"),
        // The new one has ended already.
        TaskNow::Ended(end, made_at) if made_at > record.since => {
            ended(look, wish, Some(end), None, &how(Some(end)), backoff)
        }
        TaskNow::Absent(..) | TaskNow::Created | TaskNow::Ended(..) => Step::Start,
    }
}

/// What follows an end.
fn ended(
    look: &Look<'_>,
    wish: &Wish,
    end: Option<End>,
    absent_since: Option<Timestamp>,
    reason: &str,
    backoff: &Backoff,
) -> Step {
    let code = end.map(|end| end.code);
    if !may(wish, look.fresh, code) {
        return Step::Rest;
    }
    let well = end.is_some_and(|end| end.ran.is_some_and(|ran| ran >= backoff.good_run));
    let before = if well { 0 } else { wish.restarts };
    let Some(restarts) = next(wish, before) else {
        return Step::GiveUp { restarts: before, reason: format!("{reason}, after {before} restarts") };
    };
    if end.is_none() {
        // Nobody has seen it run: a client is making it, or there is a wish and nothing more.
        return match client_left(look, absent_since, backoff) {
            Some(left) => Step::LookAgain(left),
            None => Step::Begin { restarts },
        };
    }
    Step::Schedule { restarts, rest: backoff.before(restarts), reason: reason.to_owned() }
}

/// What follows a failure that is none of the task's own code.
fn failed(look: &Look<'_>, wish: &Wish, reason: &str, backoff: &Backoff) -> Step {
    let end = End { code: 1, at: look.now, ran: None };
    match ended(look, wish, Some(end), None, reason, backoff) {
        Step::Rest => Step::Forget,
        step => step,
    }
}

/// What follows an attempt to start the task that did not succeed.
#[must_use]
pub fn not_started(wish: &Wish, reason: &str, now: Timestamp, backoff: &Backoff) -> Step {
    let look = Look {
        wish: Some(wish),
        task: TaskNow::Passing,
        record: None,
        fresh: false,
        unhealthy: false,
        client_at: None,
        now,
    };
    failed(&look, wish, reason, backoff)
}

/// Starts it when it has rested and whoever is at work has had time.
fn begin(look: &Look<'_>, absent_since: Option<Timestamp>, left: Duration, restarts: u32, backoff: &Backoff) -> Step {
    match left.max(client_left(look, absent_since, backoff).unwrap_or_default()) {
        Duration::ZERO => Step::Begin { restarts },
        left => Step::LookAgain(left),
    }
}

/// How much of its grace a client has left.
fn client_left(look: &Look<'_>, absent_since: Option<Timestamp>, backoff: &Backoff) -> Option<Duration> {
    let since = absent_since.max(look.client_at)?;
    let left = since.plus(backoff.grace).since(look.now).min(backoff.grace);
    (!left.is_zero()).then_some(left)
}

/// Whether the policy wants it started after an end with this code; none is an end that nobody saw.
fn may(wish: &Wish, fresh: bool, code: Option<u32>) -> bool {
    match wish.policy {
        Policy::No => false,
        Policy::Always => fresh || !wish.stopped_by_user,
        Policy::UnlessStopped => !wish.stopped_by_user,
        Policy::OnFailure(_) => !wish.stopped_by_user && code.is_some_and(|code| code != 0),
    }
}

/// The number of the next restart, unless the policy allows none.
fn next(wish: &Wish, before: u32) -> Option<u32> {
    match wish.policy {
        Policy::OnFailure(Some(max)) if before >= max => None,
        _ => Some(before.saturating_add(1)),
    }
}

fn how(end: Option<End>) -> String {
    end.map_or_else(|| "there is no task".to_owned(), |end| format!("it ended with {}", end.code))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
