//! `supervision`: how the parts of the daemon fare.

use crate::{
    context::Context,
    failure::Outcome,
    output::{self, table::Table, units},
};
use clap::Subcommand;
use std::{io::Write, time::Duration};
use wharf_messages::supervision::{ChildReport, GetSupervisionTree, Restart, RestartChild};

/// Show the daemon's supervision tree, and restart parts of it.
#[derive(Debug, Subcommand)]
pub enum Supervision {
    /// Draw it, with restarts and waiting messages of each part
    Tree,
    /// Restart one part, which reads back what it must know; containers do not notice
    Restart {
        /// Its path, as the tree shows it: `images`, `tasks/default/web`
        path: String,
    },
}

impl Supervision {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        if let Self::Restart { path } = self {
            return Ok(context.client().await?.call(RestartChild { path }).await?);
        }
        let tree = context.client().await?.call(GetSupervisionTree {}).await?;
        let mut out = output::stdout();
        rows(&tree).write(&mut out)?;
        Ok(out.flush()?)
    }
}

fn rows(tree: &[ChildReport]) -> Table {
    let mut table = Table::wide();
    table.row(["CHILD", "RESTART", "RESTARTS", "WAITING", "AGE", "LAST REASON"]);
    for child in tree {
        let restart = match child.restart {
            Restart::Permanent => "permanent",
            Restart::Transient => "transient",
            Restart::Temporary => "temporary",
        };
        table.row([
            branch(child, tree).as_str(),
            restart,
            &child.restarts.to_string(),
            &child.mailbox_depth.to_string(),
            &units::age(Duration::from_millis(child.age_ms)),
            child.last_reason.as_deref().unwrap_or("-"),
        ]);
    }
    table
}

/// The name of a child below the lines that lead to it.
fn branch(child: &ChildReport, tree: &[ChildReport]) -> String {
    if child.path.is_empty() {
        return "root".to_owned();
    }
    // The nearest ancestor that is in the tree: namespaces between a plural actor and its children are no actors.
    let parent = tree.iter().filter(|other| is_below(&child.path, &other.path)).max_by_key(|other| other.path.len());
    // The root's own line, if it is there, takes no room.
    let depth = tree.iter().filter(|other| !other.path.is_empty() && is_below(&child.path, &other.path)).count();
    let name = match parent {
        Some(parent) if !parent.path.is_empty() => &child.path[parent.path.len() + 1..],
        _ => &child.path,
    };
    format!("{}|- {name}", "   ".repeat(depth))
}

fn is_below(path: &str, ancestor: &str) -> bool {
    path != ancestor && (ancestor.is_empty() || path.strip_prefix(ancestor).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_hang_below_their_nearest_living_ancestor() {
        let tree: Vec<_> = ["", "journal", "tasks", "tasks/default/web", "tasks/default/web/exec"]
            .map(|path| ChildReport {
                path: path.to_owned(),
                restart: Restart::Permanent,
                restarts: 0,
                last_reason: None,
                mailbox_depth: 0,
                age_ms: 0,
            })
            .into();
        let branches = |tree: &[ChildReport]| tree.iter().map(|child| branch(child, tree)).collect::<Vec<_>>();
        assert_eq!(branches(&tree[1..]), branches(&tree)[1..]);
        assert_eq!(branches(&tree), ["root", "|- journal", "|- tasks", "   |- default/web", "      |- exec"]);
    }
}
