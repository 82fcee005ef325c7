//! Running a plugin.

use serde::Deserialize;
use serde_json::Value;
use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::{self, Output, Stdio},
    thread,
    time::Duration,
};
use wharf_messages::{Answer, Refusal, RefusalKind};

/// How often a plugin that is being replaced at this moment is tried, and how long to wait in between.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// The kind of what a plugin itself says that fails.
pub(super) const FAILED: RefusalKind = RefusalKind::Unknown;

/// What a plugin is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    Add,
    Delete,
}

/// For whom it is to do it.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) command: Command,
    pub(super) container: &'a str,
    /// The path of the network namespace; empty if it is gone.
    pub(super) namespace: &'a str,
    pub(super) interface: &'a str,
    /// Where plugins are looked for; theirs too, since they call others.
    pub(super) folders: &'a [PathBuf],
}

/// What a plugin answers that fails.
#[derive(Deserialize)]
struct Failed {
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Call<'_> {
    /// Runs a plugin and answers what it printed.
    pub(super) fn run(&self, kind: &str, input: &Value) -> Answer<Vec<u8>> {
        let program = self.folders.iter().map(|folder| folder.join(kind)).find(|path| path.is_file());
        let program = program.ok_or_else(|| {
            let folders: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
            Refusal::not_found(format!("failed to find plugin {kind:?} in path [{}]", folders.join(" ")))
        })?;
        let failed = |error: &io::Error| Refusal::io(format!("run {}", program.display()), error);
        let input = serde_json::to_vec(input).map_err(|error| Refusal::internal(format!("write JSON: {error}")))?;
        let mut tries = 0;
        let output = loop {
            match self.once(&program, &input) {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                    tries += 1;
                    thread::sleep(BUSY_PAUSE);
                }
                other => break other.map_err(|error| failed(&error))?,
            }
        };
        if !output.status.success() {
            return Err(Refusal { kind: FAILED, detail: reason(&output) });
        }
        // What it has to say besides. With standard error gone there is nobody left to tell.
        let _ = io::stderr().write_all(&output.stderr);
        Ok(output.stdout)
    }

    fn once(&self, program: &PathBuf, input: &[u8]) -> io::Result<Output> {
        let command = match self.command {
            Command::Add => "ADD",
            Command::Delete => "DEL",
        };
        let path = std::env::join_paths(self.folders).unwrap_or_else(|_| OsString::new());
        let mut child = process::Command::new(program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", self.namespace)
            .env("CNI_ARGS", "")
            .env("CNI_IFNAME", self.interface)
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        thread::scope(|scope| {
            // It may say something before it has read all. One that does not read it has its own reasons to tell.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            child.wait_with_output()
        })
    }
}

/// Why a plugin failed.
fn reason(output: &Output) -> String {
    if output.stdout.is_empty() {
        return match output.stderr.is_empty() {
            true => format!("netplugin failed with no error message: {}", output.status),
            false => format!("netplugin failed: {:?}", String::from_utf8_lossy(&output.stderr)),
        };
    }
    match serde_json::from_slice::<Failed>(&output.stdout) {
        Ok(Failed { msg, details }) if details.is_empty() => msg,
        Ok(Failed { msg, details }) => format!("{msg}; {details}"),
        Err(error) => {
            let said = String::from_utf8_lossy(&output.stdout);
            format!("netplugin failed but error parsing its diagnostic message {said:?}: {error}")
        }
    }
}
