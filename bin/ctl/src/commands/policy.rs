//! Restart policies and health checks on the command line: the flags that become a container's labels, and what a user's
//! start and stop mean for them.
//!
//! Under the name `ctr` none of it happens: that program's users expect what `ctr` does.

use crate::{
    failure::{Failure, Outcome, program, warn},
    output::time::parse_duration,
};
use clap::Args;
use std::time::Duration;
use wharf_client::{Client, spec::STOP_SIGNAL_LABEL};
use wharf_messages::{
    Labels, RefusalKind,
    container::{Container, UpdateContainer},
    health::{HEALTHCHECK_LABEL, HealthCheck},
    restart::{
        EXPLICITLY_STOPPED_LABEL, GetRestart, LOG_URI_LABEL, POLICY_LABEL, Policy, RestartPhase, STATUS_LABEL, Wish,
    },
};

/// Flags of what keeps a container running.
#[derive(Debug, Args)]
#[command(next_help_heading = "Policy options")]
pub struct PolicyFlags {
    /// When it is started again.
    #[arg(long, value_name = "POLICY", value_parser = Policy::parse)]
    #[arg(help = "Start it again: no, always, on-failure[:N], unless-stopped")]
    restart: Option<Policy>,
    /// Check its health by this command line, run in a shell within it; the image's otherwise
    #[arg(long, value_name = "LINE")]
    health_cmd: Option<String>,
    /// How long from one check to the next [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    health_interval: Option<Duration>,
    /// How long a check may take [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    health_timeout: Option<Duration>,
    /// How many checks in a row must fail before it is unhealthy [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    health_retries: Option<u32>,
    /// How long after its start failed checks do not count [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    health_start_period: Option<Duration>,
    /// Do not check its health, even if the image says how
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_timeout", "health_retries",
        "health_start_period"])]
    no_healthcheck: bool,
}

/// What becomes of a container once it is made.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Whether its task is started at once.
    pub started: bool,
    /// Where its output goes, if it is a log.
    pub log_uri: Option<&'a str>,
}

impl PolicyFlags {
    /// Whether it is to be started again.
    #[must_use]
    pub fn restarts(&self) -> bool {
        self.restart.is_some_and(|policy| policy != Policy::No)
    }

    /// The labels that the flags, and the image's own health check, become.
    ///
    /// # Errors
    /// For a check that cannot be.
    pub fn labels(&self, image: &serde_json::Value, plan: Plan<'_>) -> Outcome<Labels> {
        let mut labels = Labels::new();
        if let Some(policy) = self.restart.filter(|policy| *policy != Policy::No) {
            labels.insert(POLICY_LABEL.to_owned(), policy.to_string());
            // What is made and not started is not kept running yet; its start changes that.
            let status = if plan.started { "running" } else { "created" };
            labels.insert(STATUS_LABEL.to_owned(), status.to_owned());
            if let Some(uri) = plan.log_uri {
                labels.insert(LOG_URI_LABEL.to_owned(), uri.to_owned());
            }
        }
        if let Some(check) = self.health_check(image)? {
            labels.insert(HEALTHCHECK_LABEL.to_owned(), check.to_json());
        }
        Ok(labels)
    }

    fn health_check(&self, image: &serde_json::Value) -> Outcome<Option<HealthCheck>> {
        if self.no_healthcheck {
            return Ok(None);
        }
        let mut check = HealthCheck::default();
        if !image.is_null() && program() != "ctr" {
            match serde_json::from_value::<HealthCheck>(image.clone()) {
                Ok(own) => check = own,
                Err(error) => warn(format!("the image's health check is left out: {error}")),
            }
        }
        if let Some(line) = &self.health_cmd {
            check.test = vec!["CMD-SHELL".to_owned(), line.clone()];
        }
        for (flag, value) in [
            (self.health_interval, &mut check.interval),
            (self.health_timeout, &mut check.timeout),
            (self.health_start_period, &mut check.start_period),
        ] {
            if let Some(duration) = flag {
                *value = duration;
            }
        }
        if let Some(retries) = self.health_retries {
            check.retries = retries;
        }
        let check = check.checked()?;
        let said = self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_start_period.is_some()
            || self.health_retries.is_some();
        match check.command() {
            None if said => Err(Failure::new("flags of a health check need --health-cmd, as the image has no check")),
            None => Ok(None),
            Some(_) => Ok(Some(check)),
        }
    }
}

/// Notes that a user starts the task: from now on it is kept running, if it has a policy. `log_uri` is where its output
/// goes this time.
///
/// # Errors
/// The daemon's refusal.
pub async fn user_starts(client: &Client, container: &Container, log_uri: Option<&str>) -> Outcome {
    if program() == "ctr" || !container.labels.contains_key(STATUS_LABEL) {
        return Ok(());
    }
    let mut wanted = vec![(STATUS_LABEL, "running")];
    if container.labels.contains_key(EXPLICITLY_STOPPED_LABEL) {
        wanted.push((EXPLICITLY_STOPPED_LABEL, "false"));
    }
    wanted.extend(log_uri.map(|uri| (LOG_URI_LABEL, uri)));
    set(client, container, &wanted).await
}

