//! Making a container.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse};
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::topics;
use wharf_failpoints::failpoint;
use wharf_messages::{Answer, Mount, Refusal};

use super::{Reply, check_name};
use crate::cgroup::Cgroup;
use crate::cgroup::memory::MemoryWatch;
use crate::io::{Context, Prepared, Stdio};
use crate::jobs::{Job, Making, Purpose};
use crate::reactor::Token;
use crate::runtime::{self, Runtime};
use crate::shim::{ReplyTo, Shim};
use crate::task::container::{Container, Restore};
use crate::task::process::Process;
use crate::task::spec::Spec;
use crate::ttrpc::{decode, encode};
use crate::{mount, sys, warning};

impl Shim {
    pub(super) fn create(&mut self, payload: &[u8], to: ReplyTo) -> Answer<Reply> {
        let request: CreateTaskRequest = decode(payload)?;
        check_name("container id", &request.id)?;
        if !self.is_serving() {
            // Told to end: what is made now would have nobody to hold it.
            return Err(Refusal::unavailable("the shim is ending"));
        }
        if self.containers.contains_key(&request.id) {
            return Err(Refusal::already_exists(format!("container {:?}", request.id)));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(Refusal::invalid(format!("bundle {:?}: the path is not absolute", request.bundle)));
        }
        let options = runtime_options(request.options.as_ref())?;
        let runtime = Runtime::new(&request.id, &self.namespace, &bundle, &options);
        let spec = Spec::read(&bundle)?;
        spec.check_namespaces()?;
        if !request.checkpoint.is_empty() && runtime.binary.is_none() {
            return Err(Refusal::not_implemented(
                "restoring a checkpoint with the embedded runtime (name runc in the container's runtime options)",
            ));
        }
        if runtime.systemd_cgroup && runtime.binary.is_none() && !crate::cgroup::is_unified() {
            return Err(Refusal::not_implemented(
                "cgroups by systemd with the embedded runtime on cgroup v1 (name runc in the container's runtime options)",
            ));
        }
        let mounts: Vec<Mount> = request.rootfs.iter().map(mount_of).collect();
        let rootfs = bundle.join("rootfs");
        if !mounts.is_empty() {
            std::fs::create_dir_all(&rootfs)
                .map_err(|error| Refusal::io(format!("make {}", rootfs.display()), &error))?;
            mount::mount_all(&mounts, &rootfs)?;
        }
        failpoint!("shim/create/mounted");
        let undo = |refusal| {
            unmount(&rootfs, mounts.len());
            refusal
        };
        runtime.save().map_err(undo)?;
        crate::exit_record::ExitRecord::remove(&bundle, "")
            .map_err(|error| undo(Refusal::io("remove an earlier exit record", &error)))?;
        crate::exit_record::ExitRecord::take_room(&bundle, "")
            .map_err(|error| undo(Refusal::io("make room for the exit record", &error)))?;
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let (io_uid, io_gid) = (options.io_uid, options.io_gid);
        let context = Context {
            id: &request.id,
            exec_id: "",
            namespace: &self.namespace,
            bundle: &bundle,
            uid: runtime.stdio_owner(io_uid, spec.host_uid(spec.process().uid())),
            gid: io_gid,
        };
        // Written down before there are any: a creation that is interrupted leaves none behind.
        let cgroup = plan_cgroups(&runtime, &spec, &bundle).map_err(undo)?;
        let mut prepared = Prepared::open(&stdio, context).map_err(undo)?;
        let key = self.new_key(&request.id, "");
        let mut init = Process::new(key, stdio);
        init.streams.logger = prepared.logger.take();
        let container = Container {
            bundle,
            spec,
            runtime,
            creating: true,
            busy: true,
            starting: false,
            queue: VecDeque::new(),
            cgroup,
            memory: None,
            mounts: mounts.len(),
            io_owner: (io_uid, io_gid),
            init,
            execs: BTreeMap::new(),
            held_exit: None,
            restore: None,
        };
        let id = request.id.clone();
        self.containers.insert(id.clone(), container);
        self.make_when_ready(key, Making::Create(Box::new(Create { request, prepared })), to);
        Ok(None)
    }

