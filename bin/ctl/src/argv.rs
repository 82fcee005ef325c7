//! The command line as `ctr`'s parser (Go's `flag` package) understands it, rewritten for ours.
//!
//! Three habits of `ctr`'s users would otherwise break: long flags with one dash (`-namespace x`), values for switches
//! (`--net-host=true`), and flag values that look like flags (`--cpu-quota -1`). And where a command runs another
//! command, parsing stops at the first argument, so that the container's own flags pass through untouched.

use clap::{Arg, Command};
use std::ffi::OsString;

/// Commands whose arguments end with a command line of the container's.
const PASS_THROUGH: [&str; 3] = ["run", "create", "exec"];

/// Rewrites `args` (without the program's name) for the parser made from `root`.
#[must_use]
pub fn rewrite(root: &Command, args: Vec<OsString>) -> Vec<OsString> {
    let mut out = Vec::with_capacity(args.len() + 1);
    let mut command = root;
    let mut args = args.into_iter();
    while let Some(word) = args.next() {
        let Some(text) = word.to_str() else {
            out.push(word);
            continue;
        };
        if text == "--" {
            out.push(word);
            break;
        }
        let Some(flag) = Flag::read(command, text) else {
            if text.len() > 1 && text.starts_with('-') {
                // A flag nobody knows: the parser says so.
                out.push(word);
                continue;
            }
            if text == "h" && command.has_subcommands() && command.find_subcommand(text).is_none() {
                out.push("help".into());
                continue;
            }
            if let Some(next) = command.find_subcommand(text) {
                command = next;
                out.push(word);
                continue;
            }
            if PASS_THROUGH.contains(&command.get_name()) {
                out.push("--".into());
                out.push(word);
                break;
            }
            out.push(word);
            continue;
        };
        match (flag.takes_value, flag.value) {
            (true, Some(value)) => out.push(format!("{}={value}", flag.spelling).into()),
            (true, None) => match args.next() {
                Some(value) => {
                    let mut joined = OsString::from(format!("{}=", flag.spelling));
                    joined.push(value);
                    out.push(joined);
                }
                None => out.push(flag.spelling.into()),
            },
            (false, Some(value)) => match go_bool(value) {
                Some(true) => out.push(flag.spelling.into()),
                Some(false) => {}
                None => out.push(word),
            },
            (false, None) => out.push(flag.spelling.into()),
        }
    }
    out.extend(args);
    out
}

/// A word that is a flag of the command at hand.
struct Flag<'a> {
    /// `--name`, or `-x` for one without a long name.
    spelling: String,
    takes_value: bool,
    /// What follows the `=`.
    value: Option<&'a str>,
}

impl<'a> Flag<'a> {
    fn read(command: &Command, word: &'a str) -> Option<Self> {
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        let mut letters = name.chars();
        let letter = letters.next().filter(|_| letters.next().is_none());
        let arg = command.get_arguments().find(|arg| {
            let long = arg.get_long().is_some_and(|long| long == name);
            let alias = arg.get_all_aliases().is_some_and(|all| all.contains(&name));
            let short = letter.is_some() && arg.get_short() == letter;
            long || alias || short
        })?;
        let spelling = match (arg.get_long(), arg.get_short()) {
            (Some(long), _) => format!("--{long}"),
            (None, Some(short)) => format!("-{short}"),
            (None, None) => return None,
        };
        Some(Self { spelling, takes_value: takes_value(arg), value })
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// The spellings of a switch's value.
///
/// # Spec
/// Go standard library, `strconv.ParseBool`.
fn go_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn rewritten(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        let out = rewrite(&crate::cli::Cli::command(), args);
        out.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn go_spellings_become_ours() {
        for (line, expected) in [
            ("-n=k8s.io i ls", "--namespace=k8s.io i ls"),
            ("-namespace k8s.io i ls -q", "--namespace=k8s.io i ls --quiet"),
            ("i pull -plain-http REF", "i pull --plain-http REF"),
            ("i pull REF --plain-http", "i pull REF --plain-http"),
            ("run --net-host=true --read-only=false I x", "run --net-host -- I x"),
            ("run --cpu-quota -1 I x", "run --cpu-quota=-1 -- I x"),
            ("run --rm -t I x sh -c -x", "run --rm --tty -- I x sh -c -x"),
            ("run --label a=b=c I x -- y", "run --label=a=b=c -- I x -- y"),
            ("t exec --exec-id e x ls -l", "t exec --exec-id=e -- x ls -l"),
            ("c create -t I x sh -i", "c create --tty -- I x sh -i"),
            ("ns create a", "ns create -- a"),
            ("run --nope I x", "run --nope -- I x"),
            ("t kill -s 9 x", "t kill --signal=9 x"),
            ("run --rm", "run --rm"),
            ("images", "images"),
            ("h images", "help images"),
            ("ns create h", "ns create -- h"),
        ] {
            assert_eq!(rewritten(line), expected, "{line}");
        }
    }
}
