//! `snapshots`: file systems in layers.

use crate::{
    commands::{content::write_blob, pull::snapshotter},
    context::{Context, parse},
    failure::{Failure, Outcome, warn},
    labels,
    output::{
        self,
        json::{Object, array, indent, string},
        table::Table,
        time::{rfc3339, rfc3339_nano},
        units,
    },
};
use clap::{Args, Subcommand};
use std::{collections::BTreeMap, io::Write, time::SystemTime};
use wharf_client::Client;
use wharf_messages::{
    Answer, Descriptor, Digest, Labels, Mount, SnapshotKey, SnapshotterName, Timestamp,
    descriptor::media_type,
    image::{ListImages, UnpackImage},
    lease::{CreateLease, DeleteLease},
    snapshot::{
        CommitSnapshot, GetSnapshotMounts, GetSnapshotUsage, ListSnapshots, MakeDiff, PrepareSnapshot, RemoveSnapshot,
        SnapshotInfo, SnapshotKind, StatSnapshot, UpdateSnapshot, Usage, ViewSnapshot,
    },
};

/// The label that keeps an object from garbage collection.
const GC_ROOT_LABEL: &str = "containerd.io/gc.root";

/// Manage snapshots.
#[derive(Debug, Args)]
pub struct Snapshots {
    /// Which snapshotter; empty means the namespace's default
    #[arg(long, env = "CONTAINERD_SNAPSHOTTER", hide_env_values = true, value_name = "NAME")]
    snapshotter: Option<String>,
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Freeze an active snapshot under a name
    Commit {
        /// The frozen one's name
        #[arg(value_name = "KEY")]
        name: String,
        /// The active one
        #[arg(value_name = "ACTIVE")]
        key: String,
    },
    /// Write the difference between two snapshots (by default: one and its parent) to standard output as a layer
    Diff(Diff),
    /// Show all that is known of a snapshot
    Info {
        /// Its key
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// List snapshots
    #[command(visible_alias = "ls")]
    List {
        /// Only those that pass one of these, such as kind==active
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// Print the commands that mount a snapshot
    #[command(visible_aliases = ["m", "mount"])]
    Mounts {
        /// Where they should mount it
        #[arg(value_name = "TARGET")]
        target: String,
        /// Its key
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Make a writable snapshot
    Prepare(Make),
    /// Remove snapshots
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Their keys
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Set labels of a snapshot; an empty value deletes the label
    Label {
        /// Its key
        #[arg(value_name = "KEY")]
        key: String,
        /// KEY alone means KEY=true
        #[arg(value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Draw which snapshot stands on which
    Tree,
    /// Unpack the layers of an image, named by its manifest
    Unpack {
        /// Where to; goes over the one before the command
        #[arg(long = "snapshotter", env = "CONTAINERD_SNAPSHOTTER", hide_env_values = true, value_name = "NAME")]
        own_snapshotter: Option<String>,
        /// The digest that an image names
        #[arg(value_name = "DIGEST")]
        digest: String,
    },
    /// Measure snapshots, without their parents
    Usage {
        /// In bytes
        #[arg(short = 'b')]
        bytes: bool,
        /// Only these
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Make a read-only snapshot
    View(Make),
}

/// A snapshot to make.
#[derive(Debug, Args)]
struct Make {
    /// Print the commands that mount it here
    #[arg(long, short, value_name = "PATH")]
    target: Option<String>,
    /// Print its mounts as JSON
    #[arg(long)]
    mounts: bool,
    /// Its key
    #[arg(value_name = "KEY")]
    key: String,
    /// What it stands on
    #[arg(value_name = "PARENT")]
    parent: Option<String>,
}

/// What to compare.
#[derive(Debug, Args)]
struct Diff {
    /// How to pack the layer
    #[arg(long, value_name = "TYPE", default_value = media_type::OCI_LAYER_GZIP)]
    media_type: String,
    /// A name for the layer while it is unfinished
    #[arg(long = "ref", value_name = "NAME", default_value = "")]
    reference: String,
    /// Keep the layer in the content store
    #[arg(long)]
    keep: bool,
    /// Labels for the layer
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The newer one; alone: the one to compare with its parent
    #[arg(value_name = "KEY")]
    first: String,
    /// The newer one, if the first is the older
    #[arg(value_name = "OTHER_KEY")]
    second: Option<String>,
}

impl Snapshots {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let snapshotter = snapshotter(self.snapshotter.as_ref())?;
        let client = context.client().await?;
        let mut out = output::stdout();
        match self.verb {
            Verb::Commit { name, key } => {
                let (name, key, labels) = (parse(&name)?, parse(&key)?, root_label());
                client.call(CommitSnapshot { snapshotter, name, key, labels, parent: None }).await?;
            }
            Verb::Diff(diff) => return diff.run(&client, snapshotter).await,
            Verb::Info { key } => {
                let info = client.call(StatSnapshot { snapshotter, key: parse(&key)? }).await?;
                writeln!(out, "{}", info_json(&info)?)?;
            }
            Verb::List { filters } => {
                rows(&client.call(ListSnapshots { snapshotter, filters }).await?).write(&mut out)?;
            }
            Verb::Mounts { target, key } => {
                let mounts = client.call(GetSnapshotMounts { snapshotter, key: parse(&key)? }).await?;
                out.write_all(mount_commands(&target, &mounts).as_bytes())?;
            }
            Verb::Prepare(make) => {
                let (key, parent, labels) = (parse(&make.key)?, make.parent()?, root_label());
                let mounts = client.call(PrepareSnapshot { snapshotter, key, parent, labels }).await?;
                make.print(&mounts, &mut out)?;
            }
            Verb::View(make) => {
                let (key, parent, labels) = (parse(&make.key)?, make.parent()?, Labels::new());
                let mounts = client.call(ViewSnapshot { snapshotter, key, parent, labels }).await?;
                make.print(&mounts, &mut out)?;
            }
            Verb::Delete { keys } => {
                for text in keys {
                    let remove = RemoveSnapshot { snapshotter: snapshotter.clone(), key: parse(&text)? };
                    let removed = client.call(remove).await;
                    removed.map_err(|refusal| refusal.context(format!("failed to remove {text:?}")))?;
                }
            }
            Verb::Label { key, labels } => {
                let (key, change) = (parse(&key)?, labels::Change::read(&labels));
                let info = if change.is_empty() {
                    client.call(StatSnapshot { snapshotter, key }).await?
                } else {
                    let (labels, mask) = (change.labels, change.mask);
                    client.call(UpdateSnapshot { snapshotter, key, labels, mask }).await?
                };
                writeln!(out, "{}", output::labels(&info.labels))?;
            }
            Verb::Tree => {
                let snapshots = client.call(ListSnapshots { snapshotter, filters: Vec::new() }).await?;
                out.write_all(tree(&snapshots).as_bytes())?;
            }
            Verb::Unpack { own_snapshotter, digest } => {
                let own = self::snapshotter(own_snapshotter.as_ref())?;
                unpack(&client, own.or(snapshotter), &parse(&digest)?, &mut out).await?;
            }
            Verb::Usage { bytes, keys } => usage(&client, snapshotter, bytes, keys).await?.write(&mut out)?,
        }
        Ok(out.flush()?)
    }
}

fn root_label() -> Labels {
    Labels::from([(GC_ROOT_LABEL.to_owned(), rfc3339(Timestamp::from(SystemTime::now())))])
}

impl Make {
    fn parent(&self) -> Answer<Option<SnapshotKey>> {
        self.parent.as_ref().filter(|parent| !parent.is_empty()).map(SnapshotKey::new).transpose()
    }

    fn print(&self, mounts: &[Mount], out: &mut impl Write) -> Outcome {
        if let Some(target) = &self.target {
            out.write_all(mount_commands(target, mounts).as_bytes())?;
        }
        if self.mounts {
            writeln!(out, "{}", mounts_json(mounts)?)?;
        }
        Ok(())
    }
}

fn mount_commands(target: &str, mounts: &[Mount]) -> String {
    let command =
        |mount: &Mount| format!("mount -t {} {} {target} -o {}\n", mount.kind, mount.source, mount.options.join(","));
    mounts.iter().map(command).collect()
}

fn mounts_json(mounts: &[Mount]) -> Answer<String> {
    let mount = |mount: &Mount| {
        Object::new()
            .string("Type", &mount.kind)
            .string("Source", &mount.source)
            .raw("Options", &array(mount.options.iter().map(|option| string(option))))
            .finish()
    };
    indent(array(mounts.iter().map(mount)).as_bytes(), "    ")
}

fn kind_text(kind: SnapshotKind) -> &'static str {
    match kind {
        SnapshotKind::View => "View",
        SnapshotKind::Active => "Active",
        SnapshotKind::Committed => "Committed",
    }
}

fn info_json(info: &SnapshotInfo) -> Answer<String> {
    let object = Object::new()
        .string("Kind", kind_text(info.kind))
        .string("Name", info.key.as_str())
        .string_if("Parent", info.parent.as_ref().map_or("", |parent| parent.as_str()))
        .map_if("Labels", &info.labels)
        .string("Created", &rfc3339_nano(info.created_at))
        .string("Updated", &rfc3339_nano(info.updated_at));
    indent(object.finish().as_bytes(), "    ")
}

fn rows(snapshots: &[SnapshotInfo]) -> Table {
    let mut table = Table::narrow();
    table.row(["KEY", "PARENT", "KIND"]);
    for info in snapshots {
        let parent = info.parent.as_ref().map_or("", |parent| parent.as_str());
        table.row([info.key.as_str(), parent, kind_text(info.kind)]);
    }
    table
}

async fn usage(
    client: &Client,
    snapshotter: Option<SnapshotterName>,
    in_bytes: bool,
    keys: Vec<String>,
) -> Outcome<Table> {
    let keys = if keys.is_empty() {
        let list = ListSnapshots { snapshotter: snapshotter.clone(), filters: Vec::new() };
        client.call(list).await?.into_iter().map(|info| info.key).collect()
    } else {
        keys.iter().map(|key| parse(key)).collect::<Answer<Vec<SnapshotKey>>>()?
    };
    let mut table = Table::narrow();
    table.row(["KEY", "SIZE", "INODES"]);
    for key in keys {
        let get = GetSnapshotUsage { snapshotter: snapshotter.clone(), key: key.clone() };
        let Usage { size_bytes, inodes } = client.call(get).await?;
        let size = if in_bytes { size_bytes.to_string() } else { units::binary_size(size_bytes) };
        table.row([key.as_str(), &size, &inodes.to_string()]);
    }
    Ok(table)
}

/// Each snapshot on its own line, those that stand on it below it and further in.
fn tree(snapshots: &[SnapshotInfo]) -> String {
    let mut children: BTreeMap<Option<&SnapshotKey>, Vec<&SnapshotKey>> = BTreeMap::new();
    for info in snapshots {
        children.entry(info.parent.as_ref()).or_default().push(&info.key);
    }
    let mut text = String::new();
    // A stack instead of recursion: chains of snapshots can be long.
    let of = |parent, level: usize| {
        children.get(&parent).into_iter().flatten().rev().map(move |key| (*key, level)).collect::<Vec<_>>()
    };
    let mut waiting = of(None, 0);
    while let Some((key, level)) = waiting.pop() {
        let arm = if level > 0 { "\\_" } else { "" };
        text.push_str(&format!("{}{arm} {key}\n", "  ".repeat(level)));
        waiting.extend(of(Some(key), level + 1));
    }
    text
}

async fn unpack(
    client: &Client,
    snapshotter: Option<SnapshotterName>,
    digest: &Digest,
    out: &mut impl Write,
) -> Outcome {
    let images = client.call(ListImages { filters: vec![format!("target.digest=={digest}")] }).await?;
    let image = images.into_iter().find(|image| image.target.digest == *digest);
    let image = image.ok_or_else(|| Failure::new("manifest not found"))?;
    write!(out, "unpacking {digest} ({})...", image.target.media_type)?;
    out.flush()?;
    let unpacked = match client.items(UnpackImage { name: image.name, platform: None, snapshotter }).await {
        Ok(items) => items.reply().await,
        Err(refusal) => Err(refusal),
    };
    writeln!(out, "{}", if unpacked.is_ok() { "done" } else { "" })?;
    unpacked?;
    Ok(())
}

impl Diff {
    async fn run(self, client: &Client, snapshotter: Option<SnapshotterName>) -> Outcome {
        let (first, second) = (parse(&self.first)?, self.second.as_deref().map(parse).transpose()?);
        let lease = client.call(CreateLease::default()).await?.id;
        let leased = client.lease(lease.clone());
        let mut views = Views::new(&leased, snapshotter);
        let written = async {
            let layer = views.layer(first, second, self.packing()).await?;
            let mut out = output::stdout();
            write_blob(&leased, layer.digest, &mut out).await?;
            Ok::<_, Failure>(out.flush()?)
        };
        let written = written.await;
        views.remove().await;
        if let Err(refusal) = client.call(DeleteLease { id: lease.clone(), sync: false }).await {
            warn(format!("lease {lease} is left over: {refusal}"));
        }
        written
    }

    /// How the layer is made, apart from what it is made of.
    fn packing(&self) -> MakeDiff {
        let mut labels = labels::read(&self.labels);
        if self.keep {
            labels.append(&mut root_label());
        }
        let (media_type, reference) = (self.media_type.clone(), self.reference.clone());
        MakeDiff { lower: Vec::new(), upper: Vec::new(), media_type, reference, labels }
    }
}

/// Read-only looks at snapshots that cannot be mounted themselves, removed again at the end.
pub struct Views<'a> {
    client: &'a Client,
    snapshotter: Option<SnapshotterName>,
    made: Vec<SnapshotKey>,
}

impl<'a> Views<'a> {
    /// None yet.
    #[must_use]
    pub fn new(client: &'a Client, snapshotter: Option<SnapshotterName>) -> Self {
        Self { client, snapshotter, made: Vec::new() }
    }

    /// Makes a layer of what the second snapshot changes over the first; alone, of what one changes over its parent.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn layer(
        &mut self,
        first: SnapshotKey,
        second: Option<SnapshotKey>,
        packing: MakeDiff,
    ) -> Answer<Descriptor> {
        let (lower, upper) = match second {
            Some(second) => (self.mounts(first).await?, self.mounts(second).await?),
            None => {
                let stat = StatSnapshot { snapshotter: self.snapshotter.clone(), key: first.clone() };
                let lower = match self.client.call(stat).await?.parent {
                    Some(parent) => self.mounts(parent).await?,
                    None => Vec::new(),
                };
                (lower, self.mounts(first).await?)
            }
        };
        self.client.call(MakeDiff { lower, upper, ..packing }).await
    }

    async fn mounts(&mut self, key: SnapshotKey) -> Answer<Vec<Mount>> {
        let snapshotter = self.snapshotter.clone();
        let stat = StatSnapshot { snapshotter: snapshotter.clone(), key: key.clone() };
        if self.client.call(stat).await?.kind != SnapshotKind::Committed {
            return self.client.call(GetSnapshotMounts { snapshotter, key }).await;
        }
        let view = SnapshotKey::new(format!("{key}-view-{}", std::process::id()))?;
        let parent = Some(key);
        let (key, labels) = (view.clone(), Labels::new());
        let mounts = self.client.call(ViewSnapshot { snapshotter, key, parent, labels }).await?;
        self.made.push(view);
        Ok(mounts)
    }

    /// Removes them.
    pub async fn remove(&mut self) {
        for key in self.made.drain(..) {
            let remove = RemoveSnapshot { snapshotter: self.snapshotter.clone(), key: key.clone() };
            if let Err(refusal) = self.client.call(remove).await {
                warn(format!("snapshot {key} is left over: {refusal}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(key: &str, parent: Option<&str>, kind: SnapshotKind) -> SnapshotInfo {
        SnapshotInfo {
            key: SnapshotKey::new(key).unwrap(),
            parent: parent.map(|parent| SnapshotKey::new(parent).unwrap()),
            kind,
            labels: Labels::new(),
            created_at: Timestamp::from_parts(1_795_468_879, 324_882_545),
            updated_at: Timestamp::from_parts(1_795_468_879, 324_882_545),
        }
    }

    const CHAIN: &str = "sha256:91321ffa1d8d08b0d727f1cc425d8f477f0cd8b1259380079fc8c4fa5b9cf952";

    fn sample() -> Vec<SnapshotInfo> {
        vec![
            info("c1", Some(CHAIN), SnapshotKind::Committed),
            info("p2", Some(CHAIN), SnapshotKind::Active),
            info("p3", Some("c1"), SnapshotKind::Active),
            info(CHAIN, None, SnapshotKind::Committed),
            info("v1", Some(CHAIN), SnapshotKind::View),
        ]
    }

    #[test]
    fn list_tree_and_info_are_those_of_ctr() {
        let mut out = Vec::new();
        rows(&sample()).write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), include_str!("../../tests/golden/snapshots.txt"));
        assert_eq!(tree(&sample()), include_str!("../../tests/golden/snapshots-tree.txt"));
        let json = info_json(&info(CHAIN, None, SnapshotKind::Committed)).unwrap();
        assert_eq!(format!("{json}\n"), include_str!("../../tests/golden/snapshot.json"));
    }

    #[test]
    fn mounts_are_printed_as_commands_or_json() {
        let mount = Mount {
            kind: "bind".into(),
            source: "/root/1/fs".into(),
            target: String::new(),
            options: vec!["ro".into(), "rbind".into()],
        };
        assert_eq!(mount_commands("/mnt", std::slice::from_ref(&mount)), "mount -t bind /root/1/fs /mnt -o ro,rbind\n");
        assert_eq!(
            mounts_json(&[mount]).unwrap(),
            "[\n    {\n        \"Type\": \"bind\",\n        \"Source\": \"/root/1/fs\",\n        \"Options\": [\n            \"ro\",\n            \"rbind\"\n        ]\n    }\n]"
        );
    }
}
