//! Snapshots of another daemon, over containerd's gRPC.
//!
//! wharf knows its snapshots by number, the remote by key. A small file a snapshot, written before the remote is asked
//! for anything and removed after the remote has removed it, says which is which; so a crash between the two leaves a
//! file that the sweep finds, never a snapshot of the remote that nobody knows.
//!
//! ```text
//!   ROOT/snapshots/7    {"namespace":"default","key":"default/7/9f2c..."}
//! ```
//!
//! An active one has `key` at the remote, a committed one `key` with [`COMMITTED`] after it. One that the remote had
//! already (it answers `prepare` with "already exists") is known by its name there.
//!
//! # Spec
//! containerd `snapshots/proxy`; API reference, section 3 "Snapshots".

use super::{Placement, Prepared, Snapshotter};
use crate::drivers::remote::{Channel, MESSAGE_MAX_BYTES, Remote};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    future::Future,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tonic::Request;
use wharf_grpc::{
    containerd::services::snapshots::v1 as wire,
    containerd::services::snapshots::v1::snapshots_client::SnapshotsClient, convert,
};
use wharf_messages::{
    Answer, Labels, Mount, Refusal, RefusalKind,
    snapshot::{SNAPSHOT_REF_LABEL, SnapshotKind, Usage},
};

/// What a committed snapshot's key ends with at the remote.
const COMMITTED: &str = "-committed";
/// A remote that collects garbage must leave what is ours: it cannot see what refers to it here.
const KEEP_LABEL: &str = "containerd.io/gc.root";
/// How long a remote may take to make or freeze a snapshot: it may fetch or flush much.
const MAKE_LIMIT: Duration = Duration::from_secs(120);
/// How long everything else may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A backend behind another daemon's socket.
pub struct Proxy {
    /// The name here.
    name: String,
    remote: Remote,
    /// The name there.
    remote_name: String,
    records: PathBuf,
    /// Whether something was removed since the remote last cleaned up.
    pub(super) removed: AtomicBool,
}

/// What is noted of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Whose it is; the remote is told with each call.
    namespace: String,
    key: String,
    /// The remote had it already: its name there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adopted: Option<String>,
}

impl Record {
    /// Its name at the remote once it is committed.
    fn name(&self) -> String {
        self.adopted.clone().unwrap_or_else(|| format!("{}{COMMITTED}", self.key))
    }
}

