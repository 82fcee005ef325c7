//! Waiting on conditions, and names that nobody else has.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up: generous, because a loaded machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` gives something.
///
/// # Panics
/// After [`PATIENCE`], naming what was waited for.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, &mut check).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// How long something that goes on by itself in small steps stands still before it counts as stopped.
const STILL: Duration = Duration::from_millis(300);

/// Waits until a figure stands still, and gives it: what was on its way when its source stopped has come then.
///
/// # Panics
/// After [`PATIENCE`], naming what goes on.
pub fn until_still<T: PartialEq>(what: &str, figure: impl Fn() -> T) -> T {
    let still = within(PATIENCE, || {
        let seen = figure();
        thread::sleep(STILL);
        (figure() == seen).then_some(seen)
    });
    still.unwrap_or_else(|| panic!("{what} still goes on after {PATIENCE:?}"))
}

/// Asks `check` again and again until it gives something or time is up.
pub fn within<T>(time: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        if let Some(found) = check() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A name that no other test of any running test process has.
#[must_use]
pub fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
