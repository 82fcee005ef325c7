//! Sizes and ages for people.

use std::time::Duration;

const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const DECIMAL: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

#[expect(clippy::cast_precision_loss, reason = "a size for people has four digits")]
fn scaled(size_bytes: u64, base: f64, units: [&'static str; 7]) -> (f64, &'static str) {
    let mut size = size_bytes as f64;
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    (size, units[unit])
}

/// `2.0 MiB`: what images, snapshots and transfers show.
#[must_use]
pub fn binary_size(size_bytes: u64) -> String {
    let (size, unit) = scaled(size_bytes, 1024.0, BINARY);
    format!("{size:.1} {unit}")
}

/// `1.084MB`: four significant digits; what content shows.
#[must_use]
pub fn decimal_size(size_bytes: u64) -> String {
    let (size, unit) = scaled(size_bytes, 1000.0, DECIMAL);
    let decimals = match size {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        s if s < 1000.0 => 1,
        _ => 0,
    };
    let digits = format!("{size:.decimals$}");
    let digits = if decimals > 0 { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{unit}")
}

/// `10.2 MiB/s`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and saturating is right")]
pub fn rate(size_bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let per_second = if seconds > 0.0 { (size_bytes as f64 / seconds) as u64 } else { 0 };
    format!("{}/s", binary_size(per_second))
}

/// `About an hour`: roughly how long, in words.
#[must_use]
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_digits_that_ctr_prints() {
        for (bytes, text) in [(0, "0.0 B"), (1023, "1023.0 B"), (1024, "1.0 KiB"), (2_007_040, "1.9 MiB")] {
            assert_eq!(binary_size(bytes), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (6, "6B"),
            (430, "430B"),
            (1_000, "1kB"),
            (1_084_321, "1.084MB"),
            (22_500_000, "22.5MB"),
            (123_450_000, "123.5MB"),
        ] {
            assert_eq!(decimal_size(bytes), text);
        }
        assert_eq!(rate(3 << 20, Duration::from_secs(2)), "1.5 MiB/s");
        assert_eq!(rate(3, Duration::ZERO), "0.0 B/s");
    }

    #[test]
    fn ages_are_rough() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (180, "3 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (49 * 3600, "2 days"),
            (15 * 86400, "2 weeks"),
            (61 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }
}
