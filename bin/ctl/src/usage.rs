//! What is wrong with a command line, in a sentence; and help, where that was asked for.

use crate::failure::{FAILED, Failure, UNKNOWN_COMMAND};
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// What `ctr` says when an argument is missing, by what the usage calls it.
const MISSING: [(&str, &str); 10] = [
    ("CONTAINER", "container id must be provided"),
    ("REF", "please provide an image reference"),
    ("NEW_REF", "please provide an image reference to tag to"),
    ("CHECKPOINT", "ref must be provided"),
    ("SOURCE", "src and target image need to be specified"),
    ("CONVERTED", "src and target image need to be specified"),
    ("EXEC", "exec id must be provided"),
    ("TARGET", "please provide a target path"),
    ("KEY", "snapshot id must be provided"),
    ("--exec-id <ID>", "Required flag \"exec-id\" not set"),
];

/// Prints help or the version if that is what the "error" is, and explains what is wrong otherwise.
#[must_use]
pub fn explain(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Asked for, so it goes to standard output and is a success.
            let text = error.render();
            match crate::output::line(text.to_string().trim_end()) {
                Ok(()) => Failure { text: None, code: 0 },
                Err(error) => error.into(),
            }
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(&error, ContextKind::InvalidSubcommand);
            let hint = suggestion(&error, ContextKind::SuggestedSubcommand);
            Failure { text: Some(format!("unknown command {name:?}{hint}")), code: UNKNOWN_COMMAND }
        }
        ErrorKind::UnknownArgument => {
            let flag = context(&error, ContextKind::InvalidArg);
            let hint = suggestion(&error, ContextKind::SuggestedArg);
            let sentence = if flag.starts_with('-') {
                format!("flag provided but not defined: {flag}{hint}")
            } else {
                format!("unexpected argument {flag:?}")
            };
            Failure { text: Some(sentence), code: FAILED }
        }
        ErrorKind::MissingRequiredArgument => Failure::new(missing(&error)),
        _ => {
            // Clap's own sentence, without its word "error" and its advice about usage.
            let text = error.render().to_string();
            let sentence = text.lines().next().unwrap_or_default();
            Failure::new(sentence.strip_prefix("error: ").unwrap_or(sentence))
        }
    }
}

fn context(error: &Error, kind: ContextKind) -> String {
    error.get(kind).map(ToString::to_string).unwrap_or_default()
}

fn suggestion(error: &Error, kind: ContextKind) -> String {
    let best = match error.get(kind) {
        Some(ContextValue::Strings(all)) => all.last().cloned(),
        Some(ContextValue::String(one)) => Some(one.clone()),
        _ => None,
    };
    best.map_or(String::new(), |best| format!(" (did you mean {best:?}?)"))
}

fn missing(error: &Error) -> String {
    let names = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(names)) => names.clone(),
        Some(ContextValue::String(name)) => vec![name.clone()],
        _ => Vec::new(),
    };
    let first = names.first().map(String::as_str).unwrap_or_default();
    let name = first.trim_end_matches("...").trim_start_matches('<').trim_end_matches('>');
    let known = MISSING.iter().find(|(known, _)| *known == name || *known == first);
    known.map_or_else(|| format!("{} must be provided", name.to_lowercase()), |(_, sentence)| (*sentence).to_owned())
}
