//! What can be asked of each noun: the fields that containerd filters on, by its names.

use super::Fields;
use crate::{
    ContainerId, Labels,
    container::Container,
    content::{ContentInfo, IngestStatus},
    event::{Event, EventRecord},
    image::Image,
    lease::Lease,
    namespace::NamespaceRecord,
    snapshot::{SnapshotInfo, SnapshotKind},
    system::PluginInfo,
    task::{Exit, Process, Stdio, TaskMetrics},
};
use std::borrow::Cow;

type Found<'a> = Option<Cow<'a, str>>;

/// A text that counts as not there when it is empty.
fn text(text: &str) -> Found<'_> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

/// A text that is there even when it is empty.
fn always(text: &str) -> Found<'_> {
    Some(Cow::Borrowed(text))
}

fn number(number: u32) -> Found<'static> {
    Some(Cow::Owned(number.to_string()))
}

/// A label: keys with dots need no quotes, since the path's parts are put together again.
fn label<'a>(labels: &'a Labels, key: &[String]) -> Found<'a> {
    labels.get(&key.join(".")).map(|value| Cow::Borrowed(value.as_str()))
}

/// A path's first part and the rest.
fn split(path: &[String]) -> Option<(&str, &[String])> {
    path.split_first().map(|(first, rest)| (first.as_str(), rest))
}

impl Fields for NamespaceRecord {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("name", _) => text(self.name.as_str()),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for Image {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("name", _) => text(self.name.as_str()),
            ("target", rest) => match split(rest)? {
                ("digest", _) => text(self.target.digest.as_str()),
                ("mediatype", _) => text(&self.target.media_type),
                _ => None,
            },
            ("labels", key) => label(&self.labels, key),
            ("annotations", key) => label(&self.target.annotations, key),
            _ => None,
        }
    }
}

impl Fields for Container {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("id", _) => text(self.id.as_str()),
            ("runtime", rest) => (split(rest)?.0 == "name").then(|| text(&self.runtime.name))?,
            ("image", _) => text(&self.image),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for ContentInfo {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("digest", _) => text(self.digest.as_str()),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for IngestStatus {
    fn field(&self, path: &[String]) -> Found<'_> {
        (split(path)?.0 == "ref").then(|| always(self.reference.as_str()))?
    }
}

impl Fields for Lease {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("id", _) => text(self.id.as_str()),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for SnapshotInfo {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("kind", _) => always(match self.kind {
                SnapshotKind::View => "view",
                SnapshotKind::Active => "active",
                SnapshotKind::Committed => "committed",
            }),
            ("name", _) => always(self.key.as_str()),
            ("parent", _) => always(self.parent.as_ref().map_or("", |parent| parent.as_str())),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

/// containerd takes filters on tasks and ignores them; these work.
impl Fields for Process {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("id", _) => text(self.container_id.as_str()),
            ("status", _) => always(self.status.as_str()),
            ("pid", _) => number(self.pid),
            _ => None,
        }
    }
}

impl Fields for TaskMetrics {
    fn field(&self, path: &[String]) -> Found<'_> {
        (split(path)?.0 == "id").then(|| text(self.container_id.as_str()))?
    }
}

impl Fields for PluginInfo {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("type", _) => text(&self.kind),
            ("id", _) => text(&self.id),
            _ => None,
        }
    }
}

impl Fields for EventRecord {
    fn field(&self, path: &[String]) -> Found<'_> {
        match split(path)? {
            ("namespace", _) => text(self.namespace.as_ref()?.as_str()),
            ("topic", _) => text(self.event.topic()),
            ("event", rest) => self.event.field(rest),
            (noun, _) => self.event.object(noun),
        }
    }
}

