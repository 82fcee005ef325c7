//! A rule: at which passes of which points what happens.

use std::time::Duration;

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Panic,
    Error,
    Abort,
    Freeze,
    Delay(Duration),
    Off,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pattern: String,
    action: Action,
    skip: u64,
    times: u64,
    chance: f64,
    /// Of all processes, one alone is hit, and only once.
    pub(crate) once: bool,
    passes: u64,
    hits: u64,
}

impl Rule {
    /// Reads rules, one a line or with semicolons between.
    ///
    /// # Errors
    /// The text that is no rule, and why.
    pub(crate) fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        let lines = text.split([';', '\n']).map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(Self::parse).collect()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("failpoint rule {text:?}: {why}");
        let (pattern, rest) = text.split_once('=').ok_or_else(|| wrong("no `=`"))?;
        let mut words = rest.split(',');
        let action = match words.next().unwrap_or_default() {
            "panic" => Action::Panic,
            "error" => Action::Error,
            "abort" => Action::Abort,
            "freeze" => Action::Freeze,
            "off" => Action::Off,
            other => match other.strip_prefix("delay:").and_then(|ms| ms.parse().ok()) {
                Some(ms) => Action::Delay(Duration::from_millis(ms)),
                None => return Err(wrong("unknown action")),
            },
        };
        let (pattern, times) = (pattern.to_owned(), u64::MAX);
        let mut rule = Self { pattern, action, skip: 0, times, chance: 1.0, once: false, passes: 0, hits: 0 };
        for word in words {
            if word == "once" {
                (rule.once, rule.times) = (true, 1);
                continue;
            }
            let read = match word.split_once('=') {
                Some(("skip", n)) => n.parse().map(|n| rule.skip = n).is_ok(),
                Some(("times", n)) => n.parse().map(|n| rule.times = n).is_ok(),
                Some(("chance", p)) => p.parse().map(|p| rule.chance = p).is_ok(),
                _ => false,
            };
            if !read {
                return Err(wrong("skip=N, times=N, chance=P and once are what may follow"));
            }
        }
        Ok(rule)
    }

    pub(crate) fn fits(&self, name: &str) -> bool {
        let mut parts = self.pattern.split('*');
        let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }

    /// One more pass; what happens at it. `dice` is even between 0 and 1.
    pub(crate) fn pass(&mut self, dice: f64) -> Action {
        self.passes += 1;
        if self.passes <= self.skip || self.hits >= self.times || dice >= self.chance {
            return Action::Off;
        }
        self.hits += 1;
        self.action
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_skipped_and_counted() {
        let mut rule = Rule::parse("a/*/b=panic,skip=1,times=2").unwrap();
        assert!(rule.fits("a/x/b") && rule.fits("a/x/y/b") && !rule.fits("a/x/c") && !rule.fits("a/b"));
        let hits: Vec<_> = (0..5).map(|_| rule.pass(0.5)).collect();
        assert_eq!(hits, [Action::Off, Action::Panic, Action::Panic, Action::Off, Action::Off]);
        assert_eq!(Rule::parse("x=delay:5,chance=0.1").unwrap().pass(0.5), Action::Off);
        assert!(Rule::parse("x=abort,once").unwrap().once && !Rule::parse("x=abort,times=1").unwrap().once);
        assert!(Rule::parse("x=abort").unwrap().fits("x") && !Rule::parse("x=abort").unwrap().fits("xy"));
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for text in ["x", "x=explode", "x=panic,twice", "x=delay:soon", "x=panic,times=-1"] {
            let why = Rule::parse_all(&format!("a=off;{text}")).unwrap_err();
            assert!(why.contains(&format!("{text:?}")), "{why}");
        }
    }
}
