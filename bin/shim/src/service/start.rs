//! Starting a container's command.

use containerd_shim_protos::api::{StartRequest, StartResponse};
use containerd_shim_protos::events::task::TaskStart;
use containerd_shim_protos::topics;
use wharf_failpoints::failpoint;
use wharf_messages::{Answer, Refusal};

use super::Reply;
use crate::io::Prepared;
use crate::jobs::{Job, Purpose};
use crate::runtime::{Making, embedded, external};
use crate::shim::{ReplyTo, Shim};
use crate::task::machine::{Ask, State};
use crate::ttrpc::{decode, encode};

impl Shim {
    pub(super) fn start(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: StartRequest = decode(payload)?;
        if !request.exec_id.is_empty() {
            return self.start_exec(&request.id, &request.exec_id, to);
        }
        let container = self.container(&request.id)?;
        container.init.state.allows(Ask::Start)?;
        let running = match (&container.runtime.binary, container.restore.take()) {
            (None, _) if container.spec.has_poststart_hooks() => embedded::start_with_hooks(&container.runtime)?,
            (None, _) => {
                failpoint!("shim/start/command");
                embedded::start(&container.runtime)?;
                failpoint!("shim/start/running");
                return self.started(&request.id).map(Some);
            }
            (Some(binary), None) => external::plain(&container.runtime, binary, external::Plain::Start)?,
            (Some(binary), Some(mut restore)) => {
                let socket = restore.prepared.console_socket.as_ref().map(|socket| socket.path());
                let stdio = std::mem::take(&mut restore.prepared.child);
                let making = Making { stdio, console_socket: socket.as_deref() };
                let running = external::restore(&container.runtime, binary, &restore.image, &restore.parent, making)?;
                let purpose = Purpose::Restore(Box::new(restore.prepared));
                self.start_job(Job { running, container: request.id, to, purpose });
                return Ok(None);
            }
        };
        container.starting = true;
        self.start_job(Job { running, container: request.id, to, purpose: Purpose::Start });
        Ok(None)
    }

    /// The command runs.
    fn started(&mut self, id: &str) -> Answer<Vec<u8>> {
        let container = self.container(id)?;
        // It may have ended meanwhile; that is told after this.
        if container.init.state == State::Created {
            container.init.state = State::Running;
        }
        let pid = container.init.pid_u32();
        let event = TaskStart { container_id: id.to_owned(), pid, ..Default::default() };
        self.publisher.publish(&mut self.reactor, topics::TASK_START_EVENT_TOPIC, &event);
        encode(&StartResponse { pid, ..Default::default() })
    }

    pub(crate) fn finish_start(&mut self, id: &str, to: ReplyTo, outcome: Answer<Option<i32>>) {
        let answer = outcome.and_then(|_| self.started(id));
        self.reply(to, answer);
        if let Some(container) = self.containers.get_mut(id) {
            container.starting = false;
        }
        // It may have ended while the verb did.
        self.release_held_exit(id);
        self.end_turn(id);
    }

    pub(crate) fn finish_restore(
        &mut self,
        id: &str,
        mut prepared: Prepared,
        to: ReplyTo,
        outcome: Answer<Option<i32>>,
    ) {
        let answer = outcome
            .and_then(|pid| pid.ok_or_else(|| Refusal::internal("the runtime restored no process")))
            .and_then(|pid| self.adopt(id, pid, &mut prepared))
            .and_then(|()| self.started(id));
        self.reply(to, answer);
        self.end_turn(id);
    }
}
