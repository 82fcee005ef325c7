//! Raw mode and the standard streams are a process's own, so each test here runs a second process on a terminal: this
//! test binary again, told by a variable to play the part in [`child`].

use super::*;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

const PART: &str = "WHARF_TEST_PART";

struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap().into();
        Self { master, slave }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    fn play(&self, part: &str) -> Guarded {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["terminal::tests::child", "--exact", "--ignored", "--nocapture"]).env(PART, part);
        command.stdin(self.slave.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::null());
        Guarded(command.spawn().unwrap())
    }
}

/// A child that does not outlive a test that fails.
struct Guarded(Child);

impl Guarded {
    fn wait_for(&mut self, text: &str) {
        let stdout = self.0.stdout.as_mut().unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(text.as_bytes()) {
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "a part in the tests below, not a test"]
fn child() {
    let say = |text: &str| {
        println!("{text}");
        io::stdout().flush().unwrap();
    };
    match std::env::var(PART).unwrap().as_str() {
        "panics" => {
            let _raw = RawMode::enter().unwrap();
            panic!("on purpose");
        }
        "leaves" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _raw = RawMode::enter().unwrap();
                let mut signals = crate::signals::Received::to_leave_by().unwrap();
                say("is raw");
                assert_eq!(signals.next().await, 15);
            });
        }
        "copies" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                say("is copying");
                let (mut input, mut output) = (Input::stdin().unwrap(), Output::stdout().unwrap());
                tokio::io::copy(&mut input, &mut output).await.unwrap();
            });
        }
        part => panic!("unknown part {part}"),
    }
}

#[test]
fn a_panic_leaves_the_terminal_as_it_was() {
    let terminal = Terminal::open();
    let status = terminal.play("panics").0.wait().unwrap();
    assert!(!status.success() && !terminal.is_raw());
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let terminal = Terminal::open();
    let mut child = terminal.play("leaves");
    child.wait_for("is raw\n");
    assert!(terminal.is_raw());
    child.signal(rustix::process::Signal::TERM);
    assert!(child.0.wait().unwrap().success() && !terminal.is_raw());
}

#[test]
fn keys_are_copied_until_the_end() {
    let terminal = Terminal::open();
    let mut child = terminal.play("copies");
    rustix::io::write(&terminal.master, b"typed\n\x04").unwrap();
    child.wait_for("typed\n");
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn a_reader_that_left_does_not_hold_up_the_container() {
    let mut child = {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["terminal::tests::child", "--exact", "--ignored", "--nocapture"]).env(PART, "copies");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Guarded(command.spawn().unwrap())
    };
    child.wait_for("is copying\n");
    drop(child.0.stdout.take());
    let mut stdin = child.0.stdin.take().unwrap();
    // More than any pipe holds: it is only taken if it is swallowed on the other side.
    stdin.write_all(&[b'x'; 1 << 20]).unwrap();
    drop(stdin);
    child.0.wait().unwrap();
}
