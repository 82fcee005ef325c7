//! Signals, freezing, limits, terminals: what is done to processes that run.

use std::path::Path;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, Empty, KillRequest, PauseRequest, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, UpdateTaskRequest,
};
use containerd_shim_protos::events::task::{TaskCheckpointed, TaskPaused, TaskResumed};
use containerd_shim_protos::shim::oci::CheckpointOptions;
use containerd_shim_protos::topics;
use libcontainer::oci_spec::runtime::LinuxResources;
use wharf_messages::{Answer, Refusal, RefusalKind};

use super::Reply;
use crate::cgroup::Version;
use crate::jobs::{Job, Purpose};
use crate::runtime::external;
use crate::shim::{ReplyTo, Shim};
use crate::sys;
use crate::task::machine::{Ask, State};
use crate::ttrpc::{decode, encode};

fn done() -> Answer<Vec<u8>> {
    encode(&Empty::new())
}

/// Sends a signal to a process that this one will reap, so that the number cannot mean another.
fn signal(pid: i32, signal: u32) -> Answer<()> {
    sys::kill(pid, number(signal)?).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => Refusal::not_found("process already finished"),
        Some(libc::EINVAL) => no_signal(),
        _ => Refusal::io(format!("send signal {signal} to process {pid}"), &error),
    })
}

fn number(signal: u32) -> Answer<i32> {
    i32::try_from(signal).map_err(|_| no_signal())
}

/// What containerd's shim says of a number that is no signal's.
fn no_signal() -> Refusal {
    Refusal::unknown("unknown error after kill: invalid argument")
}

impl Shim {
    pub(super) fn kill(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: KillRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        // What a task has left may be signalled when its first process has ended, and may be nothing.
        let all = request.all && request.exec_id.is_empty();
        if !all {
            process.state.allows(Ask::Kill)?;
        }
        let pid = process.pid;
        if pid == 0 {
            return Err(Refusal::failed_precondition("process not created"));
        }
        if !request.exec_id.is_empty() {
            signal(pid, request.signal).map_err(|refusal| match refusal.kind {
                RefusalKind::Unknown => refusal.context("exec kill error"),
                _ => refusal,
            })?;
            return done().map(Some);
        }
        if container.held_exit.is_some() && !all {
            return Err(Refusal::not_found("process already finished"));
        }
        if let Some(binary) = &container.runtime.binary {
            let running = external::kill(&container.runtime, binary, request.signal, request.all)?;
            self.start_job(Job { running, container: request.id, to, purpose: Purpose::Kill });
            return Ok(None);
        }
        match container.cgroup.as_ref().filter(|_| all) {
            Some(cgroup) => cgroup.kill_all(number(request.signal)?)?,
            None if container.init.state == State::Stopped => {}
            None => signal(pid, request.signal)?,
        }
        // Version 1 keeps even SIGKILL from processes that are frozen.
        if container.init.state == State::Paused
            && request.signal == libc::SIGKILL.unsigned_abs()
            && let Some(cgroup) = &container.cgroup
            && cgroup.version() == Version::V1
        {
            cgroup.thaw()?;
        }
        done().map(Some)
    }

    pub(crate) fn finish_kill(&mut self, to: ReplyTo, outcome: Answer<Option<i32>>) {
        let answer = match outcome {
            Ok(_) => done(),
            Err(refusal) => Err(kill_refusal(refusal)),
        };
        self.reply(to, answer);
    }

    pub(super) fn pause(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: PauseRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        container.init.state.allows(Ask::Pause)?;
        if let Some(binary) = &container.runtime.binary {
            let running = external::plain(&container.runtime, binary, external::Plain::Pause)?;
            container.init.state = State::Pausing;
            self.start_job(Job { running, container: request.id, to, purpose: Purpose::Pause });
            return Ok(None);
        }
        container.cgroup.as_ref().ok_or_else(|| no_cgroup(&request.id))?.freeze()?;
        self.paused(&request.id).map(Some)
    }

    fn paused(&mut self, id: &str) -> Answer<Vec<u8>> {
        let container = self.container(id)?;
        if container.init.state != State::Stopped {
            container.init.state = State::Paused;
        }
        let event = TaskPaused { container_id: id.to_owned(), ..Default::default() };
        self.publisher.publish(&mut self.reactor, topics::TASK_PAUSED_EVENT_TOPIC, &event);
        done()
    }

    pub(crate) fn finish_pause(&mut self, id: &str, to: ReplyTo, outcome: Answer<Option<i32>>) {
        if outcome.is_err()
            && let Ok(container) = self.container(id)
            && container.init.state == State::Pausing
        {
            container.init.state = State::Running;
        }
        let answer = outcome.and_then(|_| self.paused(id));
        self.reply(to, answer);
        self.end_turn(id);
    }

    pub(super) fn resume(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: ResumeRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        container.init.state.allows(Ask::Resume)?;
        if let Some(binary) = &container.runtime.binary {
            let running = external::plain(&container.runtime, binary, external::Plain::Resume)?;
            self.start_job(Job { running, container: request.id, to, purpose: Purpose::Resume });
            return Ok(None);
        }
        container.cgroup.as_ref().ok_or_else(|| no_cgroup(&request.id))?.thaw()?;
        self.resumed(&request.id).map(Some)
    }

