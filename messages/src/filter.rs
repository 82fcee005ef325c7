//! containerd's filter language: which objects a listing shows, which events a subscriber gets.
//!
//! ```text
//! filters   := filter or filter ...            a list: one that matches is enough; none at all matches everything
//! filter    := "" | selector ("," selector)*   all must match; the empty one matches everything
//! selector  := path | path operator value      a bare path asks whether the field is there
//! path      := field ("." field)*
//! field     := [A-Za-z0-9_]+ | "quoted"
//! operator  := "==" | "!=" | "~="              the last is a regular expression, found anywhere in the value
//! value     := [^\s,]+ | "quoted"              after "~=" also /quoted/ and |quoted|
//! ```
//!
//! A field that is not there is the empty string to `!=` and `~=`, and equals nothing.
//!
//! # Spec
//! containerd `filters` (1.6): grammar, quoting and error texts. Two things differ: a regular expression that does not
//! compile is refused (containerd logs it and matches nothing), and `\d`, `\w` and `\s` know all of Unicode.

mod fields;
mod parse;

use crate::{Refusal, RefusalKind};
use std::borrow::Cow;

/// The most filters in one list; ours, as all limits here: a list comes from outside and every object is held against it.
pub const FILTERS_MAX: usize = 256;
/// The longest filter.
pub const FILTER_MAX_BYTES: usize = 16 << 10;
/// The largest compiled regular expression.
const REGEX_MAX_BYTES: usize = 256 << 10;

/// What can be filtered.
pub trait Fields {
    /// The value of a field; none if it is not there. A path is the field's name and what lies below it:
    /// `["labels", "containerd", "io/gc", "root"]`.
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>>;
}

/// A list of filters: an object that matches one of them is in.
#[derive(Debug, Clone, Default)]
pub struct Filters(Vec<Filter>);

impl Filters {
    /// Parses a list.
    ///
    /// # Errors
    /// `InvalidArgument` that shows where the first malformed one stops making sense.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, Refusal> {
        if texts.len() > FILTERS_MAX {
            return Err(Refusal::invalid(format!("filters: {} given, the limit is {FILTERS_MAX}", texts.len())));
        }
        texts.iter().map(|text| Filter::parse(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none: everything is in.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object is in. No filters at all let everything in.
    #[must_use]
    pub fn matches(&self, object: &impl Fields) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| filter.matches(object))
    }
}

/// One filter: an object that all its selectors select is in.
#[derive(Debug, Clone, Default)]
pub struct Filter(Vec<Selector>);

impl Filter {
    /// Parses one filter.
    ///
    /// # Errors
    /// As [`Filters::parse`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > FILTER_MAX_BYTES {
            let why = format!("filters: one of {} bytes, the limit is {FILTER_MAX_BYTES}", text.len());
            return Err(Refusal::invalid(why));
        }
        if text.is_empty() {
            return Ok(Self::default());
        }
        parse::selectors(text).map(Self)
    }

    /// Whether an object is in.
    #[must_use]
    pub fn matches(&self, object: &impl Fields) -> bool {
        self.0.iter().all(|selector| selector.matches(object))
    }
}

#[derive(Debug, Clone)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(regex::Regex),
}

impl Selector {
    fn matches(&self, object: &impl Fields) -> bool {
        let value = object.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(want) => value.is_some_and(|value| value == want.as_str()),
            Test::NotEqual(other) => value.unwrap_or_default() != other.as_str(),
            Test::Matches(regex) => regex.is_match(&value.unwrap_or_default()),
        }
    }
}

fn compile(pattern: &str) -> Result<regex::Regex, Refusal> {
    regex::RegexBuilder::new(pattern).size_limit(REGEX_MAX_BYTES).build().map_err(|error| Refusal {
        kind: RefusalKind::InvalidArgument,
        // The crate's message is a drawing over several lines; its last line says why.
        detail: format!(
            "filters: regular expression {pattern:?}: {}",
            error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")
        ),
    })
}

#[cfg(test)]
mod tests;
