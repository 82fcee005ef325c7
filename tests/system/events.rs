//! The log of events: live, replayed, filtered, and in order.

use crate::fixture::{BUSYBOX, sleeper, with_busybox};
use nix::sys::signal::Signal;
pub use wharf_tests::order::Event;
use wharf_tests::{Daemon, order};

/// Reads lines of `wharf events --seq`.
pub fn parse(text: &str) -> Vec<Event> {
    let one = |line: &str| {
        // SEQ DATE TIME ZONE UTC NAMESPACE TOPIC JSON
        let mut words = line.splitn(8, ' ');
        let mut next = || words.next().unwrap_or_else(|| panic!("not an event: {line:?}")).to_owned();
        let seq = next().parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
        let (_date, _time, _zone, utc) = (next(), next(), next(), next());
        assert_eq!(utc, "UTC", "{line:?}");
        let (namespace, topic) = (next(), next());
        let payload = serde_json::from_str(&next()).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Event { seq, namespace, topic, payload }
    };
    text.lines().map(one).collect()
}

/// The whole log.
pub fn log(daemon: &Daemon) -> Vec<Event> {
    let all = parse(&daemon.ok("events --since 0 --seq").stdout);
    check(&all);
    all
}

/// The predecessor rules: whatever else happened, these hold for each object.
pub fn check(log: &[Event]) {
    order::check(log).unwrap_or_else(|why| panic!("{why}"));
}

fn topics(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.topic.as_str()).collect()
}

#[test]
fn a_run_tells_its_story_live_and_again() {
    let daemon = with_busybox();
    // What the import left goes by itself after a moment, which may be before the watcher listens.
    daemon.ok(["content", "prune"]);
    let before = log(&daemon).last().unwrap().seq;
    let mut live = daemon.background("events --seq");
    // What is heard proves that it listens; labels change nothing else.
    wharf_tests::eventually("the watcher to listen", || {
        daemon.ok(["images", "label", BUSYBOX, "a=b"]);
        live.text().contains("/images/update").then_some(())
    });
    let _ = daemon.wharf(["run", "--rm", BUSYBOX, "a", "sh", "-c", "exit 7"]).exits(7);
    live.expect("/containers/delete");
    live.signal(Signal::SIGINT);
    live.wait();
    let text = live.text();
    let heard: Vec<_> = parse(&text).into_iter().filter(|event| event.topic != "/images/update").collect();
    let own: Vec<_> = heard.iter().filter(|event| event.topic.starts_with("/tasks")).cloned().collect();
    assert_eq!(topics(&own), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], "{text}");
    assert!(heard.iter().all(|event| event.namespace == daemon.namespace()), "{text}");
    let exit = &own[2].payload;
    assert_eq!((&exit["container_id"], &exit["id"], &exit["exit_status"]), (&"a".into(), &"a".into(), &7.into()));
    assert!(topics(&heard).contains(&"/snapshot/prepare") && topics(&heard).contains(&"/snapshot/remove"), "{text}");

    // The log has the same, and the numbers lead into it.
    let again: Vec<_> = log(&daemon).into_iter().filter(|event| event.seq > before).collect();
    let again: Vec<_> = again.into_iter().filter(|event| event.topic != "/images/update").collect();
    assert_eq!(topics(&again), topics(&heard));
    let from = own[2].seq;
    let rest = parse(&daemon.ok(["events", "--seq", "--since", &(from - 1).to_string()]).stdout);
    assert_eq!((rest[0].seq, rest[0].topic.as_str()), (from, "/tasks/exit"));
}

#[test]
fn the_log_survives_the_daemon() {
    let mut daemon = with_busybox();
    daemon.ok(["run", "--rm", BUSYBOX, "a", "true"]);
    let before: Vec<_> = log(&daemon).iter().map(|event| (event.seq, event.topic.clone())).collect();
    daemon.kill();
    daemon.up();
    let after: Vec<_> = log(&daemon).iter().map(|event| (event.seq, event.topic.clone())).collect();
    assert_eq!(after[..before.len()], before[..]);
}

