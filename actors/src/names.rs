//! Names that the daemon makes up.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// A name that no other call of any daemon on this machine makes: 24 lowercase hex characters.
///
/// It has to be unique, not secret.
#[must_use]
pub fn random() -> String {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // The standard library seeds each of these from the system's randomness.
    let chance = RandomState::new().hash_one(count);
    format!("{chance:016x}{:08x}", u32::try_from(count & 0xffff_ffff).unwrap_or(0))
}

/// The name that a request gives to what it makes: the same however often it is asked, and in the form of [`random`].
#[must_use]
pub fn of_request(request: u64) -> String {
    format!("{request:024x}")
}
