//! Driving a program on a real terminal.

use crate::{
    process::{Guarded, shell_code},
    wait::PATIENCE,
};
use nix::{
    libc,
    pty::{Winsize, openpty},
    sys::termios::{LocalFlags, tcgetattr},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A program whose controlling terminal is ours.
#[derive(Debug)]
pub struct Pty {
    process: Guarded,
    master: File,
    // Held open so that the terminal's modes can be read after the program has ended; let go of for what was shown last.
    slave: Option<OwnedFd>,
    screen: Arc<Screen>,
    /// How much of the screen earlier expectations have used up.
    seen: usize,
}

#[derive(Debug, Default)]
struct Screen {
    text: Mutex<Vec<u8>>,
    /// Nobody holds the terminal any more, and all that was shown has been read.
    is_over: AtomicBool,
    changed: Condvar,
}

impl Pty {
    /// Starts a program on a terminal of 24 rows and 80 columns, in a session of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let (master, slave) = (File::from(pty.master), pty.slave);
        let stream = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream()).env("TERM", "xterm");
        // SAFETY: only setsid and an ioctl on its standard input are called between fork and exec; both are
        // async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let process = Guarded::new(command.spawn().unwrap());
        let screen = Arc::new(Screen::default());
        let (mut reader, filled) = (master.try_clone().unwrap(), screen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO tells that nobody holds the other end any more.
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                filled.text.lock().unwrap().extend_from_slice(&buffer[..read]);
                filled.changed.notify_all();
            }
            let _text = filled.text.lock().unwrap();
            filled.is_over.store(true, Ordering::Relaxed);
            filled.changed.notify_all();
        });
        Self { process, master, slave: Some(slave), screen, seen: 0 }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the screen shows this after what was expected before.
    ///
    /// # Panics
    /// If it does not in time, with what it shows.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let text = text.as_bytes();
        let find = |screen: &[u8], from: usize| {
            screen[from..].windows(text.len()).position(|part| part == text).map(|at| from + at + text.len())
        };
        let seen = self.seen;
        let screen = self.screen.text.lock().unwrap();
        let missing = |screen: &mut Vec<u8>| find(screen, seen).is_none();
        let (screen, _) = self.screen.changed.wait_timeout_while(screen, PATIENCE, missing).unwrap();
        let found = find(&screen, seen);
        drop(screen);
        self.seen = found.unwrap_or_else(|| {
            panic!("{:?} does not appear; the terminal shows:\n{}", String::from_utf8_lossy(text), self.screen())
        });
    }

    /// All that was ever shown.
    #[must_use]
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.text.lock().unwrap()).into_owned()
    }

    /// All that was ever shown, once the program has ended; its modes are gone with that.
    ///
    /// # Panics
    /// If somebody else still holds the terminal.
    #[must_use]
    pub fn screen_at_end(&mut self) -> String {
        self.slave = None;
        let text = self.screen.text.lock().unwrap();
        let goes_on = |_: &mut Vec<u8>| !self.screen.is_over.load(Ordering::Relaxed);
        let (text, waited) = self.screen.changed.wait_timeout_while(text, PATIENCE, goes_on).unwrap();
        assert!(!waited.timed_out(), "somebody holds the terminal: {}", String::from_utf8_lossy(&text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Changes the terminal's size; the kernel tells the program by SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open for as long as self, and size outlives the call.
        let changed = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        nix::errno::Errno::result(changed).unwrap();
    }

    /// Whether the program has put the terminal into raw mode.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let slave = self.slave.as_ref().expect("the terminal is held");
        !tcgetattr(slave).unwrap().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Waits for the program's end and gives its code.
    ///
    /// # Panics
    /// If it does not end in time.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let status = self.process.wait_for(PATIENCE);
        shell_code(status.unwrap_or_else(|| panic!("it does not end; the terminal shows:\n{}", self.screen())))
    }

    /// Whether it ends within a while.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        self.process.wait_for(time).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_driven() {
        let mut pty = Pty::spawn(Command::new("sh"));
        pty.send("echo $((6*7))\n");
        pty.expect("42");
        pty.resize(50, 132);
        pty.send("stty size\n");
        pty.expect("50 132");
        assert!(!pty.is_raw());
        pty.send("exit 7\n");
        assert_eq!(pty.exit_code(), 7);
        assert!(pty.screen_at_end().contains("exit 7\r\n"), "{}", pty.screen());
    }
}
