//! The order of events, as the log of a daemon has it: for each object, what may come after what.
//!
//! ```text
//! container   create < update* < delete                     no task is left when it goes
//! task        create < start < (paused < resumed)* < exit < delete       its container is there
//! exec        added < started < exit < delete               its task is there, and goes after it
//! image       create < update* < delete                     pulled only while it is there
//! snapshot    prepare < commit | remove; committed: < remove             its parent is committed; of views only remove
//! ```
//!
//! Every [`Daemon`](crate::Daemon) that is dropped has its log held against this.

use serde_json::Value;
use std::collections::BTreeMap;

/// An event of a log.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number.
    pub seq: u64,
    /// Where its object lives; empty for the daemon's own.
    pub namespace: String,
    /// What happened.
    pub topic: String,
    /// What is said of it.
    pub payload: Value,
}

/// Reads what `wharf events --format json` printed.
///
/// # Errors
/// The line that is no event.
pub fn parse(text: &str) -> Result<Vec<Event>, String> {
    let one = |line: &str| {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        match value["seq"].as_u64() {
            Some(seq) => {
                let (namespace, topic, payload) = (text("namespace"), text("topic"), value["event"].clone());
                Ok(Some(Event { seq, namespace, topic, payload }))
            }
            // What retention took: its objects are known from what comes after.
            None if value["gap"].is_object() => Ok(None),
            None => Err(format!("no event: {line}")),
        }
    };
    text.lines().filter_map(|line| one(line).transpose()).collect()
}

/// Checks a whole log, or what is left of one.
///
/// # Errors
/// The first event that must not come where it does, and what came before it.
pub fn check(log: &[Event]) -> Result<(), String> {
    // What began before the log does may be in any state.
    let cut = log.first().is_some_and(|first| first.seq > 1);
    let mut order = Order { cut, states: BTreeMap::new() };
    for (index, event) in log.iter().enumerate() {
        if index > 0 && event.seq != log[index - 1].seq + 1 {
            return Err(format!("event {} comes after event {}", event.seq, log[index - 1].seq));
        }
        order.see(event).map_err(|why| format!("{why}: {event:?}"))?;
    }
    Ok(())
}

