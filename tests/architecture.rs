//! The architecture that the README draws, held against the sources.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use wharf_tests::paths::workspace;

/// Which crates of the workspace each may use, tests aside: everything points one way.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("wharf-messages", &[]),
    ("wharf-grpc", &["wharf-messages"]),
    // Nothing at all in what is installed.
    ("wharf-failpoints", &["wharf-messages"]),
    ("wharf-store", &["wharf-messages", "wharf-failpoints"]),
    ("wharf-actors", &["wharf-messages", "wharf-grpc", "wharf-failpoints", "wharf-store"]),
    ("wharf-daemon", &["wharf-messages", "wharf-grpc", "wharf-failpoints", "wharf-store", "wharf-actors"]),
    ("wharf-client", &["wharf-messages"]),
    ("wharf-ctl", &["wharf-messages", "wharf-client"]),
    ("wharf-shim", &["wharf-messages", "wharf-failpoints"]),
    ("wharf-tests", &["wharf-failpoints"]),
    ("wharf-fuzz", &["wharf-messages", "wharf-actors", "wharf-client"]),
];

/// Crates that must not be linked, not even by way of others.
const KEPT_OUT: &[(&str, &[&str])] = &[
    // Its rule is vocabulary only: no runtime, no I/O.
    ("wharf-messages", &["tokio", "actix", "actix-rt", "redb", "reqwest", "nix", "rustix"]),
    // Messages and the two ends of services; who moves the bytes is the affair of whoever uses it.
    ("wharf-grpc", &["hyper", "actix", "redb", "reqwest"]),
    // The store knows no privileges and no tasks.
    ("wharf-store", &["tokio", "actix", "actix-rt", "reqwest"]),
    // A shim stands beside every container: what it does not need costs memory each time.
    ("wharf-shim", &["tokio", "actix", "actix-rt", "redb", "tonic", "reqwest", "hyper", "rustls"]),
    ("wharf-client", &["actix", "actix-rt", "redb", "reqwest"]),
    ("wharf-ctl", &["actix", "actix-rt", "redb", "reqwest"]),
];

/// What lies openly in the project's folder; all else is in dotted files.
const TOP_LEVEL: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "Makefile", "README.md", "actors", "bin", "messages", "store", "tests"];

/// Longer than this, its tests aside, and a file is not read in one sitting.
const LINES_MAXIMUM: usize = 600;

struct Metadata(Value);

impl Metadata {
    fn read() -> Self {
        let args = ["metadata", "--format-version", "1", "--locked"];
        Self(serde_json::from_str(&cargo(&args)).unwrap())
    }

    /// Names by package id.
    fn names(&self) -> BTreeMap<&str, &str> {
        let packages = self.0["packages"].as_array().unwrap();
        packages.iter().map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap())).collect()
    }

    /// What each package id links (build scripts' and tests' dependencies aside).
    fn edges(&self) -> BTreeMap<&str, Vec<&str>> {
        let normal = |dep: &&Value| dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
        let mut edges = BTreeMap::new();
        for node in self.0["resolve"]["nodes"].as_array().unwrap() {
            let deps = node["deps"].as_array().unwrap().iter().filter(normal);
            edges.insert(node["id"].as_str().unwrap(), deps.map(|dep| dep["pkg"].as_str().unwrap()).collect());
        }
        edges
    }
}

