//! Signals: their names on the command line, and those that reach us and are meant for a container.

use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wharf_messages::{Answer, Refusal};

/// Linux's signals by number from 1 on, without `SIG`.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// Other names of some.
const ALIASES: [(&str, u32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];
/// The first and the last real-time signal that programs may use.
const REAL_TIME: (u32, u32) = (34, 64);

/// Parses a signal's number or name: `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
///
/// # Errors
/// `InvalidArgument` that quotes it.
pub fn parse(text: &str) -> Answer<u32> {
    let bad = || Refusal::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(place) = NAMES.iter().position(|known| *known == name) {
        return u32::try_from(place + 1).map_err(|_| bad());
    }
    if let Some((_, number)) = ALIASES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        _ => rest.strip_prefix(sign)?.parse::<u32>().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').and_then(|n| REAL_TIME.0.checked_add(n))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-').and_then(|n| REAL_TIME.1.checked_sub(n))
    } else {
        None
    };
    number.filter(|n| (REAL_TIME.0..=REAL_TIME.1).contains(n)).ok_or_else(bad)
}

/// Signals that reach this process.
#[derive(Debug)]
pub struct Received {
    signals: Vec<(u32, Signal)>,
}

impl Received {
    /// Those that are passed on to a container without a terminal. Job control (TSTP and the like) stays ours, and so
    /// does what tells only of us (CHLD, PIPE, URG).
    ///
    /// # Errors
    /// `Internal` if they cannot be caught.
    pub fn to_pass_on() -> Answer<Self> {
        Self::of(&["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "WINCH"])
    }

    /// Those that end a client with a terminal, whose container goes on without it.
    ///
    /// # Errors
    /// `Internal` if they cannot be caught.
    pub fn to_leave_by() -> Answer<Self> {
        Self::of(&["HUP", "INT", "QUIT", "TERM"])
    }

    /// A change of the terminal's size.
    ///
    /// # Errors
    /// `Internal` if it cannot be caught.
    pub fn resizes() -> Answer<Self> {
        Self::of(&["WINCH"])
    }

    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self { signals: Vec::new() }
    }

    fn of(names: &[&str]) -> Answer<Self> {
        let one = |name: &&str| {
            let number = parse(name)?;
            let kind = SignalKind::from_raw(i32::try_from(number).unwrap_or(0));
            let caught = signal(kind).map_err(|error| Refusal::io(format!("catch SIG{name}"), &error))?;
            Ok((number, caught))
        };
        Ok(Self { signals: names.iter().map(one).collect::<Answer<_>>()? })
    }

    /// Whether none are waited for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.signals.is_empty()
    }

    /// The next one's number.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub async fn next(&mut self) -> u32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.signals {
                if let Poll::Ready(Some(())) = signal.poll_recv(context) {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("SIGSYS", 31),
            ("iot", 6),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "SIG", "FOO", "RTMIN+31", "RTMIN3", "RTMAX-40", "-9", "RTMIN+x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