impl Proxy {
    /// A snapshotter of the remote's under a name of ours, with records in a folder.
    ///
    /// # Errors
    /// What the disk says. Whether the remote is there shows when it is needed.
    pub fn open(name: &str, remote: Remote, remote_name: &str, root: &Path) -> Answer<Self> {
        let records = root.join("snapshots");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&records);
        made.map_err(|e| Refusal::io(format!("make {}", records.display()), &e))?;
        Ok(Self {
            name: name.to_owned(),
            remote,
            remote_name: remote_name.to_owned(),
            records,
            removed: AtomicBool::new(false),
        })
    }

    fn path(&self, id: u64) -> PathBuf {
        self.records.join(id.to_string())
    }

    fn record(&self, id: u64) -> Answer<Option<Record>> {
        let path = self.path(id);
        let refuse = |e: io::Error| Refusal::io(format!("read {}", path.display()), &e);
        match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => Ok(Some(serde_json::from_slice(&read.map_err(refuse)?).map_err(|e| refuse(e.into()))?)),
        }
    }

    fn known(&self, id: u64) -> Answer<Record> {
        self.record(id)?.ok_or_else(|| Refusal::not_found(format!("snapshot {id} of {}", self.name)))
    }

    fn note(&self, id: u64, record: &Record) -> Answer<()> {
        let (path, new) = (self.path(id), self.records.join(format!("{id}.new")));
        let written = serde_json::to_vec(record).map_err(io::Error::from).and_then(|json| {
            let mut file = fs::File::create(&new)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.records)?.sync_all()
        });
        written.map_err(|e| Refusal::io(format!("write {}", path.display()), &e))
    }

    fn call<Q, T, F>(
        &self,
        limit: Duration,
        namespace: &str,
        message: Q,
        call: impl FnOnce(SnapshotsClient<Channel>, Request<Q>) -> F + Send + 'static,
    ) -> Answer<T>
    where
        Q: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, tonic::Status>> + Send,
    {
        let mut request = Request::new(message);
        let header = namespace.parse().map_err(|_| Refusal::invalid(format!("namespace {namespace:?}")))?;
        request.metadata_mut().insert("containerd-namespace", header);
        let talk = |channel| {
            let client = SnapshotsClient::with_origin(channel, Remote::origin());
            call(client.max_decoding_message_size(MESSAGE_MAX_BYTES), request)
        };
        self.remote.call(limit, talk).map_err(|refusal| refusal.context(format!("snapshotter {}", self.name)))
    }

    /// The name of what a snapshot stands on.
    fn parent(&self, place: &Placement<'_>) -> Answer<String> {
        place.ancestors.first().map_or(Ok(String::new()), |id| self.known(*id).map(|record| record.name()))
    }

    fn labels(&self, place: &Placement<'_>) -> Labels {
        let mut labels = place.labels.clone();
        labels.insert(KEEP_LABEL.to_owned(), "wharf".to_owned());
        labels
    }

    /// Finds what the remote says it has already: the committed one of that target on the same parent. A snapshotter
    /// knows it by its label; a whole daemon means the one that has the target's name.
    fn find_target(&self, namespace: &str, target: &str, parent: &str) -> Answer<wire::Info> {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let filter = format!("labels.{}=={},parent=={}", quoted(SNAPSHOT_REF_LABEL), quoted(target), quoted(parent));
        let list = wire::ListSnapshotsRequest { snapshotter: self.remote_name.clone(), filters: vec![filter] };
        let stat = wire::StatSnapshotRequest { snapshotter: self.remote_name.clone(), key: target.to_owned() };
        let on = parent.to_owned();
        let stands = move |info: &wire::Info| info.kind() == wire::Kind::Committed && info.parent == on;
        // A remote may not know filters.
        let (wanted, fits) = (target.to_owned(), stands.clone());
        let labelled =
            move |info: &wire::Info| info.labels.get(SNAPSHOT_REF_LABEL).is_some_and(|label| *label == wanted);
        let found = self.call(CALL_LIMIT, namespace, list, |mut client, request| async move {
            let mut stream = client.list(request).await?.into_inner();
            while let Some(batch) = stream.message().await? {
                if let Some(info) = batch.info.into_iter().find(|info| fits(info) && labelled(info)) {
                    return Ok(Some(info));
                }
            }
            Ok(None)
        })?;
        if let Some(info) = found {
            return Ok(info);
        }
        let named = self.call(CALL_LIMIT, namespace, stat, |mut client, request| async move {
            client.stat(request).await.map(|answer| answer.into_inner().info)
        });
        let named = named.or_else(|refusal| if refusal.is(RefusalKind::NotFound) { Ok(None) } else { Err(refusal) })?;
        named.filter(stands).ok_or_else(|| {
            Refusal::not_found(format!("snapshotter {} says that it has {target}, and does not show it", self.name))
        })
    }

    /// Removes a key at the remote; fine if it is not there.
    fn drop_key(&self, namespace: &str, key: String) -> Answer<()> {
        let remove = wire::RemoveSnapshotRequest { snapshotter: self.remote_name.clone(), key };
        let removed = self.call(CALL_LIMIT, namespace, remove, |mut client, request| async move {
            client.remove(request).await.map(|_| ())
        });
        removed.or_else(|refusal| if refusal.is(RefusalKind::NotFound) { Ok(()) } else { Err(refusal) })
    }

    /// Every number there is a record of.
    fn ids(&self) -> Answer<Vec<u64>> {
        let refuse = |e: io::Error| Refusal::io(format!("read {}", self.records.display()), &e);
        let entries = fs::read_dir(&self.records).map_err(refuse)?;
        let mut ids = Vec::new();
        for entry in entries {
            // What is no number is half written, or not ours to judge.
            ids.extend(entry.map_err(refuse)?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(ids)
    }

    /// Whether another snapshot of ours is the same one at the remote.
    fn is_shared(&self, id: u64, record: &Record) -> Answer<bool> {
        if record.adopted.is_none() {
            return Ok(false);
        }
        for other in self.ids()?.into_iter().filter(|other| *other != id) {
            if self.record(other)?.is_some_and(|other| other.adopted == record.adopted) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Snapshotter for Proxy {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, place: &Placement<'_>) -> Answer<Prepared> {
        if self.record(place.id)?.is_some() {
            return Err(Refusal::already_exists(format!("snapshot {} of {}", place.id, self.name)));
        }
        let parent = self.parent(place)?;
        let namespace = place.namespace.to_owned();
        // Nobody else's, not even of a daemon whose numbers began anew.
        let key = format!("{namespace}/{}/{}", place.id, crate::names::random());
        let mut record = Record { namespace: namespace.clone(), key: key.clone(), adopted: None };
        self.note(place.id, &record)?;
        let (snapshotter, labels) = (self.remote_name.clone(), self.labels(place));
        let prepared = if place.kind == SnapshotKind::View {
            let view = wire::ViewSnapshotRequest { snapshotter, key, parent: parent.clone(), labels };
            self.call(MAKE_LIMIT, &namespace, view, |mut client, request| async move {
                client.view(request).await.map(|_| ())
            })
        } else {
            let prepare = wire::PrepareSnapshotRequest { snapshotter, key, parent: parent.clone(), labels };
            self.call(MAKE_LIMIT, &namespace, prepare, |mut client, request| async move {
                client.prepare(request).await.map(|_| ())
            })
        };
        let target = place.labels.get(SNAPSHOT_REF_LABEL);
        let outcome = match (prepared, target) {
            (Ok(()), _) => return Ok(Prepared::New),
            (Err(refusal), Some(target)) if refusal.is(RefusalKind::AlreadyExists) => {
                self.find_target(&namespace, target, &parent).and_then(|info| {
                    record.adopted = Some(info.name);
                    self.note(place.id, &record)?;
                    Ok(Prepared::AlreadyHere(info.labels))
                })
            }
            (Err(refusal), _) => Err(refusal),
        };
        if outcome.is_err()
            && let Err(left) = self.remove(place.id)
        {
            // Its record stays, and so the sweep tries again.
            tracing::warn!(snapshotter = self.name, id = place.id, %left, "a snapshot that was not made may stay");
        }
        outcome
    }

    fn mounts(&self, place: &Placement<'_>) -> Answer<Vec<Mount>> {
        if place.kind == SnapshotKind::Committed {
            return Err(Refusal::failed_precondition(format!("snapshot {} is committed and has no mounts", place.id)));
        }
        let record = self.known(place.id)?;
        let ask = wire::MountsRequest { snapshotter: self.remote_name.clone(), key: record.key };
        let answer = self.call(CALL_LIMIT, &record.namespace, ask, |mut client, request| async move {
            client.mounts(request).await
        })?;
        Ok(convert::mounts_in(answer.into_inner().mounts))
    }

    fn commit(&self, place: &Placement<'_>) -> Answer<Usage> {
        let record = self.known(place.id)?;
        let commit = wire::CommitSnapshotRequest {
            snapshotter: self.remote_name.clone(),
            name: record.name(),
            key: record.key.clone(),
            labels: self.labels(place),
            parent: String::new(),
        };
        let committed = self.call(MAKE_LIMIT, &record.namespace, commit, |mut client, request| async move {
            client.commit(request).await.map(|_| ())
        });
        match committed {
            // Done before, or else its usage is not to be had either.
            Err(refusal) if !refusal.is(RefusalKind::NotFound) && !refusal.is(RefusalKind::AlreadyExists) => {
                Err(refusal)
            }
            _ => self.usage_of(&record.namespace, record.name()),
        }
    }

    fn usage(&self, id: u64) -> Answer<Usage> {
        let record = self.known(id)?;
        match self.usage_of(&record.namespace, record.name()) {
            Err(refusal) if refusal.is(RefusalKind::NotFound) => self.usage_of(&record.namespace, record.key),
            other => other,
        }
    }

    fn remove(&self, id: u64) -> Answer<()> {
        let Some(record) = self.record(id)? else { return Ok(()) };
        self.drop_key(&record.namespace, record.key.clone())?;
        if !self.is_shared(id, &record)? {
            self.drop_key(&record.namespace, record.name())?;
        }
        self.removed.store(true, Ordering::Relaxed);
        let path = self.path(id);
        fs::remove_file(&path).map_err(|e| Refusal::io(format!("remove {}", path.display()), &e))
    }

    fn empty_trash(&self) -> Answer<()> {
        let cleanup = wire::CleanupRequest { snapshotter: self.remote_name.clone() };
        // A remote behind a metadata store of its own wants a namespace, and any will do.
        let done = self.call(MAKE_LIMIT, "default", cleanup, |mut client, request| async move {
            client.cleanup(request).await.map(|_| ())
        });
        // Not every snapshotter has something to clean up.
        done.or_else(|refusal| if refusal.is(RefusalKind::NotImplemented) { Ok(()) } else { Err(refusal) })
    }

    /// The remote's trash is its own: one that is away, or that cannot clean up now, makes no collection fail.
    fn collected(&self) -> Answer<()> {
        if self.removed.swap(false, Ordering::Relaxed)
            && let Err(refusal) = self.empty_trash()
        {
            self.removed.store(true, Ordering::Relaxed);
            tracing::warn!(%refusal, "a snapshotter does not clean up; it is asked again after the next collection");
        }
        Ok(())
    }

    fn sweep(&self, known: &dyn Fn(u64) -> bool) -> Answer<Vec<u64>> {
        let mut swept = Vec::new();
        let mut ids = self.ids()?;
        // The remote insists that what stands on another goes first: it has the higher number.
        ids.sort_unstable_by_key(|id| std::cmp::Reverse(*id));
        for id in ids {
            if !known(id) {
                self.remove(id)?;
                swept.push(id);
            }
        }
        Ok(swept)
    }
}

impl Proxy {
    fn usage_of(&self, namespace: &str, key: String) -> Answer<Usage> {
        let ask = wire::UsageRequest { snapshotter: self.remote_name.clone(), key };
        let usage =
            self.call(CALL_LIMIT, namespace, ask, |mut client, request| async move { client.usage(request).await })?;
        let usage = usage.into_inner();
        // A remote that does not measure says so by less than nothing.
        let known = |figure: i64| u64::try_from(figure).unwrap_or_default();
        Ok(Usage { size_bytes: known(usage.size), inodes: known(usage.inodes) })
    }
}