type Key = (&'static str, Vec<String>);

struct Order {
    cut: bool,
    states: BTreeMap<Key, &'static str>,
}

impl Order {
    fn state(&self, noun: &'static str, key: &[&str]) -> Option<&'static str> {
        self.states.get(&(noun, key.iter().map(|part| (*part).to_owned()).collect())).copied()
    }

    /// Moves an object on, from one of some states.
    fn step(&mut self, noun: &'static str, key: &[&str], from: &[&str], to: &'static str) -> Result<(), String> {
        let before = self.state(noun, key);
        let unknown = before.is_none() && self.cut;
        if !unknown && !from.contains(&before.unwrap_or("absent")) {
            return Err(format!("{noun} {key:?} was {}, not one of {from:?}", before.unwrap_or("absent")));
        }
        self.states.insert((noun, key.iter().map(|part| (*part).to_owned()).collect()), to);
        Ok(())
    }

    /// Demands a state of an object.
    fn demand(&self, noun: &'static str, key: &[&str], allowed: &[&str]) -> Result<(), String> {
        match self.state(noun, key) {
            None if self.cut => Ok(()),
            state if allowed.contains(&state.unwrap_or("absent")) => Ok(()),
            state => Err(format!("{noun} {key:?} is {}, not one of {allowed:?}", state.unwrap_or("absent"))),
        }
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        let text = |key: &str| event.payload[key].as_str().unwrap_or_default();
        let ns = event.namespace.as_str();
        let (noun, verb) = event.topic.trim_start_matches('/').split_once('/').unwrap_or_default();
        match noun {
            "containers" => self.container(&[ns, text("id")], verb),
            "tasks" => {
                let id = text("container_id");
                let exec = match verb {
                    "exec-added" | "exec-started" => text("exec_id"),
                    // containerd names the first process by its container, or not at all.
                    "exit" | "delete" if text("id") != id => text("id"),
                    _ => "",
                };
                match exec {
                    "" => self.task(&[ns, id], verb),
                    exec => self.exec(&[ns, id], &[ns, id, exec], verb),
                }
            }
            "images" => self.image(&[ns, text("name")], verb),
            "snapshot" => self.snapshot(ns, text("snapshotter"), &event.payload, verb),
            "wharf" if verb == "images/pull" => self.demand("image", &[ns, text("name")], &["there"]),
            _ => Ok(()),
        }
    }

    fn container(&mut self, key: &[&str], verb: &str) -> Result<(), String> {
        match verb {
            "create" => self.step("container", key, &["absent"], "there"),
            "update" => self.step("container", key, &["there"], "there"),
            "delete" => {
                self.demand("task", key, &["absent"])?;
                self.step("container", key, &["there"], "absent")
            }
            _ => Ok(()),
        }
    }

    fn task(&mut self, key: &[&str], verb: &str) -> Result<(), String> {
        const LIVE: &[&str] = &["created", "started", "paused"];
        match verb {
            "create" => {
                self.demand("container", key, &["there"])?;
                self.step("task", key, &["absent"], "created")
            }
            "start" => self.step("task", key, &["created"], "started"),
            "paused" => self.step("task", key, &["started"], "paused"),
            "resumed" => self.step("task", key, &["paused"], "started"),
            "exit" => self.step("task", key, LIVE, "exited"),
            "delete" => {
                let running = |(other, state): (&Key, &&str)| {
                    let of_this = other.0 == "exec" && other.1.len() == 3 && other.1[..2] == *key;
                    (of_this && *state == "started").then(|| other.1[2].clone())
                };
                if let Some(exec) = self.states.iter().find_map(running) {
                    return Err(format!("exec {exec:?} has not ended"));
                }
                self.step("task", key, &["created", "exited"], "absent")
            }
            _ => Ok(()),
        }
    }

    fn exec(&mut self, task: &[&str], key: &[&str], verb: &str) -> Result<(), String> {
        match verb {
            "exec-added" => {
                self.demand("task", task, &["created", "started", "paused"])?;
                // One that could not be started is taken away without an event.
                self.step("exec", key, &["absent", "exited", "added"], "added")
            }
            "exec-started" => self.step("exec", key, &["added"], "started"),
            "exit" => {
                self.demand("task", task, &["created", "started", "paused", "exited"])?;
                self.step("exec", key, &["added", "started"], "exited")
            }
            "delete" => self.step("exec", key, &["added", "exited"], "absent"),
            _ => Ok(()),
        }
    }

    fn image(&mut self, key: &[&str], verb: &str) -> Result<(), String> {
        match verb {
            "create" => self.step("image", key, &["absent"], "there"),
            "update" => self.step("image", key, &["there"], "there"),
            "delete" => self.step("image", key, &["there"], "absent"),
            _ => Ok(()),
        }
    }

    fn snapshot(&mut self, ns: &str, snapshotter: &str, payload: &Value, verb: &str) -> Result<(), String> {
        let text = |key: &str| payload[key].as_str().unwrap_or_default();
        let key = [ns, snapshotter, text("key")];
        match verb {
            "prepare" => {
                if !text("parent").is_empty() {
                    self.demand("snapshot", &[ns, snapshotter, text("parent")], &["committed"])?;
                }
                self.step("snapshot", &key, &["absent"], "active")
            }
            "commit" => {
                self.step("snapshot", &key, &["active"], "absent")?;
                self.step("snapshot", &[ns, snapshotter, text("name")], &["absent"], "committed")
            }
            // A view is made without an event, as in containerd.
            "remove" => self.step("snapshot", &key, &["absent", "active", "committed"], "absent"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[(&str, &str)]) -> Vec<Event> {
        let event = |(seq, (topic, payload)): (usize, &(&str, &str))| Event {
            seq: seq as u64 + 1,
            namespace: "n".to_owned(),
            topic: (*topic).to_owned(),
            payload: serde_json::from_str(payload).unwrap(),
        };
        lines.iter().enumerate().map(event).collect()
    }

    const WEB: &str = r#"{"id":"web","container_id":"web"}"#;
    const EXEC: &str = r#"{"id":"sh","exec_id":"sh","container_id":"web"}"#;

    #[test]
    fn a_life_in_order_passes_and_each_disorder_does_not() {
        let life = [
            ("/containers/create", WEB),
            ("/tasks/create", WEB),
            ("/tasks/start", WEB),
            ("/tasks/exec-added", EXEC),
            ("/tasks/exec-started", EXEC),
            ("/tasks/exit", EXEC),
            ("/tasks/exit", WEB),
            ("/tasks/delete", WEB),
            ("/containers/delete", WEB),
        ];
        check(&log(&life)).unwrap();
        for first in 0..life.len() - 1 {
            let mut swapped = life;
            swapped.swap(first, first + 1);
            // A process may be added before the first one runs, and the ends of two may come either way round.
            assert_eq!(check(&log(&swapped)).is_ok(), [2, 5].contains(&first), "{first}");
        }
    }

    #[test]
    fn holes_are_found_and_what_a_cut_log_does_not_tell_is_allowed() {
        let mut holed = log(&[("/tasks/create", WEB), ("/tasks/start", WEB), ("/tasks/exit", WEB)]);
        for event in &mut holed {
            event.seq += 100;
        }
        check(&holed).unwrap();
        holed.remove(1);
        assert!(check(&holed).unwrap_err().contains("event 103 comes after event 101"));
    }
}
