//! Wall-clock instants. They inform; sequence numbers order.

use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z; negative before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The zero value: 1970-01-01T00:00:00Z. On the wire it stands for "not set".
    pub const ZERO: Timestamp = Timestamp(0);

    /// From whole seconds and nanoseconds, as protobuf's `Timestamp` has them; saturates.
    #[must_use]
    pub fn from_parts(seconds: i64, nanos: i32) -> Self {
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanos)))
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds within the second, 0 to 999,999,999.
    #[must_use]
    pub fn nanos(self) -> i32 {
        // The remainder by 1e9 always fits.
        i32::try_from(self.0.rem_euclid(1_000_000_000)).unwrap_or(0)
    }

    /// Reads `2026-11-23T21:24:36.5+01:00`: how times stand in labels. Nothing for what is none, or is out of range.
    ///
    /// # Spec
    /// RFC 3339, section 5.6.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i64>().ok())?;
        let (date, rest) = text.split_once(['T', 't'])?;
        let (zone_at, sign) = match rest.rfind(['Z', 'z', '+', '-'])? {
            at if rest[at..].starts_with('-') => (at, -1),
            at => (at, 1),
        };
        let (time, zone) = rest.split_at(zone_at);
        let (time, fraction) = time.split_once('.').map_or((time, None), |(time, fraction)| (time, Some(fraction)));
        let three = |text: &str, by: char, widths: [usize; 3]| {
            let parts: Vec<&str> = text.split(by).collect();
            let fits = parts.len() == 3 && parts.iter().zip(widths).all(|(part, width)| part.len() == width);
            fits.then(|| Some([number(parts[0])?, number(parts[1])?, number(parts[2])?]))?
        };
        let [year, month, day] = three(date, '-', [4, 2, 2])?;
        let [hour, minute, second] = three(time, ':', [2, 2, 2])?;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_in_month = match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        if !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let offset_minutes = match zone {
            "Z" | "z" => 0,
            _ => {
                let (hours, minutes) = zone[1..].split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
                let (hours, minutes) = (number(hours)?, number(minutes)?);
                (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))?
            }
        };
        let nanos = match fraction {
            None => 0,
            Some(digits) => {
                let kept = &digits[..digits.len().min(9)];
                let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                valid.then(|| number(kept))?? * 10_i64.pow(9 - u32::try_from(kept.len()).ok()?)
            }
        };
        // Days since the epoch, counted in years that begin in March, so that the leap day is the last.
        let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = march_year * 365 + march_year.div_euclid(4) - march_year.div_euclid(100)
            + march_year.div_euclid(400)
            + (153 * march_month + 2) / 5
            + day
            - 1
            - 719_468;
        let seconds = ((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(Self)
    }

    /// This instant plus a duration; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to this instant; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let clamp = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(clamp(after)),
            Err(before) => Self(-clamp(before.duration())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_rfc_3339_are_read() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T12:00:00Z", 951_825_600, 0),
            ("2026-11-23T21:24:36.5+01:00", 1_795_465_476, 500_000_000),
            ("2026-11-23t21:24:36.123456789999z", 1_795_469_076, 123_456_789),
            ("1969-12-31T23:59:59-00:30", 1_799, 0),
            ("1969-12-31T23:59:58Z", -2, 0),
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), Some(Timestamp::from_parts(seconds, nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T21:24:36",
            "2026-11-23 21:24:36Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-04-30T24:00:00Z",
            "2026-04-30T00:00:00.Z",
            "2026-04-30T00:00:00+1:00",
            "2026-04-30T00:00:00+",
            "2026-04-30T00:00:0\u{e9}Z",
            "+026-04-30T00:00:00Z",
            "9999-01-01T00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }
}
