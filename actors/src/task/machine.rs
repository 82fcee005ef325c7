//! What a task may do when: a pure machine. No clock, no I/O; the actor in `task.rs` gives it effects.
//!
//! ```text
//!   task      Absent -> Creating -> Live -> Deleting -> Absent
//!                          `-> Absent (failed)    `-> Live (failed)
//!
//!   process   Adding -> Created -> Starting -> Running <-> Paused
//!                          ^          |           |           |
//!                          `- failed -'           `-> Stopped <'   -> Deleting -> gone
//! ```

use std::collections::BTreeMap;
use wharf_messages::{
    Answer, ContainerId, ExecId, Refusal,
    task::{Exit, TaskStatus},
};

/// The task as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Absent,
    /// Its intent is committed; shim and first process are being made.
    Creating,
    /// It has a shim, or had one.
    Live,
    /// Its first process, shim and bundle are being removed.
    Deleting,
}

/// One of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The shim is being told of it.
    Adding,
    /// Made, not started.
    Created,
    /// Being started.
    Starting,
    /// Running.
    Running,
    /// Frozen with its task.
    Paused,
    /// Ended.
    Stopped(Exit),
    /// Being deleted.
    Deleting(Option<Exit>),
}

impl Step {
    /// What a client is told.
    #[must_use]
    pub fn status(self) -> TaskStatus {
        match self {
            Self::Adding | Self::Created | Self::Starting | Self::Deleting(None) => TaskStatus::Created,
            Self::Running => TaskStatus::Running,
            Self::Paused => TaskStatus::Paused,
            Self::Stopped(_) | Self::Deleting(Some(_)) => TaskStatus::Stopped,
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit(self) -> Option<Exit> {
        match self {
            Self::Stopped(exit) => Some(exit),
            Self::Deleting(exit) => exit,
            _ => None,
        }
    }
}

/// Names a process: none is the task's first.
pub type ProcessId = Option<ExecId>;

/// What a client wants of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Make it. Legal when absent.
    Create,
    /// Start a process. Legal when created.
    Start(ProcessId),
    /// Add a process. Legal while the first one runs or is created.
    Exec(ExecId),
    /// Signal a process. Legal until it has ended.
    Kill(ProcessId),
    /// Freeze. Legal while running.
    Pause,
    /// Thaw. Legal while paused.
    Resume,
    /// Delete a process, or all of it. Legal when created or stopped.
    Delete(ProcessId),
    /// Talk to a process that is there: size, input.
    Talk(ProcessId),
    /// Ask or change the live task as a whole: pids, figures, resources, checkpoint.
    Reach,
    /// Wait for an end. Legal for any process that is there.
    Wait(ProcessId),
}

/// A task and its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    id: ContainerId,
    /// As a whole.
    pub phase: Phase,
    /// The first process under `None`, the added ones by name.
    pub processes: BTreeMap<ProcessId, Step>,
}

impl Machine {
    /// No task yet.
    #[must_use]
    pub fn absent(id: ContainerId) -> Self {
        Self { id, phase: Phase::Absent, processes: BTreeMap::new() }
    }

