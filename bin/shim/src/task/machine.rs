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

impl Ask {
    fn word(self) -> &'static str {
        match self {
            Ask::Start => "start",
            Ask::Delete => "delete",
            Ask::Pause => "pause",
            Ask::Resume => "resume",
            Ask::Exec | Ask::StartExec => "exec in",
            Ask::Kill => "kill",
            Ask::Update => "update",
            Ask::Checkpoint => "checkpoint",
        }
    }
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
    /// Failed precondition, or not found for a signal to a process that has ended, as containerd's clients expect.
    pub fn allows(self, ask: Ask) -> Answer<()> {
        use State::{Created, Paused, Pausing, Running, Stopped};
        let allowed = match ask {
            Ask::Start => matches!(self, Created),
            Ask::Delete => matches!(self, Created | Stopped),
            Ask::Pause => matches!(self, Running),
            Ask::Resume => matches!(self, Paused),
            Ask::Exec => matches!(self, Created | Running),
            Ask::StartExec => matches!(self, Running),
            Ask::Update => !matches!(self, Stopped),
            Ask::Checkpoint => matches!(self, Running | Paused),
            Ask::Kill if self == Stopped => return Err(Refusal::not_found("process already finished")),
            Ask::Kill => matches!(self, Created | Running | Pausing | Paused),
        };
        if allowed {
            return Ok(());
        }
        Err(Refusal::failed_precondition(format!("cannot {} a {} process", ask.word(), self.word())))
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
            (State::Created, vec![Start, Delete, Exec, Kill, Update]),
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
        assert_eq!(deleted.kind, RefusalKind::FailedPrecondition);
        assert_eq!(deleted.detail, "cannot delete a running process");
        assert_eq!(refusal(State::Stopped, Ask::Kill).to_string(), "process already finished: not found");
    }
}
