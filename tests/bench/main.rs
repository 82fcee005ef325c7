//! wharf beside Debian's containerd: both in turn, on tmpfs, in one run. Only the ratios mean something; the figures
//! themselves are those of the machine at hand.
//!
//! `make bench`, or with words to choose: `make bench ONLY="run memory"`.

#![allow(clippy::unwrap_used)]

mod bus;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::Stdio,
    time::{Duration, Instant},
};
use wharf_tests::{
    Args, Containerd, Daemon, Output, Registry, TestDir, cgroups,
    command::Program,
    images::{self, Packing},
    process::{self, Watch},
};

const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// How long both are left alone before they count as idle.
const SETTLE: Duration = Duration::from_secs(8);

/// One of the two, by the client that its calls are made with.
enum Peer {
    Wharf(Box<Daemon>),
    /// wharfd by the real `ctr`.
    Ctr(Box<Daemon>),
    Containerd(Box<Containerd>),
}

impl Peer {
    fn both() -> [Self; 2] {
        Self::beside(Self::Wharf(Box::new(Daemon::release())))
    }

    /// Both, the real `ctr` being the client of both.
    fn both_by_ctr() -> [Self; 2] {
        Self::beside(Self::Ctr(Box::new(Daemon::release())))
    }

    fn beside(wharf: Self) -> [Self; 2] {
        let peers = [wharf, Self::Containerd(Box::new(Containerd::start()))];
        let archive = images::docker_archive(&images::busybox(), BUSYBOX);
        for peer in &peers {
            peer.ok(["images", "import", archive.to_str().unwrap()]);
        }
        peers
    }

    fn ok(&self, args: impl Args) -> Output {
        match self {
            Self::Wharf(daemon) => daemon.ok(args),
            Self::Ctr(daemon) => daemon.real_ctr(args).ok(),
            Self::Containerd(containerd) => containerd.ok(args),
        }
    }

    fn pid(&self) -> i32 {
        match self {
            Self::Wharf(daemon) | Self::Ctr(daemon) => daemon.pid(),
            Self::Containerd(containerd) => containerd.pid(),
        }
    }

    fn namespace(&self) -> &str {
        match self {
            Self::Wharf(daemon) | Self::Ctr(daemon) => daemon.namespace(),
            Self::Containerd(containerd) => containerd.namespace(),
        }
    }

    /// How long a command takes.
    fn time(&self, args: impl Args) -> Duration {
        let begin = Instant::now();
        self.ok(args);
        begin.elapsed()
    }
}

/// A line of the table.
fn report(figure: &str, unit: &str, [wharf, containerd]: [f64; 2]) {
    println!("{figure:<44} {wharf:>10.1} {containerd:>12.1} {unit:<4} {:>7.2}", wharf / containerd);
}

/// A line with a figure of wharf's alone, and what it must reach.
fn figure(figure: &str, value: f64, unit: &str, must: &str) {
    println!("{figure:<54} {value:>14.2} {unit:<4} {must}");
}

fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1024.0
}

/// How long the daemon takes to be back after SIGKILL, with a hundred containers running.
fn restart() {
    let mut daemon = Daemon::release();
    let archive = images::docker_archive(&images::busybox(), BUSYBOX);
    daemon.ok(["images", "import", archive.to_str().unwrap()]);
    for number in 0..100 {
        daemon.ok(["run", "-d", BUSYBOX, &format!("c{number}"), "sleep", "1000"]);
    }
    let mut back = || {
        daemon.kill();
        let begin = Instant::now();
        daemon.up();
        daemon.ok("version");
        milliseconds(begin.elapsed())
    };
    let times = (0..5).map(|_| back()).collect();
    figure("back after SIGKILL with 100 running, median", median(times), "ms", "under 100");
    let inside = cgroups::processes(daemon.namespace());
    let shims: BTreeSet<_> = inside.into_iter().filter_map(process::parent).collect();
    daemon.kill();
    for (number, pid) in shims.into_iter().take(10).enumerate() {
        let signal = if number % 2 == 0 { Signal::SIGKILL } else { Signal::SIGSTOP };
        kill(Pid::from_raw(pid), signal).unwrap();
    }
    let begin = Instant::now();
    daemon.up();
    daemon.ok("tasks ls");
    figure("the same, 5 shims dead and 5 hung, tasks listed", milliseconds(begin.elapsed()), "ms", "under 1,000");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of several turns, the peers one after the other in each.
fn in_turn(peers: &[Peer; 2], turns: usize, mut measure: impl FnMut(&Peer) -> f64) -> [f64; 2] {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..turns {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            figures.push(measure(peer));
        }
    }
    figures.map(median)
}

fn run() {
    let peers = Peer::both();
    let args = ["run", "--rm", BUSYBOX, "bench", "true"];
    // The first turn pays for what is only done once.
    let _ = in_turn(&peers, 3, |peer| milliseconds(peer.time(args)));
    report("run --rm busybox true", "ms", in_turn(&peers, 41, |peer| milliseconds(peer.time(args))));
    report("version (the client's floor)", "ms", in_turn(&peers, 41, |peer| milliseconds(peer.time("version"))));
}

