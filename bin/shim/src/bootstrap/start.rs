//! `start`: makes the shim's process and tells the daemon where it listens.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use serde::Serialize;
use wharf_failpoints::failpoint;
use wharf_messages::{Answer, Refusal};

use super::address::{self, Listening};
use super::arguments::Arguments;
use crate::shim::Shim;
use crate::sys::{self, Fork};
use crate::task::spec::Spec;
use crate::ttrpc::{decode, encode};
use crate::{log, warning};

/// What a daemon may send, at most.
const INPUT_BYTES_MAX: u64 = 10 << 20;
/// The version of the task service that this shim is named by; it serves the one before as well.
const VERSION: i32 = 3;

/// How the daemon wants to be answered.
#[derive(Debug, PartialEq, Eq)]
enum Dialect {
    Address,
    Json,
    Protobuf,
}

/// What the daemon sent.
#[derive(Debug)]
struct Input {
    options: Options,
    dialect: Dialect,
    folder: Option<PathBuf>,
    events_address: Option<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    version: i32,
    address: &'a str,
    protocol: &'a str,
}

/// Starts the shim of a container, or finds the one of its group, and answers on standard output.
///
/// # Errors
/// What the daemon should tell.
pub fn run(arguments: &Arguments) -> Answer<()> {
    let mut bytes = Vec::new();
    io::stdin()
        .take(INPUT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Refusal::io("read the options on standard input", &error))?;
    let version = std::env::var("MAX_SHIM_VERSION").ok();
    let input = parse_input(&bytes, arguments, version.as_deref())?;
    let bundle = match &arguments.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|error| Refusal::io("find the bundle", &error))?,
    };
    let spec = Spec::read(&bundle)?;
    let folder = input.folder.clone().unwrap_or_else(address::folder);
    let path = address::socket(&folder, &arguments.address, &arguments.namespace, spec.group(&arguments.id));
    let address = format!("unix://{}", path.display());
    write_file(&bundle.join("address"), &address)?;
    failpoint!("shim/start/noted");
    if let Listening::New(listener) = address::listen(&path)? {
        failpoint!("shim/start/listening");
        spawn(arguments, &input, &bundle, listener, &path).inspect_err(|_| {
            // Nobody will ever listen there.
            let _ = std::fs::remove_file(&path);
        })?;
    }
    let answer = match input.dialect {
        Dialect::Address => address.into_bytes(),
        Dialect::Json => serde_json::to_vec(&Json { version: VERSION, address: &address, protocol: "ttrpc" })
            .map_err(|error| Refusal::internal(format!("encode the answer: {error}")))?,
        Dialect::Protobuf => {
            let protocol = "ttrpc".to_owned();
            encode(&BootstrapResult { version: VERSION, address, protocol, ..Default::default() })?
        }
    };
    let mut out = io::stdout();
    out.write_all(&answer).and_then(|()| out.flush()).map_err(|error| Refusal::io("answer the daemon", &error))
}

fn parse_input(bytes: &[u8], arguments: &Arguments, max_version: Option<&str>) -> Answer<Input> {
    let events = std::env::var("TTRPC_ADDRESS").ok();
    if let Ok(params) = decode::<BootstrapParams>(bytes)
        // Options of the older protocol may look like these; they do not have the container's name in them.
        && params.instance_id == arguments.id
        && params.namespace == arguments.namespace
    {
        let extensions = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
        let options = extensions.map(options_of).find_map(Result::transpose).transpose()?.unwrap_or_default();
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        return Ok(Input {
            options,
            dialect: Dialect::Protobuf,
            folder: params.socket_dir.as_deref().and_then(given).map(PathBuf::from),
            events_address: given(&params.containerd_ttrpc_address).or(events),
        });
    }
    let any: Any = decode(bytes)?;
    let max_version: i32 = max_version.and_then(|version| version.parse().ok()).unwrap_or(2);
    Ok(Input {
        options: options_of(&any)?.unwrap_or_default(),
        dialect: if max_version >= VERSION { Dialect::Json } else { Dialect::Address },
        folder: None,
        events_address: events,
    })
}

fn options_of(any: &Any) -> Answer<Option<Options>> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    if name == "containerd.runc.v1.Options" { decode(&any.value).map(Some) } else { Ok(None) }
}

