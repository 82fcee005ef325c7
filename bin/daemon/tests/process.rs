//! `wharfd` as a process: how it starts, refuses to start, and ends.

#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use wharf_tests::{
    command,
    process::{Guarded, shell_code},
    wait::{self, PATIENCE},
};

/// Folders for a daemon, and its command line.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn address(&self) -> PathBuf {
        self.path("w.sock")
    }

    fn command(&self) -> Command {
        let mut command = wharfd();
        command.arg("--root").arg(self.path("root")).arg("--state").arg(self.path("state"));
        command.arg("--address").arg(self.address());
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Starts it and waits until it answers.
    fn start(&self, mut command: Command) -> Guarded {
        let log = fs::File::create(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut daemon = Guarded::new(command.spawn().unwrap());
        wait::eventually("wharfd", || {
            assert!(daemon.ended().is_none(), "it ended:\n{}", self.log());
            UnixStream::connect(self.address()).ok()
        });
        daemon
    }
}

/// Nothing from outside tells it anything, unless the test does.
fn wharfd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharfd"));
    for name in ["CONFIG", "ROOT", "STATE", "ADDRESS", "LOG_LEVEL", "LOG_FORMAT"] {
        command.env_remove(format!("WHARF_{name}"));
    }
    command.env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG");
    command
}

#[track_caller]
fn ends_well(mut daemon: Guarded, signal: Signal, place: &Place) {
    daemon.signal(signal);
    let status = daemon.wait_for(PATIENCE).unwrap_or_else(|| panic!("it does not end:\n{}", place.log()));
    assert_eq!(shell_code(status), 0, "{}", place.log());
}

#[track_caller]
fn refuses(command: Command, words: &[&str]) {
    let output = command::run(command, b"", PATIENCE);
    assert_eq!(output.code, 1, "{output}");
    let last = output.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("wharfd: ") && words.iter().all(|word| last.contains(word)), "{output}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn it_tells_its_manager_and_ends_gracefully() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let place = Place::new();
        let manager = UnixDatagram::bind(place.path("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let told = || {
            let mut text = [0; 64];
            let length = manager.recv(&mut text).unwrap();
            String::from_utf8(text[..length].to_vec()).unwrap()
        };
        let mut command = place.command();
        command.env("NOTIFY_SOCKET", place.path("notify"));
        let mut daemon = place.start(command);
        assert_eq!(told(), "READY=1");
        assert_eq!((mode(&place.path("root")), mode(&place.path("state"))), (0o711, 0o711));
        assert_eq!(mode(&place.address()), 0o660);
        // A terminal that closes means nothing.
        daemon.signal(Signal::SIGHUP);
        assert!(UnixStream::connect(place.address()).is_ok());
        ends_well(daemon, signal, &place);
        assert_eq!(told(), "STOPPING=1");
        assert!(!place.address().exists());
    }
}

#[test]
fn two_do_not_share_an_address_or_a_root() {
    let place = Place::new();
    let daemon = place.start(place.command());
    let other = Place::new();
    refuses(place.command(), &["a daemon answers at", place.address().to_str().unwrap()]);

    let mut same_root = wharfd();
    same_root.arg("--root").arg(place.path("root")).arg("--state").arg(other.path("state"));
    same_root.arg("--address").arg(other.address());
    refuses(same_root, &[place.path("root").to_str().unwrap(), &daemon.pid().to_string()]);
    assert!(!other.address().exists());
    // The first has noticed nothing.
    assert!(UnixStream::connect(place.address()).is_ok());
    ends_well(daemon, Signal::SIGTERM, &place);
}

#[test]
fn what_a_killed_one_left_is_taken_over() {
    let place = Place::new();
    let mut daemon = place.start(place.command());
    daemon.signal(Signal::SIGKILL);
    assert_eq!(shell_code(daemon.wait_for(PATIENCE).unwrap()), 137);
    assert!(place.address().exists() && UnixStream::connect(place.address()).is_err());
    let daemon = place.start(place.command());
    ends_well(daemon, Signal::SIGTERM, &place);
}

#[test]
fn wrong_configurations_are_told_in_a_line() {
    let place = Place::new();
    let with = |text: &str| {
        fs::write(place.path("c.toml"), text).unwrap();
        let mut command = place.command();
        command.arg("--config").arg(place.path("c.toml"));
        command
    };
    refuses(with("version = 1\nrot = \"/x\"\n"), &["c.toml: line 2: ", "`rot`"]);
    refuses(with("version = 3"), &["version 3 is not known"]);
    refuses(with("[socket]\ngroup = \"nosuchgroup\""), &["socket.group", "nosuchgroup"]);
    let mut missing = place.command();
    missing.args(["--config", "/nonexistent/c.toml"]);
    refuses(missing, &["/nonexistent/c.toml"]);
    let mut detail = place.command();
    detail.env("RUST_LOG", "wharfd=loud");
    refuses(detail, &["RUST_LOG", "loud"]);
    let mut unwritable = place.command();
    unwritable.args(["--root", "/proc/wharf"]);
    refuses(unwritable, &["/proc/wharf"]);
    let mut file_there = place.command();
    file_there.arg("--address").arg(place.path("c.toml"));
    refuses(file_there, &["c.toml", "no socket"]);
    assert!(place.path("c.toml").exists());

    let mut unknown = wharfd();
    unknown.arg("--no-such-flag");
    let output = command::run(unknown, b"", PATIENCE);
    assert_eq!(output.code, 2, "{output}");
    assert!(output.stderr.contains("--no-such-flag"), "{output}");
}

#[test]
fn flags_go_over_environment_over_file_over_default() {
    let place = Place::new();
    fs::write(place.path("c.toml"), "root = \"/file\"\nstate = \"/file-state\"\n[log]\nlevel = \"warn\"\n").unwrap();
    let dump = |command: &mut Command| {
        let mut other = wharfd();
        other.args(command.get_args()).current_dir(place.0.path());
        other.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command::run(other, b"", PATIENCE).ok().stdout
    };
    let mut command = Command::new("wharfd");
    command.args(["config", "dump", "-c", "c.toml", "--root", "flag"]);
    command.env("WHARF_ROOT", "/environment").env("WHARF_STATE", "/environment-state");
    let text = dump(&mut command);
    // A flag is of the folder where it was typed.
    let flag = place.path("flag");
    for line in [
        &format!("root = {flag:?}"),
        "state = \"/environment-state\"",
        "level = \"warn\"",
        "snapshotter = \"overlayfs\"",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
    }
    // What is dumped can be read.
    fs::write(place.path("dumped.toml"), &text).unwrap();
    let mut again = Command::new("wharfd");
    again.args(["config", "dump", "-c", "dumped.toml"]);
    assert_eq!(dump(&mut again), text);
    let mut default = Command::new("wharfd");
    default.args(["config", "default"]);
    assert!(dump(&mut default).contains("address = \"/run/wharf/wharf.sock\""));
    let mut version = Command::new("wharfd");
    version.arg("--version");
    assert_eq!(dump(&mut version), format!("wharfd {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_log_is_json_where_that_is_wanted() {
    let place = Place::new();
    let mut command = place.command();
    command.args(["--log-format", "json", "--log-level", "debug"]);
    let daemon = place.start(command);
    ends_well(daemon, Signal::SIGTERM, &place);
    let log = place.log();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["fields"]["message"] == "ready"), "{log}");
}
