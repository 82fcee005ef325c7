//! `[runtime]`, `[restart]` and `[opt]`: how containers are run, and run again, and by which programs.

use super::{millis, refuse};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};
use wharf_actors::{config::SystemConfig, restart::machine::Backoff};
use wharf_messages::Answer;

/// How containers are run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// The shim of the default runtime; none means `wharf-shim` beside this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shim: Option<PathBuf>,
}

impl Runtime {
    pub(super) fn tell(&self, system: &mut SystemConfig) {
        if let Some(shim) = &self.shim {
            system.shim = shim.clone();
        }
    }
}

/// How tasks are started again that have a restart policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// The rest before the first restart; each further one in a row rests twice as long.
    pub backoff_first_ms: u64,
    /// The longest rest.
    pub backoff_max_ms: u64,
    /// A task that ran for so long ran well: the next restart is a first one again.
    pub good_run_ms: u64,
    /// How long a client that deletes a task or changes a policy has for what it wants to do next, before the policy is
    /// followed.
    pub client_grace_ms: u64,
}

impl Default for Restart {
    fn default() -> Self {
        let Backoff { first, max, good_run, grace } = Backoff::DEFAULT;
        Self {
            backoff_first_ms: millis(first),
            backoff_max_ms: millis(max),
            good_run_ms: millis(good_run),
            client_grace_ms: millis(grace),
        }
    }
}

impl Restart {
    pub(super) fn check(&self) -> Answer<()> {
        if self.backoff_first_ms == 0 || self.backoff_max_ms < self.backoff_first_ms {
            return Err(refuse("restart.backoff_first_ms must be above 0 and not above restart.backoff_max_ms"));
        }
        Ok(())
    }

    pub(super) fn tell(&self, system: &mut SystemConfig) {
        system.restart = Backoff {
            first: Duration::from_millis(self.backoff_first_ms),
            max: Duration::from_millis(self.backoff_max_ms),
            good_run: Duration::from_millis(self.good_run_ms),
            grace: Duration::from_millis(self.client_grace_ms),
        };
    }
}

/// Programs that are installed from images. As containerd's `opt` plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Opt {
    /// Where they go unless the caller says otherwise. Shims and runtimes are looked for in its `bin` first, and have its
    /// `lib` among their libraries.
    pub path: PathBuf,
}

impl Default for Opt {
    fn default() -> Self {
        Self { path: SystemConfig::OPT.into() }
    }
}

impl Opt {
    pub(super) fn tell(&self, system: &mut SystemConfig) {
        system.opt.clone_from(&self.path);
    }
}
