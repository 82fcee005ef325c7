//! A world for the shim: a root from busybox, bundles, a daemon's event service, and a client of the task service.
//!
//! Everything is real, and everything a test made is gone when it ends, also when it fails.

#![allow(dead_code, missing_docs)]

pub mod client;
pub mod events;
pub mod fifo;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{CreateTaskRequest, DeleteResponse, Mount};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use protobuf::Message;
use serde_json::{Value, json};

use client::Client;
use events::EventService;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const NAMESPACE: &str = "test";

/// Waits until a condition gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn unique() -> String {
    format!("wst-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(unique());
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A root with busybox in it, made once and only read.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        assert!(rustix::process::geteuid().is_root(), "these tests make containers and need root");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (root, making) = (folder.join("busybox-root"), folder.join(unique()));
        for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
            fs::create_dir_all(making.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", making.join("bin/busybox")).expect("busybox-static is installed");
        for name in "sh true false echo cat sleep kill id ps stty tty env dd yes head wc mkdir ls trap test tail grep"
            .split(' ')
        {
            symlink("busybox", making.join("bin").join(name)).unwrap();
        }
        fs::write(making.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
            .unwrap();
        fs::write(making.join("bin/unrunnable"), "no program").unwrap();
        // Whoever is first wins; the others' are the same.
        if fs::rename(&making, &root).is_err() {
            fs::remove_dir_all(&making).ok();
        }
        root
    })
}

/// A runtime specification that runs a command, with what every container has.
pub fn spec(id: &str, args: &[&str]) -> Value {
    let caps = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_NET_RAW"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": args, "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"], "noNewPrivileges": true,
            "user": {"uid": 0, "gid": 0, "additionalGids": [10]},
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        },
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"}]},
        },
    })
}

/// Adds a value to a specification, by a JSON pointer to an object and a key in it.
pub fn set(spec: &mut Value, object: &str, key: &str, value: Value) {
    spec.pointer_mut(object).unwrap()[key] = value;
}

/// A bundle, its shim, and the daemon's side of both.
pub struct World {
    pub id: String,
    pub bundle: PathBuf,
    /// Before the folder, for its socket is in there.
    pub events: EventService,
    pub folder: Folder,
    pub client: Option<Client>,
    pub shim_pid: i32,
    pub extra: Vec<PathBuf>,
}

impl World {
    /// A bundle for a command; no shim yet.
    pub fn new(args: &[&str]) -> Self {
        Self::with_spec(|id| spec(id, args))
    }

    pub fn with_spec(make: impl FnOnce(&str) -> Value) -> Self {
        let folder = Folder::new();
        let id = folder.0.file_name().unwrap().to_str().unwrap().to_owned();
        let events = EventService::start(&folder.0.join("events.sock"));
        let bundle = make_bundle(&folder.0, &id, &make(&id));
        Self { id, folder, bundle, events, client: None, shim_pid: 0, extra: Vec::new() }
    }

    /// The program, as a daemon calls it for a container.
    pub fn command(&self, id: &str, bundle: &Path, action: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf-shim"));
        command
            .args(["-namespace", NAMESPACE, "-address"])
            .arg(self.folder.0.join("daemon.sock"))
            .args(["-publish-binary", "/bin/false", "-id", id, "-debug"])
            .arg(action)
            .current_dir(bundle)
            .env("WHARF_SHIM_SOCKET_DIR", self.folder.0.join("s"))
            .env("TTRPC_ADDRESS", self.folder.0.join("events.sock"))
            .env_remove("MAX_SHIM_VERSION")
            .stdin(Stdio::null());
        command
    }

    /// Starts the shim and connects to it, speaking that version of the service.
    pub fn start_shim(&mut self, version: u32) -> &Client {
        self.start_shim_with(version, None)
    }

    /// Starts the shim with these runtime options on its standard input.
    pub fn start_shim_with(&mut self, version: u32, options: Option<&Any>) -> &Client {
        let output = self.try_start(options);
        let answer: Value = serde_json::from_slice(&succeeded(&output).stdout).unwrap();
        assert_eq!((&answer["version"], &answer["protocol"]), (&json!(3), &json!("ttrpc")));
        let address = answer["address"].as_str().unwrap();
        assert_eq!(fs::read_to_string(self.bundle.join("address")).unwrap(), address);
        self.shim_pid = fs::read_to_string(self.bundle.join("shim.pid")).unwrap().parse().unwrap();
        self.client.insert(Client::connect(address, version))
    }

