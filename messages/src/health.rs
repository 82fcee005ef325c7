//! Health checks: a command that is run in a task from time to time to see whether it is well.

use crate::{Answer, ContainerId, Labels, Refusal, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A container's health check, as JSON in the form of Docker's image config.
pub const HEALTHCHECK_LABEL: &str = "wharf.io/healthcheck";

/// What is run in a task, and how often.
///
/// # Spec
/// Docker image specification 1.2, "Healthcheck": durations in nanoseconds; what is left out or 0 is the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthCheck {
    /// `["CMD", argument...]`, `["CMD-SHELL", line]`, `["NONE"]` for none, or nothing for the image's.
    pub test: Vec<String>,
    /// From the end of one probe to the next, and before the first.
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub interval: Duration,
    /// How long a probe may take.
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub timeout: Duration,
    /// How long after its start a task may fail probes before that counts.
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub start_period: Duration,
    /// How many probes in a row must fail before it is unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Go's durations: a number of nanoseconds.
mod nanoseconds {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let nanos = i64::deserialize(deserializer)?;
        u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| D::Error::custom("a duration below zero"))
    }
}

impl HealthCheck {
    /// Between probes unless told otherwise; this and the others as in Docker.
    pub const INTERVAL: Duration = Duration::from_secs(30);
    /// For a probe unless told otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(30);
    /// Probes in a row unless told otherwise.
    pub const RETRIES: u32 = 3;
    /// The shortest interval and timeout, as in Docker: a probe is a process that is started in the task.
    pub const SHORTEST: Duration = Duration::from_millis(1);

    /// Reads a container's label; none if it has none or says `NONE`.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no health check.
    pub fn of(labels: &Labels) -> Answer<Option<Self>> {
        let Some(json) = labels.get(HEALTHCHECK_LABEL) else { return Ok(None) };
        let check: Self = serde_json::from_str(json)
            .map_err(|error| Refusal::invalid(format!("label {HEALTHCHECK_LABEL}: {error}")))?;
        check.checked().map(|check| check.command().is_some().then_some(check))
    }

    /// The check with its defaults filled in.
    ///
    /// # Errors
    /// `InvalidArgument` that names the bound.
    pub fn checked(mut self) -> Answer<Self> {
        let bad = |why: &str| Err(Refusal::invalid(format!("health check: {why}")));
        match self.test.split_first().map(|(kind, rest)| (kind.as_str(), rest)) {
            None | Some(("NONE", [])) | Some(("CMD-SHELL", [_])) => {}
            Some(("CMD", [_, ..])) => {}
            Some(("NONE", _)) => return bad("NONE takes no arguments"),
            Some(("CMD", [])) => return bad("CMD needs a command"),
            Some(("CMD-SHELL", _)) => return bad("CMD-SHELL takes one line"),
            Some((kind, _)) => return bad(&format!("{kind:?} is none of NONE, CMD, CMD-SHELL")),
        }
        for (what, duration, default) in
            [("interval", &mut self.interval, Self::INTERVAL), ("timeout", &mut self.timeout, Self::TIMEOUT)]
        {
            if duration.is_zero() {
                *duration = default;
            } else if *duration < Self::SHORTEST {
                return bad(&format!("its {what} is shorter than a millisecond"));
            }
        }
        if self.retries == 0 {
            self.retries = Self::RETRIES;
        }
        Ok(self)
    }

    /// What is run; none if nothing is.
    #[must_use]
    pub fn command(&self) -> Option<Vec<String>> {
        match self.test.split_first()? {
            (kind, command) if kind == "CMD" => Some(command.to_vec()),
            (kind, [line]) if kind == "CMD-SHELL" => Some(["/bin/sh", "-c", line].map(str::to_owned).to_vec()),
            _ => None,
        }
    }

    /// As the label has it.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A structure of texts and numbers always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// How a task fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthStatus {
    /// No probe has succeeded yet, and too few have failed.
    Starting,
    /// The last probe succeeded, or too few have failed since.
    Healthy,
    /// Too many probes in a row have failed.
    Unhealthy,
}

impl HealthStatus {
    /// Its name, as Docker's.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How a task with a health check fares. It goes with its task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// Whose task.
    pub container_id: ContainerId,
    /// How it fares.
    pub status: HealthStatus,
    /// How many probes in a row have failed.
    pub failing: u32,
    /// When its status last changed.
    pub since: Timestamp,
    /// What the last probe that failed came to: a code, or why there is none.
    pub last_failure: String,
}

/// Reads how a container's task fares; none for one without a health check. Refused with `NotFound` for the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetHealth {
    /// Whose.
    pub container_id: ContainerId,
}

/// Reads how all tasks with a health check fare, by container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListHealth {}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(json: &str) -> Answer<Option<HealthCheck>> {
        HealthCheck::of(&Labels::from([(HEALTHCHECK_LABEL.to_owned(), json.to_owned())]))
    }

    #[test]
    fn a_check_is_read_with_dockers_defaults() {
        assert_eq!(HealthCheck::of(&Labels::new()), Ok(None));
        assert_eq!(label(r#"{"Test":["NONE"]}"#), Ok(None));
        assert_eq!(label("{}"), Ok(None), "without a test there is none");
        let check = label(r#"{"Test":["CMD-SHELL","a b"],"Interval":1500000000,"Retries":5}"#).unwrap().unwrap();
        assert_eq!(check.command().unwrap(), ["/bin/sh", "-c", "a b"]);
        assert_eq!((check.interval, check.timeout), (Duration::from_millis(1500), HealthCheck::TIMEOUT));
        assert_eq!((check.retries, check.start_period), (5, Duration::ZERO));
        assert_eq!(label(&check.to_json()), Ok(Some(check)));
        let check = label(r#"{"Test":["CMD","a","b c"]}"#).unwrap().unwrap();
        assert_eq!(check.command().unwrap(), ["a", "b c"]);
    }

    #[test]
    fn what_is_no_check_is_refused() {
        for bad in [
            "",
            "7",
            r#"{"Test":["CMD"]}"#,
            r#"{"Test":["CMD-SHELL"]}"#,
            r#"{"Test":["CMD-SHELL","a","b"]}"#,
            r#"{"Test":["NONE","a"]}"#,
            r#"{"Test":["sh","a"]}"#,
            r#"{"Test":["CMD","a"],"Interval":5}"#,
            r#"{"Test":["CMD","a"],"Timeout":-1}"#,
        ] {
            assert!(label(bad).is_err(), "{bad}");
        }
    }
}
