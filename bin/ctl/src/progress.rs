//! What a pull looks like while it runs: a line a blob with its state and a bar, redrawn in place on a terminal.

use crate::output::{printable, table::Table, units};
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};
use wharf_messages::{
    Digest, Platform,
    image::{Progress, ProgressState},
};

/// Between two drawings.
pub const REDRAW: Duration = Duration::from_millis(100);
/// Characters of a bar, its ends included.
const BAR_CHARS: usize = 40;
/// A line that is wider than any terminal would hide what is below it.
const LINES_MAX: usize = 512;

/// What is known of a transfer: the latest of each reference, in the order in which they turned up.
#[derive(Debug)]
pub struct Transfer {
    lines: Vec<Progress>,
    /// Platforms whose layers are being written out.
    unpacking: Vec<(Platform, Digest)>,
    /// When the last blob came in.
    fetched_at: Instant,
    started_at: Instant,
}

impl Transfer {
    /// A transfer of the image of that name, about to be looked up.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let now = Instant::now();
        let resolving = Progress {
            reference: name.to_owned(),
            state: ProgressState::Resolving,
            offset_bytes: 0,
            total_bytes: 0,
            digest: None,
            platform: None,
        };
        Self { lines: vec![resolving], unpacking: Vec::new(), fetched_at: now, started_at: now }
    }

    /// A transfer whose parts the daemon knows and tells.
    #[must_use]
    pub fn of_parts() -> Self {
        let now = Instant::now();
        Self { lines: Vec::new(), unpacking: Vec::new(), fetched_at: now, started_at: now }
    }

    /// Takes in what the daemon tells.
    pub fn note(&mut self, progress: Progress) {
        if matches!(progress.state, ProgressState::Unpacking | ProgressState::Unpacked) {
            let (Some(platform), Some(digest)) = (progress.platform, progress.digest) else { return };
            if !self.unpacking.iter().any(|(known, _)| *known == platform) {
                self.unpacking.push((platform, digest));
            }
            return;
        }
        if progress.state == ProgressState::Done {
            self.fetched_at = Instant::now();
        }
        let known = self.lines.iter().position(|line| line.reference == progress.reference);
        match known {
            Some(place) => self.lines[place] = progress,
            None if self.lines.len() < LINES_MAX => self.lines.push(progress),
            None => {}
        }
    }

    /// Notes that all of it is here.
    pub fn finish(&mut self) {
        for line in &mut self.lines {
            line.state = match line.state {
                ProgressState::Resolving | ProgressState::Resolved => ProgressState::Resolved,
                ProgressState::Exists => ProgressState::Exists,
                _ => ProgressState::Done,
            };
        }
    }

    /// The platforms whose layers were written out.
    #[must_use]
    pub fn unpacked(&self) -> Vec<Platform> {
        self.unpacking.iter().map(|(platform, _)| platform.clone()).collect()
    }

    /// How long it took from the last blob's arrival until now: the part of unpacking that did not overlap.
    #[must_use]
    pub fn since_fetched(&self) -> Duration {
        self.fetched_at.elapsed()
    }

    /// The lines for now.
    #[must_use]
    pub fn draw(&self, style: Style) -> String {
        self.draw_after(self.started_at.elapsed(), style)
    }

    fn draw_after(&self, elapsed: Duration, style: Style) -> String {
        let mut table = Table::narrow().styled();
        let mut total_bytes = 0;
        for line in &self.lines {
            // What was here before was not transferred.
            total_bytes += if line.state == ProgressState::Exists { 0 } else { line.offset_bytes };
            let (name, state) = (format!("{}:", printable(&line.reference)), state_text(line.state));
            match line.state {
                ProgressState::Downloading | ProgressState::Uploading => {
                    let bar = style.bar(line.offset_bytes, line.total_bytes);
                    let offset: String = units::binary_size(line.offset_bytes).chars().take(8).collect();
                    let sizes = format!("{offset:>8}/{}", units::binary_size(line.total_bytes));
                    table.row([name, state.to_owned(), bar, sizes]);
                }
                ProgressState::Resolving | ProgressState::Waiting => {
                    table.row([name, state.to_owned(), style.bar(0, 1)]);
                }
                _ => table.row([name, state.to_owned(), style.bar(1, 1)]),
            }
        }
        let total: String = units::binary_size(total_bytes).chars().take(6).collect();
        let seconds = elapsed.as_secs_f64();
        table.row([
            format!("elapsed: {seconds:<4.1}s"),
            format!("total: {total:>7}"),
            format!("({})", units::rate(total_bytes, elapsed)),
        ]);
        let mut out = Vec::new();
        // Writing to memory does not fail.
        let _ = table.write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The drawing, followed by what is being unpacked.
    #[must_use]
    pub fn draw_all(&self, style: Style) -> String {
        let mut text = self.draw(style);
        for (platform, digest) in &self.unpacking {
            text.push_str(&unpacking_line(platform, digest));
        }
        text
    }
}