    /// Lets the runtime make a container for which everything is ready.
    pub(crate) fn make(&mut self, mut making: Create, to: ReplyTo) {
        let id = making.request.id.clone();
        let Some(container) = self.containers.get_mut(&id) else { return };
        if !making.request.checkpoint.is_empty() {
            container.restore = Some(Restore {
                image: PathBuf::from(&making.request.checkpoint),
                parent: making.request.parent_checkpoint.clone(),
                prepared: std::mem::take(&mut making.prepared),
            });
            let answer = self.created(&making.request, 0);
            self.reply(to, answer);
            return self.end_turn(&id);
        }
        let socket = making.prepared.console_socket.as_ref().map(|socket| socket.path());
        let stdio = std::mem::take(&mut making.prepared.child);
        let running = container.runtime.create(runtime::Making { stdio, console_socket: socket.as_deref() });
        match running {
            Ok(running) => {
                self.start_job(Job { running, container: id, to, purpose: Purpose::Create(Box::new(making)) })
            }
            Err(refusal) => self.not_created(&id, to, refusal),
        }
    }

    /// The runtime has made the container, or not.
    pub(crate) fn finish_create(&mut self, mut making: Create, to: ReplyTo, outcome: Answer<Option<i32>>) {
        let id = making.request.id.clone();
        failpoint!("shim/create/made");
        let made = outcome
            .and_then(|pid| pid.ok_or_else(|| Refusal::internal("the runtime made no process")))
            .and_then(|pid| {
                self.adopt(&id, pid, &mut making.prepared).inspect_err(|_| {
                    // What nobody can talk to must not run.
                    if let Err(error) = sys::kill(pid, libc::SIGKILL) {
                        warning!("process {pid} cannot be killed: {error}");
                    }
                })?;
                self.created(&making.request, pid)
            });
        match made {
            Ok(answer) => {
                failpoint!("shim/create/adopted");
                self.reply(to, Ok(answer));
                self.end_turn(&id);
            }
            Err(refusal) => self.not_created(&id, to, refusal),
        }
    }

    /// Takes a new init into care: its streams, its cgroups.
    pub(crate) fn adopt(&mut self, id: &str, pid: i32, prepared: &mut Prepared) -> Answer<()> {
        let container = self.containers.get_mut(id).ok_or_else(|| Refusal::not_found(format!("container {id:?}")))?;
        let user = container.spec.host_uid(container.spec.process().uid());
        let console = prepared.connect_terminal(container.spec.process().console_size(), user)?;
        container.init.pid = pid;
        container.init.streams.console = console;
        let key = container.init.key;
        match Cgroup::of(pid) {
            Ok(cgroup) => {
                if container.runtime.binary.is_none() {
                    cgroup.restrict_devices(container.spec.device_rules())?;
                }
                match MemoryWatch::new(&cgroup) {
                    Ok(Some(watch)) => {
                        let (source, interest) = watch.source();
                        match self.reactor.watch(source, Token::Memory(key), interest) {
                            Ok(()) => container.memory = Some(watch),
                            Err(error) => warning!("memory that runs out in container {id:?} is not told: {error}"),
                        }
                    }
                    Ok(None) => {}
                    Err(refusal) => warning!("memory that runs out in container {id:?} is not told: {refusal}"),
                }
                if let Err(error) = cgroup.save(&container.bundle) {
                    warning!("the cgroups of container {id:?} are not written down: {error}");
                }
                container.cgroup = Some(cgroup);
            }
            // It has ended already; its exit will tell. The planned ones are still to be removed.
            Err(refusal) => warning!("container {id:?} has no cgroups: {refusal}"),
        }
        let pid_file = container.bundle.join("init.pid");
        std::fs::write(&pid_file, pid.to_string())
            .map_err(|error| Refusal::io(format!("write {}", pid_file.display()), &error))?;
        self.attach_streams(id, "", prepared)
    }

