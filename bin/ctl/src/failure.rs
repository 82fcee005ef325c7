//! Why the program ends with something else than 0.

use crate::output::printable;
use std::io;
use wharf_messages::Refusal;

/// The exit code of a failure that has no better one.
pub const FAILED: u8 = 1;
/// The exit code for a command that does not exist, as in `ctr`.
pub const UNKNOWN_COMMAND: u8 = 3;
/// The exit code after standard output was closed by its reader: what SIGPIPE would have made.
const BROKEN_PIPE: u8 = 128 + 13;

/// What every command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// An end that is not a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What to tell the user, if anything.
    pub text: Option<String>,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// A failure that is told in a sentence.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), code: FAILED }
    }

    /// An exit code passed on from a process: nothing is said.
    #[must_use]
    pub fn exit_code(code: u32) -> Self {
        // A process's exit code fits; a larger one could only be a shim's mistake, and must not become a success.
        Self { text: None, code: u8::try_from(code).unwrap_or(u8::MAX) }
    }

    /// Puts what was being done before the text.
    #[must_use]
    pub fn context(self, doing: impl std::fmt::Display) -> Self {
        Self { text: self.text.map(|text| format!("{doing}: {text}")), ..self }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.to_string())
    }
}

/// Only for standard output and the terminal: files name themselves with [`Refusal::io`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { text: None, code: BROKEN_PIPE },
            _ => Self::new(format!("write output: {error}")),
        }
    }
}

/// Whether several objects were all done: tells of each failure at once, and keeps the first for the exit.
#[derive(Debug, Default)]
pub struct Several {
    first: Option<Failure>,
}

impl Several {
    /// Notes how it went with one of them.
    pub fn note(&mut self, outcome: Outcome) {
        if let Err(failure) = outcome {
            match &self.first {
                None => self.first = Some(failure),
                Some(_) => warn(failure.text.unwrap_or_default()),
            }
        }
    }

    /// The end of the command.
    ///
    /// # Errors
    /// The first failure noted.
    pub fn end(self) -> Outcome {
        self.first.map_or(Ok(()), Err)
    }
}

/// The name that the program was called by: `wharf`, or `ctr`.
#[must_use]
pub fn program() -> &'static str {
    static PROGRAM: std::sync::OnceLock<&'static str> = std::sync::OnceLock::new();
    PROGRAM.get_or_init(|| {
        let called = std::env::args_os().next().unwrap_or_default();
        match std::path::Path::new(&called).file_name().and_then(|name| name.to_str()) {
            Some("ctr") => "ctr",
            _ => "wharf",
        }
    })
}

/// Tells the user something that does not end the command.
pub fn warn(text: impl std::fmt::Display) {
    let line = format!("{}: {}\n", program(), printable(&text.to_string()));
    // With standard error gone there is nobody left to tell.
    let _ = io::Write::write_all(&mut io::stderr().lock(), line.as_bytes());
}
