//! Questions: they change nothing and never wait for a verb, but for the one whose answer is a process's end.

use containerd_shim_protos::api::{
    ConnectRequest, ConnectResponse, PidsRequest, PidsResponse, ProcessInfo, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, WaitRequest,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use wharf_messages::{Answer, Refusal, Timestamp};

use super::Reply;
use super::exits::wait_response;
use crate::events::proto_timestamp;
use crate::shim::{ReplyTo, Shim};
use crate::task::machine;
use crate::ttrpc::{decode, encode};

impl Shim {
    pub(super) fn state(&mut self, payload: &[u8], _: ReplyTo) -> Answer<Reply> {
        let request: StateRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        let bundle = container.bundle.display().to_string();
        let process = container.process(&request.exec_id)?;
        let status = match process.state {
            machine::State::Created => Status::CREATED,
            machine::State::Running => Status::RUNNING,
            machine::State::Pausing => Status::PAUSING,
            machine::State::Paused => Status::PAUSED,
            machine::State::Stopped => Status::STOPPED,
        };
        let exit = process.exit.as_ref();
        let response = StateResponse {
            id: if request.exec_id.is_empty() { request.id } else { request.exec_id.clone() },
            bundle,
            pid: process.pid_u32(),
            status: status.into(),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
            exit_status: exit.map_or(0, |record| record.status),
            exited_at: exit.map(|record| proto_timestamp(Timestamp(record.exited_at_ns))).into(),
            exec_id: request.exec_id,
            ..Default::default()
        };
        encode(&response).map(Some)
    }

    pub(super) fn pids(&mut self, payload: &[u8], _: ReplyTo) -> Answer<Reply> {
        let request: PidsRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        let mut pids = match &container.cgroup {
            Some(cgroup) => cgroup.pids()?,
            None => Vec::new(),
        };
        if pids.is_empty() && container.init.is_running() {
            // A container without cgroups of its own.
            pids.push(container.init.pid);
        }
        let mut processes = Vec::with_capacity(pids.len());
        for pid in pids {
            let mut info = ProcessInfo { pid: u32::try_from(pid).unwrap_or(0), ..Default::default() };
            let exec = container.execs.iter().find(|(_, process)| process.is_running() && process.pid == pid);
            if let Some((exec_id, _)) = exec {
                let value = encode(&ProcessDetails { exec_id: exec_id.clone(), ..Default::default() })?;
                let type_url = "containerd.runc.v1.ProcessDetails".into();
                info.info = Some(Any { type_url, value, ..Default::default() }).into();
            }
            processes.push(info);
        }
        encode(&PidsResponse { processes, ..Default::default() }).map(Some)
    }

    pub(super) fn stats(&mut self, payload: &[u8], _: ReplyTo) -> Answer<Reply> {
        let request: StatsRequest = decode(payload)?;
        let container = self.container(&request.id)?;
        let cgroup = container.cgroup.as_ref();
        let cgroup = cgroup.ok_or_else(|| Refusal::not_found(format!("the cgroup of container {:?}", request.id)))?;
        encode(&StatsResponse { stats: Some(cgroup.stats()?).into(), ..Default::default() }).map(Some)
    }

    pub(super) fn connect(&mut self, payload: &[u8], _: ReplyTo) -> Answer<Reply> {
        let request: ConnectRequest = decode(payload)?;
        let task_pid = self.container(&request.id).map_or(0, |container| container.init.pid_u32());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let response = ConnectResponse { shim_pid: std::process::id(), task_pid, version, ..Default::default() };
        encode(&response).map(Some)
    }

    pub(super) fn wait(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: WaitRequest = decode(payload)?;
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        match &process.exit {
            Some(record) => encode(&wait_response(record)).map(Some),
            None => {
                process.waiters.push(to);
                Ok(None)
            }
        }
    }
}
