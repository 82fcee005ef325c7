//! `images`: names for manifests, and how images get here and away.

use crate::{
    commands::{
        convert::Convert,
        mount::{Mount, Unmount},
        prune::PruneImages,
        pull::{Pull, snapshotter},
        push::Push,
        transfer::{Export, Import},
    },
    context::{Context, parse},
    failure::{Failure, Outcome, Several, warn},
    labels,
    output::{self, table::Table, units},
};
use clap::{Args, Subcommand};
use std::{collections::BTreeSet, io::Write};
use wharf_client::Client;
use wharf_messages::{
    Answer, Digest, ImageName, RefusalKind, SnapshotterName,
    image::{
        CreateImage, DeleteImage, Image, ImageSummary, ListImages, ResolveImage, ResolvedImage, SummarizeImages,
        UpdateImage,
    },
};

/// Manage images.
#[derive(Debug, Subcommand)]
pub enum Images {
    /// Show how much of each image is here
    Check(Check),
    /// Make an image of another one, in another form
    Convert(Convert),
    /// Write images to an archive: an OCI layout that `docker load` reads too
    Export(Export),
    /// Read images from an archive: docker save's, or an OCI layout
    Import(Import),
    /// List images
    #[command(visible_alias = "ls")]
    List(List),
    /// Mount an image's root file system
    Mount(Mount),
    /// Unmount what `mount` mounted
    Unmount(Unmount),
    /// Pull an image from its registry and unpack it
    Pull(Box<Pull>),
    /// Push an image to its registry
    Push(Box<Push>),
    /// Remove images by name
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(Delete),
    /// Remove the images that no container was made from, and tell how much space that gave back
    Prune(PruneImages),
    /// Give an image further names
    Tag(Tag),
    /// Set labels of an image; an empty value deletes the label
    Label(Label),
}

/// Which to check, and how.
#[derive(Debug, Args)]
pub struct Check {
    /// Print only names of images that are complete
    #[arg(long, short)]
    quiet: bool,
    /// Where they would be unpacked; empty means the namespace's default
    #[arg(long, env = "CONTAINERD_SNAPSHOTTER", hide_env_values = true, value_name = "NAME")]
    snapshotter: Option<String>,
    /// Only those that pass one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// Which to list, and how.
#[derive(Debug, Args)]
pub struct List {
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
    /// Only those that pass one of these, such as name~=busybox
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// Which to remove.
#[derive(Debug, Args)]
pub struct Delete {
    /// Return after the content that nothing else holds is gone
    #[arg(long)]
    sync: bool,
    /// Their names
    #[arg(value_name = "REF")]
    images: Vec<String>,
}

/// A name and further ones.
#[derive(Debug, Args)]
pub struct Tag {
    /// Take names that other images have
    #[arg(long)]
    force: bool,
    /// The image
    #[arg(value_name = "REF")]
    source: String,
    /// Its further names
    #[arg(value_name = "NEW_REF", required = true)]
    targets: Vec<String>,
}

/// An image and labels.
#[derive(Debug, Args)]
pub struct Label {
    /// Remove all other labels
    #[arg(long, short)]
    replace_all: bool,
    /// Its name
    #[arg(value_name = "REF")]
    image: String,
    /// KEY alone means KEY=true
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Images {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Check(check) => check.run(context).await,
            Self::Convert(convert) => convert.run(context).await,
            Self::Export(export) => export.run(context).await,
            Self::Import(import) => import.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::Mount(mount) => mount.run(context).await,
            Self::Unmount(unmount) => unmount.run(context).await,
            Self::Pull(pull) => pull.run(context).await,
            Self::Push(push) => push.run(context).await,
            Self::Delete(delete) => delete.run(context).await,
            Self::Prune(prune) => prune.run(context).await,
            Self::Tag(tag) => tag.run(context).await,
            Self::Label(label) => label.run(context).await,
        }
    }
}

impl List {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let mut out = output::stdout();
        if self.quiet {
            let images = client.call(ListImages { filters: self.filters }).await?;
            images.iter().try_for_each(|image| writeln!(out, "{}", image.name))?;
        } else {
            let images = client.call(SummarizeImages { filters: self.filters }).await?;
            rows(&images).write(&mut out)?;
        }
        Ok(out.flush()?)
    }
}