/// Notes that a user stops the task, so that it is not started again; answers whether that alone stopped a restart.
///
/// # Errors
/// The daemon's refusal.
pub async fn user_stops(client: &Client, container: &Container) -> Outcome<bool> {
    let kept = Wish::of(&container.labels).ok().flatten().is_some_and(|wish| wish.running);
    if program() == "ctr" || !kept {
        return Ok(false);
    }
    let restart = client.call(GetRestart { container_id: container.id.clone() }).await?;
    // Before the signal: the end that it brings must not be taken for the task's own.
    set(client, container, &[(EXPLICITLY_STOPPED_LABEL, "true")]).await?;
    Ok(restart.is_some_and(|restart| matches!(restart.phase, RestartPhase::Waiting | RestartPhase::Starting)))
}

/// Whether a signal is one by which a user stops the container.
#[must_use]
pub fn is_stop(container: &Container, signal: u32, stop_signal: impl Fn(&str) -> Option<u32>) -> bool {
    const KILL: u32 = 9;
    let named = container.labels.get(STOP_SIGNAL_LABEL).map_or("SIGTERM", String::as_str);
    signal == KILL || stop_signal(named) == Some(signal)
}

async fn set(client: &Client, container: &Container, labels: &[(&str, &str)]) -> Outcome {
    let changed = labels.iter().filter(|(key, value)| container.labels.get(*key).map(String::as_str) != Some(*value));
    let labels: Labels = changed.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    if labels.is_empty() {
        return Ok(());
    }
    let mask = labels.keys().map(|key| format!("labels.{key}")).collect();
    let container = Container { labels, ..container.clone() };
    match client.call(UpdateContainer { container, mask }).await {
        // Then there is nothing to start or stop either, which is told where that is tried.
        Err(refusal) if refusal.is(RefusalKind::NotFound) => Ok(()),
        updated => Ok(updated.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::{Value, json};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: PolicyFlags,
    }

    fn flags(line: &str) -> PolicyFlags {
        Line::try_parse_from(std::iter::once("run").chain(line.split_whitespace())).unwrap().flags
    }

    const STARTED: Plan<'static> = Plan { started: true, log_uri: None };

    fn labels(line: &str, image: &Value) -> Vec<(String, String)> {
        flags(line).labels(image, STARTED).unwrap().into_iter().collect()
    }

    #[test]
    fn a_policy_becomes_containerds_labels() {
        assert_eq!(labels("", &Value::Null), []);
        assert_eq!(labels("--restart no", &Value::Null), []);
        let own = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let flags = flags("--restart on-failure:3");
        let made = flags.labels(&Value::Null, Plan { started: false, log_uri: Some("file:///l") }).unwrap();
        let wanted = own(&[(POLICY_LABEL, "on-failure:3"), (STATUS_LABEL, "created"), (LOG_URI_LABEL, "file:///l")]);
        assert_eq!(made, wanted);
        let running = flags.labels(&Value::Null, STARTED).unwrap();
        assert_eq!(running, own(&[(POLICY_LABEL, "on-failure:3"), (STATUS_LABEL, "running")]));
        assert!(flags.restarts());
        for bad in ["--restart never", "--restart always:2", "--restart on-failure:x"] {
            let parsed = Line::try_parse_from(std::iter::once("run").chain(bad.split_whitespace()));
            assert!(parsed.is_err_and(|error| error.to_string().contains("restart policy")), "{bad}");
        }
    }

    #[test]
    fn flags_of_a_check_go_over_the_images() {
        let check = |line: &str, image: &Value| {
            let labels = flags(line).labels(image, STARTED).unwrap();
            HealthCheck::of(&labels).unwrap()
        };
        let image = json!({"Test": ["CMD", "probe", "-q"], "Interval": 5_000_000_000_u64, "Retries": 7});
        let own = check("", &image).unwrap();
        assert_eq!((own.command().unwrap(), own.retries), (vec!["probe".to_owned(), "-q".to_owned()], 7));
        let mixed = check("--health-retries 2 --health-timeout 1s", &image).unwrap();
        assert_eq!((mixed.interval, mixed.timeout, mixed.retries), (own.interval, Duration::from_secs(1), 2));
        let other = check("--health-cmd true --health-start-period 1m", &image).unwrap();
        assert_eq!(other.command().unwrap(), ["/bin/sh", "-c", "true"]);
        assert_eq!((other.interval, other.start_period), (own.interval, Duration::from_secs(60)));
        assert_eq!(check("--no-healthcheck", &image), None);
        assert_eq!(check("", &json!({"Test": ["NONE"]})), None);
        assert_eq!(check("", &json!("nonsense")), None);
        assert!(flags("--health-interval 1s").labels(&Value::Null, STARTED).is_err());
        assert!(flags("--health-cmd x --health-timeout 1us").labels(&Value::Null, STARTED).is_err());
    }
}