fn memory() {
    let peers = Peer::both();
    // Idle is a while after the last command: what it needed may be given back.
    std::thread::sleep(SETTLE);
    let megabytes = |pid: i32| process::pss_kilobytes(pid).unwrap() as f64 / 1024.0;
    report("daemon idle, PSS", "MB", [0, 1].map(|peer| megabytes(peers[peer].pid())));
    let started = [0, 1].map(|peer: usize| {
        let begin = Instant::now();
        for number in 0..100 {
            peers[peer].ok(["run", "-d", BUSYBOX, &format!("c{number}"), "sleep", "1000"]);
        }
        milliseconds(begin.elapsed()) / 100.0
    });
    report("run -d, one after the other, each", "ms", started);
    report("daemon with 100 running, PSS", "MB", [0, 1].map(|peer| megabytes(peers[peer].pid())));
    let shims = [0, 1].map(|peer: usize| {
        let inside = cgroups::processes(peers[peer].namespace());
        let shims: BTreeSet<_> = inside.into_iter().filter_map(process::parent).collect();
        assert_eq!(shims.len(), 100, "a shim a container");
        shims.iter().map(|pid| megabytes(*pid)).sum::<f64>() / shims.len() as f64
    });
    report("shim with 100 running, PSS each", "MB", shims);
    report("tasks ls of 100", "ms", in_turn(&peers, 11, |peer| milliseconds(peer.time("tasks ls"))));
    let removed = [0, 1].map(|peer: usize| {
        let begin = Instant::now();
        for number in 0..100 {
            peers[peer].ok(["tasks", "rm", "-f", &format!("c{number}")]);
        }
        milliseconds(begin.elapsed()) / 100.0
    });
    report("tasks rm -f, one after the other, each", "ms", removed);
}

fn images() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let layout = images::large(8, 48, packing);
        let registry = Registry::start();
        let reference = registry.push(&layout, "bench/large:latest");
        // A fresh root each time: nothing is here already.
        let pull = |peer: &Peer| milliseconds(peer.time(["images", "pull", "--plain-http", &reference]));
        let name = format!("pull and unpack, 8 layers, 384 MiB {packing:?}").to_lowercase();
        report(&name, "ms", fresh(Peer::both, 3, pull));
        if packing == Packing::Gzip {
            let archive = images::oci_archive(&layout);
            let args = ["images", "import", "--base-name", "bench/large", archive.to_str().unwrap()];
            report("import of the same", "ms", fresh(Peer::both, 3, |peer| milliseconds(peer.time(args))));
        }
    }
}

/// As [`in_turn`], with new daemons for each turn.
fn fresh(start: fn() -> [Peer; 2], turns: usize, measure: impl Fn(&Peer) -> f64) -> [f64; 2] {
    let turns: Vec<_> = (0..turns).map(|_| in_turn(&start(), 1, &measure)).collect();
    [0, 1].map(|peer| median(turns.iter().map(|figures| figures[peer]).collect()))
}

/// Gives the busybox image a thousand more names.
fn tag(peers: &[Peer; 2]) {
    for peer in peers {
        for hundred in 0..10 {
            let names: Vec<_> = (0..100).map(|n| format!("docker.io/library/name:{}", hundred * 100 + n)).collect();
            let names = names.iter().map(String::as_str);
            let args: Vec<_> = ["images", "tag", BUSYBOX].into_iter().chain(names).collect();
            peer.ok(args.as_slice());
        }
    }
}

/// The real `ctr` on both.
fn ctr() {
    let peers = Peer::both_by_ctr();
    let run = ["run", "--rm", BUSYBOX, "bench", "true"];
    let _ = in_turn(&peers, 3, |peer| milliseconds(peer.time(run)));
    report("ctr: run --rm busybox true (0.5)", "ms", in_turn(&peers, 31, |peer| milliseconds(peer.time(run))));
    tag(&peers);
    report("ctr: images ls of 1,000 (0.67)", "ms", in_turn(&peers, 5, |peer| milliseconds(peer.time("images ls"))));
    for peer in &peers {
        for number in 0..1000 {
            peer.ok(["containers", "create", BUSYBOX, &format!("c{number}"), "true"]);
        }
    }
    let list = in_turn(&peers, 15, |peer| milliseconds(peer.time("containers ls")));
    report("ctr: containers ls of 1,000 (0.7)", "ms", list);
    drop(peers);
    let layout = images::large(8, 48, Packing::Gzip);
    let registry = Registry::start();
    let reference = registry.push(&layout, "bench/large:latest");
    let pull = |peer: &Peer| milliseconds(peer.time(["images", "pull", "--plain-http", &reference]));
    report("ctr: pull and unpack, 384 MiB gzip (0.5)", "ms", fresh(Peer::both_by_ctr, 3, pull));
    let archive = images::oci_archive(&layout);
    let args = ["images", "import", "--base-name", "bench/large", archive.to_str().unwrap()];
    let import = |peer: &Peer| milliseconds(peer.time(args));
    report("ctr: import of the same (0.5)", "ms", fresh(Peer::both_by_ctr, 3, import));
}

