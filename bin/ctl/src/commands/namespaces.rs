//! `namespaces`: who has what.

use crate::{
    context::{Context, parse},
    failure::{Failure, Outcome, Several, warn},
    labels,
    output::{self, table::Table},
};
use clap::{Args, Subcommand};
use std::{io::Write, path::Path};
use wharf_messages::{
    Answer, Namespace, Refusal, RefusalKind,
    namespace::{CreateNamespace, DeleteNamespace, ListNamespaces, NamespaceRecord, UpdateNamespace},
};

/// Manage namespaces.
#[derive(Debug, Subcommand)]
pub enum Namespaces {
    /// Make a namespace
    #[command(visible_alias = "c")]
    Create(Create),
    /// List namespaces
    #[command(visible_alias = "ls")]
    List(List),
    /// Remove namespaces that have nothing in them
    #[command(visible_alias = "rm")]
    Remove(Remove),
    /// Set labels of a namespace; an empty value deletes the label
    Label(Create),
}

/// A namespace and labels.
#[derive(Debug, Args)]
pub struct Create {
    /// Its name
    #[arg(value_name = "NAME")]
    namespace: String,
    /// Its labels; KEY alone means KEY=true
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

/// How to list.
#[derive(Debug, Args)]
pub struct List {
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
}

/// Which to remove.
#[derive(Debug, Args)]
pub struct Remove {
    /// Remove the cgroup of the namespace's name too
    #[arg(long, short)]
    cgroup: bool,
    /// Their names
    #[arg(value_name = "NAME")]
    namespaces: Vec<String>,
}

impl Namespaces {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(create) => {
                let name = parse(&create.namespace)?;
                let labels = labels::read(&create.labels);
                context.client().await?.call(CreateNamespace { name, labels }).await?;
                Ok(())
            }
            Self::Label(label) => {
                let name = parse(&label.namespace)?;
                let change = labels::Change::read(&label.labels);
                let client = context.client().await?;
                if !change.is_empty() {
                    client.call(UpdateNamespace { name, labels: change.labels, mask: change.mask }).await?;
                }
                Ok(())
            }
            Self::List(list) => {
                let records = context.client().await?.call(ListNamespaces::default()).await?;
                let mut out = output::stdout();
                if list.quiet {
                    records.iter().try_for_each(|record| writeln!(out, "{}", record.name))?;
                } else {
                    rows(&records).write(&mut out)?;
                }
                Ok(out.flush()?)
            }
            Self::Remove(remove) => remove.run(context).await,
        }
    }
}

impl Remove {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let mut several = Several::default();
        for name in self.namespaces {
            let removed = async {
                let namespace: Namespace = parse(&name)?;
                match client.call(DeleteNamespace { name: namespace.clone() }).await {
                    // Removing what is not there is what was asked for.
                    Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
                    other => other?,
                }
                if self.cgroup {
                    remove_cgroups(Path::new("/sys/fs/cgroup"), &namespace)?;
                }
                Ok::<_, Refusal>(())
            };
            match removed.await {
                Ok(()) => output::line(&name)?,
                Err(refusal) => {
                    several.note(Err(Failure::from(refusal).context(format!("unable to delete {name}"))));
                }
            }
        }
        several.end()
    }
}

/// Removes the (empty) cgroup of the namespace's name: in the unified tree, and in each controller's on version 1.
fn remove_cgroups(root: &Path, namespace: &Namespace) -> Answer<()> {
    let trees = std::fs::read_dir(root).map_err(|error| Refusal::io(root.display(), &error))?;
    let trees = trees.filter_map(Result::ok).map(|entry| entry.path());
    for tree in std::iter::once(root.to_owned()).chain(trees) {
        let cgroup = tree.join(namespace.as_str());
        // A controller's own interface files and folders are not what is asked for: only a cgroup has this file.
        if cgroup.join("cgroup.procs").exists()
            && let Err(error) = std::fs::remove_dir(&cgroup)
        {
            warn(Refusal::io(format!("remove cgroup {}", cgroup.display()), &error));
        }
    }
    Ok(())
}

fn rows(records: &[NamespaceRecord]) -> Table {
    let mut table = Table::narrow();
    table.row(["NAME", "LABELS"]);
    for record in records {
        table.row([record.name.as_str(), &output::labels(&record.labels)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_ctr() {
        let record = |name, labels: &[&str]| NamespaceRecord {
            name: Namespace::new(name).unwrap(),
            labels: labels::read(&labels.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>()),
        };
        let mut out = Vec::new();
        rows(&[record("default", &[]), record("foo", &["a=b", "c=d"])]).write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), include_str!("../../tests/golden/namespaces.txt"));
    }
}
