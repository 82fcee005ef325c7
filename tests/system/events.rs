//! The log of events: live, replayed, filtered, and in order.

use crate::fixture::{BUSYBOX, sleeper, with_busybox};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use wharf_tests::Daemon;

/// An event as `wharf events --seq` prints it.
#[derive(Debug, Clone)]
pub struct Event {
    pub seq: u64,
    pub namespace: String,
    pub topic: String,
    pub payload: Value,
}

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
    let numbers: Vec<_> = log.iter().map(|event| event.seq).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a gap or a repetition: {numbers:?}");
    let mut state: BTreeMap<(String, String), &str> = BTreeMap::new();
    for event in log {
        let text = |key: &str| event.payload[key].as_str().unwrap_or_default().to_owned();
        let id = if event.payload["container_id"].is_string() { text("container_id") } else { text("id") };
        let exec = match event.topic.as_str() {
            "/tasks/exec-added" | "/tasks/exec-started" => text("exec_id"),
            "/tasks/exit" | "/tasks/delete" if text("id") != id => text("id"),
            _ => String::new(),
        };
        let key = (id, exec);
        let before = state.get(&key).copied().unwrap_or_default();
        let (allowed, now): (&[&str], &str) = match event.topic.as_str() {
            "/containers/create" => (&["", "no container"], "container"),
            "/containers/delete" => (&["container", "task deleted"], "no container"),
            "/tasks/create" => (&["container", "task deleted"], "task created"),
            "/tasks/start" => (&["task created"], "task started"),
            "/tasks/paused" | "/tasks/resumed" => (&["task started"], "task started"),
            "/tasks/exec-added" => (&["", "task exited", "task deleted", "exec added"], "exec added"),
            "/tasks/exec-started" => (&["exec added"], "task started"),
            "/tasks/exit" => (&["task started", "task created"], "task exited"),
            "/tasks/delete" => (&["task exited", "task created", "exec added"], "task deleted"),
            _ => continue,
        };
        assert!(allowed.contains(&before), "{event:?} after {before:?}");
        state.insert(key, now);
    }
}

fn topics(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.topic.as_str()).collect()
}

#[test]
fn a_run_tells_its_story_live_and_again() {
    let daemon = with_busybox();
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