/// Every crate's name that a crate links, by way of others too, when it is built on its own: what other crates of the
/// workspace ask of shared dependencies does not count.
fn linked(name: &str) -> BTreeSet<String> {
    let args = ["tree", "--locked", "--package", name, "--edges", "normal", "--prefix", "none"];
    let output = cargo(&args);
    output.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(args).current_dir(workspace()).output().unwrap();
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn crates_depend_one_way() {
    let metadata = Metadata::read();
    let (names, edges) = (metadata.names(), metadata.edges());
    let ours: BTreeSet<_> =
        metadata.0["workspace_members"].as_array().unwrap().iter().map(|id| names[id.as_str().unwrap()]).collect();
    assert_eq!(ours, DIRECTIONS.iter().map(|(name, _)| *name).collect(), "the table lists every crate");
    for (name, allowed) in DIRECTIONS {
        let id = names.iter().find(|(_, n)| *n == name).unwrap().0;
        let used: BTreeSet<_> = edges[id].iter().map(|id| names[id]).filter(|used| ours.contains(used)).collect();
        let wrong: Vec<_> = used.iter().filter(|used| !allowed.contains(used)).collect();
        assert!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
}

#[test]
fn what_is_kept_out_is_not_linked() {
    for (name, forbidden) in KEPT_OUT {
        let linked = linked(name);
        let wrong: Vec<_> = forbidden.iter().filter(|other| linked.contains(**other)).collect();
        assert!(wrong.is_empty(), "{name} links {wrong:?}");
    }
}

#[test]
fn failpoints_are_in_nothing_that_is_installed() {
    for name in ["wharf-daemon", "wharf-shim", "wharf-ctl"] {
        let args =
            ["tree", "--locked", "--package", name, "--edges", "normal", "--prefix", "none", "--format", "{p} {f}"];
        let output = cargo(&args);
        let mut lines = output.lines().filter(|line| line.starts_with("wharf-failpoints "));
        assert_eq!(lines.clone().count() > 0, name != "wharf-ctl", "{name}: {output}");
        let wrong = lines.find(|line| line.split([' ', ',']).any(|word| word == "on"));
        assert_eq!(wrong, None, "{name} is built with failpoints");
    }
    // And without the feature their macros come to nothing at all.
    let text = fs::read_to_string(workspace().join("tests/failpoints/src/lib.rs")).unwrap();
    let (_, off) = text.split_once("#[cfg(not(feature = \"on\"))]").unwrap();
    let bodies = off.lines().filter(|line| line.contains("=>"));
    assert!(bodies.clone().all(|line| line.trim() == "($($name:tt)+) => {};") && bodies.count() == 2, "{off}");
}

/// A place in the sources that says something.
fn places(folder: &str, except: &[&str], says: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(&workspace().join(folder)) {
        let name = path.strip_prefix(workspace()).unwrap().to_str().unwrap().to_owned();
        // Tests stand beside the code, in files and folders of that name.
        let is_test = name.ends_with("/tests.rs") || name.contains("/tests/") || name.contains("/testing/");
        if is_test || except.iter().any(|exception| name.starts_with(exception)) {
            continue;
        }
        for (number, line) in code_of(&fs::read_to_string(&path).unwrap()) {
            if says(&line) {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

/// The lines of a file that are production code: comments, and the tests at its end, left out.
fn code_of(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| line.trim_start() != "#[cfg(test)]");
    let code = lines.map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default().to_owned()));
    code.filter(|(_, line)| !line.trim().is_empty()).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "target" {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether a line uses a path that begins like this, as a word of its own.
fn uses(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
    })
}

#[test]
fn only_the_supervision_runtime_knows_actix_machinery() {
    // An actor names actix's traits; starting, addressing and running actors is the runtime's.
    let machinery = [
        "actix::dev",
        "actix::Addr",
        "actix::Arbiter",
        "actix::System",
        "actix::SyncArbiter",
        "actix::Supervisor",
        "actix::Context",
        "actix::Recipient",
        "actix_rt",
    ];
    let except = ["actors/src/runtime"];
    let found = places("actors/src", &except, |line| machinery.iter().any(|path| uses(line, path)));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_drivers_touch_the_kernel_the_network_and_processes() {
    let world = [
        "nix::",
        "rustix::",
        "libc::",
        "reqwest::",
        "std::fs",
        "hyper::",
        "std::process",
        "std::net",
        "tokio::fs",
        "tokio::net",
        "tokio::process",
    ];
    // The pool of threads for heavy work lowers its own priority.
    let except = ["actors/src/drivers", "actors/src/runtime/job.rs"];
    let found = places("actors/src", &except, |line| {
        // One's own number is no secret of the kernel's.
        world.iter().any(|path| uses(&line.replace("std::process::id", ""), path))
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_the_journal_writes_the_store() {
    let writer = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "Writer")
            || uses(line, "wharf_store::open(")
            || uses(line, "redb::")
    };
    // The root opens it and hands it over; the tests' world is a small root; the differ's own writer writes archives.
    let except = ["actors/src/journal", "actors/src/root.rs", "actors/src/testing", "actors/src/drivers/differ"];
    let mut found = places("actors/src", &except, writer);
    found.extend(places("bin", &[], writer));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_are_read_in_one_sitting() {
    let mut long = Vec::new();
    for folder in ["messages", "store", "actors", "bin", "tests"] {
        for path in sources(&workspace().join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
            if lines > LINES_MAXIMUM && !path.ends_with("tests.rs") {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_top_level_is_as_the_readme_shows_it() {
    let output = Command::new("git").args(["ls-files"]).current_dir(workspace()).output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let tops = listed.lines().map(|path| path.split('/').next().unwrap()).filter(|name| !name.starts_with('.'));
    let tops: BTreeSet<_> = tops.collect();
    assert_eq!(tops, TOP_LEVEL.iter().copied().collect());
}