/// `unpacking linux/amd64 sha256:...`, as `ctr` says it.
#[must_use]
pub fn unpacking_line(platform: &Platform, digest: &Digest) -> String {
    format!("unpacking {platform} {digest}...\n")
}

fn state_text(state: ProgressState) -> &'static str {
    match state {
        ProgressState::Resolving => "resolving",
        ProgressState::Resolved => "resolved",
        ProgressState::Waiting => "waiting",
        ProgressState::Downloading => "downloading",
        ProgressState::Done => "done",
        ProgressState::Exists => "exists",
        ProgressState::Unpacking => "unpacking",
        ProgressState::Unpacked => "unpacked",
        ProgressState::Uploading => "uploading",
    }
}

/// Whether bars are green.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// They are.
    Colour,
    /// They are not: not on a terminal, or the user wants none.
    Plain,
}

impl Style {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a bar")]
    fn bar(self, part: u64, whole: u64) -> String {
        let share = if whole == 0 { 0.0 } else { (part as f64 / whole as f64).clamp(0.0, 1.0) };
        let inner = BAR_CHARS - 2;
        let filled = (inner as f64 * share) as usize;
        let (on, off) = match self {
            Self::Colour => ("\x1b[32m", "\x1b[0m"),
            Self::Plain => ("", ""),
        };
        format!("|{on}{}{off}{}|", "+".repeat(filled), "-".repeat(inner - filled))
    }
}

/// Standard output as a place to draw: on a terminal each drawing replaces the one before.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    style: Style,
    drawn_lines: usize,
}

impl Screen {
    /// Standard output as it is.
    #[must_use]
    pub fn stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal, style: if colour { Style::Colour } else { Style::Plain }, drawn_lines: 0 }
    }

    /// Whether drawings replace each other; elsewhere only the last one should be shown.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.terminal
    }

    /// How bars look here.
    #[must_use]
    pub fn style(&self) -> Style {
        self.style
    }

    /// Replaces the last drawing.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn show(&mut self, text: &str) -> io::Result<()> {
        let mut out = "\x1b[1A\x1b[2K\r".repeat(self.drawn_lines);
        out.push_str(text);
        self.drawn_lines = if self.terminal { rows(text, crate::terminal::columns()) } else { 0 };
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()
    }
}

/// How many rows a text takes on a terminal that wraps long lines.
fn rows(text: &str, columns: usize) -> usize {
    let width = |line: &str| {
        let mut in_escape = false;
        line.chars()
            .filter(|c| {
                match (in_escape, c) {
                    (false, '\x1b') => in_escape = true,
                    (true, 'm') => {
                        in_escape = false;
                        return false;
                    }
                    _ => {}
                }
                !in_escape
            })
            .count()
    };
    if columns == 0 {
        return 0;
    }
    text.lines().map(|line| width(line).div_ceil(columns).max(1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(reference: &str, state: ProgressState, offset_bytes: u64, total_bytes: u64) -> Progress {
        Progress { reference: reference.into(), state, offset_bytes, total_bytes, digest: None, platform: None }
    }

    /// The golden text is what `ctr` 1.6.20 left on a terminal.
    #[test]
    fn the_last_drawing_is_that_of_ctr() {
        let digests = [
            ("manifest", "f4b7576ac60759341315548d1e177048bc4c060cb79d5629f3a1f5606a0600e7"),
            ("layer", "0dc572239301f2848b23d0459af4da0d578d91f77d8f48bc168d397379f4dc3a"),
            ("config", "60f67af656f421b73750405bfd40cfa8dcd8623001baa5629606ca8602694adc"),
        ];
        let mut transfer = Transfer::of("127.0.0.1:5077/app/web:latest");
        for (what, hex) in digests {
            transfer.note(progress(&format!("{what}-sha256:{hex}"), ProgressState::Downloading, 0, 0));
        }
        transfer.finish();
        let text = transfer.draw_after(Duration::from_millis(110), Style::Colour);
        assert_eq!(text, include_str!("../tests/golden/progress.txt"));
        assert_eq!(rows(&text, 1000), 5);
    }

    #[test]
    fn a_line_shows_how_far_its_blob_is() {
        let mut transfer = Transfer::of("r");
        transfer.note(progress("layer-x", ProgressState::Waiting, 0, 12 << 20));
        transfer.note(progress("layer-x", ProgressState::Downloading, 3 << 20, 12 << 20));
        let text = transfer.draw_after(Duration::from_millis(1250), Style::Plain);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "r:             resolving      |--------------------------------------| ",
                "layer-x:       downloading    |+++++++++-----------------------------|  3.0 MiB/12.0 MiB ",
                "elapsed: 1.2 s total:  3.0 Mi (2.4 MiB/s)                              ",
            ]
        );
    }

    #[test]
    fn long_lines_take_several_rows() {
        assert_eq!(rows("abc\n\nabcdefgh\n", 4), 4);
        assert_eq!(rows("\x1b[32mabcd\x1b[0m\n", 4), 1);
        assert_eq!(rows("abc\n", 0), 0);
    }
}