#[test]
fn filters_choose() {
    let daemon = with_busybox();
    daemon.ok(["run", "--rm", BUSYBOX, "a", "true"]);
    let chosen = |filter: &str| parse(&daemon.ok(["events", "--since", "0", "--seq", filter]).stdout);
    assert!(chosen(r#"topic~="^/tasks/""#).iter().all(|event| event.topic.starts_with("/tasks/")));
    assert_eq!(topics(&chosen(r#"topic=="/tasks/exit""#)), ["/tasks/exit"]);
    assert_eq!(topics(&chosen(r#"event.container_id==a,topic=="/tasks/start""#)), ["/tasks/start"]);
    assert!(chosen("namespace==none").is_empty());
    daemon.wharf(["events", "--since", "0", "topic~=\"(\""]).refused(&["invalid argument"]);
    daemon.wharf("events --since yesterday").refused(&["yesterday"]);
}

#[test]
fn times_choose_too() {
    let daemon = with_busybox();
    sleeper(&daemon, "a");
    assert!(daemon.ok("events --since 10m").stdout.contains("/tasks/start"));
    assert_eq!(daemon.ok("events --since 2100-01-01T00:00:00Z").stdout, "");
    assert_eq!(daemon.ok("events --since 0 --until 2000-01-01T00:00:00Z").stdout, "");
}

#[test]
fn a_slow_watcher_holds_up_nobody() {
    let daemon = with_busybox();
    // It is stopped: it reads nothing while others work and watch.
    let mut slow = daemon.background("events --since 0 --follow --seq");
    slow.expect("/images/create");
    slow.signal(Signal::SIGSTOP);
    for round in 0..50 {
        daemon.ok(["images", "label", BUSYBOX, &format!("round={round}")]);
    }
    assert_eq!(topics(&log(&daemon)).iter().filter(|topic| **topic == "/images/update").count(), 50);
    slow.signal(Signal::SIGCONT);
    let last = log(&daemon).last().unwrap().seq;
    slow.expect(&format!("\n{last} "));
    slow.signal(Signal::SIGINT);
    slow.wait();
    check(&parse(&slow.text()));
}

#[test]
fn everything_a_container_does_is_told() {
    let daemon = with_busybox();
    sleeper(&daemon, "a");
    let _ = daemon.wharf("tasks exec --exec-id x a sh -c true").code;
    daemon.ok("tasks pause a");
    daemon.ok("tasks resume a");
    daemon.ok("tasks kill -s 9 a");
    daemon.until_task("a", "STOPPED");
    daemon.ok("tasks rm a");
    daemon.ok("containers label a b=c");
    daemon.ok("containers rm a");
    let log = log(&daemon);
    let own = log.iter().filter(|event| event.topic.starts_with("/tasks") || event.topic.starts_with("/containers"));
    let own: Vec<_> = own.map(|event| event.topic.as_str()).collect();
    #[rustfmt::skip]
    assert_eq!(own, [
        "/containers/create", "/tasks/create", "/tasks/start",
        "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/delete",
        "/tasks/paused", "/tasks/resumed", "/tasks/exit", "/tasks/delete",
        "/containers/update", "/containers/delete",
    ]);
    let killed = log.iter().rfind(|event| event.topic == "/tasks/exit").unwrap();
    assert_eq!(killed.payload["exit_status"], 137);
}

/// The numbers that a watcher of a cursor printed.
fn numbers(text: &str) -> Vec<u64> {
    parse(text).iter().map(|event| event.seq).collect()
}

#[test]
fn a_cursor_goes_on_where_its_subscriber_stopped_whoever_was_restarted() {
    let mut daemon = with_busybox();
    let last = log(&daemon).last().unwrap().seq;
    // Garbage collection may add to the log at any time.
    let first = numbers(&daemon.ok("events --cursor audit --since 0 --seq").stdout);
    assert_eq!(first[..last as usize], (1..=last).collect::<Vec<_>>());
    let next = numbers(&daemon.ok("events --cursor audit --since 0 --seq").stdout);
    let last = *first.iter().chain(&next).last().unwrap();
    assert!(next.first().is_none_or(|next| *next == first.len() as u64 + 1), "all is acknowledged");
    daemon.ok(["run", "--rm", BUSYBOX, "a", "true"]);
    // What is only looked at comes again.
    let looked = daemon.ok("events --cursor audit --since 0 --seq --ack none").stdout;
    daemon.kill();
    daemon.up();
    let again = daemon.ok("events --cursor audit --since 0 --seq --ack each").stdout;
    assert_eq!(numbers(&looked)[0], last + 1);
    assert_eq!(numbers(&again)[..numbers(&looked).len()], numbers(&looked));
    let idle = |output: &wharf_tests::Output| output.row("audit").is_some_and(|row| row[1] == "no" && row[4] == "0");
    daemon.until("events cursors ls", "the cursor is idle", idle);
    daemon.ok("events cursors rm audit");
    daemon.wharf("events cursors rm audit").refused(&["audit", "not found"]);
}

#[test]
fn a_watcher_outlives_the_daemon_and_misses_nothing() {
    let mut daemon = with_busybox();
    let mut live = daemon.background("events --since 0 --follow --seq");
    live.expect("/images/create");
    daemon.kill();
    daemon.up();
    daemon.ok(["images", "label", BUSYBOX, "after=restart"]);
    live.expect("after");
    live.signal(Signal::SIGINT);
    live.wait();
    let seen = parse(&live.text());
    check(&seen);
    assert_eq!(seen[0].seq, 1);
}

#[test]
fn subscribers_who_share_a_cursor_have_the_log_between_them() {
    let daemon = with_busybox();
    let mut two = [0, 1].map(|_| daemon.background("events --cursor jobs --shared --since 0 --follow --seq"));
    for round in 0..40 {
        daemon.ok(["images", "label", BUSYBOX, &format!("round={round}")]);
    }
    let last = log(&daemon).last().unwrap().seq;
    let all = || {
        let mut seen: Vec<_> = two.iter().flat_map(|one| numbers(&whole_lines(&one.text()))).collect();
        seen.retain(|seq| *seq <= last);
        seen.sort_unstable();
        seen
    };
    wharf_tests::eventually("all events", || (all() == (1..=last).collect::<Vec<_>>()).then_some(()));
    daemon.wharf("events --cursor jobs --since 0").refused(&["jobs", "shared"]);
    for one in &mut two {
        one.signal(Signal::SIGINT);
        one.wait();
    }
}

/// What was printed up to the last whole line.
fn whole_lines(text: &str) -> String {
    text[..text.rfind('\n').map_or(0, |end| end + 1)].to_owned()
}

#[test]
fn objects_choose_and_machines_read() {
    let daemon = with_busybox();
    daemon.ok(["run", "--rm", BUSYBOX, "a", "true"]);
    daemon.ok(["run", "--rm", BUSYBOX, "b", "true"]);
    let chosen = daemon.ok("events --since 0 --format json --filter container==a").stdout;
    let chosen = order::parse(&chosen).unwrap();
    assert_eq!(topics(&chosen)[..3], ["/containers/create", "/tasks/create", "/tasks/start"]);
    assert!(chosen.iter().all(|event| [&event.payload["id"], &event.payload["container_id"]].contains(&&"a".into())));
    let image =
        daemon.ok(["events", "--since", "0", "--filter", &format!("image==\"{BUSYBOX}\""), "--format", "table"]);
    assert!(image.row("SEQ").is_some() && image.stdout.contains("/images/create"), "{image}");
    let cloud = daemon.ok(["events", "--since", "0", "--format", "cloudevents", r#"topic=="/tasks/exit""#]).stdout;
    let cloud: Vec<serde_json::Value> = cloud.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cloud.len(), 2);
    for attribute in ["specversion", "id", "source", "type", "time", "datacontenttype"] {
        assert!(cloud[0][attribute].as_str().is_some_and(|text| !text.is_empty()), "{attribute}: {}", cloud[0]);
    }
    assert_eq!((&cloud[0]["type"], &cloud[0]["subject"]), (&"io.containerd.tasks.exit".into(), &"a".into()));
}

#[test]
fn what_is_kept_is_configured_and_what_is_gone_is_told() {
    let daemon = Daemon::configured("[events]\nmax = 64\nmax_bytes = 1000000\n");
    for round in 0..100 {
        let name = format!("n{round}");
        daemon.ok(["namespaces", "create", &name]);
        if round == 2 {
            daemon.ok("events --cursor slow --since 0");
        }
    }
    let late = daemon.wharf("events --cursor slow --since 0 --format json").ok();
    let first: serde_json::Value = serde_json::from_str(late.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["gap"]["first"], 4, "{late}");
    let kept = order::parse(&late.stdout).unwrap();
    assert!((64..=82).contains(&kept.len()), "{}", kept.len());
    assert_eq!(first["gap"]["last"].as_u64().unwrap() + 1, kept[0].seq);
}
