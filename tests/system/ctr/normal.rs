//! Taking out of texts what differs from run to run: times, random names, process ids, folders.

use regex::Regex;
use std::path::Path;

/// Patterns and what they become, in this order.
const PATTERNS: &[(&str, &str)] = &[
    (r"\x1b\[[0-9;]*[A-Za-z]", ""),
    // Progress is a list that ends with this line, again and again: the last one counts. Whether a blob was there before
    // the client began to look, and whether it was still looking when all was over, is a race of the client with itself.
    (r"(?s)^(?:.*\n)?elapsed: [^\n]*\n(.*\nelapsed: )", "$1"),
    (r"(?m): +(?:done|exists) +\|\++\|", ": done"),
    (r"(?m)^.*(?:failed to get content info|active check failed).*context canceled.*\n", ""),
    (r"(?m)^.*: +resolving +\|-*\| *\nelapsed: .*\n?", ""),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d| [+-]\d{4} [A-Z]+)?", "TIME"),
    (r"import-\d{4}-\d\d-\d\d", "import-DAY"),
    (r#""(seconds|nanos)":\d+"#, r#""$1":N"#),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
    // Ids that clients make of the time and something random.
    (r"\b\d{9,19}-[\w+/=-]{4}(?:\b|$)|\b[0-9a-f]{24}\b", "RANDOM"),
    (r"/run/(?:containerd|wharf)/fifo/\d+/", "FIFO/"),
    (r"extract-\S+ ", "extract-RANDOM "),
    (r#"-parent-view-[^\s"]+"#, "-parent-view-RANDOM"),
    (r"/fifos/\d+/", "/fifos/RANDOM/"),
    // A runtime's options may have a folder in them; here they are in base64.
    (r#""value":"[^"]*""#, r#""value":"OPTIONS""#),
    // Ages and lengths of time.
    (r"\b(?:Less than a second|About an? \w+|\d+ (?:second|minute)s?)\b", "AGE"),
    (r"\belapsed: *[\d.]+ ?s\b", "elapsed: SPAN"),
    (r"\btotal: *[^(\n]*\([^)\n]*/s\)", "total: RATE"),
    (r"\b(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?(?:ns|µs|us|ms|s)\b", "SPAN"),
    // Process ids, where commands show them.
    (r#"("?pid"?: ?)\d+"#, "${1}PID"),
    (r"(?m)^(\S+ +)\d+( +(?:RUNNING|STOPPED|CREATED|PAUSED|UNKNOWN))", "${1}PID$2"),
    (r"(?m)^\d+( +(?:-|&))", "PID$1"),
    // Where a snapshotter keeps a layer, and what it calls it within.
    (r"DAEMON/[\w./-]*?snapshots?/(?:[\w.-]+/)?\d+(?:/fs)?\b", "LAYER"),
    (r"NS/\d+/", ""),
    // Folders that clients make to mount something for a moment.
    (r"/containerd-mount\d+", "/MOUNT"),
    // The embedded runtime is not runc, and does not say so.
    (r"runc create failed: ", ""),
    // A namespace's events are told in the one that was asked by containerd, and in the namespace itself by wharfd.
    (r"(?m)^TIME \S+ /namespaces/", "TIME - /namespaces/"),
    // A Go program that panics tells where its memory is.
    (r"0x[0-9a-f]+|goroutine \d+|\?(?:,|\})", "ADDRESS"),
];

/// Makes one side's texts comparable.
#[derive(Debug)]
pub struct Normal {
    names: Vec<(String, &'static str)>,
    patterns: Vec<(Regex, &'static str)>,
}

impl Normal {
    /// For what has these names and folders.
    pub fn new(namespace: &str, folder: &Path, address: &Path, daemon: &Path) -> Self {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let names = vec![
            (path(folder), "DIR"),
            (path(address), "SOCKET"),
            (path(daemon), "DAEMON"),
            (namespace.to_owned(), "NS"),
        ];
        let patterns = PATTERNS.iter().map(|(pattern, text)| (Regex::new(pattern).unwrap(), *text)).collect();
        Self { names, patterns }
    }

    /// The text without what differs from run to run; blanks count as one, because columns are as wide as what is in
    /// them.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.replace('\r', "");
        for (name, replacement) in &self.names {
            text = text.replace(name, replacement);
        }
        for (pattern, replacement) in &self.patterns {
            text = pattern.replace_all(&text, *replacement).into_owned();
        }
        text.lines().map(words).collect::<Vec<_>>().join("\n")
    }
}

/// A line's words, one blank between them. Labels, which Go prints in any order, are sorted.
fn words(line: &str) -> String {
    let sorted = |word: &str| {
        let mut labels: Vec<_> = word.split(',').collect();
        if labels.iter().all(|label| label.contains('=')) {
            labels.sort_unstable();
        }
        labels.join(",")
    };
    line.split(['\t', ' ']).filter(|word| !word.is_empty()).map(sorted).collect::<Vec<_>>().join(" ")
}
