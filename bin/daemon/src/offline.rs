//! What is done with a root while no daemon has it: looking whether it is whole, and mending it.

use crate::{config::Config, print};
use std::{error::Error, fmt::Write as _, path::Path};
use wharf_messages::{Answer, Refusal};
use wharf_store::{Checked, OpenError, Remedy, Report};

/// Looks at a root, and says what is wrong with it.
///
/// # Errors
/// If it cannot be opened, or anything is wrong.
pub fn check(config: &Config, deep: bool) -> Answer<()> {
    let report = open(config, deep)?.check(deep)?;
    let mut text = counts(&report);
    for problem in &report.problems {
        line(&mut text, &format!("{problem}{}", if problem.remedy == Remedy::None { "" } else { " (can be mended)" }));
    }
    print(&text)?;
    match (report.problems.len(), report.repaired_pages) {
        (0, _) => Ok(()),
        (problems, _) => {
            let mendable = report.problems.iter().filter(|problem| problem.remedy != Remedy::None).count();
            let hint = if mendable == 0 { String::new() } else { format!(", wharfd repair mends {mendable}") };
            Err(Refusal::data_loss(format!("{problems} problems{hint}")))
        }
    }
}

/// Mends what can be mended, and says what was done and what is left.
///
/// # Errors
/// If the root cannot be opened or changed, or anything is left that cannot be mended.
pub fn repair(config: &Config, deep: bool) -> Answer<()> {
    let mut checked = open(config, deep)?;
    let report = checked.check(deep)?;
    let mut text = counts(&report);
    let mut reindexed = false;
    for problem in &report.problems {
        if problem.remedy == Remedy::Reindex && std::mem::replace(&mut reindexed, true) {
            // One writing mends all indexes.
            continue;
        }
        match checked.mend(problem) {
            Ok(Some(done)) => line(&mut text, &format!("{problem}: {done}")),
            Ok(None) => line(&mut text, &format!("{problem}: left as it is")),
            Err(refusal) => {
                // What was done so far is told all the same.
                print(&text)?;
                return Err(refusal.context(problem));
            }
        }
    }
    print(&text)?;
    match checked.check(deep)?.problems.len() {
        0 => Ok(()),
        left => Err(Refusal::data_loss(format!("{left} problems are left that cannot be mended"))),
    }
}

/// Puts a copy in the place of the root's database, and says how the rest of the root fits to it.
///
/// # Errors
/// If it cannot be; then the root is as it was.
pub fn restore(config: &Config, file: &Path, force: bool) -> Answer<()> {
    wharf_store::restore(&config.root, file, force).map_err(|error| match error {
        OpenError::NotEmpty { .. } => Refusal::already_exists(format!("{error}: give --force to replace it")),
        error => refusal_of(&error),
    })?;
    let report = open(config, false)?.check(false)?;
    let mut text = counts(&report);
    for problem in &report.problems {
        line(&mut text, &problem.to_string());
    }
    // What the copy and the root do not have in common is told; that the copy is in its place stands.
    print(&text)
}

fn open(config: &Config, deep: bool) -> Answer<Checked> {
    Checked::open(&config.root, deep).map_err(|error| refusal_of(&error))
}

/// Why a root cannot be opened, and what is left to do.
pub fn refusal_of(error: &OpenError) -> Refusal {
    let mut detail = error.to_string();
    if let Some(source) = error.source() {
        let _ = write!(detail, ": {source}");
    }
    match error {
        OpenError::InUse { .. } => Refusal::unavailable(format!("{detail}: stop it first")),
        OpenError::Damaged { .. } | OpenError::Database { .. } => {
            Refusal::data_loss(format!("{detail}: it cannot be mended, restore a backup (wharfd restore)"))
        }
        _ => Refusal::internal(detail),
    }
}

fn counts(report: &Report) -> String {
    let counts: Vec<_> = report.counts.iter().map(|(count, what)| format!("{count} {what}")).collect();
    let mut text = format!("looked at {}\n", counts.join(", "));
    if report.repaired_pages {
        line(&mut text, "the database's pages were damaged, and have been repaired by what it keeps for that");
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
