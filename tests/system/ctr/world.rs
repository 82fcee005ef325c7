//! Both daemons, what they are asked about, and the comparison.

use super::{
    side::{Outcome, Side},
    step::{Scenario, Step},
};
use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};
use wharf_tests::{
    Containerd, Daemon, Registry, eventually,
    images::{self, Packing},
    paths,
    process::Guarded,
};

/// Debian's containerd, a wharfd for each client, a registry, and somebody who watches each daemon's events.
pub struct World {
    containerd: Containerd,
    /// For the real `ctr`, and for our own.
    wharfd: [Daemon; 2],
    _registry: Registry,
    env: Vec<(String, String)>,
    watchers: [Watcher; 3],
}

/// A `ctr events` in the background.
struct Watcher {
    _process: Guarded,
    path: PathBuf,
}

impl Watcher {
    /// Starts one and waits until it is told of what happens.
    fn start(address: &Path, folder: &Path) -> Self {
        let path = folder.join("events");
        let output = std::fs::File::create(&path).unwrap();
        let client = wharf_tests::command::Program::new("ctr").env("CONTAINERD_ADDRESS", address);
        let mut command = client.command("events");
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let process = Guarded::new(command.spawn().unwrap());
        let name = wharf_tests::unique("watched");
        let _ = client.run(["namespaces", "create", &name]).ok();
        let mut round = 0;
        eventually("the watcher's first event", || {
            round += 1;
            let _ = client.run(["namespaces", "label", &name, &format!("round={round}")]).ok();
            std::fs::read_to_string(&path).unwrap().contains(&name).then_some(())
        });
        Self { _process: process, path }
    }
}

impl World {
    /// Starts all of them.
    pub fn start() -> Self {
        let (containerd, registry) = (Containerd::start(), Registry::start());
        let wharfd = [Daemon::start(), Daemon::start()];
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let busybox = images::busybox();
        let name = "docker.io/library/busybox:latest";
        let env = [
            ("IMAGE", name.to_owned()),
            ("ARCHIVE", text(images::docker_archive(&busybox, name))),
            ("LAYOUT", text(images::oci_archive(&images::umoci_layers()))),
            ("PLATFORMS", text(images::oci_archive(&images::multi_platform()))),
            ("REGISTRY", registry.address().to_string()),
            ("PULLED", registry.push(&images::umoci_layers(), "app/layers:latest")),
            ("MULTI", registry.push(&images::multi_platform(), "app/platforms:latest")),
            ("ZSTD", registry.push(&images::every_entry(Packing::Zstd), "app/zstd:latest")),
        ];
        let env = env.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let watchers = [
            Watcher::start(&containerd.address(), containerd.dir().path()),
            Watcher::start(&wharfd[0].address(), wharfd[0].dir().path()),
            Watcher::start(&wharfd[1].address(), wharfd[1].dir().path()),
        ];
        Self { containerd, wharfd, _registry: registry, env, watchers }
    }

    /// Runs scenarios on all sides, prints the table of the comparisons, and fails if something differs that should
    /// not, or does not where it should.
    pub fn compare(scenarios: &[Scenario]) {
        Self::compare_with(scenarios, false);
    }

    /// As [`World::compare`]; also fails if our client ends or prints otherwise than the real one does.
    pub fn compare_clients(scenarios: &[Scenario]) {
        Self::compare_with(scenarios, true);
    }

    fn compare_with(scenarios: &[Scenario], clients: bool) {
        let world = Self::start();
        let (mut table, mut problems) = (String::new(), String::new());
        for scenario in scenarios {
            world.scenario(scenario, clients, &mut table, &mut problems);
        }
        println!("{table}");
        if !problems.is_empty() {
            problems += &format!("\nwharfd's logs are in {}", kept(&world.wharfd));
        }
        drop(world);
        assert!(problems.is_empty(), "{problems}");
    }

    fn sides(&self) -> [Side; 3] {
        let containerd = self.containerd.dir().path();
        let [ours, own] = &self.wharfd;
        let client = paths::binary("ctr");
        [
            Side::new(containerd, self.containerd.address(), None, &self.env),
            Side::new(ours.dir().path(), ours.address(), None, &self.env),
            Side::new(own.dir().path(), own.address(), client.parent(), &self.env),
        ]
    }