/// The payload's fields by the names of containerd's messages; numbers are ours: containerd knows only texts here.
impl Fields for Event {
    fn field(&self, path: &[String]) -> Found<'_> {
        let (name, rest) = split(path)?;
        match self {
            Self::NamespaceCreated { name: namespace, labels } | Self::NamespaceUpdated { name: namespace, labels } => {
                match name {
                    "name" => text(namespace.as_str()),
                    "labels" => label(labels, rest),
                    _ => None,
                }
            }
            Self::NamespaceDeleted { name: namespace } => (name == "name").then(|| text(namespace.as_str()))?,
            Self::ImageCreated { name: image, labels } | Self::ImageUpdated { name: image, labels } => match name {
                "name" => text(image.as_str()),
                "labels" => label(labels, rest),
                _ => None,
            },
            Self::ImageDeleted { name: image } => (name == "name").then(|| text(image.as_str()))?,
            Self::ImagePulled { name: image, target } => match name {
                "name" => text(image.as_str()),
                "digest" => text(target.digest.as_str()),
                _ => None,
            },
            Self::ContentCreated { digest, .. } | Self::ContentDeleted { digest } => {
                (name == "digest").then(|| text(digest.as_str()))?
            }
            Self::SnapshotPrepared { snapshotter, key, parent } => match name {
                "key" => text(key.as_str()),
                "parent" => text(parent.as_ref()?.as_str()),
                "snapshotter" => text(snapshotter.as_str()),
                _ => None,
            },
            Self::SnapshotCommitted { snapshotter, key, name: committed } => match name {
                "key" => text(key.as_str()),
                "name" => text(committed.as_str()),
                "snapshotter" => text(snapshotter.as_str()),
                _ => None,
            },
            Self::SnapshotRemoved { snapshotter, key } => match name {
                "key" => text(key.as_str()),
                "snapshotter" => text(snapshotter.as_str()),
                _ => None,
            },
            Self::ContainerCreated { id, image, runtime } => match name {
                "id" => text(id.as_str()),
                "image" => text(image),
                "runtime" => (split(rest)?.0 == "name").then(|| text(&runtime.name))?,
                _ => None,
            },
            Self::ContainerUpdated { id, image, labels, snapshot_key } => match name {
                "id" => text(id.as_str()),
                "image" => text(image),
                "labels" => label(labels, rest),
                "snapshot_key" => text(snapshot_key.as_ref()?.as_str()),
                _ => None,
            },
            Self::ContainerDeleted { id } => (name == "id").then(|| text(id.as_str()))?,
            Self::TaskCreated { container_id, bundle, stdio, checkpoint, pid, .. } => match name {
                "bundle" => text(bundle),
                "io" => streams(stdio, rest),
                "checkpoint" => text(checkpoint),
                _ => task(container_id, Some(*pid), None, name),
            },
            Self::TaskStarted { container_id, pid } => task(container_id, Some(*pid), None, name),
            Self::TaskExited { container_id, exec_id, pid, exit }
            | Self::TaskDeleted { container_id, exec_id, pid, exit } => match name {
                // containerd names the first process by its container.
                "id" => text(exec_id.as_ref().map_or(container_id.as_str(), |id| id.as_str())),
                _ => task(container_id, Some(*pid), Some(exit), name),
            },
            Self::TaskExecAdded { container_id, exec_id } => match name {
                "exec_id" => text(exec_id.as_str()),
                _ => task(container_id, None, None, name),
            },
            Self::TaskExecStarted { container_id, exec_id, pid } => match name {
                "exec_id" => text(exec_id.as_str()),
                _ => task(container_id, Some(*pid), None, name),
            },
            Self::TaskCheckpointed { container_id, checkpoint } => match name {
                "checkpoint" => text(checkpoint),
                _ => task(container_id, None, None, name),
            },
            Self::TaskOomKilled { container_id }
            | Self::TaskPaused { container_id }
            | Self::TaskResumed { container_id } => task(container_id, None, None, name),
            Self::LeaseCreated { id } | Self::LeaseDeleted { id } => (name == "id").then(|| text(id.as_str()))?,
            Self::ChildRestarted { path, reason, restarts } => match name {
                "path" => text(path),
                "reason" => text(reason),
                "restarts" => number(*restarts),
                _ => None,
            },
            Self::RestartScheduled { container_id, restarts, reason, .. }
            | Self::RestartGivenUp { container_id, restarts, reason } => match name {
                "restarts" => number(*restarts),
                "reason" => text(reason),
                _ => task(container_id, None, None, name),
            },
            Self::HealthChanged { container_id, status, failing } => match name {
                "status" => always(status.as_str()),
                "failing" => number(*failing),
                _ => task(container_id, None, None, name),
            },
            // Its payload is nobody's business here.
            Self::Published { .. } => None,
        }
    }
}

/// What the event is about, by noun: one word for an object wherever containerd's payloads have it.
impl Event {
    fn object(&self, noun: &str) -> Found<'_> {
        match noun {
            "container" => self.container_id().map(|id| Cow::Borrowed(id.as_str())),
            "exec" => match self {
                Self::TaskExecAdded { exec_id, .. } | Self::TaskExecStarted { exec_id, .. } => text(exec_id.as_str()),
                Self::TaskExited { exec_id, .. } | Self::TaskDeleted { exec_id, .. } => {
                    text(exec_id.as_ref()?.as_str())
                }
                _ => None,
            },
            "image" => match self {
                Self::ImageCreated { name, .. }
                | Self::ImageUpdated { name, .. }
                | Self::ImageDeleted { name }
                | Self::ImagePulled { name, .. } => text(name.as_str()),
                Self::ContainerCreated { image, .. } | Self::ContainerUpdated { image, .. } => text(image),
                _ => None,
            },
            "snapshot" => match self {
                Self::SnapshotPrepared { key, .. } | Self::SnapshotRemoved { key, .. } => text(key.as_str()),
                // Under its new name from now on.
                Self::SnapshotCommitted { name, .. } => text(name.as_str()),
                Self::ContainerUpdated { snapshot_key, .. } => text(snapshot_key.as_ref()?.as_str()),
                _ => None,
            },
            "content" => match self {
                Self::ContentCreated { digest, .. } | Self::ContentDeleted { digest } => text(digest.as_str()),
                Self::ImagePulled { target, .. } => text(target.digest.as_str()),
                _ => None,
            },
            "lease" => match self {
                Self::LeaseCreated { id } | Self::LeaseDeleted { id } => text(id.as_str()),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What events of tasks have in common.
fn task<'a>(container_id: &'a ContainerId, pid: Option<u32>, exit: Option<&Exit>, name: &str) -> Found<'a> {
    match name {
        "container_id" => text(container_id.as_str()),
        "pid" => number(pid?),
        "exit_status" => number(exit?.code),
        _ => None,
    }
}

fn streams<'a>(stdio: &'a Stdio, path: &[String]) -> Found<'a> {
    match split(path)?.0 {
        "stdin" => text(&stdio.stdin),
        "stdout" => text(&stdio.stdout),
        "stderr" => text(&stdio.stderr),
        "terminal" => always(if stdio.terminal { "true" } else { "false" }),
        _ => None,
    }
}