fn lists() {
    let peers = Peer::both();
    tag(&peers);
    report("images ls of 1,000", "ms", in_turn(&peers, 5, |peer| milliseconds(peer.time("images ls"))));
    let created = [0, 1].map(|peer: usize| {
        let begin = Instant::now();
        for number in 0..1000 {
            peers[peer].ok(["containers", "create", BUSYBOX, &format!("c{number}"), "true"]);
        }
        milliseconds(begin.elapsed()) / 1000.0
    });
    report("containers create, each of 1,000", "ms", created);
    report("containers ls of 1,000", "ms", in_turn(&peers, 11, |peer| milliseconds(peer.time("containers ls"))));
    let megabytes = |pid: i32| process::pss_kilobytes(pid).unwrap() as f64 / 1024.0;
    std::thread::sleep(SETTLE);
    report("daemon with 1,000 containers known, PSS", "MB", [0, 1].map(|peer| megabytes(peers[peer].pid())));
}

/// A blob of 1 GiB in and out through the real `ctr`, and the daemon's memory meanwhile; then the same by wharf's own
/// client and protocol.
fn stream() {
    const BLOB_BYTES: u64 = 1 << 30;
    let peers = Peer::both();
    let dir = TestDir::new();
    let source = dir.join("blob");
    let mut file = fs::File::create(&source).unwrap();
    let noise: Vec<u8> = (0_u32..1 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    (0..BLOB_BYTES / noise.len() as u64).for_each(|_| file.write_all(&noise).unwrap());
    let ctr = |peer: &Peer| {
        let address = match peer {
            Peer::Wharf(daemon) | Peer::Ctr(daemon) => daemon.address(),
            Peer::Containerd(containerd) => containerd.address(),
        };
        Program::new("ctr").env("CONTAINERD_ADDRESS", address).env("CONTAINERD_NAMESPACE", peer.namespace())
    };
    let own = |peer: &Peer| match peer {
        Peer::Wharf(daemon) => daemon.client(),
        Peer::Containerd(_) | Peer::Ctr(_) => ctr(peer),
    };
    let [by_ctr, by_own] = [[0, 1].map(|at| ctr(&peers[at])), [0, 1].map(|at| own(&peers[at]))];
    for (name, clients) in [("ctr", by_ctr), ("wharf's own client against ctr", by_own)] {
        let (mut ingest, mut get, mut memory) = ([0.0; 2], [0.0; 2], [0.0; 2]);
        for (at, peer) in peers.iter().enumerate() {
            let client = &clients[at];
            let listed = |client: &Program| -> Vec<String> {
                client.run("content ls -q").ok().lines().map(str::to_owned).collect()
            };
            let before = listed(client);
            let mut figures = [Vec::new(), Vec::new()];
            let watch = Watch::of(peer.pid(), process::pss_kilobytes);
            for _ in 0..3 {
                let begin = Instant::now();
                let mut command = client.command(["content", "ingest", "bench"]);
                let status = command.stdin(fs::File::open(&source).unwrap()).stdout(Stdio::null()).status().unwrap();
                assert!(status.success());
                figures[0].push(milliseconds(begin.elapsed()));
                let digest = listed(client).into_iter().find(|digest| !before.contains(digest)).unwrap();
                let begin = Instant::now();
                let status = client.command(["content", "get", &digest]).stdout(Stdio::null()).status().unwrap();
                assert!(status.success());
                figures[1].push(milliseconds(begin.elapsed()));
                let _ = client.run(["content", "rm", &digest]).ok();
            }
            memory[at] = watch.most_kilobytes() as f64 / 1024.0;
            [ingest[at], get[at]] = figures.map(median);
        }
        report(&format!("ingest of 1 GiB, {name}"), "ms", ingest);
        report(&format!("get of 1 GiB, {name}"), "ms", get);
        report("daemon meanwhile, most PSS", "MB", memory);
    }
}

fn main() {
    // `cargo bench` passes flags of its own.
    let chosen: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!("{:<44} {:>10} {:>12} {:<4} {:>7}", "", "wharf", "containerd", "", "ratio");
    let parts: [(&str, fn()); 8] = [
        ("run", run),
        ("ctr", ctr),
        ("memory", memory),
        ("images", images),
        ("lists", lists),
        ("stream", stream),
        ("bus", bus::bus),
        ("restart", restart),
    ];
    for (name, part) in parts {
        if chosen.is_empty() || chosen.iter().any(|word| word == name) {
            part();
        }
    }
}
