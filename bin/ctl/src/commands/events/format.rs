//! How events are printed: as `ctr` does, as a table, as JSON, as CloudEvents.

use crate::{
    event_view,
    failure::warn,
    output::{self, json::Object, time::rfc3339_nano},
};
use clap::ValueEnum;
use std::io::{self, Write};
use wharf_messages::{
    event::{Delivery, EventRecord, Seq},
    filter::Fields,
};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// As `ctr` does: time, namespace, topic, payload
    Ctr,
    /// In columns
    Table,
    /// Each as a JSON object on a line
    Json,
    /// Each as a CloudEvent (1.0) in JSON on a line
    Cloudevents,
}

/// Prints deliveries.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    numbered: bool,
    /// Where CloudEvents come from; with an event's number it is unique.
    pub source: String,
}

impl Printer {
    /// A printer; `numbered` begins each of `ctr`'s lines with the event's number.
    #[must_use]
    pub fn new(format: Format, numbered: bool) -> Self {
        Self { format, numbered, source: String::new() }
    }

    /// Prints what comes before all.
    pub fn begin(&self, out: &mut impl Write) -> io::Result<()> {
        match self.format {
            Format::Table => writeln!(out, "{}", columns("SEQ", "TIME", "NAMESPACE", "TOPIC", "OBJECT")),
            _ => Ok(()),
        }
    }

