//! Deleting what has ended: output drains first, then the runtime's state, the cgroups and the root's mounts go.

use std::time::Duration;

use containerd_shim_protos::api::{DeleteRequest, DeleteResponse};
use containerd_shim_protos::events::task::TaskDelete;
use containerd_shim_protos::topics;
use wharf_failpoints::failpoint;
use wharf_messages::{Answer, Timestamp};

use super::Reply;
use super::exits::STATUS_UNKNOWN;
use crate::events::proto_timestamp;
use crate::exit_record::ExitRecord;
use crate::jobs::{Job, Purpose};
use crate::reactor::Timer;
use crate::runtime::{embedded, external};
use crate::shim::{ReplyTo, Shim};
use crate::task::machine::{Ask, State};
use crate::task::process::Deletion;
use crate::ttrpc::{decode, encode};
use crate::{mount, sys, warning};

/// How long a deletion waits for output to reach its reader.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a logging binary may go on after the end of what it logs.
const LOGGER_END: Duration = Duration::from_secs(2);
/// How often, and after which pauses, cgroups are tried that still hold processes: these are dying.
const CGROUP_ATTEMPTS: u32 = 200;
const CGROUP_PAUSE_MIN: Duration = Duration::from_micros(500);
const CGROUP_PAUSE_MAX: Duration = Duration::from_millis(50);

impl Shim {
    pub(super) fn delete(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: DeleteRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        process.state.allows(Ask::Delete)?;
        if process.deletion.is_some() {
            return Err(wharf_messages::Refusal::failed_precondition(format!(
                "process {:?} of container {:?} is being deleted already",
                request.exec_id, request.id
            )));
        }
        process.deletion = Some(Deletion { reply: to, drained: false, attempts: 0 });
        let key = process.key;
        if process.state == State::Created && process.pid != 0 {
            // Made and never started: its end is told like any other.
            sys::kill(process.pid, libc::SIGKILL)
                .map_err(|error| wharf_messages::Refusal::io("kill the container's init", &error))?;
        }
        self.reactor.after(DRAIN, Timer::Deletion(key));
        if process_has_logger(self, key) {
            self.reactor.after(LOGGER_END, Timer::Logger(key));
        }
        self.advance_deletion(key);
        Ok(None)
    }

    /// A deletion's timer: output has had its time to drain, or a cgroup is tried again.
    pub(crate) fn deletion_due(&mut self, key: u32) {
        let Some(process) = self.process_by_key(key) else { return };
        let pending = !process.streams.are_drained();
        let Some(deletion) = &mut process.deletion else { return };
        if pending && !deletion.drained {
            // The timer of an attempt at the cgroups only comes after this one, or after everything has drained.
            deletion.drained = true;
            warning!("the output of a process is not read to its end");
        }
        self.advance_deletion(key);
    }

    /// Takes a deletion a step further, if there is one and it can.
    pub(crate) fn advance_deletion(&mut self, key: u32) {
        let Some(name) = self.keys.get(&key).cloned() else { return };
        let Some(process) = self.process_by_key(key) else { return };
        let Some(deletion) = &process.deletion else { return };
        if process.is_running() || !(deletion.drained || process.streams.are_drained()) {
            return;
        }
        if name.exec.is_empty() {
            self.delete_container(&name.container);
        } else {
            self.delete_exec(&name.container, &name.exec);
        }
    }

    fn delete_exec(&mut self, id: &str, exec: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(process) = container.execs.remove(exec) else { return };
        if let Err(error) = ExitRecord::remove(&container.bundle, exec) {
            warning!("the exit record of {exec:?} in container {id:?} stays: {error}");
        }
        if let Some(logger) = &process.streams.logger {
            logger.stop();
        }
        self.relays.remove_all(process.key);
        self.keys.remove(&process.key);
        if let Some(deletion) = &process.deletion {
            let mut answer = response(process.pid_u32(), process.exit.as_ref());
            if process.pid == 0 {
                // It was never started, and so has not failed.
                answer.exit_status = 0;
            }
            self.reply(deletion.reply, encode(&answer));
        }
    }