    /// Runs `start`, whatever comes of it.
    pub fn try_start(&self, options: Option<&Any>) -> Output {
        fs::write(self.bundle.join("log"), "").unwrap();
        let input = self.folder.0.join("options");
        fs::write(&input, options.map(|any| any.write_to_bytes().unwrap()).unwrap_or_default()).unwrap();
        let mut command = self.command(&self.id, &self.bundle, "start");
        command.env("MAX_SHIM_VERSION", "3").stdin(fs::File::open(input).unwrap()).output().unwrap()
    }

    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("the shim is started")
    }

    /// A request to make the container, with its root as an overlay.
    pub fn create_request(&self) -> CreateTaskRequest {
        create_request(&self.id, &self.bundle)
    }

    /// Starts the shim and the container.
    pub fn run(args: &[&str]) -> Self {
        let mut world = Self::new(args);
        world.start_shim(3);
        world.client().create(&world.create_request()).unwrap();
        world.client().start(&world.id, "").unwrap();
        world
    }

    /// Runs `delete` as a daemon does when the shim is dead.
    pub fn delete_dead(&self) -> DeleteResponse {
        let output = self.command(&self.id, &self.bundle, "delete").output().unwrap();
        DeleteResponse::parse_from_bytes(&succeeded(&output).stdout).unwrap()
    }

    pub fn kill_shim(&self) {
        kill(self.shim_pid, libc::SIGKILL);
        eventually("the shim's death", || (!is_alive(self.shim_pid)).then_some(()));
    }

    pub fn exit_record(&self, name: &str) -> Option<Value> {
        let text = fs::read(self.bundle.join("exits").join(format!("{name}.json"))).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// Makes a file in the container that runs, which is looking for it.
    pub fn touch(&self, name: &str) {
        let init = fs::read_to_string(self.bundle.join("init.pid")).unwrap();
        // Not in the overlay's upper folder: the overlay remembers that the file was not there.
        fs::write(format!("/proc/{init}/root/{name}"), "").unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        let address = fs::read_to_string(self.bundle.join("address")).unwrap();
        address.strip_prefix("unix://").unwrap().into()
    }

    /// That nothing of the container is left on the machine.
    pub fn assert_gone(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.bundle.to_string_lossy()), "a mount is left");
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            assert!(!hierarchy.path().join(&self.id).exists(), "cgroup {:?} is left", hierarchy.path());
        }
        assert!(!self.bundle.join("runtime").join(&self.id).exists(), "the runtime's state is left");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of {}: {}", self.id, fs::read_to_string(self.bundle.join("log")).unwrap_or_default());
        }
        self.client = None;
        if self.shim_pid != 0 && is_alive(self.shim_pid) {
            kill(self.shim_pid, libc::SIGKILL);
            eventually("the shim's death", || (!is_alive(self.shim_pid)).then_some(()));
        }
        for bundle in std::iter::once(&self.bundle).chain(&self.extra) {
            let id = bundle.file_name().unwrap().to_str().unwrap();
            self.command(id, bundle, "delete").output().ok();
        }
    }
}

/// Writes a bundle, whose folder has the container's name.
pub fn make_bundle(folder: &Path, id: &str, spec: &Value) -> PathBuf {
    let bundle = folder.join("bundles").join(id);
    for name in ["rootfs", "upper", "work"] {
        fs::create_dir_all(bundle.join(name)).unwrap();
    }
    fs::write(bundle.join("config.json"), serde_json::to_vec(spec).unwrap()).unwrap();
    bundle
}

pub fn create_request(id: &str, bundle: &Path) -> CreateTaskRequest {
    let layers = format!("lowerdir={}", root().display());
    let upper = format!("upperdir={}", bundle.join("upper").display());
    let work = format!("workdir={}", bundle.join("work").display());
    let mount = Mount {
        type_: "overlay".into(),
        source: "overlay".into(),
        options: vec![layers, upper, work],
        ..Default::default()
    };
    CreateTaskRequest {
        id: id.into(),
        bundle: bundle.to_str().unwrap().into(),
        rootfs: vec![mount],
        ..Default::default()
    }
}

pub fn any(type_url: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_url.into(), value, ..Default::default() }
}

pub fn succeeded(output: &Output) -> &Output {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    output
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: plain integers.
    unsafe { libc::kill(pid, signal) };
}

/// Whether a process is there and has not ended.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}
