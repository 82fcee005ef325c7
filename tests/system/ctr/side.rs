//! One of those compared: a daemon, a client, a namespace, a folder.

use super::{normal::Normal, step::Step};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use wharf_tests::{Pty, cgroups, command, command::Program, unique, wait};

/// What every line begins with. The shell has the variables of [`super::world::World`]; its folder is the side's own.
const PRELUDE: &str = r#"
# Waits until a task has a status.
becomes() {
    for _ in $(seq 600); do
        ctr tasks ls | grep -Eq "^$1 +[0-9]+ +$2" && return
        sleep 0.05
    done
    echo "$1 is not $2" >&2
    return 1
}
# Waits until a file has something in it: the client misses an end of its input that comes before it has started the
# process, and waits for ever then.
filled() {
    for _ in $(seq 600); do
        [ -s "$1" ] && return
        sleep 0.05
    done
    echo "$1 stays empty" >&2
    return 1
}
"#;

/// How long a line may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What a line gave, made comparable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A daemon as one client sees it in one scenario.
#[derive(Debug)]
pub struct Side {
    /// Where the client is found.
    search_path: String,
    address: PathBuf,
    /// The namespace that no other side or scenario has.
    pub namespace: String,
    folder: PathBuf,
    env: Vec<(String, String)>,
    normal: Normal,
}

impl Side {
    /// A side with a namespace and a folder of its own.
    pub fn new(daemon_folder: &Path, address: PathBuf, client_folder: Option<&Path>, env: &[(String, String)]) -> Self {
        let namespace = unique("n");
        let folder = daemon_folder.join(&namespace);
        fs::create_dir(&folder).unwrap();
        let before = client_folder.map(|folder| format!("{}:", folder.display())).unwrap_or_default();
        let search_path = format!("{before}{}", std::env::var("PATH").unwrap());
        let normal = Normal::new(&namespace, &folder, &address, daemon_folder);
        Self { search_path, address, namespace, folder, env: env.to_vec(), normal }
    }

    fn command(&self, line: &str) -> std::process::Command {
        let mut shell = Program::new("sh")
            .env("PATH", &self.search_path)
            .env("CONTAINERD_ADDRESS", &self.address)
            .env("CONTAINERD_NAMESPACE", &self.namespace)
            .env("NS", &self.namespace)
            .env("DIR", &self.folder);
        for (key, value) in &self.env {
            shell = shell.env(key, value);
        }
        let mut command = shell.command(["-c", &format!("{PRELUDE}\n{line}")]);
        command.current_dir(&self.folder);
        command
    }

    /// Runs a step's line.
    pub fn run(&self, step: &Step) -> Outcome {
        let (code, stdout, stderr) = match step.keys {
            None => {
                let output = command::run(self.command(step.line), b"", LIMIT);
                (output.code, output.stdout, output.stderr)
            }
            Some(keys) => {
                let mut terminal = Pty::spawn(self.command(step.line));
                for (shown, typed) in keys {
                    if !shown.is_empty() {
                        terminal.expect(shown);
                    }
                    terminal.send(typed);
                }
                let code = terminal.exit_code();
                (code, terminal.screen_at_end(), String::new())
            }
        };
        let mut stdout = self.normal.text(&stdout);
        if step.unordered {
            let mut lines: Vec<_> = stdout.lines().collect();
            lines.sort_unstable();
            stdout = lines.join("\n");
        }
        Outcome { code, stdout, stderr: self.normal.text(&stderr) }
    }

    /// The lines of a watcher's output that are of this side's namespace, made comparable. The last one is a mark that
    /// is set here, so that all before it is there.
    pub fn events(&self, watched: &Path) -> Vec<String> {
        let mark = format!("/namespaces/create {{\"name\":\"{}-end\"", self.namespace);
        let marked = command::run(self.command("ctr namespaces create $NS-end"), b"", LIMIT);
        let lines = wait::within(wait::PATIENCE, || {
            let text = fs::read_to_string(watched).unwrap();
            let lines: Vec<_> = text.lines().filter(|line| line.contains(&self.namespace)).collect();
            text.contains(&mark).then(|| lines.iter().map(|line| self.normal.text(line)).collect::<Vec<_>>())
        });
        lines.unwrap_or_else(|| panic!("no mark among the events of {}: {marked}", self.namespace))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Empty by now, or their processes would be among those that the daemon's guard ends.
        let _ = cgroups::remove(&self.namespace);
    }
}
