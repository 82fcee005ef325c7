//! `[events]`, `[gc]` and `[content]`: what is kept, for how long, and for whom.

use super::{millis, refuse};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wharf_actors::{
    config::{Retention, SystemConfig},
    content::Sharing,
    gc::GcConfig,
};
use wharf_messages::Answer;

/// The log of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// How many are kept.
    pub max: u64,
    /// How many bytes of them, as they are stored.
    pub max_bytes: u64,
    /// For how long, in seconds; 0 is for ever.
    pub max_age_seconds: u64,
}

impl Default for Events {
    fn default() -> Self {
        let Retention { events_max, bytes_max, age_max } = SystemConfig::RETENTION;
        Self { max: events_max, max_bytes: bytes_max, max_age_seconds: age_max.map_or(0, |age| age.as_secs()) }
    }
}

impl Events {
    pub(super) fn check(&self) -> Answer<()> {
        if self.max == 0 || self.max_bytes == 0 {
            return Err(refuse("events.max and events.max_bytes must be above 0"));
        }
        Ok(())
    }

    pub(super) fn tell(&self, system: &mut SystemConfig) {
        let age_max = (self.max_age_seconds > 0).then(|| Duration::from_secs(self.max_age_seconds));
        system.retention = Retention { events_max: self.max, bytes_max: self.max_bytes, age_max };
    }
}

/// When garbage is collected. The keys are those of containerd's scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// The share of time that collecting may take, from 0 to 0.5.
    pub pause_threshold: f64,
    /// After so many deletions it is not waited for the pause to end; 0 means that it always is.
    pub deletion_threshold: u64,
    /// After so many changes it is looked for garbage even if nothing was deleted; 0 means never.
    pub mutation_threshold: u64,
    /// How long to wait after a reason for a collection, for more of them.
    pub schedule_delay_ms: u64,
    /// How long after the start to collect what is left from before; 0 means not for that reason.
    pub startup_delay_ms: u64,
}

impl Default for Gc {
    fn default() -> Self {
        let GcConfig { pause_threshold, deletion_threshold, mutation_threshold, schedule_delay, startup_delay } =
            GcConfig::default();
        Self {
            pause_threshold,
            deletion_threshold,
            mutation_threshold,
            schedule_delay_ms: millis(schedule_delay),
            startup_delay_ms: millis(startup_delay),
        }
    }
}

impl Gc {
    pub(super) fn check(&self) -> Answer<()> {
        if !(0.0..=0.5).contains(&self.pause_threshold) {
            return Err(refuse("gc.pause_threshold must be from 0 to 0.5"));
        }
        Ok(())
    }

    pub(super) fn tell(&self, system: &mut SystemConfig) {
        system.gc = GcConfig {
            pause_threshold: self.pause_threshold,
            deletion_threshold: self.deletion_threshold,
            mutation_threshold: self.mutation_threshold,
            schedule_delay: Duration::from_millis(self.schedule_delay_ms),
            startup_delay: Duration::from_millis(self.startup_delay_ms),
        };
    }
}

/// Blobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Content {
    /// Whether a namespace that names a digest has the blob because another one has it. As containerd's key
    /// `content_sharing_policy`.
    pub sharing_policy: SharingPolicy,
}

/// Whether namespaces have the blobs that others have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SharingPolicy {
    /// Yes: nothing is brought twice.
    #[default]
    Shared,
    /// Only from namespaces with the label `containerd.io/namespace.shareable=true`.
    Isolated,
}

impl Content {
    pub(super) fn tell(&self, system: &mut SystemConfig) {
        system.content_sharing = match self.sharing_policy {
            SharingPolicy::Shared => Sharing::Shared,
            SharingPolicy::Isolated => Sharing::Isolated,
        };
    }
}
