//! The end of processes: recorded, then answered, then told.

use rustix::process::WaitStatus;
use std::time::SystemTime;

use containerd_shim_protos::api::WaitResponse;
use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use containerd_shim_protos::topics;
use wharf_failpoints::failpoint;
use wharf_messages::Timestamp;

use crate::events::proto_timestamp;
use crate::exit_record::ExitRecord;
use crate::io::relays::Ended;
use crate::jobs::{Job, Purpose};
use crate::runtime::external;
use crate::shim::{ReplyTo, Shim};
use crate::task::machine::State;
use crate::task::process::ProcessName;
use crate::ttrpc::encode;
use crate::{info, warning};

/// The status of an end that nobody saw.
pub(super) const STATUS_UNKNOWN: u32 = 255;

/// An answer that nobody gets.
const NOBODY: ReplyTo = ReplyTo { connection: 0, stream: 0 };

impl Shim {
    /// A process of a container has ended.
    pub(crate) fn process_ended(&mut self, name: &ProcessName, status: WaitStatus, at: Timestamp) {
        let Some(container) = self.containers.get_mut(&name.container) else { return };
        if !name.exec.is_empty() {
            self.record_exit(name, status, at);
            return self.release_held_exit(&name.container);
        }
        if !container.spec.has_own_pid_namespace() {
            // Nothing but its init's end ends the others.
            if let Some(binary) = &container.runtime.binary {
                match external::kill(&container.runtime, binary, libc::SIGKILL.unsigned_abs(), true) {
                    Ok(running) => {
                        let container = name.container.clone();
                        self.start_job(Job { running, container, to: NOBODY, purpose: Purpose::KillRest });
                    }
                    Err(refusal) => warning!("the rest of container {:?} cannot be killed: {refusal}", name.container),
                }
            } else if let Some(Err(refusal)) = container.cgroup.as_ref().map(|cgroup| cgroup.kill_all(libc::SIGKILL)) {
                warning!("the rest of container {:?} cannot be killed: {refusal}", name.container);
            }
        }
        // Init's end is the last that is told of a container.
        if let Some(container) = self.containers.get_mut(&name.container) {
            container.held_exit = Some((status, at));
        }
        self.release_held_exit(&name.container);
    }

    /// Tells of init's end, if its start was told and the others have ended.
    pub(super) fn release_held_exit(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.starting || container.has_running_execs() {
            return;
        }
        if let Some((status, at)) = container.held_exit.take() {
            self.last_look_at_memory(id);
            self.record_exit(&ProcessName::new(id, ""), status, at);
        }
    }

    /// An exec could not be started: it ends without ever having run.
    pub(super) fn exec_failed(&mut self, id: &str, exec: &str) {
        let Ok(process) = self.container(id).and_then(|container| container.process(exec)) else { return };
        let mut record = ExitRecord::new(id, exec, 0);
        record.status = STATUS_UNKNOWN;
        record.exited_at_ns = Timestamp::from(SystemTime::now()).0;
        process.state = State::Stopped;
        process.exit = Some(record.clone());
        let waiters = std::mem::take(&mut process.waiters);
        self.answer_waiters(&record, waiters);
        self.release_held_exit(id);
    }

    fn record_exit(&mut self, name: &ProcessName, status: WaitStatus, at: Timestamp) {
        let Some(container) = self.containers.get_mut(&name.container) else { return };
        let bundle = container.bundle.clone();
        let oom_killed = container.cgroup.as_ref().is_some_and(|cgroup| cgroup.memory_kills() > 0);
        let Ok(process) = container.process(&name.exec) else { return };
        let mut record = ExitRecord::new(&name.container, &name.exec, process.pid);
        let signal = status.terminating_signal().unwrap_or(0);
        record.signal = signal;
        record.status = match status.exit_status() {
            Some(code) => u32::try_from(code).unwrap_or(STATUS_UNKNOWN),
            None => 128 + u32::try_from(signal).unwrap_or(0),
        };
        record.exited_at_ns = at.0;
        record.oom_killed = oom_killed;
        record.started = process.state != State::Created;
        failpoint!("shim/exit/record");
        if let Err(error) = record.write(&bundle) {
            // The answers and the event below still tell; only a daemon that comes after this process would miss it.
            warning!("the exit of {:?} in container {:?} is not recorded: {error}", name.exec, name.container);
        }
        failpoint!("shim/exit/recorded");
        process.state = State::Stopped;
        process.exit = Some(record.clone());
        process.streams.input_keeper = None;
        let waiters = std::mem::take(&mut process.waiters);
        let key = process.key;
        let input = process.streams.input.take();
        // A terminal's other side may stay open in a process that was left behind.
        let outputs =
            if process.streams.console.take().is_some() { process.streams.outputs.clone() } else { Vec::new() };
        if let Some(relay) = input {
            self.relays.remove(relay);
        }
        self.answer_waiters(&record, waiters);
        self.publish_exit(&record);
        for relay in outputs {
            if let Some(ended) = self.relays.finish(&mut self.reactor, relay) {
                self.stream_ended(ended);
            }
        }
        self.advance_deletion(key);
    }

    fn answer_waiters(&mut self, record: &ExitRecord, waiters: Vec<ReplyTo>) {
        for waiter in waiters {
            self.reply(waiter, encode(&wait_response(record)));
        }
    }

    fn publish_exit(&mut self, record: &ExitRecord) {
        let id = if record.exec_id.is_empty() { &record.container_id } else { &record.exec_id };
        let event = TaskExit {
            container_id: record.container_id.clone(),
            id: id.clone(),
            pid: u32::try_from(record.pid).unwrap_or(0),
            exit_status: record.status,
            exited_at: Some(proto_timestamp(Timestamp(record.exited_at_ns))).into(),
            ..Default::default()
        };
        self.publisher.publish(&mut self.reactor, topics::TASK_EXIT_EVENT_TOPIC, &event);
    }

    /// A copy of a stream has ended.
    pub(crate) fn stream_ended(&mut self, ended: Ended) {
        let Some(process) = self.process_by_key(ended.owner) else { return };
        process.streams.outputs.retain(|relay| *relay != ended.relay);
        if process.streams.input == Some(ended.relay) {
            process.streams.input = None;
            process.streams.input_keeper = None;
        }
        self.advance_deletion(ended.owner);
    }

    /// A container's cgroup says that memory ran out.
    pub(crate) fn memory_ran_out(&mut self, key: u32) {
        let Some(name) = self.keys.get(&key).cloned() else { return };
        let Some(container) = self.containers.get_mut(&name.container) else { return };
        if let (Some(watch), Some(cgroup)) = (&mut container.memory, &container.cgroup)
            && watch.check(cgroup)
        {
            self.publish_oom(&name.container);
        }
    }

    /// What the cgroup has to say is said before the end of the container is.
    fn last_look_at_memory(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let (Some(mut watch), Some(cgroup)) = (container.memory.take(), &container.cgroup)
            && watch.check_last(cgroup)
        {
            self.publish_oom(id);
        }
    }

    fn publish_oom(&mut self, id: &str) {
        info!("container {id:?} ran out of memory");
        let event = TaskOOM { container_id: id.to_owned(), ..Default::default() };
        self.publisher.publish(&mut self.reactor, topics::TASK_OOM_EVENT_TOPIC, &event);
    }
}

/// The answer to who waits for an end.
pub(super) fn wait_response(record: &ExitRecord) -> WaitResponse {
    WaitResponse {
        exit_status: record.status,
        exited_at: Some(proto_timestamp(Timestamp(record.exited_at_ns))).into(),
        ..Default::default()
    }
}
