//! Many clients at once, subscribers, panics of actors and a SIGKILL in the middle: in the end nothing is left, nobody has
//! missed an event, and the daemon is as small as before.
//!
//! CI runs a small one; `make load` runs a thousand containers.

use crate::{
    events,
    fixture::{BUSYBOX, import_busybox},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};
use wharf_tests::{Failpoints, command::Program, wait};

/// Panics, in single objects' actors often, in those that all go through rarely: a part that fails four times in five
/// seconds is its parent's failure.
const PANICS: &str = "task/*/*=panic,chance=0.01
container/*/*=panic,chance=0.01
snapshot/*/*=panic,chance=0.01
tasks/*/*=panic,chance=0.0005
containers/*/*=panic,chance=0.0005
snapshots/*/*=panic,chance=0.0005";

/// One container's life, by a client that tries again what was lost.
fn live(client: &Program, id: &str) -> Result<(), String> {
    let mut said = Vec::new();
    let gone = |output: &wharf_tests::command::Output| output.code == 0 || output.stderr.contains("not found");
    for _ in 0..30 {
        let ran = client.run(["run", "-d", BUSYBOX, id, "sleep", "1000"]);
        let killed = client.run(["tasks", "kill", "-s", "9", id]);
        let deleted = client.run(["tasks", "rm", "-f", id]);
        let removed = client.run(["containers", "rm", id]);
        if ran.code == 0 && gone(&deleted) && gone(&removed) {
            return Ok(());
        }
        said.extend([&ran, &killed, &deleted, &removed].map(|output| output.stderr.trim().to_owned()));
        thread::sleep(Duration::from_millis(100));
    }
    // It may still be there from the last try.
    Err(format!("{id}: {}", said.join(" | ")))
}

/// Follows the log from its begin until `end` is known and reached; answers how many events came.
fn follow(client: &Program, end: &AtomicU64) -> Result<u64, String> {
    let mut last = 0;
    let deadline = Instant::now() + Duration::from_secs(900);
    while Instant::now() < deadline {
        let wanted = end.load(Ordering::SeqCst);
        if wanted != 0 && last >= wanted {
            return Ok(last);
        }
        // Once the end is known the log is read up to where it stands; before that it is followed.
        let since = last.to_string();
        let mut args = vec!["events", "--seq", "--since", &since];
        if wanted == 0 {
            args.push("--follow");
        }
        let mut wrong = None;
        let mut child = client.command(&args[..]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            let seq = events::parse(&line)[0].seq;
            if seq != last + 1 {
                wrong = Some(format!("event {seq} after {last}"));
                break;
            }
            last = seq;
            let wanted = end.load(Ordering::SeqCst);
            if wanted != 0 && last >= wanted {
                break;
            }
        }
        child.kill().ok();
        child.wait().unwrap();
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(format!("only {last} events came"))
}

fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_load_with_panics_and_a_kill_loses_nothing_and_leaves_nothing() {
    bear(40, 8, 5);
}

#[test]
#[ignore = "long: make load"]
fn the_whole_load_with_panics_and_a_kill_loses_nothing_and_leaves_nothing() {
    bear(1000, 32, 50);
}

/// Has so many containers live, by so many clients at once, and subscribers hear of it.
fn bear(containers: usize, clients: usize, subscribers: usize) {
    let (mut daemon, points) = Failpoints::start();
    import_busybox(&daemon);
    let idle_kib = resident_kib(daemon.pid());
    let folders = || fs::read_dir(daemon.root().join("snapshotters/overlayfs/snapshots")).unwrap().count();
    let layers = folders();
    points.set(PANICS);
    let client = daemon.client();
    let (next, done, end) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    let began = Instant::now();
    let (failed, counts) = thread::scope(|scope| {
        let following: Vec<_> = (0..subscribers).map(|_| scope.spawn(|| follow(&client, &end))).collect();
        let working: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    loop {
                        let n = next.fetch_add(1, Ordering::SeqCst);
                        if n >= containers {
                            return failed;
                        }
                        failed.extend(live(&client, &format!("c{n}")).err());
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let mut killed = false;
        while done.load(Ordering::SeqCst) < containers {
            if !killed && done.load(Ordering::SeqCst) >= containers / 2 {
                killed = true;
                daemon.kill();
                daemon.up();
            }
            // A root that gives up is started again by whoever runs the daemon.
            daemon.revive();
            thread::sleep(Duration::from_millis(20));
        }
        points.clear();
        let failed: Vec<String> = working.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        end.store(events::parse(&daemon.ok("events --since 0 --seq").stdout).last().unwrap().seq, Ordering::SeqCst);
        // Whoever follows hears one more and sees that it is the end.
        daemon.ok(["images", "label", BUSYBOX, "end=1"]);
        let counts: Vec<_> = following.into_iter().map(|thread| thread.join().unwrap()).collect();
        (failed, counts)
    });
    println!("{containers} containers, {clients} clients, {subscribers} subscribers: {:?}", began.elapsed());
    assert!(failed.is_empty(), "{}\n{}", failed.join("\n"), daemon.log());
    let wrong: Vec<_> = counts.iter().filter(|count| count.is_err()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(daemon.ok("containers ls -q").stdout + &daemon.ok("tasks ls -q").stdout, "");
    let log = events::log(&daemon);
    assert!(log.len() as u64 >= end.load(Ordering::SeqCst));
    let restarts = log.iter().filter(|event| event.payload.to_string().contains("failpoint ")).count();
    println!("{restarts} restarts of parts, {} events", log.len());
    assert!(restarts > 0, "nothing has panicked");
    wait::within(Duration::from_secs(30), || {
        let left = fs::read_dir(daemon.root().join("snapshotters/overlayfs/snapshots")).unwrap().count();
        (left == layers).then_some(())
    })
    .unwrap_or_else(|| panic!("folders of snapshots stay:\n{}", daemon.ok("snapshots ls")));
    daemon.expect_nothing_left();
    let kib = resident_kib(daemon.pid());
    println!("resident: {idle_kib} KiB idle, {kib} KiB after");
    assert!(kib < idle_kib + 48 * 1024, "{idle_kib} KiB idle, {kib} KiB after");
}
