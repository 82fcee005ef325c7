//! `delete`: cleans up after a shim that is dead.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::shim::oci::Options;
use rustix::process::{Pid, WaitOptions};
use wharf_failpoints::failpoint;
use wharf_messages::{Answer, Refusal, Timestamp};

use super::arguments::Arguments;
use crate::cgroup::Cgroup;
use crate::events::proto_timestamp;
use crate::exit_record::ExitRecord;
use crate::runtime::{Running, Runtime, embedded, external, read_pid};
use crate::task::spec::Spec;
use crate::ttrpc::encode;
use crate::{mount, sys};

/// The status of a container that ends with its shim.
const STATUS_KILLED: u32 = 137;
/// How long processes may take to die of SIGKILL.
const DEATH: Duration = Duration::from_secs(5);
/// No root has more mounts on it.
const MOUNTS_MAX: usize = 64;

/// Kills what is left of a container, removes what the shim and the runtime left, and answers on standard output with
/// the exit that was recorded, or with that of a killed process.
///
/// # Errors
/// What the daemon should tell. Whatever can be cleaned up is cleaned up even then.
pub fn run(arguments: &Arguments) -> Answer<()> {
    let bundle = bundle(arguments)?;
    let record = ExitRecord::read(&bundle, "").unwrap_or_else(|error| {
        eprintln!("the exit record is not readable: {error}");
        None
    });
    let runtime = Runtime::load(&bundle).unwrap_or_else(|refusal| {
        eprintln!("{refusal}");
        None
    });
    let runtime =
        runtime.unwrap_or_else(|| Runtime::new(&arguments.id, &arguments.namespace, &bundle, &Options::new()));
    let pid = read_pid(&bundle.join("init.pid")).unwrap_or(0);
    failpoint!("shim/clean/begin");
    let mut failed = None;
    for step in [
        delete_in_runtime(&runtime),
        kill_rest(&bundle, pid),
        delete_hooks(&runtime),
        mount::unmount_all(&bundle.join("rootfs"), MOUNTS_MAX),
        if runtime.binary.is_none() { embedded::forget(&runtime) } else { Ok(()) },
        remove_socket(&bundle),
    ] {
        if let Err(refusal) = step {
            eprintln!("{refusal}");
            failed.get_or_insert(refusal);
        }
    }
    failpoint!("shim/clean/done");
    if let Some(refusal) = failed.filter(|_| is_mounted(&bundle)) {
        // Whoever takes the answer for success removes the bundle, and what is mounted there with it.
        return Err(refusal);
    }
    let response = DeleteResponse {
        pid: u32::try_from(record.as_ref().map_or(pid, |record| record.pid)).unwrap_or(0),
        exit_status: record.as_ref().map_or(STATUS_KILLED, |record| record.status),
        exited_at: Some(proto_timestamp(
            record.map_or_else(|| Timestamp::from(SystemTime::now()), |record| Timestamp(record.exited_at_ns)),
        ))
        .into(),
        ..Default::default()
    };
    io::stdout().write_all(&encode(&response)?).map_err(|error| Refusal::io("answer the daemon", &error))
}

fn bundle(arguments: &Arguments) -> Answer<PathBuf> {
    if let Some(bundle) = &arguments.bundle {
        return Ok(bundle.clone());
    }
    // The working folder is a bundle, if not this one's: containers of one group may share it.
    let here = std::env::current_dir().map_err(|error| Refusal::io("find the bundle", &error))?;
    Ok(here.parent().map_or_else(|| here.clone(), |folder| folder.join(&arguments.id)))
}

fn delete_in_runtime(runtime: &Runtime) -> Answer<()> {
    let Some(binary) = &runtime.binary else { return Ok(()) };
    match wait(external::plain(runtime, binary, external::Plain::DeleteForced)?) {
        Err(refusal) if refusal.detail.contains("does not exist") => Ok(()),
        other => other,
    }
}

fn delete_hooks(runtime: &Runtime) -> Answer<()> {
    let has_state = runtime.binary.is_none() && runtime.state_folder().exists();
    if has_state && Spec::read(&runtime.bundle).is_ok_and(|spec| spec.has_poststop_hooks()) {
        return wait(embedded::delete_with_hooks(runtime)?);
    }
    Ok(())
}

/// Waits for a verb's process, which is a child of this one.
fn wait(running: Running) -> Answer<()> {
    let pid = Pid::from_raw(running.pid);
    loop {
        match rustix::process::waitpid(pid, WaitOptions::empty()) {
            Ok(Some((_, status))) => return running.outcome(status).map(drop),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Refusal::io("wait for the runtime", &error.into())),
        }
    }
}

/// Kills every process of the container and removes its cgroups.
fn kill_rest(bundle: &Path, pid: i32) -> Answer<()> {
    let saved = Cgroup::load(bundle).map_err(|error| Refusal::io("read the container's cgroups", &error))?;
    let Some(cgroup) = saved else { return Ok(()) };
    // Its number may be another's by now. One that is in the container's cgroups is the container's.
    if pid > 0 && Cgroup::of(pid).is_ok_and(|now| now == cgroup) {
        match sys::kill(pid, libc::SIGKILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                return Err(Refusal::io(format!("kill process {pid}"), &error));
            }
            _ => {}
        }
    }
    let deadline = Instant::now() + DEATH;
    loop {
        cgroup.kill_all(libc::SIGKILL)?;
        if cgroup.remove()? {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Refusal::deadline_exceeded("the container's processes do not die"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Removes the dead shim's socket, unless one lives there: a group's.
fn remove_socket(bundle: &Path) -> Answer<()> {
    let Ok(address) = std::fs::read_to_string(bundle.join("address")) else { return Ok(()) };
    let path = Path::new(address.trim().strip_prefix("unix://").unwrap_or_default());
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| Refusal::io(format!("remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

fn is_mounted(bundle: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.dev());
    match (device(bundle), device(&bundle.join("rootfs"))) {
        (Ok(below), Ok(root)) => below != root,
        _ => false,
    }
}
