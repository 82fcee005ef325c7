//! What the commands print: tables, sizes, times and JSON as people (and their scripts) know them from `ctr`.

pub mod json;
pub mod table;
pub mod time;
pub mod units;

use std::{
    borrow::Cow,
    io::{self, Write},
};
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

/// A text with its control characters spelt out (`\\n`, `\\u{1b}`): what registries, archives and containers say must not
/// move the cursor of a terminal or look like a line of ours.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let spelt = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(spelt).collect())
}

/// `KEY=VALUE` pairs joined by commas; empty for no labels.
#[must_use]
pub fn labels(labels: &Labels) -> String {
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    printable(&pairs.join(",")).into_owned()
}

/// As [`labels`], with `-` for none: what a column shows.
#[must_use]
pub fn labels_or_dash(of: &Labels) -> String {
    if of.is_empty() { "-".to_owned() } else { labels(of) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelt_out() {
        assert_eq!(printable("plain \u{f6}"), "plain \u{f6}");
        assert_eq!(printable("a\nb\x1b[2J\u{9b}"), "a\\nb\\u{1b}[2J\\u{9b}");
    }
}
