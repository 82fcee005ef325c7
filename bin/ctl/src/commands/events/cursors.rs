//! `events cursors`: the places in the log that the daemon remembers.

use crate::{
    context::Context,
    failure::Outcome,
    output::{self, table::Table, time::rfc3339},
};
use clap::{Args, Subcommand};
use std::io::Write;
use wharf_messages::{
    CursorName,
    cursor::{CursorInfo, DeleteCursor, ListCursors},
};

/// Show and delete cursors.
#[derive(Debug, Subcommand)]
pub enum Cursors {
    /// List cursors, and how far behind the log's end each is
    #[command(visible_alias = "ls")]
    List(List),
    /// Delete cursors that nobody uses
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(Delete),
}

/// How to list.
#[derive(Debug, Args)]
pub struct List {
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
}

/// Which to delete.
#[derive(Debug, Args)]
pub struct Delete {
    /// Their names
    #[arg(value_name = "NAME", required = true)]
    cursors: Vec<CursorName>,
}

impl Cursors {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let mut out = output::stdout();
        match self {
            Self::List(List { quiet }) => {
                let cursors = client.call(ListCursors {}).await?;
                if quiet {
                    for info in &cursors {
                        writeln!(out, "{}", info.cursor.name)?;
                    }
                } else {
                    rows(&cursors).write(&mut out)?;
                }
            }
            Self::Delete(Delete { cursors }) => {
                for name in cursors {
                    client.call(DeleteCursor { name: name.clone() }).await?;
                    writeln!(out, "{name}")?;
                }
            }
        }
        Ok(out.flush()?)
    }
}

fn rows(cursors: &[CursorInfo]) -> Table {
    let mut table = Table::wide();
    table.row(["CURSOR", "SHARED", "ACKNOWLEDGED", "BEHIND", "SUBSCRIBERS", "MOVED AT"]);
    for CursorInfo { cursor, behind, subscribers } in cursors {
        table.row([
            cursor.name.as_str(),
            if cursor.shared { "yes" } else { "no" },
            &cursor.acked.0.to_string(),
            &behind.to_string(),
            &subscribers.to_string(),
            &rfc3339(cursor.moved_at),
        ]);
    }
    table
}
