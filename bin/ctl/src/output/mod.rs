//! What the commands print: tables, sizes, times and JSON as people (and their scripts) know them from `ctr`.

pub mod json;
pub mod table;
pub mod time;
pub mod units;

use std::io::{self, Write};
use wharf_messages::Labels;

/// A writer of standard output for a whole answer: one lock, few system calls.
///
/// Dropping it without [`flush`](Write::flush) would lose errors, so every command flushes.
pub fn stdout() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::with_capacity(32 << 10, io::stdout().lock())
}

/// Prints one line.
///
/// # Errors
/// Those of writing to standard output.
pub fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// `KEY=VALUE` pairs joined by commas; empty for no labels.
#[must_use]
pub fn labels(labels: &Labels) -> String {
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// As [`labels`], with `-` for none: what a column shows.
#[must_use]
pub fn labels_or_dash(of: &Labels) -> String {
    if of.is_empty() { "-".to_owned() } else { labels(of) }
}
