//! Running a command to its end and looking at what it said.

use crate::{
    process::{Guarded, shell_code},
    wait::PATIENCE,
};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

/// Arguments: one string that is split at blanks, or a list that is taken as it is.
pub trait Args {
    /// The arguments one by one.
    fn list(&self) -> Vec<OsString>;
}

impl Args for &str {
    fn list(&self) -> Vec<OsString> {
        self.split_whitespace().map(OsString::from).collect()
    }
}

impl Args for String {
    fn list(&self) -> Vec<OsString> {
        self.as_str().list()
    }
}

impl Args for &String {
    fn list(&self) -> Vec<OsString> {
        self.as_str().list()
    }
}

impl<S: AsRef<OsStr>, const N: usize> Args for [S; N] {
    fn list(&self) -> Vec<OsString> {
        self.iter().map(|arg| arg.as_ref().to_owned()).collect()
    }
}

impl Args for Vec<OsString> {
    fn list(&self) -> Vec<OsString> {
        self.clone()
    }
}

impl Args for &[&str] {
    fn list(&self) -> Vec<OsString> {
        self.iter().map(OsString::from).collect()
    }
}

/// How to run a program: where, and with what around it.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    before: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    name: Option<OsString>,
}

impl Program {
    /// A program by its path, or by its name on the search path.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_path_buf(), before: Vec::new(), env: Vec::new(), name: None }
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Puts arguments before all others.
    #[must_use]
    pub fn before(mut self, args: impl Args) -> Self {
        self.before.extend(args.list());
        self
    }

    /// Calls it by another name (`argv[0]`).
    #[must_use]
    pub fn called(mut self, name: impl AsRef<OsStr>) -> Self {
        self.name = Some(name.as_ref().to_owned());
        self
    }

    /// The command as the standard library wants it; its environment has none of the caller's settings for wharf
    /// and for traces.
    #[must_use]
    pub fn command(&self, args: impl Args) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.path);
        if let Some(name) = &self.name {
            command.arg0(name);
        }
        command.args(&self.before).args(args.list());
        for (key, _) in std::env::vars_os() {
            let ours = [&b"WHARF_"[..], b"CONTAINERD_", b"OTEL_", b"TRACE"];
            if ours.iter().any(|prefix| key.as_encoded_bytes().starts_with(prefix)) {
                command.env_remove(key);
            }
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs it without input.
    #[must_use]
    pub fn run(&self, args: impl Args) -> Output {
        self.run_with(args, b"")
    }

    /// Runs it with this on its standard input.
    ///
    /// # Panics
    /// If it cannot be started or does not end in time; it is killed then.
    #[must_use]
    pub fn run_with(&self, args: impl Args, input: &[u8]) -> Output {
        run(self.command(args), input, PATIENCE)
    }
}

/// Runs a tool that has to succeed, and gives its standard output.
///
/// # Panics
/// If it fails, with all it said.
pub fn tool(program: &str, args: impl Args) -> String {
    run(Program::new(program).command(args), b"", 10 * PATIENCE).ok().stdout
}

/// Runs a command with an input and a time limit.
///
/// # Panics
/// If it cannot be started or does not end in time; it is killed then.
#[must_use]
pub fn run(mut command: Command, input: &[u8], limit: Duration) -> Output {
    let line = spell(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guarded::new(command.spawn().unwrap_or_else(|error| panic!("start {line}: {error}")));
    let (mut stdin, stdout, stderr) = {
        let child = child.child();
        (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap())
    };
    let input = input.to_vec();
    thread::spawn(move || {
        // A program that ends without reading all of its input is not at fault.
        let _ = stdin.write_all(&input);
    });
    let stdout = Collected::of(stdout);
    let stderr = Collected::of(stderr);
    let Some(status) = child.wait_for(limit) else {
        drop(child);
        panic!("{line}: not ended after {limit:?}\nstdout: {}\nstderr: {}", stdout.so_far(), stderr.so_far());
    };
    Output { line, code: shell_code(status), stdout: stdout.text(), stderr: stderr.text() }
}

/// What a stream gave, read on a thread.
struct Collected(Arc<Stream>);

#[derive(Default)]
struct Stream {
    /// The bytes so far, and whether they are all.
    state: Mutex<(Vec<u8>, bool)>,
    ended: Condvar,
}

impl Collected {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let stream = Arc::new(Stream::default());
        let filled = stream.clone();
        thread::spawn(move || {
            let mut buffer = [0; 64 << 10];
            loop {
                let read = source.read(&mut buffer).unwrap_or(0);
                let mut state = filled.state.lock().unwrap();
                state.0.extend_from_slice(&buffer[..read]);
                if read == 0 {
                    state.1 = true;
                    filled.ended.notify_all();
                    return;
                }
            }
        });
        Self(stream)
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.0.state.lock().unwrap().0).into_owned()
    }

    /// All of it; a stream that somebody else holds open (a daemon started in the background) is read for a while only.
    fn text(&self) -> String {
        let state = self.0.state.lock().unwrap();
        let (state, _) = self.0.ended.wait_timeout_while(state, Duration::from_secs(5), |(_, all)| !*all).unwrap();
        String::from_utf8_lossy(&state.0).into_owned()
    }
}

fn spell(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// What a command said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it was called.
    pub line: String,
    /// As a shell has it: the exit code, or 128 + signal.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nexit code {}\nstdout: {}\nstderr: {}", self.line, self.code, self.stdout, self.stderr)
    }
}

impl Output {
    /// It succeeded.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// It ended with this code.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// It failed with code 1 and one clear line that has all these words in it.
    ///
    /// # Panics
    /// If not; also for what looks like a panic or a debug print.
    #[track_caller]
    pub fn refused(self, words: &[&str]) {
        assert_eq!(self.code, 1, "{self}");
        let told = self.stderr.trim_end();
        let lower = told.to_lowercase();
        for word in words {
            assert!(lower.contains(&word.to_lowercase()), "{word:?} is not said: {self}");
        }
        let last = told.lines().last().unwrap_or_default();
        assert!(last.starts_with("wharf: ") || last.starts_with("ctr: "), "no `NAME: ` before the reason: {self}");
        for noise in ["panicked", "RUST_BACKTRACE", "Error {", "Some(", "Refusal"] {
            assert!(!told.contains(noise), "{noise:?} is not for people: {self}");
        }
    }

    /// It printed this, blanks around it aside.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn prints(self, text: &str) {
        assert_eq!(self.stdout.trim(), text.trim(), "{self}");
    }

    /// Standard output as a table: a row a line, split at blanks.
    #[must_use]
    pub fn table(&self) -> Vec<Vec<String>> {
        self.stdout.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }

    /// The table's first row.
    #[must_use]
    pub fn header(&self) -> String {
        self.table().first().map(|row| row.join(" ")).unwrap_or_default()
    }

    /// The table's row whose first cell is this.
    #[must_use]
    pub fn row(&self, first: &str) -> Option<Vec<String>> {
        self.table().into_iter().find(|row| row.first().is_some_and(|cell| cell == first))
    }

    /// Standard output's lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.stdout.lines()
    }
}
