//! The user's terminal: its size, raw mode that is always taken back, secrets typed unseen.

mod streams;

pub use streams::{Input, Output};

use crate::failure::{Failure, Outcome};
use rustix::{
    stdio,
    termios::{LocalModes, OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};
use std::{
    io::{self, BufRead, Write},
    sync::{Mutex, Once, PoisonError},
};

/// The modes to go back to. Global, because a panic or a signal must find them wherever it strikes.
static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// How wide the terminal on standard output is; 0 if there is none.
#[must_use]
pub fn columns() -> usize {
    tcgetwinsize(stdio::stdout()).map_or(0, |size| usize::from(size.ws_col))
}

/// What is said where a terminal is needed and none is there.
pub const NONE: &str = "standard input is not a terminal: a container with a terminal needs one (or see script(1))";

/// Whether standard input is a terminal.
#[must_use]
pub fn is_there() -> bool {
    isatty(stdio::stdin())
}

/// The size of the terminal on standard input.
///
/// # Errors
/// If there is none.
pub fn size() -> io::Result<Winsize> {
    Ok(tcgetwinsize(stdio::stdin())?)
}

/// Raw mode of the terminal on standard input: every key goes to the container, none is echoed here.
///
/// Taken back when dropped, and before a panic's message is printed.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Turns it on.
    ///
    /// # Errors
    /// If standard input is no terminal.
    pub fn enter() -> Outcome<Self> {
        let original = tcgetattr(stdio::stdin()).map_err(|_| Failure::new(NONE))?;
        let mut raw = original.clone();
        raw.make_raw();
        restore_before_panics();
        *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
        let mode = Self(());
        tcsetattr(stdio::stdin(), OptionalActions::Now, &raw)
            .map_err(|error| Failure::new(format!("set the terminal to raw mode: {error}")))?;
        Ok(mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Takes raw mode back, if it is on.
pub fn restore() {
    let original = ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(original) = original {
        // A terminal that is gone needs no modes.
        tcsetattr(stdio::stdin(), OptionalActions::Now, &original).ok();
    }
}

fn restore_before_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            report(panic);
        }));
    });
}

/// Asks for a secret on the terminal, without showing what is typed.
///
/// # Errors
/// If nothing can be read.
pub fn ask_secret(prompt: &str) -> Outcome<String> {
    let hidden = if isatty(stdio::stdin()) { Some(hide()?) } else { None };
    let mut stderr = io::stderr().lock();
    stderr.write_all(prompt.as_bytes())?;
    stderr.flush()?;
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    if hidden.is_some() {
        restore();
        stderr.write_all(b"\n")?;
    }
    read.map_err(|error| Failure::new(format!("read the password: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Turns echo off, until restored.
fn hide() -> Outcome<RawMode> {
    let failed = |error: rustix::io::Errno| Failure::new(format!("turn echo off: {error}"));
    let original = tcgetattr(stdio::stdin()).map_err(failed)?;
    let mut hidden = original.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
    let mode = RawMode(());
    tcsetattr(stdio::stdin(), OptionalActions::Now, &hidden).map_err(failed)?;
    Ok(mode)
}

#[cfg(test)]
mod tests;
