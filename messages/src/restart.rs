//! Restart policies: what a container's labels wish for its task, and how far a restart has come.
//!
//! # Spec
//! The labels and their meaning are those of containerd's restart monitor (`runtime/restart`); where it and Docker differ
//! (`always` after a user's stop), Docker's definition holds.

use crate::{Answer, ContainerId, Labels, Refusal, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the task is to be: `running` or `stopped`; a container without it is nobody's business here.
pub const STATUS_LABEL: &str = "containerd.io/restart.status";
/// Under which policy; a container that has a status and no policy has [`Policy::Always`].
pub const POLICY_LABEL: &str = "containerd.io/restart.policy";
/// How often it was restarted since its last good run.
pub const COUNT_LABEL: &str = "containerd.io/restart.count";
/// Where a restarted task's output goes; nowhere without it.
pub const LOG_URI_LABEL: &str = "containerd.io/restart.loguri";
/// `true` once a user has stopped the task.
pub const EXPLICITLY_STOPPED_LABEL: &str = "containerd.io/restart.explicitly-stopped";

/// When a task that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Never.
    No,
    /// Whenever it ends; one that a user stopped, when the daemon starts.
    Always,
    /// When it ends with another code than 0: so many times in a row, or as often as it takes.
    OnFailure(Option<u32>),
    /// Whenever it ends, until a user stops it.
    UnlessStopped,
}

impl Policy {
    /// Their names, as clients look for them among the capabilities of the restart plugin.
    pub const NAMES: [&'static str; 4] = ["no", "always", "on-failure", "unless-stopped"];

    /// Reads `no`, `always`, `on-failure[:N]`, `unless-stopped`; nothing at all means `always`.
    ///
    /// # Errors
    /// `InvalidArgument` that names the text.
    pub fn parse(text: &str) -> Answer<Self> {
        let (name, max) = text.split_once(':').map_or((text, None), |(name, max)| (name, Some(max)));
        let policy = match name {
            "no" => Self::No,
            "" | "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => {
                let max = max.map(|max| {
                    max.parse::<u32>().map_err(|_| {
                        Refusal::invalid(format!("restart policy {text:?}: {max:?} is no number of restarts"))
                    })
                });
                // As in containerd, 0 is no limit.
                return Ok(Self::OnFailure(max.transpose()?.filter(|max| *max > 0)));
            }
            _ => {
                let known = Self::NAMES.join(", ");
                return Err(Refusal::invalid(format!("restart policy {text:?} is none of {known}")));
            }
        };
        match max {
            None => Ok(policy),
            Some(_) => Err(Refusal::invalid(format!("restart policy {text:?}: only on-failure counts restarts"))),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::Always => f.write_str("always"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(max)) => write!(f, "on-failure:{max}"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// What a container's labels wish for its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Whether it is to run.
    pub running: bool,
    /// When it is started again.
    pub policy: Policy,
    /// How often it was since its last good run.
    pub restarts: u32,
    /// Whether a user has stopped it.
    pub stopped_by_user: bool,
    /// Where its output goes; empty for nowhere.
    pub log_uri: String,
}

impl Wish {
    /// Reads a container's labels; none if they wish nothing that a daemon could do.
    ///
    /// # Errors
    /// `InvalidArgument` for a policy that is none.
    pub fn of(labels: &Labels) -> Answer<Option<Self>> {
        let text = |key: &str| labels.get(key).map_or("", String::as_str);
        let running = match text(STATUS_LABEL) {
            "running" => true,
            "stopped" => false,
            // A container that a client has made and not started yet has `created`.
            _ => return Ok(None),
        };
        Ok(Some(Self {
            running,
            policy: Policy::parse(text(POLICY_LABEL))?,
            restarts: text(COUNT_LABEL).parse().unwrap_or(0),
            // Go's ParseBool, which is what containerd's clients write for.
            stopped_by_user: matches!(text(EXPLICITLY_STOPPED_LABEL), "1" | "t" | "T" | "true" | "TRUE" | "True"),
            log_uri: text(LOG_URI_LABEL).to_owned(),
        }))
    }
}

/// How far a restart has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPhase {
    /// The task is being ended because it is unhealthy.
    Ending,
    /// It has ended and rests.
    Waiting,
    /// What is left of the task is removed and another one started.
    Starting,
    /// Its policy allows no more restarts.
    GivenUp,
}

impl RestartPhase {
    /// Its name, for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ending => "ending",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::GivenUp => "given up",
        }
    }
}

/// A restart that is under way, or that will not come: there is none while the task runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRecord {
    /// Whose task.
    pub container_id: ContainerId,
    /// How far it is.
    pub phase: RestartPhase,
    /// Which restart since the last good run it is.
    pub restarts: u32,
    /// When the task is started, at the earliest.
    pub due_at: Timestamp,
    /// When this was written.
    pub since: Timestamp,
    /// What made it necessary, or impossible.
    pub reason: String,
}

/// Reads the restart that is under way for a container, if one is. Refused with `NotFound` for the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetRestart {
    /// Whose.
    pub container_id: ContainerId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_those_of_containerd() {
        let good = [
            ("no", Policy::No),
            ("", Policy::Always),
            ("always", Policy::Always),
            ("on-failure", Policy::OnFailure(None)),
            ("on-failure:0", Policy::OnFailure(None)),
            ("on-failure:3", Policy::OnFailure(Some(3))),
            ("unless-stopped", Policy::UnlessStopped),
        ];
        for (text, policy) in good {
            assert_eq!(Policy::parse(text), Ok(policy), "{text}");
            assert_eq!(Policy::parse(&policy.to_string()), Ok(policy), "{text}");
        }
        for bad in ["never", "always:3", "no:1", "on-failure:", "on-failure:-1", "on-failure:x", "on-failure:1:2"] {
            let refusal = Policy::parse(bad).unwrap_err();
            assert!(refusal.detail.contains(bad), "{refusal}");
        }
    }

    #[test]
    fn a_wish_is_read_from_labels() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(Wish::of(&labels(&[(POLICY_LABEL, "always")])), Ok(None), "without a status nothing is wished");
        assert_eq!(Wish::of(&labels(&[(STATUS_LABEL, "created")])), Ok(None));
        let wish = Wish::of(&labels(&[(STATUS_LABEL, "running")])).unwrap().unwrap();
        assert_eq!((wish.running, wish.policy, wish.restarts, wish.stopped_by_user), (true, Policy::Always, 0, false));
        let all = labels(&[
            (STATUS_LABEL, "stopped"),
            (POLICY_LABEL, "on-failure:2"),
            (COUNT_LABEL, "7"),
            (EXPLICITLY_STOPPED_LABEL, "true"),
            (LOG_URI_LABEL, "file:///log"),
        ]);
        let wish = Wish::of(&all).unwrap().unwrap();
        assert_eq!((wish.running, wish.policy), (false, Policy::OnFailure(Some(2))));
        assert_eq!((wish.restarts, wish.stopped_by_user, wish.log_uri.as_str()), (7, true, "file:///log"));
        assert!(Wish::of(&labels(&[(STATUS_LABEL, "running"), (POLICY_LABEL, "x")])).is_err());
    }
}
