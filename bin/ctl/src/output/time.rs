//! Instants and durations in the spellings of Go, which are those of `ctr`'s output and flags.

use std::time::Duration;
use wharf_messages::{Answer, Refusal, Timestamp};

fn zoned(at: Timestamp, zone: jiff::tz::TimeZone) -> jiff::Zoned {
    // i64 nanoseconds are years 1677 to 2262: always in jiff's range.
    let instant = jiff::Timestamp::from_nanosecond(i128::from(at.0)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    instant.to_zoned(zone)
}

fn fraction(at: Timestamp) -> String {
    let digits = format!("{:09}", at.nanos());
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() { String::new() } else { format!(".{digits}") }
}

/// `2026-11-23T21:24:36.014522253Z`, without trailing zeros: how times stand in JSON.
#[must_use]
pub fn rfc3339_nano(at: Timestamp) -> String {
    format!("{}{}Z", zoned(at, jiff::tz::TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S"), fraction(at))
}

/// `2026-11-23T21:24:36Z`, whole seconds in UTC: how times stand in labels.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    zoned(at, jiff::tz::TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-23T22:24:36+01:00`, whole seconds where the user is.
#[must_use]
pub fn rfc3339_local(at: Timestamp) -> String {
    let local = zoned(at, jiff::tz::TimeZone::system());
    if local.offset().is_zero() { rfc3339(at) } else { local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string() }
}

/// `2026-11-23 21:24:36.36201692 +0000 UTC`: how events and metrics begin.
#[must_use]
pub fn long(at: Timestamp) -> String {
    format!("{}{} +0000 UTC", zoned(at, jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S"), fraction(at))
}

/// Reads an instant: RFC 3339, or how long ago (`10m`).
///
/// # Errors
/// `InvalidArgument` that quotes it.
pub fn parse_instant(text: &str, now: Timestamp) -> Answer<Timestamp> {
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        // Beyond what nanoseconds reach (1677 to 2262) nothing happened or will have.
        let nanos = instant.as_nanosecond();
        return Ok(Timestamp(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })));
    }
    let ago = parse_duration(text).map_err(|_| {
        Refusal::invalid(format!("time {text:?}: expected RFC 3339 (2026-01-31T12:00:00Z) or how long ago (10m)"))
    })?;
    Ok(Timestamp(now.0.saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX))))
}

/// Reads a duration: `0`, `10s`, `1h30m`, `1.5s`, `250ms`.
///
/// # Errors
/// `InvalidArgument` that quotes it.
///
/// # Spec
/// Go standard library, `time.ParseDuration`, without negative ones.
pub fn parse_duration(text: &str) -> Answer<Duration> {
    let bad = || Refusal::invalid(format!("duration {text:?}: expected numbers with units, such as 10s or 1h30m"));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit_seconds = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let part = Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = &rest[letters..];
    }
    Ok(total)
}

/// An instant in this machine's time zone, in a format of `strftime`.
#[must_use]
pub fn local(at: Timestamp, format: &str) -> String {
    zoned(at, jiff::tz::TimeZone::system()).strftime(format).to_string()
}

/// `1m2.5s`, `12.345ms`: a duration with all its digits.
///
/// # Spec
/// Go standard library, `time.Duration.String`.
#[must_use]
pub fn duration(of: Duration) -> String {
    let trimmed = |whole: u64, part: u64, width: usize, unit: &str| {
        let digits = format!("{part:0width$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { format!("{whole}{unit}") } else { format!("{whole}.{digits}{unit}") }
    };
    let nanos = u64::try_from(of.as_nanos()).unwrap_or(u64::MAX);
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => trimmed(nanos / 1_000, nanos % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => trimmed(nanos / 1_000_000, nanos % 1_000_000, 6, "ms"),
        _ => {
            let seconds = nanos / 1_000_000_000;
            let rest = trimmed(seconds % 60, nanos % 1_000_000_000, 9, "s");
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_lose_their_trailing_zeros() {
        let at = Timestamp::from_parts(1_795_469_076, 362_016_920);
        assert_eq!(long(at), "2026-11-23 21:24:36.36201692 +0000 UTC");
        assert_eq!(rfc3339_nano(at), "2026-11-23T21:24:36.36201692Z");
        assert_eq!(rfc3339(at), "2026-11-23T21:24:36Z");
        assert_eq!(rfc3339_nano(Timestamp::ZERO), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn instants_are_absolute_or_ago() {
        let now = Timestamp::from_parts(1_000_000, 0);
        assert_eq!(parse_instant("1970-01-01T00:00:02Z", now), Ok(Timestamp::from_parts(2, 0)));
        assert_eq!(parse_instant("10m", now), Ok(Timestamp::from_parts(999_400, 0)));
        assert_eq!(parse_instant("2999-01-01T00:00:00Z", now), Ok(Timestamp(i64::MAX)));
        for bad in ["", "yesterday", "10"] {
            assert!(parse_instant(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_go_both_ways() {
        for (text, nanos) in [
            ("0s", 0),
            ("1ns", 1),
            ("1.5µs", 1_500),
            ("66.123456ms", 66_123_456),
            ("1.5s", 1_500_000_000),
            ("1m0s", 60_000_000_000),
            ("24h0m0s", 86_400_000_000_000),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for bad in ["", "1", "s", "1x", "-1s", "1s2", "..s", "1e400h", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
