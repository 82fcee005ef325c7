//! Prometheus's text form.
//!
//! # Spec
//! Prometheus, "Exposition formats", text-based format 0.0.4.

use std::fmt::{Display, Write};
use wharf_actors::figures::Buckets;

/// The type of the text, for the answer's header.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text being written, a family after the other.
#[derive(Debug, Default)]
pub struct Text(String);

/// A family of samples: one name, one meaning.
#[derive(Debug)]
pub struct Family<'t> {
    text: &'t mut String,
    name: &'static str,
}

// Writing to a String does not fail.
macro_rules! put {
    ($text:expr, $($arguments:tt)*) => { let _ = writeln!($text, $($arguments)*); };
}

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        put!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.0, name }
    }

    /// Begins a family of values that go up and down.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// Begins a family of values that only go up; by convention the name ends with `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// A histogram.
    pub fn histogram(&mut self, name: &'static str, help: &str, buckets: &Buckets) {
        let family = self.family(name, "histogram", help);
        for (bound, count) in &buckets.cumulative {
            put!(family.text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        put!(family.text, "{name}_bucket{{le=\"+Inf\"}} {}", buckets.count);
        put!(family.text, "{name}_sum {}\n{name}_count {}", buckets.sum, buckets.count);
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.text.push_str(self.name);
        for (index, (label, of)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"");
            for c in of.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        put!(self.text, "{end} {value}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_scrapers_read_it() {
        let mut text = Text::default();
        text.gauge("wharf_x", "What it is.").sample(&[], 1).sample(&[("a", "q\"\\\n"), ("b", "")], 2.5);
        let buckets = Buckets { cumulative: vec![(0.5, 1)], count: 2, sum: 3.0 };
        text.histogram("wharf_h", "How.", &buckets);
        assert_eq!(
            text.finish(),
            "# HELP wharf_x What it is.\n# TYPE wharf_x gauge\nwharf_x 1\nwharf_x{a=\"q\\\"\\\\\\n\",b=\"\"} 2.5\n\
             # HELP wharf_h How.\n# TYPE wharf_h histogram\nwharf_h_bucket{le=\"0.5\"} 1\n\
             wharf_h_bucket{le=\"+Inf\"} 2\nwharf_h_sum 3\nwharf_h_count 2\n"
        );
    }
}