    fn resumed(&mut self, id: &str) -> Answer<Vec<u8>> {
        let container = self.container(id)?;
        if container.init.state == State::Paused {
            container.init.state = State::Running;
        }
        let event = TaskResumed { container_id: id.to_owned(), ..Default::default() };
        self.publisher.publish(&mut self.reactor, topics::TASK_RESUMED_EVENT_TOPIC, &event);
        done()
    }

    pub(crate) fn finish_resume(&mut self, id: &str, to: ReplyTo, outcome: Answer<Option<i32>>) {
        let answer = outcome.and_then(|_| self.resumed(id));
        self.reply(to, answer);
        self.end_turn(id);
    }

    pub(super) fn update(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: UpdateTaskRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        container.init.state.allows(Ask::Update)?;
        let resources: LinuxResources = serde_json::from_slice(&request.resources.value)
            .map_err(|error| Refusal::unknown(format!("resources: {error}")))?;
        if let Some(binary) = &container.runtime.binary {
            let file = container.bundle.join("update.json");
            std::fs::write(&file, &request.resources.value)
                .map_err(|error| Refusal::io(format!("write {}", file.display()), &error))?;
            let running = external::update(&container.runtime, binary, &file)?;
            self.start_job(Job { running, container: request.id, to, purpose: Purpose::Update });
            return Ok(None);
        }
        container.cgroup.as_ref().ok_or_else(|| no_cgroup(&request.id))?.update(&resources)?;
        done().map(Some)
    }

    pub(crate) fn finish_update(&mut self, id: &str, to: ReplyTo, outcome: Answer<Option<i32>>) {
        self.reply(to, outcome.and_then(|_| done()));
        self.end_turn(id);
    }

    pub(super) fn checkpoint(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: CheckpointTaskRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        container.init.state.allows(Ask::Checkpoint)?;
        let Some(binary) = &container.runtime.binary else {
            return Err(Refusal::not_implemented(
                "a checkpoint with the embedded runtime (name runc in the container's runtime options)",
            ));
        };
        let options: CheckpointOptions = match request.options.as_ref() {
            Some(any) => decode(&any.value)?,
            None => CheckpointOptions::new(),
        };
        let running = external::checkpoint(&container.runtime, binary, Path::new(&request.path), &options)?;
        let purpose = Purpose::Checkpoint(request.path);
        self.start_job(Job { running, container: request.id, to, purpose });
        Ok(None)
    }

    pub(crate) fn finish_checkpoint(&mut self, id: &str, path: String, to: ReplyTo, outcome: Answer<Option<i32>>) {
        let bundle = self.containers.get(id).map(|container| container.bundle.join("criu-dump.log"));
        let outcome = outcome.map_err(|refusal| match bundle {
            Some(log) => Refusal { detail: format!("{} path= {}", refusal.detail, log.display()), ..refusal },
            None => refusal,
        });
        let answer = outcome.and_then(|_| {
            let event = TaskCheckpointed { container_id: id.to_owned(), checkpoint: path, ..Default::default() };
            self.publisher.publish(&mut self.reactor, topics::TASK_CHECKPOINTED_EVENT_TOPIC, &event);
            done()
        });
        self.reply(to, answer);
        self.end_turn(id);
    }

    pub(super) fn resize(&mut self, payload: &[u8], _: ReplyTo) -> Answer<Reply> {
        let request: ResizePtyRequest = decode(payload)?;
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        if !request.exec_id.is_empty() && process.state == State::Stopped {
            return Err(Refusal::unknown("cannot resize a stopped container"));
        }
        if let Some(console) = &process.streams.console {
            let fit = |size| u16::try_from(size).unwrap_or(u16::MAX);
            console.resize(fit(request.width), fit(request.height))?;
        }
        done().map(Some)
    }

    pub(super) fn close_io(&mut self, payload: &[u8], _: ReplyTo) -> Answer<Reply> {
        let request: CloseIORequest = decode(payload)?;
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        if request.stdin {
            process.streams.input_keeper = None;
            process.streams.input_closed = true;
            // What the FIFO holds still goes through. A terminal has no end of input but the one that is typed.
            if let (Some(relay), None) = (process.streams.input, &process.streams.console)
                && let Some(ended) = self.relays.finish(&mut self.reactor, relay)
            {
                self.stream_ended(ended);
            }
        }
        done().map(Some)
    }

    pub(super) fn shutdown(&mut self, payload: &[u8], _: ReplyTo) -> Answer<Reply> {
        let _: ShutdownRequest = decode(payload)?;
        if self.containers.is_empty() {
            self.say_farewell();
        }
        done().map(Some)
    }
}

fn no_cgroup(id: &str) -> Refusal {
    Refusal::not_found(format!("the cgroup of container {id:?}"))
}

/// What a runtime's program says of a process that is not there any more, in the contract's words.
fn kill_refusal(refusal: Refusal) -> Refusal {
    let text = refusal.detail.to_lowercase();
    let finished = ["already finished", "container not running", "no such process", "not running"];
    if finished.iter().any(|words| text.contains(words)) {
        return Refusal::not_found("process already finished");
    }
    if text.contains("does not exist") {
        return Refusal { kind: RefusalKind::NotFound, detail: "no such container".into() };
    }
    refusal
}