    /// Whether `verb` is legal now.
    ///
    /// # Errors
    /// The refusal that it earns: `NotFound`, `AlreadyExists`, or `FailedPrecondition` in the runtime's usual words.
    pub fn permit(&self, verb: &Verb) -> Answer<()> {
        let id = &self.id;
        match (verb, self.phase) {
            (Verb::Create, Phase::Absent) => return Ok(()),
            (Verb::Create, _) => return Err(Refusal::already_exists(format!("task {id}"))),
            (_, Phase::Absent) => return Err(wharf_store::refuse::no_task(id)),
            // It can be waited for as soon as its intent stands; everything else needs the shim.
            (Verb::Wait(None), _) | (_, Phase::Live) => {}
            (_, Phase::Creating) => return Err(Refusal::failed_precondition(format!("task {id} is being created"))),
            (_, Phase::Deleting) => return Err(Refusal::failed_precondition(format!("task {id} is being deleted"))),
        }
        match verb {
            Verb::Create => Ok(()),
            Verb::Wait(process) | Verb::Talk(process) => self.step(process).map(|_| ()),
            Verb::Start(process) => match self.step(process)? {
                Step::Created => Ok(()),
                Step::Adding => Err(self.cannot("start", process, "is being added")),
                Step::Starting | Step::Running | Step::Paused => {
                    Err(self.cannot("start", process, "is running already"))
                }
                Step::Stopped(_) => Err(self.cannot("start", process, "has stopped")),
                Step::Deleting(_) => Err(self.cannot("start", process, "is being deleted")),
            },
            Verb::Exec(exec) => {
                if self.processes.contains_key(&Some(exec.clone())) {
                    return Err(Refusal::already_exists(format!("id {exec}")));
                }
                match self.step(&None)? {
                    Step::Created | Step::Starting | Step::Running => Ok(()),
                    Step::Paused => Err(self.cannot("exec in", &None, "is paused")),
                    _ => Err(self.cannot("exec in", &None, "is not running")),
                }
            }
            Verb::Kill(process) => match self.step(process)? {
                Step::Stopped(_) | Step::Deleting(_) => Err(Refusal::not_found("process already finished")),
                Step::Adding => Err(self.cannot("kill", process, "is being added")),
                _ => Ok(()),
            },
            Verb::Pause => match self.step(&None)? {
                Step::Running => Ok(()),
                Step::Paused => Err(self.cannot("pause", &None, "is paused already")),
                _ => Err(self.cannot("pause", &None, "is not running")),
            },
            Verb::Resume => match self.step(&None)? {
                Step::Paused => Ok(()),
                _ => Err(self.cannot("resume", &None, "is not paused")),
            },
            Verb::Delete(process) => match self.step(process)? {
                Step::Created | Step::Stopped(_) => Ok(()),
                Step::Deleting(_) => Err(self.cannot("delete", process, "is being deleted")),
                step => Err(Refusal::failed_precondition(format!(
                    "{} must be stopped before deletion: {}",
                    self.name(process),
                    step.status().as_str().to_lowercase()
                ))),
            },
            Verb::Reach => Ok(()),
        }
    }

    /// Where a process stands.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name.
    pub fn step(&self, process: &ProcessId) -> Answer<Step> {
        self.processes.get(process).copied().ok_or_else(|| match process {
            None => Refusal::not_found(self.name(process)),
            Some(exec) => no_process(exec),
        })
    }

    /// Moves a process; making it known if it was not.
    pub fn put(&mut self, process: ProcessId, step: Step) {
        self.processes.insert(process, step);
    }

    /// Freezes or thaws: the first process and all that run in it move together.
    pub fn set_paused(&mut self, paused: bool) {
        for step in self.processes.values_mut() {
            match (*step, paused) {
                (Step::Running, true) => *step = Step::Paused,
                (Step::Paused, false) => *step = Step::Running,
                _ => {}
            }
        }
    }

    /// Added processes that are running: their ends come before the first one's.
    #[must_use]
    pub fn running_execs(&self) -> Vec<ExecId> {
        let running = |step: &Step| matches!(step, Step::Starting | Step::Running | Step::Paused);
        self.processes.iter().filter(|(_, step)| running(step)).filter_map(|(id, _)| id.clone()).collect()
    }

    fn name(&self, process: &ProcessId) -> String {
        match process {
            None => format!("task {}", self.id),
            Some(exec) => format!("process {exec} of task {}", self.id),
        }
    }

    fn cannot(&self, what: &str, process: &ProcessId, why: &str) -> Refusal {
        Refusal::failed_precondition(format!("cannot {what} {}: it {why}", self.name(process)))
    }
}

