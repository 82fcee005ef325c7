//! What a scenario is made of.

/// Lines that are run one after the other in a namespace of their own, by each client in turn.
pub struct Scenario {
    /// What it is about.
    pub name: &'static str,
    /// Why other events are told, where that is meant.
    pub events: Option<&'static str>,
    /// The lines.
    pub steps: &'static [Step],
}

/// A line of a shell in which `ctr` is the client at hand, and what is known of its comparison.
pub struct Step {
    /// What the shell is given, see [`super::side::Side`] for its variables and functions.
    pub line: &'static str,
    /// What is typed on a terminal, if it is run on one, each after the screen has shown something.
    pub keys: Option<&'static [(&'static str, &'static str)]>,
    /// Whether standard output's lines come in any order.
    pub unordered: bool,
    /// Why the daemons are seen to differ, where that is meant.
    pub daemons: Option<&'static str>,
    /// Whether that is for garbage collection to decide, and so may be otherwise.
    pub collected: bool,
}

/// A line that is the same everywhere.
pub const fn sh(line: &'static str) -> Step {
    Step { line, keys: None, unordered: false, daemons: None, collected: false }
}

impl Step {
    /// Runs it on a terminal, and types.
    pub const fn typing(self, keys: &'static [(&'static str, &'static str)]) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// Compares lines whatever their order.
    pub const fn unordered(self) -> Self {
        Self { unordered: true, ..self }
    }

    /// wharfd answers the real `ctr` otherwise than containerd does.
    pub const fn daemons_differ(self, why: &'static str) -> Self {
        Self { daemons: Some(why), ..self }
    }

    /// It shows what nothing refers to: containerd collects that when it sees fit.
    pub const fn whatever_is_collected(self) -> Self {
        Self { daemons: Some("when what nothing refers to goes is the daemon's to choose"), collected: true, ..self }
    }
}
