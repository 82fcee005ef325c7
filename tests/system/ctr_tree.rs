//! The command tree of the real `ctr`, walked by its help: our client, under that name, has each command, alias, flag,
//! variable and default of it.

use regex::Regex;
use std::collections::BTreeSet;
use wharf_tests::{Output, command::Program, paths};

/// Commands that ours has not, and why.
const COMMANDS: &[(&str, &str)] = &[];

/// Flags that ours takes and does not show: command (`*` for all), flag, why.
const HIDDEN: &[(&str, &str, &str)] = &[
    ("content active", "--timeout", "without effect in ctr, too"),
    ("content active", "--root", "without effect in ctr, too"),
    ("content edit", "--validate", "refused by ctr, too"),
    ("images mount", "", "registry flags and labels are without effect in ctr, too"),
    ("images unmount", "", "registry flags and labels are without effect in ctr, too"),
    ("pprof", "--debug-socket", "there is no such socket: what is said instead names it"),
];

/// Defaults that are others: command, flag, why.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("", "--address", "its own daemon's socket"),
    ("images mount", "--platform", "this machine's, which the help does not spell"),
];

/// A command's help, read.
#[derive(Debug, Default)]
struct Help {
    /// Each command with its aliases.
    commands: Vec<Vec<String>>,
    flags: Vec<Flag>,
}

#[derive(Debug)]
struct Flag {
    /// `--address`, `-a`.
    names: Vec<String>,
    takes_value: bool,
    default: Option<String>,
    variable: Option<String>,
}

