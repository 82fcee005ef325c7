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
    Answer, ContainerId, ExecId, Refusal, RefusalKind,
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
    /// Signal all processes. Legal as long as there is a task: what it has left counts, and may be nothing.
    KillAll,
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
    /// The refusal that it earns: `NotFound`, `AlreadyExists`, and for a process in a wrong state `Unknown`, which is what
    /// containerd's shim says of it, in the same words. `FailedPrecondition` while task or process come and go: containerd
    /// has no such states.
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
                step => Err(self.wrong("start", process, step, "process")),
            },
            Verb::Exec(exec) => {
                if self.processes.contains_key(&Some(exec.clone())) {
                    return Err(Refusal::already_exists(format!("id {exec}")));
                }
                match self.step(&None)? {
                    Step::Created | Step::Starting | Step::Running => Ok(()),
                    step => Err(self.wrong("exec in", &None, step, "state")),
                }
            }
            Verb::Kill(process) => match self.step(process)? {
                Step::Stopped(_) | Step::Deleting(_) => Err(Refusal::not_found("process already finished")),
                Step::Adding => Err(self.comes_and_goes("kill", process, "is being added")),
                _ => Ok(()),
            },
            Verb::Pause => match self.step(&None)? {
                Step::Running => Ok(()),
                Step::Created => Err(Refusal::unknown("cannot pause task in created state")),
                step => Err(self.wrong("pause", &None, step, "container")),
            },
            Verb::Resume => match self.step(&None)? {
                Step::Paused => Ok(()),
                Step::Created => Err(Refusal::unknown("cannot resume task in created state")),
                step @ Step::Stopped(_) => Err(self.wrong("resume", &None, step, "container")),
                step => Err(self.wrong("resume", &None, step, "process")),
            },
            Verb::Delete(process) => match self.step(process)? {
                Step::Created | Step::Stopped(_) => Ok(()),
                step => {
                    let refusal = self.wrong("delete", process, step, "process");
                    let whole = process.is_none() && refusal.is(RefusalKind::Unknown);
                    Err(if whole { refusal.context("failed to delete task") } else { refusal })
                }
            },
            Verb::KillAll => self.step(&None).map(|_| ()),
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

    /// What a process in a wrong state is refused with; `whose` state it is said to be differs from verb to verb.
    fn wrong(&self, verb: &str, process: &ProcessId, step: Step, whose: &str) -> Refusal {
        let state = match step {
            Step::Adding => return self.comes_and_goes(verb, process, "is being added"),
            Step::Deleting(_) => return self.comes_and_goes(verb, process, "is being deleted"),
            Step::Created => "created",
            Step::Starting | Step::Running => "running",
            // An added one is frozen with its task, and runs by itself.
            Step::Paused if process.is_some() => "running",
            Step::Paused => "paused",
            Step::Stopped(_) => "stopped",
        };
        Refusal::unknown(format!("cannot {verb} a {state} {whose}"))
    }

    fn comes_and_goes(&self, verb: &str, process: &ProcessId, why: &str) -> Refusal {
        Refusal::failed_precondition(format!("cannot {verb} {}: it {why}", self.name(process)))
    }
}

