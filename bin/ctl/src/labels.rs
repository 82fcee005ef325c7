//! Labels on the command line.

use crate::failure::{Failure, Outcome};
use wharf_messages::Labels;

/// Reads `KEY=VALUE` arguments; `KEY` alone means `true`.
#[must_use]
pub fn read(arguments: &[String]) -> Labels {
    arguments.iter().map(|argument| owned(pair(argument).unwrap_or((argument, "true")))).collect()
}

/// Reads `KEY=VALUE` arguments where the value must be given.
///
/// # Errors
/// Names the argument without one.
pub fn read_strictly(arguments: &[String]) -> Outcome<Labels> {
    let strict = |argument: &String| match pair(argument) {
        Some(pair) => Ok(owned(pair)),
        None => Err(Failure::new(format!("invalid key=value format annotation: {argument}"))),
    };
    arguments.iter().map(strict).collect()
}

/// A change of some labels: the values to set, where an empty one deletes, and the paths of exactly those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The new values.
    pub labels: Labels,
    /// `labels.KEY` of each.
    pub mask: Vec<String>,
}

impl Change {
    /// The change that arguments ask for.
    #[must_use]
    pub fn read(arguments: &[String]) -> Self {
        let labels = read(arguments);
        let mask = labels.keys().map(|key| format!("labels.{key}")).collect();
        Self { labels, mask }
    }

    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mask.is_empty()
    }
}

fn pair(argument: &str) -> Option<(&str, &str)> {
    argument.split_once('=')
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_need_no_value_and_annotations_do() {
        let arguments = ["a=b=c".to_owned(), "d=".to_owned(), "e".to_owned()];
        let labels = read(&arguments);
        assert_eq!(crate::output::labels(&labels), "a=b=c,d=,e=true");
        assert!(read_strictly(&arguments).is_err());
        assert_eq!(Change::read(&arguments).mask, ["labels.a", "labels.d", "labels.e"]);
    }
}
