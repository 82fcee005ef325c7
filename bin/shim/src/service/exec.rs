//! Other processes in a container.

use std::path::PathBuf;

use containerd_shim_protos::api::{Empty, ExecProcessRequest, StartResponse};
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted};
use containerd_shim_protos::topics;
use wharf_failpoints::failpoint;
use wharf_messages::{Answer, Refusal};

use super::{Reply, check_name};
use crate::io::{Context, Prepared, Stdio};
use crate::jobs::{Job, Making, Purpose};
use crate::runtime;
use crate::shim::{ReplyTo, Shim};
use crate::task::machine::{Ask, State};
use crate::task::process::Process;
use crate::task::spec;
use crate::ttrpc::{decode, encode};
use crate::{sys, warning};

/// What is needed to start another process.
#[derive(Debug)]
pub struct StartExec {
    /// The container's name.
    pub container: String,
    /// The process's name.
    pub exec: String,
    /// Its streams.
    prepared: Prepared,
    /// The file with the OCI process.
    file: PathBuf,
    console_size: Option<(u16, u16)>,
    uid: u32,
}

impl Drop for StartExec {
    fn drop(&mut self) {
        // It may carry secrets in its environment. If it was never written there is nothing to remove.
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Shim {
    pub(super) fn exec(&mut self, payload: &[u8], _: ReplyTo) -> Answer<Reply> {
        let request: ExecProcessRequest = decode(payload)?;
        let (id, exec) = (request.id.as_str(), request.exec_id.as_str());
        check_name("exec id", exec)?;
        let container = self.container(id)?;
        if container.execs.contains_key(exec) {
            return Err(Refusal::already_exists(format!("id {exec}")));
        }
        container.init.state.allows(Ask::Exec)?;
        let json = set_terminal(&request.spec.value, request.terminal)?;
        crate::exit_record::ExitRecord::remove(&container.bundle, exec)
            .map_err(|error| Refusal::io("remove an earlier exit record", &error))?;
        if let Err(error) = crate::exit_record::ExitRecord::take_room(&container.bundle, exec) {
            // To look at a container on a full disk matters more than a record of how looking at it ended.
            warning!("the exit of {exec:?} in container {id:?} may not be recorded: {error}");
        }
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let key = self.new_key(id, exec);
        let mut process = Process::new(key, stdio);
        process.process_json = json;
        self.container(id)?.execs.insert(exec.to_owned(), process);
        failpoint!("shim/exec/added");
        let event = TaskExecAdded { container_id: id.to_owned(), exec_id: exec.to_owned(), ..Default::default() };
        self.publisher.publish(&mut self.reactor, topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        encode(&Empty::new()).map(Some)
    }

    pub(super) fn start_exec(&mut self, id: &str, exec: &str, to: ReplyTo) -> Answer<Reply> {
        let namespace = self.namespace.clone();
        let container = self.container(id)?;
        let (bundle, io_owner) = (container.bundle.clone(), container.io_owner);
        container.process(exec)?.state.allows(Ask::Start)?;
        if container.held_exit.is_some() {
            // It has ended, and is only waiting to be told of.
            State::Stopped.allows(Ask::StartExec)?;
        }
        container.init.state.allows(Ask::StartExec)?;
        let process = container.process(exec)?;
        let (json, stdio, key) = (process.process_json.clone(), process.stdio.clone(), process.key);
        let parsed = spec::Process::parse(&json)?;
        let uid = container.spec.host_uid(parsed.uid());
        let context = Context {
            id,
            exec_id: exec,
            namespace: &namespace,
            bundle: &bundle,
            uid: container.runtime.stdio_owner(io_owner.0, uid),
            gid: io_owner.1,
        };
        let mut prepared = Prepared::open(&stdio, context)?;
        container.process(exec)?.streams.logger = prepared.logger.take();
        let file = bundle.join(format!("exec-{exec}.json"));
        let console_size = parsed.console_size();
        let start = StartExec { container: id.to_owned(), exec: exec.to_owned(), prepared, file, console_size, uid };
        container.busy = true;
        self.make_when_ready(key, Making::StartExec(Box::new(start)), to);
        Ok(None)
    }

    /// Lets the runtime start a process for which everything is ready.
    pub(crate) fn make_exec(&mut self, mut start: StartExec, to: ReplyTo) {
        let (id, exec) = (start.container.clone(), start.exec.clone());
        let socket = start.prepared.console_socket.as_ref().map(|socket| socket.path());
        let stdio = std::mem::take(&mut start.prepared.child);
        let running = self.container(&id).and_then(|container| {
            // Its init may have ended while a logging binary got ready.
            container.init.state.allows(Ask::StartExec)?;
            failpoint!("shim/exec/start");
            write_private(&start.file, &container.process(&exec)?.process_json)?;
            let making = runtime::Making { stdio, console_socket: socket.as_deref() };
            container.runtime.exec(&exec, container.init.pid, &start.file, making)
        });
        match running {
            Ok(running) => {
                let purpose = Purpose::StartExec(Box::new(start));
                self.start_job(Job { running, container: id, to, purpose });
            }
            Err(refusal) => self.exec_not_started(&id, &exec, to, refusal),
        }
    }

    pub(crate) fn finish_start_exec(&mut self, mut start: StartExec, to: ReplyTo, outcome: Answer<Option<i32>>) {
        let (id, exec) = (start.container.clone(), start.exec.clone());
        let started = outcome
            .and_then(|pid| pid.ok_or_else(|| Refusal::internal("the runtime made no process")))
            .and_then(|pid| {
                self.adopt_exec(&mut start, pid).inspect_err(|_| {
                    // What nobody can talk to must not run.
                    if let Err(error) = sys::kill(pid, libc::SIGKILL) {
                        warning!("process {pid} cannot be killed: {error}");
                    }
                })
            });
        match started {
            Ok(answer) => {
                self.reply(to, Ok(answer));
                self.end_turn(&id);
            }
            Err(refusal) => self.exec_not_started(&id, &exec, to, refusal),
        }
    }

    fn adopt_exec(&mut self, start: &mut StartExec, pid: i32) -> Answer<Vec<u8>> {
        let (id, exec) = (start.container.clone(), start.exec.clone());
        let console = start.prepared.connect_terminal(start.console_size, start.uid)?;
        let process = self.container(&id)?.process(&exec)?;
        process.streams.console = console;
        self.attach_streams(&id, &exec, &mut start.prepared)?;
        let process = self.container(&id)?.process(&exec)?;
        process.pid = pid;
        process.state = State::Running;
        process.process_json = Vec::new();
        let pid = process.pid_u32();
        let event = TaskExecStarted { container_id: id, exec_id: exec, pid, ..Default::default() };
        self.publisher.publish(&mut self.reactor, topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        encode(&StartResponse { pid, ..Default::default() })
    }

    /// A process that did not start has ended, as far as its clients are concerned; it can be deleted.
    pub(crate) fn exec_not_started(&mut self, id: &str, exec: &str, to: ReplyTo, refusal: Refusal) {
        if let Ok(process) = self.container(id).and_then(|container| container.process(exec)) {
            if let Some(logger) = process.streams.logger.take() {
                logger.stop();
            }
            process.process_json = Vec::new();
        }
        self.exec_failed(id, exec);
        self.reply(to, Err(refusal));
        self.end_turn(id);
    }
}

/// The OCI process with the terminal that the request says: clients leave the two contradicting each other.
fn set_terminal(json: &[u8], terminal: bool) -> Answer<Vec<u8>> {
    let refuse = |error: serde_json::Error| Refusal::unknown(format!("process specification: {error}"));
    let mut process: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).map_err(refuse)?;
    process.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&process).map_err(refuse)
}

fn write_private(path: &std::path::Path, bytes: &[u8]) -> Answer<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let options = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    options
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Refusal::io(format!("write {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_decides_about_the_terminal() {
        let set = |json: &str, terminal| String::from_utf8(set_terminal(json.as_bytes(), terminal).unwrap()).unwrap();
        assert_eq!(set(r#"{"terminal":true}"#, false), r#"{"terminal":false}"#);
        assert_eq!(set(r#"{"cwd":"/"}"#, true), r#"{"cwd":"/","terminal":true}"#);
        assert!(set_terminal(b"[]", true).is_err());
    }
}