/// Makes the process that serves, and notes its id in the bundle.
fn spawn(arguments: &Arguments, input: &Input, bundle: &Path, listener: UnixListener, path: &Path) -> Answer<()> {
    // Before the fork, for it is about this process's parent.
    let score = oom_score();
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        sys::new_core_scheduling_group().map_err(|error| Refusal::io("enable core scheduling", &error))?;
    }
    match sys::fork().map_err(|error| Refusal::io("start the shim's process", &error))? {
        Fork::Parent(pid) => {
            let noted = join_cgroup(&input.options.shim_cgroup, pid).and_then(|()| {
                failpoint!("shim/start/forked");
                write_file(&bundle.join("shim.pid"), &pid.to_string())
            });
            noted.inspect_err(|_| {
                // Nobody will ever know of it. It is our child, so its number is nobody else's.
                if let Err(error) = sys::kill(pid, libc::SIGKILL) {
                    warning!("shim {pid} stays: {error}");
                }
            })
        }
        Fork::Child => {
            let code = match serve(arguments, input, bundle, listener, path, score) {
                Ok(()) => 0,
                Err(error) => {
                    warning!("the shim ends: {error}");
                    1
                }
            };
            std::process::exit(code)
        }
    }
}

/// The life of the process that serves.
fn serve(
    arguments: &Arguments,
    input: &Input,
    bundle: &Path,
    listener: UnixListener,
    path: &Path,
    score: io::Result<i32>,
) -> io::Result<()> {
    failpoint!("shim/serve");
    // Its own session: a signal to the daemon's process group is not meant for containers.
    rustix::process::setsid()?;
    log::open(bundle, arguments.debug);
    // The daemon reads the starting process's output to its end, which is when nobody has it open any more.
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for number in 0..3 {
        sys::place(std::os::fd::AsFd::as_fd(&null), number)?;
    }
    drop(null);
    std::env::set_current_dir("/")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let scored = score.and_then(|score| std::fs::write("/proc/self/oom_score_adj", score.to_string()));
    if let Err(error) = scored {
        warning!("the shim's oom_score_adj stays as it is: {error}");
    }
    Shim::new(&arguments.namespace, input.events_address.as_deref(), listener, path.to_owned())?.run()
}

/// One more than the daemon's: of the two, the shim goes first when memory runs out, for it can be replaced.
fn oom_score() -> io::Result<i32> {
    let parent = rustix::process::getppid().ok_or(io::ErrorKind::NotFound)?;
    let text = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", parent.as_raw_nonzero()))?;
    let score: i32 = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((score + 1).min(1000))
}

/// Puts the shim into a cgroup of the administrator's choice.
fn join_cgroup(cgroup: &str, pid: i32) -> Answer<()> {
    if cgroup.is_empty() {
        return Ok(());
    }
    let relative = cgroup.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let mut folders = vec![root.join(relative)];
    folders.extend(std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path().join(relative)));
    let mut joined = false;
    for procs in folders.iter().map(|folder| folder.join("cgroup.procs")).filter(|procs| procs.exists()) {
        std::fs::write(&procs, pid.to_string())
            .map_err(|error| Refusal::io(format!("put the shim into {}", procs.display()), &error))?;
        joined = true;
    }
    if joined { Ok(()) } else { Err(Refusal::not_found(format!("shim cgroup {cgroup:?}"))) }
}

/// Writes a small file so that whoever reads it sees the whole of it.
fn write_file(path: &Path, text: &str) -> Answer<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| Refusal::io(format!("write {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;

    fn arguments() -> Arguments {
        Arguments { id: "web".into(), namespace: "default".into(), ..Default::default() }
    }

    fn options() -> Any {
        let options = Options { binary_name: "runc".into(), ..Default::default() };
        Any { type_url: "containerd.runc.v1.Options".into(), value: encode(&options).unwrap(), ..Default::default() }
    }

    #[test]
    fn every_daemon_is_answered_in_its_own_way() {
        let bytes = encode(&options()).unwrap();
        let cases = [
            (None, Dialect::Address),
            (Some("2"), Dialect::Address),
            (Some("3"), Dialect::Json),
            (Some("x"), Dialect::Address),
        ];
        for (version, dialect) in cases {
            let input = parse_input(&bytes, &arguments(), version).unwrap();
            assert_eq!((input.dialect, input.options.binary_name.as_str()), (dialect, "runc"), "{version:?}");
        }
        let nothing = parse_input(&[], &arguments(), None).unwrap();
        assert_eq!((nothing.dialect, nothing.options), (Dialect::Address, Options::new()));
    }

    #[test]
    fn the_bootstrap_parameters_are_known_by_the_containers_name() {
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "default".into(),
            socket_dir: Some("/run/s".into()),
            extensions: vec![Extension { value: Some(options()).into(), ..Default::default() }],
            ..Default::default()
        };
        let input = parse_input(&encode(&params).unwrap(), &arguments(), Some("2")).unwrap();
        assert_eq!((input.dialect, input.folder), (Dialect::Protobuf, Some("/run/s".into())));
        assert_eq!(input.options.binary_name, "runc");
    }
}
