//! What a policy does with its task, by the commands that any client has.

use super::{END_LIMIT, RestartDeps, Worked};
use crate::runtime::{Scoped, blocking};
use std::sync::Arc;
use wharf_messages::{
    Answer, ContainerId, Meta, Refusal, RefusalKind,
    container::Container,
    restart::LOG_URI_LABEL,
    task::{CreateTask, DeleteTask, KillTask, Rootfs, StartTask, Stdio, TaskStatus, WaitTask},
};
use wharf_store::{TaskRow, refuse};

/// SIGKILL.
const KILL: u32 = 9;

async fn rows(deps: &Arc<RestartDeps>, key: &Scoped<ContainerId>) -> Answer<(Container, Option<TaskRow>)> {
    let (store, key) = (deps.store.clone(), key.clone());
    blocking("read a container and its task", move || {
        let reader = store.read()?;
        let container =
            reader.container(&key.namespace, &key.id)?.ok_or_else(|| refuse::no_container(&key.namespace, &key.id))?;
        Ok((container, reader.task(&key.namespace, &key.id)?))
    })
    .await
}

/// Deletes the task that has ended, if there is one, makes another one on the same snapshot and starts it.
pub(super) async fn start(deps: Arc<RestartDeps>, key: Scoped<ContainerId>) -> Worked {
    let meta = || Meta::in_namespace(key.namespace.clone());
    let (container_id, tasks) = (key.id.clone(), &deps.tasks);
    let (container, task) = rows(&deps, &key).await?;
    let made = match task {
        Some(task) if task.init.exit.is_some() => {
            let delete = DeleteTask { container_id: container_id.clone(), exec_id: None };
            if let Err(refusal) = tasks.ask(meta(), delete).await
                // Else a client was faster.
                && !refusal.is(RefusalKind::NotFound)
            {
                return Err(refusal);
            }
            false
        }
        Some(task) if task.init.status == TaskStatus::Created => true,
        // Somebody has started it.
        Some(_) => return Ok(()),
        None => false,
    };
    if !made {
        let create = CreateTask {
            container_id: container_id.clone(),
            rootfs: if container.snapshot_key.is_some() { Rootfs::Snapshot } else { Rootfs::Mounts(Vec::new()) },
            stdio: streams(&container),
            options: None,
            runtime_path: String::new(),
            checkpoint: None,
        };
        tasks.ask(meta(), create).await?;
    }
    let started = tasks.ask(meta(), StartTask { container_id: container_id.clone(), exec_id: None }).await;
    if let Err(refusal) = &started
        && !refusal.is(RefusalKind::Unavailable)
        && let Err(left) = tasks.ask(meta(), DeleteTask { container_id, exec_id: None }).await
    {
        // The next attempt deletes it.
        tracing::debug!(container = %key, %left, "a task that was not started is left");
    }
    started.map(drop)
}

/// Kills the task and waits for its end; deletes it too, if it is not wanted any more.
pub(super) async fn end(deps: Arc<RestartDeps>, key: Scoped<ContainerId>, delete: bool) -> Worked {
    let meta = || Meta::in_namespace(key.namespace.clone());
    let (container_id, tasks) = (key.id.clone(), &deps.tasks);
    let gone = |answer: Answer<()>| match answer {
        // It is over, or was deleted meanwhile.
        Err(refusal) if refusal.is(RefusalKind::NotFound) => Ok(()),
        answer => answer,
    };
    let (_, task) = rows(&deps, &key).await?;
    if task.is_some_and(|task| task.init.status != TaskStatus::Created) {
        let kill = KillTask { container_id: container_id.clone(), exec_id: None, signal: KILL, all: true };
        gone(tasks.ask(meta(), kill).await)?;
        let wait = tasks.ask(meta(), WaitTask { container_id: container_id.clone(), exec_id: None });
        let waited = tokio::time::timeout(END_LIMIT, wait).await.unwrap_or_else(|_| {
            Err(Refusal::deadline_exceeded(format!("task {} does not end within {} s", key.id, END_LIMIT.as_secs())))
        });
        gone(waited.map(drop))?;
    }
    if delete {
        gone(tasks.ask(meta(), DeleteTask { container_id, exec_id: None }).await.map(drop))?;
    }
    Ok(())
}

/// The streams of a task that no client waits for: to the container's log, or to nowhere.
///
/// # Spec
/// containerd `runtime/restart/monitor`, startChange: the log's URI for both streams, else none.
fn streams(container: &Container) -> Stdio {
    let uri = container.labels.get(LOG_URI_LABEL).cloned().unwrap_or_default();
    let terminal = container.spec.as_ref().is_some_and(|spec| wants_terminal(&spec.value));
    Stdio { stdin: String::new(), stderr: if terminal { String::new() } else { uri.clone() }, stdout: uri, terminal }
}

/// Whether a container's spec says that its process has a terminal.
#[must_use]
pub fn wants_terminal(spec_json: &[u8]) -> bool {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Process {
        terminal: bool,
    }
    #[derive(serde::Deserialize)]
    struct Spec {
        process: Option<Process>,
    }
    // A spec that cannot be read is refused by the shim, in better words.
    serde_json::from_slice::<Spec>(spec_json).ok().and_then(|spec| spec.process).is_some_and(|process| process.terminal)
}
