//! `events`: what happens, live; and what happened, from the log.

mod cursors;
mod format;

use crate::{
    context::Context,
    failure::{Failure, Outcome},
    output::time::parse_instant,
};
use clap::{Args, Subcommand, ValueEnum};
use cursors::Cursors;
use format::{Format, Printer};
use std::{io::Write, time::SystemTime};
use wharf_client::Events as Subscription;
use wharf_messages::{
    Answer, CursorName, RefusalKind, Timestamp,
    cursor::UseCursor,
    event::{Delivery, Seq, Since, WatchEvents},
    system::GetDaemonInfo,
};

/// Show what happens, live or from the log.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Events {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show and delete cursors: the places that the daemon remembers for subscribers
    #[command(subcommand, visible_alias = "cursor")]
    Cursors(Cursors),
}

/// What to show, and how.
#[derive(Debug, Args)]
struct Watch {
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
    /// Go on where this cursor stands. One that is not there is made, where --since says or else at the log's end
    #[arg(long, value_name = "NAME")]
    cursor: Option<CursorName>,
    /// Share the cursor's events with all who use it with this flag: each event goes to one of them
    #[arg(long, requires = "cursor")]
    shared: bool,
    /// When an event counts as dealt with, and moves the cursor
    #[arg(long, value_name = "WHEN", default_value = "batch", requires = "cursor")]
    ack: Ack,
    /// Only those that pass one of these, such as topic~="^/tasks" or container==web
    #[arg(long = "filter", value_name = "FILTER")]
    more_filters: Vec<String>,
    /// How to print: as ctr does (the default), as a table, or each as a JSON object
    #[arg(long, value_name = "FORMAT", default_value = "ctr", hide_default_value = true)]
    format: Format,
    /// The same as --filter
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// When an event counts as dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ack {
    /// With others, once all that came together are printed
    Batch,
    /// As soon as it is printed
    Each,
    /// Not at all: the cursor stays where it is
    None,
}

impl Events {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        match self.verb {
            Some(Verb::Cursors(cursors)) => cursors.run(context).await,
            None => self.watch.run(context).await,
        }
    }
}

impl Watch {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let ack = if self.cursor.is_some() { self.ack } else { Ack::None };
        let mut printer = Printer::new(self.format, self.seq);
        if self.format == Format::Cloudevents {
            printer.source = format!("/wharf/{}", client.call(GetDaemonInfo {}).await?.uuid);
        }
        let mut events = client.subscribe(self.watch(Timestamp::from(SystemTime::now()))?).await?;
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        printer.begin(&mut out)?;
        let mut unacked = None;
        while let Some(delivery) = events.next().await? {
            printer.print(&mut out, &delivery)?;
            match delivery {
                Delivery::Event(record) => unacked = Some(record.seq),
                Delivery::Gap(_, last) => unacked = Some(last),
                Delivery::Subscribed { .. } | Delivery::Behind(_) => {}
            }
            if events.has_more() && ack != Ack::Each {
                continue;
            }
            out.flush()?;
            if ack != Ack::None {
                acknowledge(&events, unacked.take()).await?;
            }
        }
        Ok(out.flush()?)
    }

    fn watch(self, now: Timestamp) -> Answer<WatchEvents> {
        // A cursor is for those who stay, unless they say how far to go.
        let follow = self.follow || self.since.is_none() && !(self.cursor.is_some() && self.until.is_some());
        let since = match self.since {
            None => Since::Now,
            Some(text) => match text.parse() {
                Ok(seq) => Since::Seq(Seq(seq)),
                Err(_) => Since::Time(parse_instant(&text, now)?),
            },
        };
        let until = self.until.map(|text| parse_instant(&text, now)).transpose()?;
        let filters = [self.filters, self.more_filters].concat();
        let cursor = self.cursor.map(|name| UseCursor { name, shared: self.shared });
        Ok(WatchEvents { since, until, follow, filters, cursor })
    }
}

async fn acknowledge(events: &Subscription, up_to: Option<Seq>) -> Outcome {
    let Some(seq) = up_to else { return Ok(()) };
    match events.ack(seq).await {
        Ok(()) => Ok(()),
        // The daemon was restarted meanwhile: the subscription comes back by itself, and what comes next is acknowledged
        // together with this.
        Err(refusal) if refusal.is(RefusalKind::NotFound) || refusal.is(RefusalKind::Unavailable) => Ok(()),
        Err(refusal) => Err(Failure::from(refusal)),
    }
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
        line.events.watch.watch(Timestamp::from_parts(1_000, 0))
    }

    #[test]
    fn replay_ends_at_the_end_of_the_log_unless_told_to_follow() {
        for (line, since, until, follow) in [
            ("", Since::Now, None, true),
            ("--since 0", Since::Seq(Seq(0)), None, false),
            ("--since 7 --follow", Since::Seq(Seq(7)), None, true),
            ("--since 10m", Since::Time(Timestamp::from_parts(400, 0)), None, false),
            ("--until 1970-01-01T01:00:00Z", Since::Now, Some(Timestamp::from_parts(3600, 0)), true),
            ("--cursor c", Since::Now, None, true),
            ("--cursor c --since 0", Since::Seq(Seq(0)), None, false),
        ] {
            let watch = watch(line).unwrap();
            assert_eq!((watch.since, watch.until, watch.follow), (since, until, follow), "{line}");
        }
        assert!(watch("--since yesterday").is_err());
        assert_eq!(watch("topic==/a --filter namespace==b").unwrap().filters, ["topic==/a", "namespace==b"]);
        let cursor = watch("--cursor c --shared").unwrap().cursor.unwrap();
        assert_eq!((cursor.name.as_str(), cursor.shared), ("c", true));
    }
}