/// `process does not exist x: not found`
pub fn no_process(exec: &ExecId) -> Refusal {
    Refusal::not_found(format!("process does not exist {exec}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::Timestamp;

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
        use RefusalKind::{AlreadyExists, FailedPrecondition, NotFound, Unknown};
        let absent = Machine::absent(ContainerId::new("web").unwrap());
        for verb in
            [Verb::Start(None), Verb::Kill(None), Verb::Delete(None), Verb::Wait(None), Verb::Reach, Verb::Pause]
        {
            assert_eq!(absent.permit(&verb).unwrap_err().kind, NotFound, "{verb:?}");
        }
        assert_eq!(absent.permit(&Verb::Create), Ok(()));

        let ok = None;
        type Row = (Step, [(Verb, Option<RefusalKind>); 8]);
        #[rustfmt::skip]
        let table: &[Row] = &[
            (Step::Created, [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), ok), (Verb::Kill(None), ok),
                (Verb::KillAll, ok), (Verb::Pause, Some(Unknown)), (Verb::Resume, Some(Unknown)), (Verb::Delete(None), ok), (Verb::Exec(exec()), ok)]),
            (Step::Starting, [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Unknown)), (Verb::Kill(None), ok),
                (Verb::KillAll, ok), (Verb::Pause, Some(Unknown)), (Verb::Resume, Some(Unknown)), (Verb::Delete(None), Some(Unknown)), (Verb::Exec(exec()), ok)]),
            (Step::Running, [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Unknown)), (Verb::Kill(None), ok),
                (Verb::KillAll, ok), (Verb::Pause, ok), (Verb::Resume, Some(Unknown)), (Verb::Delete(None), Some(Unknown)), (Verb::Exec(exec()), ok)]),
            (Step::Paused, [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Unknown)), (Verb::Kill(None), ok),
                (Verb::KillAll, ok), (Verb::Pause, Some(Unknown)), (Verb::Resume, ok), (Verb::Delete(None), Some(Unknown)), (Verb::Exec(exec()), Some(Unknown))]),
            (Step::Stopped(EXIT), [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(Unknown)), (Verb::Kill(None), Some(NotFound)),
                (Verb::KillAll, ok), (Verb::Pause, Some(Unknown)), (Verb::Resume, Some(Unknown)), (Verb::Delete(None), ok), (Verb::Exec(exec()), Some(Unknown))]),
            (Step::Deleting(Some(EXIT)), [(Verb::Create, Some(AlreadyExists)), (Verb::Start(None), Some(FailedPrecondition)), (Verb::Kill(None), Some(NotFound)),
                (Verb::KillAll, ok), (Verb::Pause, Some(FailedPrecondition)), (Verb::Resume, Some(FailedPrecondition)), (Verb::Delete(None), Some(FailedPrecondition)), (Verb::Exec(exec()), Some(FailedPrecondition))]),
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
        assert_eq!(machine.permit(&Verb::Delete(Some(exec()))).unwrap_err().kind, RefusalKind::Unknown);
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
        let said = |step, verb| live(step, Some(step)).permit(&verb).unwrap_err().to_string();
        let stopped = Step::Stopped(EXIT);
        let x = Some(exec());
        #[rustfmt::skip]
        let table = [
            (Step::Running, Verb::Delete(None), "failed to delete task: cannot delete a running process"),
            (Step::Paused, Verb::Delete(None), "failed to delete task: cannot delete a paused process"),
            (Step::Paused, Verb::Delete(x.clone()), "cannot delete a running process"),
            (Step::Running, Verb::Start(None), "cannot start a running process"),
            (Step::Paused, Verb::Start(None), "cannot start a paused process"),
            (Step::Paused, Verb::Start(x), "cannot start a running process"),
            (stopped, Verb::Start(None), "cannot start a stopped process"),
            (Step::Created, Verb::Pause, "cannot pause task in created state"),
            (Step::Paused, Verb::Pause, "cannot pause a paused container"),
            (stopped, Verb::Pause, "cannot pause a stopped container"),
            (Step::Created, Verb::Resume, "cannot resume task in created state"),
            (Step::Running, Verb::Resume, "cannot resume a running process"),
            (stopped, Verb::Resume, "cannot resume a stopped container"),
            (Step::Paused, Verb::Exec(ExecId::new("y").unwrap()), "cannot exec in a paused state"),
            (stopped, Verb::Exec(ExecId::new("y").unwrap()), "cannot exec in a stopped state"),
            (stopped, Verb::Kill(None), "process already finished: not found"),
        ];
        for (step, verb, words) in table {
            assert_eq!(said(step, verb.clone()), words, "{verb:?} while {step:?}");
        }
    }
}