    /// Connects a process's streams.
    pub(crate) fn attach_streams(&mut self, id: &str, exec: &str, prepared: &mut Prepared) -> Answer<()> {
        let container = self.containers.get_mut(id).ok_or_else(|| Refusal::not_found(format!("container {id:?}")))?;
        let process = container.process(exec)?;
        for relay in std::mem::take(&mut prepared.outputs) {
            process.streams.outputs.push(self.relays.add(&self.reactor, relay, process.key)?);
        }
        if let Some(relay) = prepared.input.take() {
            process.streams.input = Some(self.relays.add(&self.reactor, relay, process.key)?);
        }
        process.streams.input_keeper = prepared.input_keeper.take().filter(|_| !process.streams.input_closed);
        if let (true, Some(relay), None) =
            (process.streams.input_closed, process.streams.input, &process.streams.console)
            && let Some(ended) = self.relays.finish(&mut self.reactor, relay)
        {
            self.stream_ended(ended);
        }
        Ok(())
    }

    /// Lets clients see a container, and gives the answer to who made it.
    fn created(&mut self, request: &CreateTaskRequest, pid: i32) -> Answer<Vec<u8>> {
        if let Some(container) = self.containers.get_mut(&request.id) {
            container.creating = false;
        }
        let pid = u32::try_from(pid).unwrap_or(0);
        let io = TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io).into(),
            checkpoint: request.checkpoint.clone(),
            pid,
            ..Default::default()
        };
        self.publisher.publish(&mut self.reactor, topics::TASK_CREATE_EVENT_TOPIC, &event);
        encode(&CreateTaskResponse { pid, ..Default::default() })
    }

    /// Undoes what was done for a container that could not be made.
    pub(crate) fn not_created(&mut self, id: &str, to: ReplyTo, refusal: Refusal) {
        if let Some(container) = self.containers.get_mut(id) {
            if let Some(logger) = container.init.streams.logger.take() {
                logger.stop();
            }
            if let Some(cgroup) = container.cgroup.take()
                && let Err(undo) = cgroup.kill_all(libc::SIGKILL).and_then(|()| cgroup.remove())
            {
                warning!("the cgroups of container {id:?} stay: {undo}");
            }
            unmount(&container.rootfs(), container.mounts);
            if container.runtime.binary.is_none()
                && let Err(undo) = runtime::embedded::forget(&container.runtime)
            {
                warning!("the state of container {id:?} stays: {undo}");
            }
        }
        self.reply(to, Err(refusal));
        self.forget(id);
    }
}

/// The cgroups that the embedded runtime will make, noted in the bundle. Other runtimes clean up after themselves, and
/// systemd knows what it made.
fn plan_cgroups(runtime: &Runtime, spec: &Spec, bundle: &Path) -> Answer<Option<Cgroup>> {
    let Some(path) = spec.cgroups_path().filter(|_| runtime.binary.is_none() && !runtime.systemd_cgroup) else {
        return Ok(None);
    };
    let planned = Cgroup::planned(path)?;
    planned.save(bundle).map_err(|error| Refusal::io("note the container's cgroups", &error))?;
    Ok(Some(planned))
}

/// What is needed to make a container.
#[derive(Debug)]
pub struct Create {
    /// The call.
    pub request: CreateTaskRequest,
    /// Its streams.
    pub prepared: Prepared,
}

/// The runtime's options, if any are given.
fn runtime_options(any: Option<&Any>) -> Answer<Options> {
    match any {
        None => Ok(Options::new()),
        Some(any) if any.type_url.is_empty() => Ok(Options::new()),
        Some(any) if any.type_url.rsplit('/').next() == Some("containerd.runc.v1.Options") => decode(&any.value),
        Some(any) => Err(Refusal::invalid(format!("runtime options of type {:?}", any.type_url))),
    }
}

fn mount_of(mount: &containerd_shim_protos::api::Mount) -> Mount {
    Mount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

fn unmount(rootfs: &Path, count: usize) {
    if let Err(refusal) = mount::unmount_all(rootfs, count) {
        warning!("a root stays mounted: {refusal}");
    }
}
