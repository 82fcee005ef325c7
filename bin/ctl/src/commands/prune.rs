//! `content prune` and `images prune`: give back the space of what nothing keeps, and of what nobody uses.

use crate::{
    context::Context,
    failure::{Failure, Outcome, Several, warn},
    output::{self, table::Table, time::rfc3339, units},
};
use clap::{Args, Subcommand};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::{Duration, SystemTime},
};
use wharf_client::Client;
use wharf_messages::{
    Answer, Digest, RefusalKind, Timestamp,
    container::ListContainers,
    content::{ListContent, UpdateContent},
    gc::{CollectGarbage, Collected, ExplainGarbage, Reason, Resource, Verdict},
    image::{DeleteImage, ListImages},
    lease::{CreateLease, DeleteLease, EXPIRE_LABEL},
    namespace::ListNamespaces,
};

/// How long the lease lives that is only made to be deleted, should that not happen.
const REFERENCES_LEASE: Duration = Duration::from_secs(3600);

/// What to delete, and whether.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Prune {
    /// Tell of each thing why it is kept or would go, and delete nothing
    #[arg(long)]
    dry_run: bool,
    #[command(subcommand)]
    what: Option<What>,
}

/// What to give up before.
#[derive(Debug, Subcommand)]
enum What {
    /// Take away the labels by which manifests keep their layers, so that layers which are unpacked go
    References(References),
}

/// How.
#[derive(Debug, Args)]
struct References {
    /// Do not wait until the layers are gone
    #[arg(long = "async")]
    no_wait: bool,
    /// Only tell which labels would be taken away
    #[arg(long = "dry")]
    dry_run: bool,
}

impl Prune {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        match self.what {
            Some(What::References(references)) => references.run(&client).await,
            None if self.dry_run => dry_run(&client).await,
            None => {
                let collected = client.call(CollectGarbage {}).await?;
                Ok(output::line(told(&collected))?)
            }
        }
    }
}

/// What was deleted, and how much that gave back: `deleted 3 blobs, 1 snapshot; reclaimed 2.0 MiB`.
fn told(collected: &Collected) -> String {
    let counts = [
        (collected.images, "image"),
        (collected.leases, "lease"),
        (collected.snapshots, "snapshot"),
        (collected.contents, "blob"),
        (collected.ingests, "unfinished blob"),
    ];
    let some: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    let deleted = if some.is_empty() { "nothing".to_owned() } else { some.join(", ") };
    format!("deleted {deleted}; reclaimed {}", units::binary_size(collected.freed_bytes))
}

/// Tells of every namespace what would happen there, and what that would give back.
async fn dry_run(client: &Client) -> Outcome {
    let mut table = Table::narrow();
    table.row(["NAMESPACE", "KIND", "NAME", "SIZE", "KEPT", "WHY"]);
    let mut sizes = Sizes::default();
    for record in client.call(ListNamespaces::default()).await? {
        let mut verdicts = client.namespace(record.name.clone()).items(ExplainGarbage {}).await?;
        while let Some(verdict) = verdicts.next().await? {
            let [kind, name, size, kept, why] = explained(&verdict);
            table.row([record.name.to_string(), kind, name, size, kept, why]);
            sizes.add(&verdict);
        }
        verdicts.reply().await?;
    }
    let mut out = output::stdout();
    table.write(&mut out)?;
    writeln!(out, "would reclaim {}", units::binary_size(sizes.reclaimable_bytes()))?;
    Ok(out.flush()?)
}

/// What would be given back: a blob's bytes only if no namespace keeps it.
#[derive(Default)]
struct Sizes {
    blobs: BTreeMap<Digest, u64>,
    kept: BTreeSet<Digest>,
    others_bytes: u64,
}

impl Sizes {
    fn add(&mut self, verdict: &Verdict) {
        match &verdict.resource {
            Resource::Content(digest) if verdict.is_garbage() => {
                self.blobs.insert(digest.clone(), verdict.size_bytes);
            }
            Resource::Content(digest) => {
                self.kept.insert(digest.clone());
            }
            _ if verdict.is_garbage() => self.others_bytes += verdict.size_bytes,
            _ => {}
        }
    }

    fn reclaimable_bytes(&self) -> u64 {
        let blobs = self.blobs.iter().filter(|(digest, _)| !self.kept.contains(*digest));
        self.others_bytes + blobs.map(|(_, size_bytes)| size_bytes).sum::<u64>()
    }
}

/// Kind, name, size, whether it is kept, and why.
pub fn explained(verdict: &Verdict) -> [String; 5] {
    let why = match &verdict.reason {
        Reason::Itself => "for its own sake".to_owned(),
        Reason::Labelled => "its label containerd.io/gc.root".to_owned(),
        Reason::Until(end) => format!("until {}", rfc3339(*end)),
        Reason::InUse => "being worked on".to_owned(),
        Reason::Referred { by, root } if by == root => by.to_string(),
        Reason::Referred { by, root } => format!("{root} by way of {by}"),
        Reason::Unreferenced => "nothing refers to it".to_owned(),
        Reason::Expired(end) => format!("its time was over at {}", rfc3339(*end)),
    };
    let kept = if verdict.is_garbage() { "no" } else { "yes" };
    let size = if verdict.size_bytes == 0 { "-".to_owned() } else { units::decimal_size(verdict.size_bytes) };
    [verdict.resource.kind().to_owned(), verdict.resource.name(), size, kept.to_owned(), why]
}

