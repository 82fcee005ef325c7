//! The task service: one table of its methods, and how a call reaches them.
//!
//! # Spec
//! containerd `api/runtime/task/v3/shim.proto`. Version 2 has the same messages under another name; both are served.

mod control;
mod create;
mod delete;
mod exec;
mod exits;
mod query;
mod start;

pub use self::create::Create;
pub use self::exec::StartExec;

use containerd_shim_protos::api::PidsRequest;
use wharf_messages::{Answer, Refusal};

use crate::shim::{ReplyTo, Shim};
use crate::ttrpc::decode;

/// What a method gives: the encoded answer, or nothing because it comes later.
pub(crate) type Reply = Option<Vec<u8>>;

/// The service's names.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

type Method = fn(&mut Shim, &[u8], ReplyTo) -> Answer<Reply>;

/// A row of the table.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    method: Method,
    /// It changes the container, so it waits while a verb of the container's runtime runs.
    in_turn: bool,
}

const fn row(name: &'static str, method: Method, in_turn: bool) -> Row {
    Row { name, method, in_turn }
}

/// Every method of the service.
const METHODS: [Row; 17] = [
    row("State", Shim::state, false),
    row("Create", Shim::create, true),
    row("Start", Shim::start, true),
    row("Delete", Shim::delete, true),
    row("Pids", Shim::pids, false),
    row("Pause", Shim::pause, true),
    row("Resume", Shim::resume, true),
    row("Checkpoint", Shim::checkpoint, true),
    row("Kill", Shim::kill, false),
    row("Exec", Shim::exec, true),
    row("ResizePty", Shim::resize, false),
    row("CloseIO", Shim::close_io, false),
    row("Update", Shim::update, true),
    row("Wait", Shim::wait, false),
    row("Stats", Shim::stats, false),
    row("Connect", Shim::connect, false),
    row("Shutdown", Shim::shutdown, false),
];

/// A call that waits for its turn.
#[derive(Debug)]
pub struct QueuedCall {
    method: usize,
    payload: Vec<u8>,
    to: ReplyTo,
}

impl Shim {
    /// Handles a call.
    pub(crate) fn dispatch(&mut self, service: &str, method: &str, payload: Vec<u8>, to: ReplyTo) {
        let found = METHODS.iter().position(|row| row.name == method);
        let Some(method) = found.filter(|_| SERVICES.contains(&service)) else {
            return self.reply(to, Err(Refusal::not_implemented(format!("method {service}/{method}"))));
        };
        self.perform(QueuedCall { method, payload, to });
    }

    fn perform(&mut self, call: QueuedCall) {
        let row = METHODS[call.method];
        if row.in_turn {
            // In every request of the service the container's name is field 1; the rest is skipped here.
            let name = match decode::<PidsRequest>(&call.payload) {
                Ok(request) => request.id,
                Err(refusal) => return self.reply(call.to, Err(refusal)),
            };
            if let Some(container) = self.containers.get_mut(&name)
                && container.busy
            {
                container.queue.push_back(call);
                return;
            }
        }
        match (row.method)(self, &call.payload, call.to) {
            Ok(Some(answer)) => self.reply(call.to, Ok(answer)),
            Ok(None) => {}
            Err(refusal) => self.reply(call.to, Err(refusal)),
        }
    }

    /// Lets the calls go on that waited for a container's verb.
    pub(crate) fn end_turn(&mut self, container: &str) {
        if let Some(found) = self.containers.get_mut(container) {
            found.busy = false;
            let key = found.init.key;
            self.advance_deletion(key);
        }
        while let Some(found) = self.containers.get_mut(container)
            && !found.busy
            && let Some(call) = found.queue.pop_front()
        {
            self.perform(call);
        }
    }

    /// Removes a container. Calls that waited for it find that it is not there.
    pub(crate) fn forget(&mut self, id: &str) {
        let Some(mut container) = self.containers.remove(id) else { return };
        for (_, process) in container.processes() {
            self.relays.remove_all(process.key);
        }
        self.keys.retain(|_, name| name.container != id);
        for call in container.queue {
            self.perform(call);
        }
    }
}

/// Checks a name that becomes part of file names.
///
/// # Errors
/// Invalid argument.
pub(crate) fn check_name(what: &str, name: &str) -> Answer<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
    let fine = !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(allowed);
    if fine { Ok(()) } else { Err(Refusal::invalid(format!("{what} {name:?}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_service() {
        let file = containerd_shim_protos::shim::shim::file_descriptor();
        let service = file.proto().service.iter().find(|s| s.name() == "Task").unwrap();
        let expected: Vec<_> = service.method.iter().map(|m| m.name().to_owned()).collect();
        assert_eq!(METHODS.map(|row| row.name).to_vec(), expected);
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for name in ["", ".", "..", ".x", "a/b", "a b", "ü"] {
            assert!(check_name("id", name).is_err(), "{name}");
        }
        assert!(check_name("id", "web-1_a.b").is_ok());
    }
}
