//! Probing a task: a process that is run in it for its code alone. It has no row and is not told of, so that looking at a
//! task every few seconds leaves no trace in the log.

use super::{
    TaskActor,
    machine::{Step, Verb},
};
use crate::{
    drivers::shim::Shim,
    runtime::{Ask, Ctx, Handler, Request},
};
use std::time::Duration;
use wharf_messages::{Answer, Any, ContainerId, ExecId, Refusal, RefusalKind, task::Stdio};

/// What the probe is called in the shim. There is one at a time, so what an earlier daemon left is found under it.
const PROBE: &str = "wharf-probe";
/// How long a probe that was killed may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);
/// SIGKILL.
const KILL: u32 = 9;

/// Runs a process in a running task, without streams, and answers how it ended. Refused with `NotFound`,
/// `FailedPrecondition` unless the task runs, and the runtime's own error.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Whose.
    pub container_id: ContainerId,
    /// The OCI `Process` as JSON.
    pub process: Any,
    /// How long it may take; then it is killed.
    pub time_limit: Duration,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// By itself, with this code.
    Exited(u32),
    /// It was killed at its time limit.
    TimedOut,
}

impl Request for Probe {
    type Reply = Probed;
    const NAME: &'static str = "task.probe";
    const QUERY: bool = false;
}

impl Handler<Ask<Probe>> for TaskActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Probe>, ctx: &mut Ctx<Self>) {
        let Ask { call, reply, .. } = ask;
        let runs = self.machine.permit(&Verb::Reach).and_then(|()| match self.machine.step(&None)? {
            Step::Running => self.shim(),
            _ => Err(not_running(&self.id.container)),
        });
        let shim = match runs {
            Ok(shim) => shim,
            Err(refusal) => {
                if self.row.is_none() {
                    ctx.idle();
                }
                return reply.send(Err(refusal));
            }
        };
        let work = async move {
            let probe = ExecId::new(PROBE)?;
            run(&*shim, &probe, &call).await
        };
        let work = self.track(work);
        ctx.job(
            "probe task",
            // It has nothing to put in order: what it leaves is found by the next one. That it was told to go says nothing
            // of the shim.
            |token| async move {
                let probed = token.cancel.run_until_cancelled(work).await;
                probed.unwrap_or_else(|| Err(Refusal::canceled("probe task")))
            },
            |task, probed, ctx| {
                task.listen_for_loss(&probed, ctx);
                let runs = task.machine.step(&None) == Ok(Step::Running);
                reply.send(probed.map_err(|refusal| if runs { refusal } else { not_running(&task.id.container) }));
            },
        );
    }
}

/// Says that it is not the probe that failed.
fn not_running(container: &ContainerId) -> Refusal {
    Refusal::failed_precondition(format!("cannot probe task {container}: it does not run"))
}

async fn run(shim: &dyn Shim, probe: &ExecId, call: &Probe) -> Answer<Probed> {
    let streams = Stdio::default();
    match shim.exec(probe, &streams, &call.process).await {
        Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => {
            end(shim, probe).await?;
            shim.exec(probe, &streams, &call.process).await?;
        }
        added => added?,
    }
    let ended = async {
        shim.start(Some(probe)).await?;
        shim.wait(Some(probe)).await
    };
    let Ok(ended) = tokio::time::timeout(call.time_limit, ended).await else {
        end(shim, probe).await?;
        return Ok(Probed::TimedOut);
    };
    let deleted = shim.delete(Some(probe)).await;
    let (code, _) = ended?;
    match deleted {
        // The task has ended and taken it along.
        Err(refusal) if !refusal.is(RefusalKind::NotFound) => Err(refusal),
        _ => Ok(Probed::Exited(code)),
    }
}

/// Ends and deletes a probe, in whatever state it is.
async fn end(shim: &dyn Shim, probe: &ExecId) -> Answer<()> {
    let ended = async {
        match shim.kill(Some(probe), KILL, false).await {
            // It is over, or was never started: then it can be deleted as it is.
            Err(Refusal { kind: RefusalKind::NotFound | RefusalKind::FailedPrecondition, .. }) => Ok(()),
            Err(refusal) => Err(refusal),
            Ok(()) => shim.wait(Some(probe)).await.map(drop),
        }
    };
    tokio::time::timeout(END_LIMIT, ended).await.unwrap_or_else(|_| {
        Err(Refusal::deadline_exceeded(format!("a probe does not end within {} s", END_LIMIT.as_secs())))
    })?;
    match shim.delete(Some(probe)).await {
        Err(refusal) if !refusal.is(RefusalKind::NotFound) => Err(refusal),
        _ => Ok(()),
    }
}