fn rows(images: &[ImageSummary]) -> Table {
    let mut table = Table::narrow();
    table.row(["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"]);
    for ImageSummary { image, size_bytes, platforms, .. } in images {
        let platforms: BTreeSet<String> = platforms.iter().map(ToString::to_string).collect();
        let platforms: Vec<String> = platforms.into_iter().collect();
        table.row([
            image.name.as_str(),
            &image.target.media_type,
            image.target.digest.as_str(),
            &units::binary_size(*size_bytes),
            if platforms.is_empty() { "-".to_owned() } else { platforms.join(",") }.as_str(),
            &output::labels_or_dash(&image.labels),
        ]);
    }
    table
}

/// How much of an image is here, for this machine's platform.
struct Presence {
    status: String,
    size: String,
    is_complete: bool,
    is_unpacked: bool,
}

impl Check {
    async fn run(self, context: &Context) -> Outcome {
        let snapshotter = snapshotter(self.snapshotter.as_ref())?;
        let client = context.client().await?;
        let images = client.call(SummarizeImages { filters: self.filters }).await?;
        if images.is_empty() {
            return Ok(());
        }
        let mut several = Several::default();
        let mut table = Table::narrow();
        table.row(["REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED"]);
        let mut out = output::stdout();
        for summary in &images {
            let image = &summary.image;
            let presence = match presence(&client, summary, snapshotter.clone()).await {
                Ok(presence) => presence,
                Err(refusal) => {
                    several.note(Err(Failure::from(refusal).context(format!("unable to check {}", image.name))));
                    let (status, size) = ("error".to_owned(), "-".to_owned());
                    Presence { status, size, is_complete: false, is_unpacked: false }
                }
            };
            if !self.quiet {
                let Presence { status, size, is_unpacked, .. } = presence;
                let (media_type, digest) = (&image.target.media_type, image.target.digest.as_str());
                let unpacked = if is_unpacked { "true" } else { "false" };
                // The last column stays open, as in ctr.
                table.line([image.name.as_str(), media_type, digest, &status, &size, unpacked]);
            } else if presence.is_complete {
                writeln!(out, "{}", image.name)?;
            }
        }
        if !self.quiet {
            table.write(&mut out)?;
        }
        out.flush()?;
        several.end()
    }
}

async fn presence(client: &Client, summary: &ImageSummary, snapshotter: Option<SnapshotterName>) -> Answer<Presence> {
    let resolve = ResolveImage { name: summary.image.name.clone(), platform: None, snapshotter };
    match client.call(resolve).await {
        Ok(resolved) => Ok(Presence::of(&resolved, &summary.missing)),
        // Without the manifest or config nobody knows what else is needed.
        Err(refusal) if refusal.is(RefusalKind::NotFound) => {
            let size = format!("{}/?", units::binary_size(summary.size_bytes));
            Ok(Presence { status: "unavailable (0/?)".to_owned(), size, is_complete: false, is_unpacked: false })
        }
        Err(refusal) => Err(refusal),
    }
}

impl Presence {
    fn of(resolved: &ResolvedImage, missing: &[Digest]) -> Self {
        let required: Vec<_> = std::iter::once(&resolved.config).chain(&resolved.layers).collect();
        let present: Vec<_> = required.iter().filter(|blob| !missing.contains(&blob.digest)).collect();
        let is_complete = present.len() == required.len();
        let status = if is_complete { "complete" } else { "incomplete" };
        let present_bytes = present.iter().map(|blob| blob.size_bytes).sum();
        let required_bytes = required.iter().map(|blob| blob.size_bytes).sum();
        Self {
            status: format!("{status} ({}/{})", present.len(), required.len()),
            size: format!("{}/{}", units::binary_size(present_bytes), units::binary_size(required_bytes)),
            is_complete,
            is_unpacked: resolved.unpacked,
        }
    }
}