    fn scenario(&self, scenario: &Scenario, clients: bool, table: &mut String, problems: &mut String) {
        let sides = self.sides();
        let outcomes = thread::scope(|scope| {
            let run = |side: &Side| scenario.steps.iter().map(|step| side.run(step)).collect::<Vec<_>>();
            let running = sides.each_ref().map(|side| scope.spawn(move || run(side)));
            running.map(|side| side.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        writeln!(table, "\n{:<78} {:<12} wharfd beside containerd", scenario.name, "its own ctr").unwrap();
        let [theirs, ours, own] = outcomes;
        for (((step, theirs), ours), own) in scenario.steps.iter().zip(&theirs).zip(&ours).zip(&own) {
            let daemon = verdict(step, theirs, ours);
            let client = own_word(theirs, ours, own);
            writeln!(table, "  {:<76} {client:<12} {}", one_line(step), daemon.word()).unwrap();
            if clients && (own.code, &own.stdout) != (ours.code, &ours.stdout) {
                writeln!(problems, "\n== {}: {}\nour client differs", scenario.name, step.line).unwrap();
                problems.push_str(&show(ours, own));
            }
            if let Verdict::Wrong(why) = daemon {
                writeln!(problems, "\n== {}: {}\n{why}", scenario.name, step.line).unwrap();
                problems.push_str(&show(theirs, ours));
            }
        }
        let [theirs, ours, own] = [0, 1, 2].map(|n: usize| order(sides[n].events(&self.watchers[n].path)));
        let [ours, own] = [ours, own].map(|lines| without_collected(lines, &theirs));
        let told = format!("({} events)", theirs.len());
        let daemon = match scenario.events {
            None if ours == theirs => Verdict::Same,
            None => Verdict::Wrong("other events"),
            Some(_) if ours == theirs => Verdict::Wrong("the events are said to differ, and do not"),
            Some(why) => Verdict::Meant(why),
        };
        let client = if own == theirs || own == ours { "same" } else { "others" };
        writeln!(table, "  {told:<76} {client:<12} {}", daemon.word()).unwrap();
        if let Verdict::Wrong(why) = daemon {
            writeln!(problems, "\n== {}\n{why}\n{}", scenario.name, differences(&theirs, &ours)).unwrap();
        }
    }
}

/// What wharfd tells and containerd does not: a namespace that comes to be by the first write in it.
const FIRST_WRITE: &str = "/namespaces/create {\"name\":\"NS\"}";

/// Takes out what garbage collection removed: containerd tells of that since 2.0 only.
fn without_collected(mut lines: Vec<String>, theirs: &[String]) -> Vec<String> {
    let collected = |line: &str| ["/content/delete", "/snapshot/remove"].iter().any(|topic| line.contains(topic));
    lines.retain(|line| !collected(line) || theirs.contains(line));
    lines
}

/// Brings events into an order that does not depend on who was quicker: a shim tells of tasks, the daemon of the rest.
fn order(lines: Vec<String>) -> Vec<String> {
    let lines = lines.into_iter().filter(|line| !line.ends_with(FIRST_WRITE));
    let (tasks, rest): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains(" /tasks/"));
    [tasks, rest].concat()
}

/// What a comparison says.
enum Verdict {
    Same,
    Meant(&'static str),
    Wrong(&'static str),
}

impl Verdict {
    fn word(&self) -> String {
        match self {
            Self::Same => "same".to_owned(),
            Self::Meant(why) => format!("by design: {why}"),
            Self::Wrong(_) => "DIFFERENT".to_owned(),
        }
    }
}

fn verdict(step: &Step, one: &Outcome, other: &Outcome) -> Verdict {
    match step.daemons {
        Some(_) if step.collected && one == other => Verdict::Same,
        None if one.code != other.code => Verdict::Wrong("another exit code"),
        Some(_) if one == other => Verdict::Wrong("is said to differ, and does not"),
        Some(why) => Verdict::Meant(why),
        None if one != other => Verdict::Wrong("another output"),
        None => Verdict::Same,
    }
}

/// What wharf's own client does beside the real one on wharfd.
fn own_word(theirs: &Outcome, ours: &Outcome, own: &Outcome) -> String {
    if own == theirs || own == ours {
        "same".to_owned()
    } else if own.code == ours.code {
        "other words".to_owned()
    } else {
        format!("exit code {}", own.code)
    }
}

fn one_line(step: &Step) -> String {
    let line = step.line.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 76 { line } else { line.chars().take(73).chain("...".chars()).collect() }
}

/// What differs between two outcomes, to read.
fn show(theirs: &Outcome, ours: &Outcome) -> String {
    let code = |outcome: &Outcome| vec![format!("exit code {}", outcome.code)];
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let parts = [
        ("", code(theirs), code(ours)),
        ("stdout", lines(&theirs.stdout), lines(&ours.stdout)),
        ("stderr", lines(&theirs.stderr), lines(&ours.stderr)),
    ];
    let differing = parts.iter().filter(|(_, theirs, ours)| theirs != ours);
    differing.map(|(what, theirs, ours)| format!("  {what}\n{}", differences(theirs, ours))).collect()
}

/// Lines that only containerd's side has (`-`) and that only the other has (`+`); all of them if only their order differs.
fn differences(theirs: &[String], ours: &[String]) -> String {
    let marked = |mark: char, lines: &[String], others: &[String]| {
        let alone = lines.iter().filter(|line| !others.contains(line));
        alone.map(|line| format!("  {mark} {line}\n")).collect::<String>()
    };
    let text = marked('-', theirs, ours) + &marked('+', ours, theirs);
    if text.is_empty() { marked('-', theirs, &[]) + &marked('+', ours, &[]) } else { text }
}

/// Keeps the logs for whoever looks after a failed comparison.
fn kept(daemons: &[Daemon; 2]) -> String {
    let path = paths::workspace().join("target/ctr-wharfd.log");
    std::fs::write(&path, format!("{}\n{}", daemons[0].log(), daemons[1].log())).unwrap();
    path.display().to_string()
}
