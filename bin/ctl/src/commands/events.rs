//! `events`: what happens, live; and what happened, from the log.

use crate::{
    context::Context,
    event_view,
    failure::{Outcome, warn},
    output::{self, time::parse_instant},
};
use clap::Args;
use std::{io::Write, time::SystemTime};
use wharf_messages::{
    Answer, Timestamp,
    event::{Delivery, EventRecord, Seq, Since, WatchEvents},
};

/// Show what happens, live or from the log.
#[derive(Debug, Args)]
pub struct Events {
    /// Replay the log: after the event of this number (0 is the whole log), or from this time (RFC 3339, or 10m for ten
    /// minutes ago). Ends at the log's end unless --follow is given
    #[arg(long, value_name = "SEQ|TIME")]
    since: Option<String>,
    /// End at this time (RFC 3339, or 10m for ten minutes ago)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Go on with what happens next; the default without --since
    #[arg(long, short)]
    follow: bool,
    /// Begin each line with the event's number, for a later --since
    #[arg(long)]
    seq: bool,
    /// Only those that pass one of these, such as topic~="^/tasks" or namespace==default
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl Events {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let numbered = self.seq;
        let watch = self.watch(Timestamp::from(SystemTime::now()))?;
        let mut deliveries = context.client().await?.items(watch).await?;
        let mut out = std::io::stdout().lock();
        while let Some(delivery) = deliveries.next().await? {
            match delivery {
                Delivery::Event(record) => out.write_all(line(&record, numbered).as_bytes())?,
                Delivery::Gap(Seq(first), Seq(last)) => {
                    warn(format!("events {first} to {last} are no longer in the log"));
                }
                Delivery::Subscribed(_) => {}
            }
        }
        deliveries.reply().await?;
        Ok(output::stdout().flush()?)
    }

    fn watch(self, now: Timestamp) -> Answer<WatchEvents> {
        let follow = self.follow || self.since.is_none();
        let since = match self.since {
            None => Since::Now,
            Some(text) => match text.parse() {
                Ok(seq) => Since::Seq(Seq(seq)),
                Err(_) => Since::Time(parse_instant(&text, now)?),
            },
        };
        let until = self.until.map(|text| parse_instant(&text, now)).transpose()?;
        Ok(WatchEvents { since, until, follow, filters: self.filters })
    }
}

/// `TIMESTAMP NAMESPACE TOPIC JSON`, as `ctr` has it; an event of the daemon's own has no namespace.
fn line(record: &EventRecord, numbered: bool) -> String {
    let number = if numbered { format!("{} ", record.seq.0) } else { String::new() };
    let namespace = record.namespace.as_ref().map_or("", |namespace| namespace.as_str());
    format!(
        "{number}{} {namespace} {} {}\n",
        output::time::long(record.at),
        record.event.topic(),
        event_view::payload(&record.event)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        events: Events,
    }

    fn watch(line: &str) -> Answer<WatchEvents> {
        let words = line.split_whitespace();
        let line = Line::try_parse_from(std::iter::once("events").chain(words)).unwrap();
        line.events.watch(Timestamp::from_parts(1_000, 0))
    }

    #[test]
    fn replay_ends_at_the_end_of_the_log_unless_told_to_follow() {
        for (line, since, until, follow) in [
            ("", Since::Now, None, true),
            ("--since 0", Since::Seq(Seq(0)), None, false),
            ("--since 7 --follow", Since::Seq(Seq(7)), None, true),
            ("--since 10m", Since::Time(Timestamp::from_parts(400, 0)), None, false),
            ("--until 1970-01-01T01:00:00Z", Since::Now, Some(Timestamp::from_parts(3600, 0)), true),
        ] {
            let watch = watch(line).unwrap();
            assert_eq!((watch.since, watch.until, watch.follow), (since, until, follow), "{line}");
        }
        assert!(watch("--since yesterday").is_err());
        assert_eq!(watch("topic==/a namespace==b").unwrap().filters.len(), 2);
    }
}