impl References {
    /// # Spec
    /// containerd `ctr content prune references`.
    async fn run(self, client: &Client) -> Outcome {
        for info in client.call(ListContent::default()).await? {
            let layers: Vec<_> = info.labels.keys().filter(|key| keeps_a_layer(key)).collect();
            if self.dry_run {
                layers.iter().try_for_each(|key| output::line(format_args!("{} {key}", info.digest)))?;
            } else if !layers.is_empty() {
                let mask = layers.iter().map(|key| format!("labels.{key}")).collect();
                let labels = info.labels.iter().filter(|(key, _)| !keeps_a_layer(key));
                let labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
                client.call(UpdateContent { digest: info.digest, labels, mask }).await?;
            }
        }
        if self.dry_run {
            return Ok(());
        }
        // The end of a lease is what makes the daemon look for garbage, and wait for it if told to.
        let end = rfc3339(Timestamp::from(SystemTime::now()).plus(REFERENCES_LEASE));
        let labels = [(EXPIRE_LABEL.to_owned(), end)].into();
        let lease = client.call(CreateLease { id: None, labels }).await?;
        Ok(client.call(DeleteLease { id: lease.id, sync: !self.no_wait }).await?)
    }
}

/// Whether a label of a manifest keeps one of its layers. The oldest manifests number the config 0 and the layers from 1.
fn keeps_a_layer(key: &str) -> bool {
    let Some(rest) = key.strip_prefix("containerd.io/gc.ref.content.") else { return false };
    rest.starts_with("l.") || (rest != "0" && !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Which images to remove.
#[derive(Debug, Args)]
pub struct PruneImages {
    /// Remove every image that no container was made from; without it none is removed
    #[arg(long, short)]
    all: bool,
    /// Only those that pass one of these, such as name~=busybox
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl PruneImages {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        if !self.all {
            warn("no image is removed without --all");
            return Ok(());
        }
        let client = context.client().await?;
        let images = client.call(ListImages { filters: self.filters }).await?;
        let containers = client.call(ListContainers::default()).await?;
        let used: BTreeSet<String> =
            containers.iter().map(|container| Ok(container.get()?.image)).collect::<Answer<_>>()?;
        let mut several = Several::default();
        for image in images.iter().filter(|image| !used.contains(image.name.as_str())) {
            match client.call(DeleteImage { name: image.name.clone(), sync: false }).await {
                Ok(()) => output::line(&image.name)?,
                // Somebody else was quicker.
                Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
                Err(refusal) => {
                    several.note(Err(Failure::from(refusal).context(format!("unable to delete {}", image.name))));
                }
            }
        }
        let collected = client.call(CollectGarbage {}).await?;
        output::line(told(&collected))?;
        several.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_names_the_root_and_what_leads_there() {
        use wharf_messages::ImageName;
        let digest = |n: u8| Digest::from_sha256(&[n; 32]);
        let image = Resource::Image(ImageName::new("docker.io/library/a:1").unwrap());
        let tell = |reason| explained(&Verdict { resource: Resource::Content(digest(1)), size_bytes: 0, reason });
        let direct = tell(Reason::Referred { by: image.clone(), root: image.clone() });
        assert_eq!(direct[3..], ["yes", "image docker.io/library/a:1"]);
        let layer = tell(Reason::Referred { by: Resource::Content(digest(2)), root: image });
        assert_eq!(layer[4], format!("image docker.io/library/a:1 by way of content {}", digest(2)));
        assert_eq!(tell(Reason::Unreferenced)[2..], ["-", "no", "nothing refers to it"]);
        let over = tell(Reason::Expired(Timestamp::from_parts(60, 0)));
        assert_eq!(over[3..], ["no", "its time was over at 1970-01-01T00:01:00Z"]);
    }

    #[test]
    fn what_was_deleted_is_told_in_a_line() {
        assert_eq!(told(&Collected::default()), "deleted nothing; reclaimed 0.0 B");
        let collected =
            Collected { contents: 3, snapshots: 1, ingests: 2, freed_bytes: 2 << 20, ..Collected::default() };
        assert_eq!(told(&collected), "deleted 1 snapshot, 3 blobs, 2 unfinished blobs; reclaimed 2.0 MiB");
    }

    #[test]
    fn a_blob_that_another_namespace_keeps_gives_nothing_back() {
        let digest = |n: u8| Digest::from_sha256(&[n; 32]);
        let blob = |n, reason| Verdict { resource: Resource::Content(digest(n)), size_bytes: 10, reason };
        let mut sizes = Sizes::default();
        sizes.add(&blob(1, Reason::Unreferenced));
        sizes.add(&blob(1, Reason::Unreferenced));
        sizes.add(&blob(2, Reason::Unreferenced));
        sizes.add(&blob(2, Reason::Labelled));
        assert_eq!(sizes.reclaimable_bytes(), 10);
    }

    #[test]
    fn labels_of_layers_are_told_from_others() {
        let of = |rest: &str| keeps_a_layer(&format!("containerd.io/gc.ref.content.{rest}"));
        assert_eq!(["l.0", "1", "12"].map(of), [true; 3]);
        assert_eq!(["0", "config", "m.0", "1a", ""].map(of), [false; 5]);
        assert!(!keeps_a_layer("containerd.io/gc.ref.snapshot.overlayfs"));
    }
}