impl Help {
    /// Of the real one: sections in capitals, a line an entry, names and text apart by two blanks.
    fn theirs(text: &str) -> Self {
        let (default, variable) =
            (Regex::new(r#"\(default: "?([^")]*)"?\)"#).unwrap(), Regex::new(r"\[\$(\w+)\]").unwrap());
        let (mut help, mut section) = (Self::default(), "");
        for line in text.lines() {
            if !line.starts_with(' ') && line.ends_with(':') {
                section = line;
                continue;
            }
            let entry = line.trim_start();
            let (names, words) = entry.split_once("  ").unwrap_or((entry, ""));
            let names = names.split(", ").map(str::trim);
            match section {
                "COMMANDS:" if !entry.is_empty() => help.commands.push(names.map(str::to_owned).collect()),
                "OPTIONS:" | "GLOBAL OPTIONS:" if entry.starts_with('-') => {
                    let found = |what: &Regex| what.captures(words).map(|found| found[1].to_owned());
                    let takes_value = names.clone().any(|name| name.contains(' '));
                    let names = names.map(|name| name.split(' ').next().unwrap().to_owned()).collect();
                    let (default, variable) = (found(&default), found(&variable));
                    help.flags.push(Flag { names, takes_value, default, variable });
                }
                _ => {}
            }
        }
        help
    }

    /// Of ours: a flag's text may go on in the lines below it.
    fn ours(text: &str) -> Self {
        let aliases = Regex::new(r"\[alias(?:es)?: ([^\]]*)\]").unwrap();
        let default = Regex::new(r"\[default: ([^\]]*)\]").unwrap();
        let variable = Regex::new(r"\[env: ([^\]=]*)=?\]").unwrap();
        let (mut help, mut entries, mut section) = (Self::default(), Vec::<(String, String)>::new(), "");
        for line in text.lines() {
            if !line.starts_with(' ') && line.ends_with(':') {
                section = line;
            } else if line.starts_with("  ") {
                let entry = line.trim_start();
                let indent = line.len() - entry.len();
                // What stands after an argument is the argument's.
                let is_argument = section != "Commands:" && indent == 2 && entry.starts_with(['<', '[']);
                let begins = if section == "Commands:" { indent == 2 } else { entry.starts_with('-') || is_argument };
                match entries.last_mut() {
                    Some((_, words)) if !begins => *words += &format!(" {entry}"),
                    _ if begins => entries.push((section.to_owned(), entry.to_owned())),
                    _ => {}
                }
            }
        }
        for (section, entry) in entries {
            if section == "Commands:" {
                let name = entry.split(' ').next().unwrap().to_owned();
                let others = aliases.captures(&entry).map(|found| found[1].to_owned()).unwrap_or_default();
                let others = others.split(", ").filter(|alias| !alias.is_empty()).map(str::to_owned);
                help.commands.push([name].into_iter().chain(others).collect());
            } else if entry.starts_with('-') {
                let found = |what: &Regex| what.captures(&entry).map(|found| found[1].to_owned());
                let names = entry.split_whitespace().map_while(|word| {
                    let word = word.trim_end_matches(',');
                    word.starts_with('-').then(|| word.to_owned())
                });
                let takes_value = entry.split("  ").next().unwrap().contains('<');
                let (default, variable) = (found(&default), found(&variable));
                help.flags.push(Flag { names: names.collect(), takes_value, default, variable });
            }
        }
        help
    }

    fn command(&self, name: &str) -> Option<&Vec<String>> {
        self.commands.iter().find(|names| names.iter().any(|other| other == name))
    }

    fn flag(&self, name: &str) -> Option<&Flag> {
        self.flags.iter().find(|flag| flag.names.iter().any(|other| other == name))
    }
}

/// Both clients, and what was found.
struct Walk {
    theirs: Program,
    ours: Program,
    problems: Vec<String>,
    /// Rows of the tables that were needed.
    used: BTreeSet<String>,
    commands: usize,
    flags: usize,
}

impl Walk {
    fn run(program: &Program, path: &[String], more: &[&str]) -> Output {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(more.iter().copied()).collect();
        program.run(args.as_slice())
    }

    /// Compares a command and all below it.
    fn visit(&mut self, path: &[String]) {
        let name = path.join(" ");
        let theirs = Help::theirs(&Self::run(&self.theirs, path, &["--help"]).ok().stdout);
        let shown = Self::run(&self.ours, path, &["--help"]);
        if shown.code != 0 {
            return self.problems.push(format!("ctr {name}: {}", shown.stderr.trim()));
        }
        let ours = Help::ours(&shown.stdout);
        self.commands += 1;
        for flag in &theirs.flags {
            self.flag(path, &name, flag, &ours);
        }
        for names in &theirs.commands {
            let below = [path, &names[..1]].concat();
            let whole = below.join(" ");
            if whole == "help" {
                // It is clap's own here; its short name is known, too.
                for alias in names {
                    assert_eq!(Self::run(&self.ours, &[], &[alias, "images"]).ok().code, 0);
                }
                continue;
            }
            if COMMANDS.iter().any(|(command, _)| *command == whole) {
                self.used.insert(whole);
                continue;
            }
            match ours.command(&names[0]) {
                Some(known) => {
                    let missing = names.iter().filter(|alias| !known.contains(alias));
                    self.problems.extend(missing.map(|alias| format!("ctr {whole}: no alias {alias}")));
                    self.visit(&below);
                }
                None => self.problems.push(format!("ctr {whole}: no such command")),
            }
        }
    }

    fn flag(&mut self, path: &[String], command: &str, flag: &Flag, ours: &Help) {
        self.flags += 1;
        let first = &flag.names[0];
        for name in &flag.names {
            // Before the help is shown all that stands before it has to be known.
            let argument = if flag.takes_value { format!("{name}=1") } else { name.clone() };
            let taken = Self::run(&self.ours, path, &[&argument, "--help"]);
            if taken.stderr.contains("not defined") || (!flag.takes_value && taken.code != 0) {
                self.problems.push(format!("ctr {command} {name}: {}", taken.stderr.trim()));
            }
        }
        let Some(shown) = ours.flag(first) else {
            let row = HIDDEN.iter().find(|(of, hidden, _)| *of == command && (hidden.is_empty() || hidden == first));
            match row {
                Some((of, hidden, _)) => drop(self.used.insert(format!("{of} {hidden}"))),
                None => self.problems.push(format!("ctr {command} {first}: not in the help")),
            }
            return;
        };
        if let Some(missing) = flag.names.iter().find(|name| !shown.names.contains(name)) {
            self.problems.push(format!("ctr {command} {first}: {missing} is another flag"));
        }
        if shown.takes_value != flag.takes_value {
            self.problems.push(format!("ctr {command} {first}: it takes a value on one side only"));
        }
        if let Some(variable) = &flag.variable
            && !shown.variable.as_ref().is_some_and(|own| own.contains(variable.as_str()))
        {
            self.problems.push(format!("ctr {command} {first}: it is not read from {variable}"));
        }
        let meant = DEFAULTS.iter().find(|(of, other, _)| *of == command && other == first);
        let zero =
            |default: &Option<String>| default.clone().filter(|text| !["0", "0s", "false"].contains(&text.as_str()));
        let same = flag.default.is_none() || zero(&flag.default) == zero(&shown.default);
        match meant {
            Some((of, other, _)) if !same => drop(self.used.insert(format!("{of} {other} default"))),
            Some((of, other, why)) => {
                self.problems.push(format!("{of} {other}: is said to differ ({why}), and does not"))
            }
            None if !same => {
                let (theirs, ours) = (&flag.default, &shown.default);
                self.problems.push(format!("ctr {command} {first}: its default is {ours:?}, not {theirs:?}"));
            }
            None => {}
        }
    }
}

#[test]
fn every_command_alias_and_flag_of_ctr_is_there() {
    let mut walk = Walk {
        theirs: Program::new("/usr/bin/ctr"),
        ours: Program::new(paths::binary("ctr")),
        problems: Vec::new(),
        used: BTreeSet::new(),
        commands: 0,
        flags: 0,
    };
    walk.visit(&[]);
    let rows = COMMANDS.iter().map(|(command, _)| (*command).to_owned());
    let rows = rows.chain(HIDDEN.iter().map(|(command, flag, _)| format!("{command} {flag}")));
    let rows = rows.chain(DEFAULTS.iter().map(|(command, flag, _)| format!("{command} {flag} default")));
    let unused: Vec<_> = rows.filter(|row| !walk.used.contains(row)).collect();
    assert!(walk.problems.is_empty(), "{}", walk.problems.join("\n"));
    assert!(unused.is_empty(), "rows of the tables that nothing needs: {unused:?}");
    assert!(walk.commands > 80 && walk.flags > 250, "{} commands, {} flags: not all", walk.commands, walk.flags);
}
