//! `doctor`: whether this host can run containers, and what to do if not.

use crate::{
    context::Context,
    doctor::{Finding, Grade, Host},
    failure::{Failure, Outcome},
    output::{self, table::Table},
};
use clap::Args;
use std::{io::Write, path::PathBuf, time::SystemTime};
use wharf_messages::system::GetDaemonInfo;

/// What to look at.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Folder of the durable state, if no daemon runs that says so
    #[arg(long, value_name = "DIR", default_value = "/var/lib/wharf")]
    root: PathBuf,
    /// Folder of the state that dies with a boot, if no daemon runs that says so
    #[arg(long, value_name = "DIR", default_value = "/run/wharf")]
    state: PathBuf,
}

impl Doctor {
    /// Runs the command.
    ///
    /// # Errors
    /// With exit code 1, if something is found that keeps containers from running.
    pub async fn run(self, context: &Context) -> Outcome {
        let (daemon, root, state) = self.daemon(context).await;
        // Programs are looked for where the daemon's are: beside this one first.
        let beside =
            std::env::current_exe().ok().and_then(|path| path.parent().map(|folder| folder.display().to_string()));
        let path = [beside.unwrap_or_default(), std::env::var("PATH").unwrap_or_default()].join(":");
        let now_seconds = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let host = Host { root: "/".into(), wharf_root: root, wharf_state: state, path, now_seconds };
        let mut findings = host.examine();
        findings.push(daemon);
        let mut out = output::stdout();
        rows(&findings).write(&mut out)?;
        out.flush()?;
        match findings.iter().filter(|finding| finding.grade == Grade::Bad).count() {
            0 => Ok(()),
            bad => Err(Failure::new(format!("{bad} of {} parts keep containers from running", findings.len()))),
        }
    }

    /// Whether a daemon answers, and its folders.
    async fn daemon(&self, context: &Context) -> (Finding, PathBuf, PathBuf) {
        let asked = async { Ok::<_, Failure>(context.client().await?.call(GetDaemonInfo {}).await?) };
        match asked.await {
            Ok(info) => {
                let found = format!("wharfd {} answers, pid {}", info.version, info.pid);
                let finding = Finding { part: "daemon", grade: Grade::Fine, found, advice: String::new() };
                (finding, info.root.into(), info.state.into())
            }
            Err(failure) => {
                let found = failure.text.unwrap_or_default();
                let advice = "start wharfd, or name its socket by --address".to_owned();
                let finding = Finding { part: "daemon", grade: Grade::Weak, found, advice };
                (finding, self.root.clone(), self.state.clone())
            }
        }
    }
}

fn rows(findings: &[Finding]) -> Table {
    let mut table = Table::wide();
    table.row(["PART", "STATUS", "FOUND"]);
    for finding in findings {
        let status = match finding.grade {
            Grade::Fine => "ok",
            Grade::Weak => "warning",
            Grade::Bad => "FAILED",
        };
        table.line([finding.part, status, &finding.found]);
        if !finding.advice.is_empty() {
            table.line(["", "", &format!("-> {}", finding.advice)]);
        }
    }
    table
}
