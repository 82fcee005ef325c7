//! The states of a process and what may be asked in each: a table, and nothing that acts.
//!
//! ```text
//!             start              pause           paused
//!   Created ---------> Running ---------> Pausing -----> Paused
//!      |                  |  ^                |             |
//!      |                  |  `---------- failed             |
//!      |                  |  `------------------- resume ---'
//!      |       exit       v  exit          exit             | exit
//!      `------------> Stopped <------------'----------------'
//! ```
//! A process that is executed later knows Created, Running and Stopped only.

use wharf_messages::{Answer, Refusal};

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made, and its command does not run yet.
    Created,
    /// Its command runs.
    Running,
    /// It is being frozen.
    Pausing,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped,
}

/// What can be asked of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ask {
    Start,
    Delete,
    Pause,
    Resume,
    Exec,
    StartExec,
    Kill,
    Update,
    Checkpoint,
}

impl State {
    /// The state's name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Pausing => "pausing",
            State::Paused => "paused",
            State::Stopped => "stopped",
        }
    }

    /// Whether it may be asked that now.
    ///
    /// # Errors
    /// Unknown for a wrong state and not found for a signal to a process that has ended: codes and words of containerd's
    /// shim, which its clients see.
    pub fn allows(self, ask: Ask) -> Answer<()> {
        use State::{Created, Paused, Running, Stopped};
        let state = self.word();
        let words = match ask {
            Ask::Start if self == Created => return Ok(()),
            Ask::Start => format!("cannot start a {state} process"),
            Ask::Delete if matches!(self, Created | Stopped) => return Ok(()),
            Ask::Delete => format!("cannot delete a {state} process"),
            Ask::Pause if self == Running => return Ok(()),
            Ask::Pause if self == Created => "cannot pause task in created state".to_owned(),
            Ask::Pause => format!("cannot pause a {state} container"),
            Ask::Resume if self == Paused => return Ok(()),
            Ask::Resume if self == Created => "cannot resume task in created state".to_owned(),
            Ask::Resume if self == Stopped => "cannot resume a stopped container".to_owned(),
            Ask::Resume => format!("cannot resume a {state} process"),
            Ask::Exec if matches!(self, Created | Running) => return Ok(()),
            Ask::Exec => format!("cannot exec in a {state} state"),
            Ask::StartExec if matches!(self, Created | Running) => return Ok(()),
            Ask::StartExec => format!("OCI runtime exec failed: exec failed: cannot exec in a {state} container"),
            Ask::Kill if self == Stopped => return Err(Refusal::not_found("process already finished")),
            Ask::Kill => return Ok(()),
            Ask::Update if self != Stopped => return Ok(()),
            Ask::Update => "cannot update a stopped container".to_owned(),
            Ask::Checkpoint if matches!(self, Running | Paused) => return Ok(()),
            Ask::Checkpoint if self == Created => "cannot checkpoint a task in created state".to_owned(),
            Ask::Checkpoint => format!("cannot checkpoint a {state} container"),
        };
        Err(Refusal::unknown(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::RefusalKind;

    #[test]
    fn what_may_be_asked_when() {
        use Ask::*;
        let table = [
            (State::Created, vec![Start, Delete, Exec, StartExec, Kill, Update]),
            (State::Running, vec![Pause, Exec, StartExec, Kill, Update, Checkpoint]),
            (State::Pausing, vec![Kill, Update]),
            (State::Paused, vec![Resume, Kill, Update, Checkpoint]),
            (State::Stopped, vec![Delete]),
        ];
        for (state, allowed) in table {
            for ask in [Start, Delete, Pause, Resume, Exec, StartExec, Kill, Update, Checkpoint] {
                assert_eq!(state.allows(ask).is_ok(), allowed.contains(&ask), "{ask:?} when {state:?}");
            }
        }
    }

    #[test]
    fn refusals_have_the_kinds_that_clients_look_for() {
        let refusal = |state: State, ask| state.allows(ask).unwrap_err();
        let deleted = refusal(State::Running, Ask::Delete);
        assert_eq!(deleted.kind, RefusalKind::Unknown);
        assert_eq!(deleted.detail, "cannot delete a running process");
        assert_eq!(refusal(State::Stopped, Ask::Kill).to_string(), "process already finished: not found");
    }
}
