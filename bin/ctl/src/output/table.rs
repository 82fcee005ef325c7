//! Aligned columns, byte for byte as Go's `text/tabwriter` lays them out, because scripts cut `ctr`'s output apart.

use super::printable;
use std::io::{self, Write};

/// What fills the space between two cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Spaces, at least this many.
    Spaces(usize),
    /// Tabs, at stops of eight, after at least one character.
    Tabs,
}

/// A table under construction.
///
/// A cell belongs to a column only if a tab follows it: what comes after a line's last tab has no width for its
/// neighbours. A column is as wide as its widest cell in an unbroken run of lines that have it.
///
/// # Spec
/// Go standard library, package text/tabwriter.
#[derive(Debug)]
pub struct Table {
    lines: Vec<Vec<String>>,
    min_width: usize,
    padding: Padding,
    is_styled: bool,
}

impl Table {
    /// Most of `ctr`'s tables: one space between columns.
    #[must_use]
    pub fn narrow() -> Self {
        Self::new(1, Padding::Spaces(1))
    }

    /// `ctr`'s tables of containers, tasks and plugins: four spaces between columns.
    #[must_use]
    pub fn wide() -> Self {
        Self::new(4, Padding::Spaces(4))
    }

    /// `ctr`'s tables of content: tab stops.
    #[must_use]
    pub fn tabbed() -> Self {
        Self::new(1, Padding::Tabs)
    }

    /// A table with columns of at least `min_width`.
    #[must_use]
    pub fn new(min_width: usize, padding: Padding) -> Self {
        Self { lines: Vec::new(), min_width, padding, is_styled: false }
    }

    /// The same table, whose cells may hold escape sequences of ours. Elsewhere control characters are spelt out.
    #[must_use]
    pub fn styled(self) -> Self {
        Self { is_styled: true, ..self }
    }

    /// Adds a line; every cell but the last is followed by a tab. End with an empty cell to close the last column.
    pub fn line<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let clean = |cell: S| {
            let cell: String = cell.into();
            if self.is_styled { cell } else { printable(&cell).into_owned() }
        };
        let cells = cells.into_iter().map(clean).collect();
        self.lines.push(cells);
    }

    /// Adds a line whose last column is closed too.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.line(cells);
        if let Some(cells) = self.lines.last_mut() {
            cells.push(String::new());
        }
    }

    /// Writes the table out.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let widths = self.widths();
        for (line, widths) in self.lines.iter().zip(widths) {
            for (i, cell) in line.iter().enumerate() {
                out.write_all(cell.as_bytes())?;
                if let Some(width) = widths.get(i) {
                    self.pad(out, cell.chars().count(), *width)?;
                }
            }
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    /// The widths of each line's closed columns.
    fn widths(&self) -> Vec<Vec<usize>> {
        let closed = |line: &Vec<String>| line.len().saturating_sub(1);
        let mut widths: Vec<Vec<usize>> = self.lines.iter().map(|line| vec![0; closed(line)]).collect();
        let columns = self.lines.iter().map(closed).max().unwrap_or(0);
        for column in 0..columns {
            let mut start = 0;
            while start < self.lines.len() {
                let end = (start..self.lines.len()).find(|&i| closed(&self.lines[i]) <= column);
                let end = end.unwrap_or(self.lines.len());
                let extra = match self.padding {
                    Padding::Spaces(n) => n,
                    Padding::Tabs => 1,
                };
                let widest = self.lines[start..end].iter().map(|line| line[column].chars().count() + extra).max();
                for line in &mut widths[start..end] {
                    line[column] = widest.unwrap_or(0).max(self.min_width);
                }
                start = end + 1;
            }
        }
        widths
    }

    fn pad(&self, out: &mut impl Write, used: usize, width: usize) -> io::Result<()> {
        match self.padding {
            Padding::Spaces(_) => write!(out, "{:1$}", "", width.saturating_sub(used)),
            Padding::Tabs => {
                let stop = width.div_ceil(8) * 8;
                for _ in 0..stop.saturating_sub(used).div_ceil(8) {
                    out.write_all(b"\t")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(table: &Table) -> String {
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn closed_columns_are_padded_and_open_ones_are_not() {
        let mut table = Table::wide();
        table.row(["TASK", "PID", "STATUS"]);
        table.line(["d1", "22430", "RUNNING"]);
        assert_eq!(text(&table), "TASK    PID      STATUS    \nd1      22430    RUNNING\n");
    }

    #[test]
    fn a_shorter_line_ends_the_columns_it_does_not_have() {
        let mut table = Table::new(1, Padding::Spaces(4));
        table.row(["ID", "TIMESTAMP"]);
        table.row(["d1", "now"]);
        table.line([""]);
        table.row(["METRIC", "VALUE"]);
        table.row(["a.very.long.name", "1"]);
        assert_eq!(
            text(&table),
            "ID    TIMESTAMP    \nd1    now          \n\nMETRIC              VALUE    \na.very.long.name    1        \n"
        );
    }

    #[test]
    fn tabs_reach_the_next_stop() {
        let mut table = Table::tabbed();
        table.row(["REF", "SIZE", "AGE"]);
        table.row(["r2", "6B", "Less than a second"]);
        assert_eq!(text(&table), "REF\tSIZE\tAGE\t\t\t\nr2\t6B\tLess than a second\t\n");
    }
}