    /// Prints one delivery. What is no event goes to standard error, unless the form has a place for it.
    pub fn print(&self, out: &mut impl Write, delivery: &Delivery) -> io::Result<()> {
        let line = match (self.format, delivery) {
            (_, Delivery::Subscribed { .. }) => return Ok(()),
            (Format::Ctr, Delivery::Event(record)) => ctr(record, self.numbered),
            (Format::Table, Delivery::Event(record)) => row(record),
            (Format::Json, Delivery::Event(record)) => json(record),
            (Format::Cloudevents, Delivery::Event(record)) => self.cloud_event(record),
            (Format::Json, Delivery::Gap(first, last)) => Object::new().raw("gap", &gap(*first, *last)).finish(),
            (Format::Json, Delivery::Behind(events)) => format!(r#"{{"behind":{{"events":{events}}}}}"#),
            (Format::Cloudevents, Delivery::Gap(first, last)) => {
                let id = format!("{}-{}.gap", first.0, last.0);
                Object::new()
                    .string("specversion", "1.0")
                    .string("id", &id)
                    .string("source", &self.source)
                    .string("type", "io.wharf.log.gap")
                    .string("datacontenttype", "application/json")
                    .raw("data", &gap(*first, *last))
                    .finish()
            }
            (_, Delivery::Gap(Seq(first), Seq(last))) => {
                warn(format!("events {first} to {last} are no longer in the log"));
                return Ok(());
            }
            (_, Delivery::Behind(events)) => {
                warn(format!("reading is slow: {events} events behind the log's end"));
                return Ok(());
            }
        };
        writeln!(out, "{line}")
    }

    /// # Spec
    /// CloudEvents 1.0.2, JSON event format; the extensions `sequence` (Sequence extension) and `namespace`.
    fn cloud_event(&self, record: &EventRecord) -> String {
        let topic = record.event.topic();
        let kind = match topic.strip_prefix("/wharf/") {
            Some(own) => format!("io.wharf.{}", own.replace('/', ".")),
            None => format!("io.containerd.{}", topic.trim_start_matches('/').replace('/', ".")),
        };
        Object::new()
            .string("specversion", "1.0")
            .string("id", &record.seq.0.to_string())
            .string("source", &self.source)
            .string("type", &kind)
            .string_if("subject", &object(record))
            .string("time", &rfc3339_nano(record.at))
            .string("datacontenttype", "application/json")
            .string("sequence", &format!("{:020}", record.seq.0))
            .string_if("namespace", record.namespace.as_ref().map_or("", |namespace| namespace.as_str()))
            .raw("data", &event_view::payload(&record.event))
            .finish()
    }
}

/// `TIMESTAMP NAMESPACE TOPIC JSON`, as `ctr` has it; an event of the daemon's own has no namespace.
fn ctr(record: &EventRecord, numbered: bool) -> String {
    let number = if numbered { format!("{} ", record.seq.0) } else { String::new() };
    let namespace = record.namespace.as_ref().map_or("", |namespace| namespace.as_str());
    format!(
        "{number}{} {namespace} {} {}",
        output::time::long(record.at),
        record.event.topic(),
        event_view::payload(&record.event)
    )
}

/// Events come one by one, so the columns' widths are set beforehand.
fn columns(seq: &str, time: &str, namespace: &str, topic: &str, object: &str) -> String {
    format!("{seq:<9} {time:<30} {namespace:<16} {topic:<24} {object}").trim_end().to_owned()
}

fn row(record: &EventRecord) -> String {
    let namespace = record.namespace.as_ref().map_or("-", |namespace| namespace.as_str());
    let object = object(record);
    let object = if object.is_empty() { "-" } else { &object };
    let late = if record.late { " (seen late)" } else { "" };
    let line = columns(&record.seq.0.to_string(), &rfc3339_nano(record.at), namespace, record.event.topic(), object);
    output::printable(&format!("{line}{late}")).into_owned()
}

fn json(record: &EventRecord) -> String {
    let object = Object::new()
        .raw("seq", &record.seq.0.to_string())
        .string("time", &rfc3339_nano(record.at))
        .string_if("namespace", record.namespace.as_ref().map_or("", |namespace| namespace.as_str()))
        .string("topic", record.event.topic());
    object.flag_if("late", record.late).raw("event", &event_view::payload(&record.event)).finish()
}

fn gap(first: Seq, last: Seq) -> String {
    format!(r#"{{"first":{},"last":{}}}"#, first.0, last.0)
}

/// What the event is about: `web`, `web/exec`, an image, a snapshot, a digest, a lease, a namespace.
fn object(record: &EventRecord) -> String {
    let field = |path: &[&str]| {
        let path: Vec<_> = path.iter().map(|part| (*part).to_owned()).collect();
        record.field(&path).map(std::borrow::Cow::into_owned)
    };
    if let Some(container) = field(&["container"]) {
        return field(&["exec"]).map_or(container.clone(), |exec| format!("{container}/{exec}"));
    }
    let nouns = [&["image"][..], &["snapshot"], &["content"], &["lease"], &["event", "name"], &["event", "path"]];
    nouns.into_iter().find_map(field).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::{ContainerId, ExecId, Namespace, Timestamp, event::Event, task::Exit};

    fn exited() -> EventRecord {
        let exited_at = Timestamp::from_parts(1_795_469_076, 917_888_170);
        EventRecord {
            seq: Seq(42),
            at: exited_at,
            namespace: Some(Namespace::new("default").unwrap()),
            event: Event::TaskExited {
                container_id: ContainerId::new("web").unwrap(),
                exec_id: Some(ExecId::new("sh").unwrap()),
                pid: 7,
                exit: Exit { code: 3, exited_at, oom: false },
            },
            late: true,
        }
    }

    fn printed(format: Format, delivery: &Delivery) -> String {
        let mut printer = Printer::new(format, false);
        printer.source = "/wharf/u".to_owned();
        let mut out = Vec::new();
        printer.begin(&mut out).unwrap();
        printer.print(&mut out, delivery).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_form_says_the_same() {
        let event = Delivery::Event(Box::new(exited()));
        let payload =
            r#"{"container_id":"web","id":"sh","pid":7,"exit_status":3,"exited_at":"2026-11-23T21:24:36.91788817Z"}"#;
        let lines = [
            (
                Format::Table,
                "SEQ       TIME                           NAMESPACE        TOPIC                    OBJECT\n\
                 42        2026-11-23T21:24:36.91788817Z  default          /tasks/exit              web/sh (seen late)\n"
                    .to_owned(),
            ),
            (
                Format::Json,
                format!(
                    r#"{{"seq":42,"time":"2026-11-23T21:24:36.91788817Z","namespace":"default","topic":"/tasks/exit","late":true,"event":{payload}}}"#
                ) + "\n",
            ),
            (
                Format::Cloudevents,
                format!(
                    r#"{{"specversion":"1.0","id":"42","source":"/wharf/u","type":"io.containerd.tasks.exit","subject":"web/sh","time":"2026-11-23T21:24:36.91788817Z","datacontenttype":"application/json","sequence":"00000000000000000042","namespace":"default","data":{payload}}}"#
                ) + "\n",
            ),
        ];
        for (format, expected) in lines {
            assert_eq!(printed(format, &event), expected);
        }
    }

    #[test]
    fn gaps_have_a_place_in_what_machines_read() {
        let delivery = Delivery::Gap(Seq(1), Seq(5));
        assert_eq!(printed(Format::Json, &delivery), "{\"gap\":{\"first\":1,\"last\":5}}\n");
        assert_eq!(printed(Format::Json, &Delivery::Behind(9)), "{\"behind\":{\"events\":9}}\n");
        let cloud: serde_json::Value = serde_json::from_str(&printed(Format::Cloudevents, &delivery)).unwrap();
        assert_eq!((&cloud["type"], &cloud["data"]["last"]), (&"io.wharf.log.gap".into(), &5.into()));
    }
}
