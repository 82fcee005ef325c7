//! What went wrong with one attempt, and whether and when to try again.

use super::Limits;
use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};
use wharf_messages::{Answer, Refusal, RefusalKind};

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection to the server. Tried again only where the server was reached before: one that is down or
    /// misspelt should be told at once.
    Connect,
    /// A server that was asked for TLS does not speak it.
    NotTls,
    /// It may go away by itself.
    Transient,
    /// The same request will fail again.
    Final,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) refusal: Refusal,
    pub(super) fault: Fault,
    /// What the server asked for.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(fault: Fault, refusal: Refusal) -> Self {
        Self { refusal, fault, retry_after: None }
    }

    pub(super) fn transient(refusal: Refusal) -> Self {
        Self::new(Fault::Transient, refusal)
    }

    pub(super) fn context(self, doing: impl std::fmt::Display) -> Self {
        Self { refusal: self.refusal.context(doing), ..self }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(Fault::Final, refusal)
    }
}

/// Whether a status may be another one in a moment.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// The pause that a response asks for, in seconds or until a date.
///
/// # Spec
/// RFC 9110, 10.2.3.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(date.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

/// The pause before the attempt after `failures` failed ones (at least one).
pub(super) fn pause(limits: &Limits, failures: u32, asked: Option<Duration>) -> Duration {
    let doubled = limits.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(limits.backoff_max);
    // Half to one and a half, so that clients that failed together do not come back together. The hasher's random
    // keys are randomness enough for that.
    let jitter = RandomState::new().hash_one(failures) % 1024;
    let jittered = doubled.mul_f64(0.5 + f64::from(u16::try_from(jitter).unwrap_or(0)) / 1024.0);
    asked.map_or(jittered, |asked| asked.max(jittered)).min(limits.backoff_max)
}

/// Tries until it works, fails for good, or `attempts` have failed.
pub(super) async fn retry<T, F, Fut>(limits: &Limits, attempts: u32, mut attempt: F) -> Result<T, Failure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let mut failures = 0;
    loop {
        let failure = match attempt().await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        failures += 1;
        if failure.fault != Fault::Transient || failures >= attempts {
            return Err(if failures > 1 { failure.context(format_args!("{failures} attempts")) } else { failure });
        }
        let pause = pause(limits, failures, failure.retry_after);
        tracing::debug!(error = %failure.refusal, failures, ?pause, "registry request will be tried again");
        tokio::time::sleep(pause).await;
    }
}

/// The failures of all hosts of a reference as one refusal.
///
/// A mirror that does not have an image says nothing about the registry, so the kind is the last one that is not
/// `NotFound`, if any; the text has them all.
pub(super) fn combine<T>(doing: impl std::fmt::Display, failures: Vec<Failure>) -> Answer<T> {
    let kind = failures.iter().rev().map(|f| f.refusal.kind).find(|kind| *kind != RefusalKind::NotFound);
    let details: Vec<_> = failures.into_iter().map(|f| f.refusal.detail).collect();
    if details.is_empty() {
        return Err(Refusal::failed_precondition(format!("{doing}: no configured host may be asked for it")));
    }
    Err(Refusal { kind: kind.unwrap_or(RefusalKind::NotFound), detail: details.join("; ") }.context(doing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;
    use std::cell::Cell;

    fn limits() -> Limits {
        Limits { backoff: Duration::from_millis(100), backoff_max: Duration::from_secs(1), ..Limits::default() }
    }

    #[test]
    fn pauses_double_with_jitter_and_have_an_end() {
        let limits = limits();
        for (failures, middle) in [(1, 100), (2, 200), (3, 400), (4, 800)] {
            let pause = pause(&limits, failures, None).as_millis();
            assert!(pause >= middle / 2 && pause <= middle * 3 / 2, "{failures}: {pause}");
        }
        for failures in [5, 40, u32::MAX] {
            assert!(pause(&limits, failures, None) <= limits.backoff_max);
        }
        assert!(pause(&limits, 1, Some(Duration::from_millis(900))) >= Duration::from_millis(900));
        assert_eq!(pause(&limits, 1, Some(Duration::from_secs(86_400))), limits.backoff_max);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(after("Wed, 06 Nov 2199 08:49:37 GMT") > Some(Duration::from_secs(1 << 30)));
        for bad in ["", "soon", "-1", "1.5"] {
            assert_eq!(after(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_transient_failures_are_tried_again() {
        for (fault, expected) in [(Fault::Transient, 3), (Fault::Connect, 1), (Fault::Final, 1)] {
            let calls = Cell::new(0);
            let result: Result<(), _> = retry(&limits(), 3, || {
                calls.set(calls.get() + 1);
                async move { Err(Failure::new(fault, Refusal::unavailable("down"))) }
            })
            .await;
            assert!(result.is_err() && calls.get() == expected, "{fault:?}");
        }
    }

    #[test]
    fn the_kind_of_many_failures_is_not_hidden_by_a_mirror_without_the_image() {
        let not_found = || Failure::from(Refusal::not_found("a"));
        let down = || Failure::from(Refusal::unavailable("b"));
        let kind = |failures| combine::<()>("x", failures).unwrap_err().kind;
        assert_eq!(kind(vec![not_found(), not_found()]), RefusalKind::NotFound);
        assert_eq!(kind(vec![not_found(), down()]), RefusalKind::Unavailable);
        assert_eq!(kind(vec![down(), not_found()]), RefusalKind::Unavailable);
        assert_eq!(kind(vec![]), RefusalKind::FailedPrecondition);
        assert_eq!(combine::<()>("x", vec![not_found(), down()]).unwrap_err().detail, "x: a; b");
    }
}
