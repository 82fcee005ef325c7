//! `leases`: what protects new resources until something refers to them.

use crate::{
    context::{Context, parse},
    failure::{Outcome, warn},
    output::{
        self,
        table::Table,
        time::{parse_duration, rfc3339, rfc3339_local},
    },
};
use clap::{Args, Subcommand};
use std::{
    io::Write,
    time::{Duration, SystemTime},
};
use wharf_client::Client;
use wharf_messages::{
    Labels, LeaseId, Timestamp,
    lease::{CreateLease, DeleteLease, EXPIRE_LABEL, Lease, ListLeases},
};

/// How long what a command is making is protected.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Manage leases.
#[derive(Debug, Subcommand)]
pub enum Leases {
    /// List leases
    #[command(visible_alias = "ls")]
    List(List),
    /// Make a lease and print its id
    Create(Create),
    /// Delete leases
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(Delete),
}

/// Which to list, and how.
#[derive(Debug, Args)]
pub struct List {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Only those that pass one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// What to make.
#[derive(Debug, Args)]
pub struct Create {
    /// Its id; the daemon makes one up otherwise
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// When it ends by itself; 0 means never
    #[arg(long, short = 'x', value_name = "DURATION", value_parser = parse_duration, default_value = "24h0m0s")]
    expires: Duration,
    /// Its labels
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

/// Which to delete.
#[derive(Debug, Args)]
pub struct Delete {
    /// Return after what they alone protected is gone
    #[arg(long)]
    sync: bool,
    /// Their ids
    #[arg(value_name = "ID", required = true)]
    leases: Vec<String>,
}

impl Leases {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List(list) => {
                let leases = context.client().await?.call(ListLeases { filters: list.filters }).await?;
                let mut out = output::stdout();
                if list.quiet {
                    leases.iter().try_for_each(|lease| writeln!(out, "{}", lease.id))?;
                } else {
                    rows(&leases).write(&mut out)?;
                }
                Ok(out.flush()?)
            }
            Self::Create(create) => {
                let id = create.id.filter(|id| !id.is_empty()).map(LeaseId::new).transpose()?;
                // Unlike elsewhere, a label of a lease without a value is empty, not "true".
                let pair = |label: &String| {
                    let (key, value) = label.split_once('=').unwrap_or((label, ""));
                    (key.to_owned(), value.to_owned())
                };
                let mut labels: Labels = create.labels.iter().map(pair).collect();
                if !create.expires.is_zero() {
                    labels.insert(EXPIRE_LABEL.to_owned(), expiry(create.expires));
                }
                let lease = context.client().await?.call(CreateLease { id, labels }).await?;
                Ok(output::line(lease.id)?)
            }
            Self::Delete(delete) => {
                let ids = delete.leases.iter().map(|id| parse::<LeaseId>(id)).collect::<Result<Vec<_>, _>>()?;
                let client = context.client().await?;
                for (i, id) in ids.iter().enumerate() {
                    // One wait at the end is enough for all.
                    let sync = delete.sync && i + 1 == ids.len();
                    client.call(DeleteLease { id: id.clone(), sync }).await?;
                    output::line(id)?;
                }
                Ok(())
            }
        }
    }
}

/// A client under a lease of its own, which protects what nothing refers to yet.
pub struct Leased {
    /// Whose calls are under it.
    pub client: Client,
    lease: LeaseId,
}

impl Leased {
    /// Makes the lease; it ends by itself after a day, should this program die.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn take(client: &Client) -> Outcome<Self> {
        let labels = Labels::from([(EXPIRE_LABEL.to_owned(), expiry(LEASE))]);
        let lease = client.call(CreateLease { id: None, labels }).await?.id;
        Ok(Self { client: client.lease(lease.clone()), lease })
    }

    /// Ends the lease, whatever came of the work.
    pub async fn end(self) {
        if let Err(refusal) = self.client.call(DeleteLease { id: self.lease.clone(), sync: false }).await {
            warn(format!("lease {} is left over: {refusal}", self.lease));
        }
    }
}

/// The value of the label that ends a lease after a while.
#[must_use]
pub fn expiry(after: Duration) -> String {
    rfc3339(Timestamp::from(SystemTime::now()).plus(after))
}

fn rows(leases: &[Lease]) -> Table {
    let mut table = Table::narrow();
    table.row(["ID", "CREATED AT", "LABELS"]);
    for lease in leases {
        let created = rfc3339_local(lease.created_at);
        table.row([lease.id.as_str(), &created, &output::labels_or_dash(&lease.labels)]);
    }
    table
}