    fn delete_container(&mut self, id: &str) {
        failpoint!("shim/delete/container");
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.busy {
            // A verb of the runtime runs; the deletion is taken up again when it is done.
            return;
        }
        if container.init.deletion.as_ref().is_some_and(|deletion| deletion.attempts > 0) {
            // The runtime has done its part already.
            return self.delete_cgroups(id);
        }
        let running = match &container.runtime.binary {
            Some(binary) => external::plain(&container.runtime, binary, external::Plain::Delete),
            None if container.spec.has_poststop_hooks() => embedded::delete_with_hooks(&container.runtime),
            None => return self.delete_cgroups(id),
        };
        match running {
            Ok(running) => {
                let container = id.to_owned();
                let to = ReplyTo { connection: 0, stream: 0 };
                self.start_job(Job { running, container, to, purpose: Purpose::Delete });
            }
            Err(refusal) => {
                warning!("the runtime does not delete container {id:?}: {refusal}");
                self.delete_cgroups(id);
            }
        }
    }

    /// The runtime has deleted its part. What it left is removed here: a deletion ends, whatever the runtime says.
    pub(crate) fn finish_runtime_delete(&mut self, id: &str, outcome: Answer<Option<i32>>) {
        if let Err(refusal) = outcome
            && !refusal.detail.contains("does not exist")
        {
            warning!("the runtime does not delete container {id:?}: {refusal}");
        }
        if let Some(container) = self.containers.get_mut(id) {
            container.busy = false;
        }
        self.delete_cgroups(id);
    }

    fn delete_cgroups(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let removed = container.cgroup.as_ref().map_or(Ok(true), |cgroup| cgroup.remove());
        let key = container.init.key;
        match removed {
            Ok(true) => {}
            Ok(false) => {
                let attempts = container.init.deletion.as_mut().map_or(CGROUP_ATTEMPTS, |deletion| {
                    deletion.attempts += 1;
                    deletion.attempts
                });
                if attempts < CGROUP_ATTEMPTS {
                    if attempts == 1
                        && let Some(Err(refusal)) = container.cgroup.as_ref().map(|c| c.kill_all(libc::SIGKILL))
                    {
                        warning!("the rest of container {id:?} cannot be killed: {refusal}");
                    }
                    let pause = CGROUP_PAUSE_MIN.saturating_mul(attempts).min(CGROUP_PAUSE_MAX);
                    return self.reactor.after(pause, Timer::Deletion(key));
                }
                warning!("the cgroups of container {id:?} stay: something in them does not end");
            }
            Err(refusal) => warning!("the cgroups of container {id:?} stay: {refusal}"),
        }
        self.finish_delete(id);
    }

    fn finish_delete(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.runtime.binary.is_none()
            && let Err(refusal) = embedded::forget(&container.runtime)
        {
            warning!("the state of container {id:?} stays: {refusal}");
        }
        let unmounted = mount::unmount_all(&container.rootfs(), container.mounts);
        if unmounted.is_ok() {
            container.mounts = 0;
        }
        for (_, process) in container.processes() {
            if let Some(logger) = &process.streams.logger {
                logger.stop();
            }
        }
        let deletion = container.init.deletion.take();
        if let Err(refusal) = unmounted {
            // Told, so that it is tried again: the daemon must not remove what is mounted.
            if let Some(deletion) = deletion {
                self.reply(deletion.reply, Err(refusal));
            }
            return;
        }
        let answer = response(container.init.pid_u32(), container.init.exit.as_ref());
        let event = TaskDelete {
            container_id: id.to_owned(),
            pid: answer.pid,
            exit_status: answer.exit_status,
            exited_at: answer.exited_at.clone(),
            ..Default::default()
        };
        self.publisher.publish(&mut self.reactor, topics::TASK_DELETE_EVENT_TOPIC, &event);
        self.forget(id);
        if let Some(deletion) = deletion {
            self.reply(deletion.reply, encode(&answer));
        }
    }
}

fn process_has_logger(shim: &mut Shim, key: u32) -> bool {
    shim.process_by_key(key).is_some_and(|process| process.streams.logger.is_some())
}

fn response(pid: u32, exit: Option<&ExitRecord>) -> DeleteResponse {
    DeleteResponse {
        pid,
        exit_status: exit.map_or(STATUS_UNKNOWN, |record| record.status),
        exited_at: exit.map(|record| proto_timestamp(Timestamp(record.exited_at_ns))).into(),
        ..Default::default()
    }
}