/// `process does not exist x: not found`
pub fn no_process(exec: &ExecId) -> Refusal {
    Refusal::not_found(format!("process does not exist {exec}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::{RefusalKind, Timestamp};

    const EXIT: Exit = Exit { code: 0, exited_at: Timestamp(1), oom: false };

    fn exec() -> ExecId {
        ExecId::new("x").unwrap()
    }

    fn live(init: Step, exec_step: Option<Step>) -> Machine {
        let mut machine = Machine::absent(ContainerId::new("web").unwrap());
        machine.phase = Phase::Live;
        machine.put(None, init);
        if let Some(step) = exec_step {
            machine.put(Some(exec()), step);
        }
        machine
    }

    /// Given a state, when a verb comes, then it is legal or earns this refusal.
    #[test]
    fn every_verb_in_every_state() {
        use RefusalKind::{AlreadyExists, FailedPrecondition as Pre, NotFound};
        let absent = Machine::absent(ContainerId::new("web").unwrap());
        for verb in
            [Verb::Start(None), Verb::Kill(None), Verb::Delete(None), Verb::Wait(None), Verb::Reach, Verb::Pause]
        {
            assert_eq!(absent.permit(&verb).unwrap_err().kind, NotFound, "{verb:?}");
        }
        assert_eq!(absent.permit(&Verb::Create), Ok(()));

        let ok = None;
        type Row = (Step, [(Verb, Option<RefusalKind>); 7]);
        #[rustfmt::skip]
        let table: &[Row] = &[
            (Step::Created, [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), ok), (Verb::Kill(None), ok),
                (Verb::Pause, Some(Pre)), (Verb::Resume, Some(Pre)), (Verb::Delete(None), ok), (Verb::Exec(exec()), ok)]),
            (Step::Starting, [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Pre)), (Verb::Kill(None), ok),
                (Verb::Pause, Some(Pre)), (Verb::Resume, Some(Pre)), (Verb::Delete(None), Some(Pre)), (Verb::Exec(exec()), ok)]),
            (Step::Running, [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Pre)), (Verb::Kill(None), ok),
                (Verb::Pause, ok), (Verb::Resume, Some(Pre)), (Verb::Delete(None), Some(Pre)), (Verb::Exec(exec()), ok)]),
            (Step::Paused, [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Pre)), (Verb::Kill(None), ok),
                (Verb::Pause, Some(Pre)), (Verb::Resume, ok), (Verb::Delete(None), Some(Pre)), (Verb::Exec(exec()), Some(Pre))]),
            (Step::Stopped(EXIT), [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Pre)), (Verb::Kill(None), Some(NotFound)),
                (Verb::Pause, Some(Pre)), (Verb::Resume, Some(Pre)), (Verb::Delete(None), ok), (Verb::Exec(exec()), Some(Pre))]),
            (Step::Deleting(Some(EXIT)), [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Pre)), (Verb::Kill(None), Some(NotFound)),
                (Verb::Pause, Some(Pre)), (Verb::Resume, Some(Pre)), (Verb::Delete(None), Some(Pre)), (Verb::Exec(exec()), Some(Pre))]),
        ];
        for (step, verbs) in table {
            let machine = live(*step, None);
            for (verb, refusal) in verbs {
                assert_eq!(machine.permit(verb).err().map(|r| r.kind), *refusal, "{verb:?} while {step:?}");
            }
        }
    }

    #[test]
    fn between_intent_and_shim_only_waiting_is_legal() {
        for phase in [Phase::Creating, Phase::Deleting] {
            let mut machine = live(Step::Adding, None);
            machine.phase = phase;
            assert_eq!(machine.permit(&Verb::Wait(None)), Ok(()));
            for verb in [Verb::Start(None), Verb::Kill(None), Verb::Delete(None), Verb::Reach] {
                assert_eq!(machine.permit(&verb).unwrap_err().kind, RefusalKind::FailedPrecondition, "{verb:?}");
            }
            assert_eq!(machine.permit(&Verb::Create).unwrap_err().kind, RefusalKind::AlreadyExists);
        }
    }

    #[test]
    fn added_processes_have_names_and_their_own_steps() {
        let machine = live(Step::Running, Some(Step::Running));
        assert_eq!(machine.permit(&Verb::Exec(exec())).unwrap_err().kind, RefusalKind::AlreadyExists);
        assert_eq!(machine.permit(&Verb::Delete(Some(exec()))).unwrap_err().kind, RefusalKind::FailedPrecondition);
        let other = Some(ExecId::new("other").unwrap());
        assert_eq!(machine.permit(&Verb::Start(other.clone())).unwrap_err().kind, RefusalKind::NotFound);
        assert_eq!(machine.permit(&Verb::Wait(other)).unwrap_err().kind, RefusalKind::NotFound);
        assert_eq!(machine.running_execs(), [exec()]);
    }

    #[test]
    fn freezing_moves_all_that_run() {
        let mut machine = live(Step::Running, Some(Step::Running));
        machine.put(Some(ExecId::new("done").unwrap()), Step::Stopped(EXIT));
        machine.set_paused(true);
        assert_eq!(machine.step(&None), Ok(Step::Paused));
        assert_eq!(machine.step(&Some(exec())), Ok(Step::Paused));
        machine.set_paused(false);
        assert_eq!(machine.step(&None), Ok(Step::Running));
        assert_eq!(machine.step(&Some(ExecId::new("done").unwrap())), Ok(Step::Stopped(EXIT)));
    }

    #[test]
    fn clients_see_containerds_words() {
        assert_eq!(
            live(Step::Running, None).permit(&Verb::Delete(None)).unwrap_err().to_string(),
            "task web must be stopped before deletion: running: failed precondition"
        );
        assert_eq!(
            live(Step::Stopped(EXIT), None).permit(&Verb::Kill(None)).unwrap_err().to_string(),
            "process already finished: not found"
        );
    }
}