impl Delete {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let mut several = Several::default();
        for (i, text) in self.images.iter().enumerate() {
            // One wait at the end is enough for all.
            let sync = self.sync && i + 1 == self.images.len();
            let deleted = async { client.call(DeleteImage { name: parse(text)?, sync }).await };
            match deleted.await {
                Ok(()) => output::line(text)?,
                // Removing what is not there is what was asked for, so it is no failure.
                Err(refusal) if refusal.is(RefusalKind::NotFound) => warn(format!("{text}: image not found")),
                Err(refusal) => several.note(Err(Failure::from(refusal).context(format!("unable to delete {text}")))),
            }
        }
        several.end()
    }
}

impl Tag {
    async fn run(self, context: &Context) -> Outcome {
        let targets = self.targets.iter().map(|text| parse::<ImageName>(text)).collect::<Answer<Vec<_>>>()?;
        let client = context.client().await?;
        let image = context.image(&client, &parse(&self.source)?).await?;
        for name in targets {
            let Image { target, labels, .. } = image.clone();
            match client.call(CreateImage { name: name.clone(), target, labels }).await {
                Err(refusal) if refusal.is(RefusalKind::AlreadyExists) && self.force => {
                    let Image { target, labels, .. } = image.clone();
                    client.call(UpdateImage { name: name.clone(), target, labels, mask: Vec::new() }).await?;
                }
                other => {
                    other?;
                }
            }
            output::line(name)?;
        }
        Ok(())
    }
}

impl Label {
    async fn run(self, context: &Context) -> Outcome {
        let name: ImageName = parse(&self.image)?;
        let change = labels::Change::read(&self.labels);
        let client = context.client().await?;
        // The call carries a whole image; its mask takes only labels from it.
        let image = context.image(&client, &name).await?;
        let mask = if self.replace_all { vec!["labels".to_owned()] } else { change.mask };
        let updated = if mask.is_empty() {
            image
        } else {
            client.call(UpdateImage { name, target: image.target, labels: change.labels, mask }).await?
        };
        Ok(output::line(output::labels(&updated.labels))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::{Descriptor, Platform, Timestamp};

    fn descriptor(media_type: &str, digit: char, size_bytes: u64) -> Descriptor {
        let digest = Digest::new(format!("sha256:{}", String::from(digit).repeat(64))).unwrap();
        Descriptor::new(media_type, digest, size_bytes)
    }

    fn image() -> Image {
        let digest = "sha256:f4b7576ac60759341315548d1e177048bc4c060cb79d5629f3a1f5606a0600e7";
        Image {
            name: ImageName::new("docker.io/library/busybox:latest").unwrap(),
            target: Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::new(digest).unwrap(), 349),
            labels: labels::read(&["x=y".to_owned()]),
            created_at: Timestamp::ZERO,
            updated_at: Timestamp::ZERO,
        }
    }

    #[test]
    fn rows_are_those_of_ctr() {
        let summary = ImageSummary {
            image: image(),
            size_bytes: 1_084_800,
            platforms: vec![Platform::new("linux", "amd64", ""), Platform::new("linux", "amd64", "")],
            missing: Vec::new(),
        };
        let mut out = Vec::new();
        rows(&[summary]).write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), include_str!("../../tests/golden/images.txt"));
    }

    #[test]
    fn presence_counts_the_config_and_the_layers() {
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", '1', 1 << 20);
        let config = descriptor("application/vnd.oci.image.config.v1+json", '2', 1 << 10);
        let resolved = ResolvedImage {
            image: image(),
            manifest: image().target,
            config,
            config_json: Vec::new(),
            layers: vec![layer.clone()],
            diff_ids: Vec::new(),
            chain_id: layer.digest.clone(),
            unpacked: true,
        };
        let whole = Presence::of(&resolved, &[]);
        assert_eq!((whole.status.as_str(), whole.size.as_str()), ("complete (2/2)", "1.0 MiB/1.0 MiB"));
        let part = Presence::of(&resolved, &[layer.digest]);
        assert_eq!((part.status.as_str(), part.size.as_str()), ("incomplete (1/2)", "1.0 KiB/1.0 MiB"));
        assert!(whole.is_complete && !part.is_complete);
    }
}
