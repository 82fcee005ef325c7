//! What the log keeps, and where it is cut.

use super::{batch::Batch, tables::Tables};
use crate::record;
use redb::ReadableTable;
use std::time::Duration;
use wharf_messages::{
    Timestamp,
    event::{EventRecord, Seq},
};

/// The most events that one transaction cuts off: a cut must not hold up commits for long.
const CUT_MAX_EVENTS: u64 = 16_384;

/// What the log keeps: what is beyond any of the three goes, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many events.
    pub events_max: u64,
    /// How many bytes of events, as they are stored.
    pub bytes_max: u64,
    /// How old an event may be; none is any age.
    pub age_max: Option<Duration>,
}

/// The log as it lies: kept at hand, so that nobody walks it to learn its size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    /// The oldest event; beyond the newest if there is none.
    pub first: Seq,
    /// The newest event.
    pub last: Seq,
    /// Bytes of all, keys and values.
    pub bytes: u64,
    /// When the oldest was written.
    pub oldest_at: Timestamp,
}

impl LogSize {
    /// How many events there are.
    #[must_use]
    pub fn events(&self) -> u64 {
        (self.last.0 + 1).saturating_sub(self.first.0)
    }
}

impl Retention {
    /// Whether a cut is worth its transaction: each bound may be passed by a sixty-fourth.
    pub(super) fn is_due(&self, log: &LogSize, now: Timestamp) -> bool {
        let over = |is: u64, most: u64, least: u64| is > most.saturating_add((most / 64).max(least));
        log.events() > 1
            && (over(log.events(), self.events_max, 16)
                || over(log.bytes, self.bytes_max, 4096)
                || self.age_max.is_some_and(|age| now.since(log.oldest_at) > age + age / 64))
    }

    /// The place before which the log goes.
    pub(super) fn place(&self, tables: &Tables<'_>, log: &LogSize, now: Timestamp) -> Result<Seq, redb::Error> {
        let mut before = log.first.0.max(log.last.0.saturating_sub(self.events_max - 1));
        let mut over_bytes = log.bytes.saturating_sub(self.bytes_max);
        let too_old = |record: &EventRecord| self.age_max.is_some_and(|age| now.since(record.at) > age);
        for row in tables.events.range(log.first.0..log.last.0)?.take(CUT_MAX_EVENTS as usize) {
            let (seq, value) = row?;
            // A record that cannot be read has no age; the other two bounds get rid of it in time.
            let old = self.age_max.is_some() && record::decode(value.value()).is_ok_and(|record| too_old(&record));
            if over_bytes == 0 && !old && seq.value() >= before {
                break;
            }
            over_bytes = over_bytes.saturating_sub(weight(value.value()));
            before = before.max(seq.value() + 1);
        }
        Ok(Seq(before.min(log.first.0 + CUT_MAX_EVENTS)))
    }
}

/// What an event counts for.
pub(crate) fn weight(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + 8
}

impl Batch<'_, '_> {
    /// Cuts what retention does not keep.
    pub fn cut(&mut self, retention: &Retention, now: Timestamp) -> Result<u64, redb::Error> {
        let place = retention.place(&self.tables, &self.log, now)?;
        self.trim(place)
    }
}
