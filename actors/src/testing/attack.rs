//! Every actor under attack: a panic at every point of every message of a life that uses every command. The callers retry,
//! and in the end the world is what it is without any panic, and so is the history.

use super::{World, meta, run_with, whole::Whole};
use crate::{
    image::tests as images,
    journal::{Log, Writer},
    serve::{CallIo, Serve},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Any, ContainerId, ExecId, ImageName, IngestRef, Labels, LeaseId, Meta, Namespace, RefusalKind, SnapshotKey,
    Timestamp,
    container::{Container, CreateContainer, DeleteContainer, ListContainers, Runtime, UpdateContainer},
    content::{AbortIngest, DeleteContent, ListContent, ListIngests, UpdateContent, WriteContent},
    event::{Event, PublishEvent, Seq},
    image::{CreateImage, DeleteImage, ListImages, UpdateImage},
    lease::{AddLeaseResource, CreateLease, DeleteLease, DeleteLeaseResource, LeaseResource, ListLeases},
    meta::next_request_id,
    namespace::{CreateNamespace, DeleteNamespace, ListNamespaces, UpdateNamespace},
    snapshot::{
        CleanupSnapshots, CommitSnapshot, ListSnapshots, PrepareSnapshot, RemoveSnapshot, UpdateSnapshot, ViewSnapshot,
    },
    task::{
        CloseIo, CreateTask, DeleteTask, ExecTask, GetMetrics, KillTask, ListPids, ListTasks, PauseTask, ResizePty,
        ResumeTask, Rootfs, StartTask, Stdio, UpdateTask, WaitTask,
    },
};
use wharf_store::{Commit, Committed, LogSize, Retention};

fn labels(text: &str) -> Labels {
    Labels::from([("k".to_owned(), text.to_owned())])
}

fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

fn container(labels: Labels) -> Container {
    Container {
        id: ContainerId::new("web").unwrap(),
        labels,
        image: images::NAME.to_owned(),
        runtime: Runtime::default(),
        spec: Some(Any { type_url: Any::SPEC.to_owned(), value: b"{}".to_vec().into() }),
        snapshotter: Some(images::native()),
        snapshot_key: Some(key("web")),
        created_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
        extensions: BTreeMap::new(),
        sandbox: String::new(),
    }
}

/// Pulls, again and again while that is to be retried.
async fn pull(whole: &Whole<'_>) {
    let call = wharf_messages::image::PullImage { unpack: true, ..images::pull() };
    let meta = Meta { request_id: next_request_id(), ..meta() };
    for _ in 0..20 {
        let (items, _shown) = mpsc::channel(4096);
        let io = CallIo { items, upload: mpsc::channel(1).1, cancel: CancellationToken::new() };
        match call.clone().serve(whole.wharf.clone(), meta.clone(), io).await {
            Ok(_) => return,
            Err(refusal) => assert!(refusal.is(RefusalKind::Unavailable), "pull: {refusal}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the pull is lost each time");
}

/// Begins to write a blob and leaves it.
async fn leave_ingest(whole: &Whole<'_>, reference: &IngestRef) {
    let call = WriteContent {
        reference: reference.clone(),
        offset_bytes: Some(0),
        total_bytes: 9,
        expected: None,
        commit: false,
        labels: Labels::new(),
    };
    for _ in 0..20 {
        let (upload, uploaded) = mpsc::channel(1);
        upload.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
        drop(upload);
        let io = CallIo { items: mpsc::channel(1).0, upload: uploaded, cancel: CancellationToken::new() };
        match call.clone().serve(whole.wharf.clone(), meta(), io).await {
            Ok(_) => return,
            Err(refusal) => assert!(refusal.is(RefusalKind::Unavailable), "write: {refusal}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the write is lost each time");
}

/// A life that uses every command there is; all it made is removed again.
async fn live(whole: &Whole<'_>) {
    let put = images::put(whole, &["a", "b"]);
    let other = Namespace::new("other").unwrap();
    whole.again(CreateNamespace { name: other.clone(), labels: labels("1") }).await;
    let mask = Vec::new();
    whole.again(UpdateNamespace { name: other.clone(), labels: labels("2"), mask: mask.clone() }).await;
    whole.again(DeleteNamespace { name: other }).await;

    pull(whole).await;
    let (content, name) = (put.config.digest.clone(), ImageName::new("copy").unwrap());
    let lease = whole.again(CreateLease { id: None, labels: labels("1") }).await.id;
    let resource = LeaseResource { kind: "content".to_owned(), id: content.to_string() };
    whole.again(AddLeaseResource { id: lease.clone(), resource: resource.clone() }).await;
    whole.again(DeleteLeaseResource { id: lease.clone(), resource }).await;
    whole.again(DeleteLease { id: lease, sync: false }).await;
    whole.again(CreateImage { name: name.clone(), target: put.manifest.clone(), labels: labels("1") }).await;
    let (target, updated) = (put.manifest.clone(), labels("2"));
    whole.again(UpdateImage { name: name.clone(), target, labels: updated, mask: vec!["labels".to_owned()] }).await;
    whole.again(UpdateContent { digest: content, labels: labels("x"), mask: vec!["labels.k".to_owned()] }).await;
    let reference = IngestRef::new("left").unwrap();
    leave_ingest(whole, &reference).await;
    whole.again(AbortIngest { reference }).await;

    let snapshotter = Some(images::native());
    let prepare = |key: &str, parent: Option<&str>| PrepareSnapshot {
        snapshotter: snapshotter.clone(),
        key: self::key(key),
        parent: parent.map(self::key),
        labels: Labels::new(),
    };
    let remove = |key: &str| RemoveSnapshot { snapshotter: snapshotter.clone(), key: self::key(key) };
    whole.again(prepare("work", None)).await;
    let (name_of, work) = (key("base"), key("work"));
    let commit = CommitSnapshot {
        snapshotter: snapshotter.clone(),
        name: name_of,
        key: work,
        labels: Labels::new(),
        parent: None,
    };
    whole.again(commit).await;
    let view = ViewSnapshot {
        snapshotter: snapshotter.clone(),
        key: key("view"),
        parent: Some(key("base")),
        labels: Labels::new(),
    };
    whole.again(view).await;
    let update =
        UpdateSnapshot { snapshotter: snapshotter.clone(), key: key("view"), labels: labels("1"), mask: Vec::new() };
    whole.again(update).await;
    whole.again(remove("view")).await;
    whole.again(prepare("web", Some("base"))).await;

    let web = ContainerId::new("web").unwrap();
    whole.again(CreateContainer { container: container(labels("1")) }).await;
    whole.again(UpdateContainer { container: container(labels("2")), mask: vec!["labels".to_owned()] }).await;
    run(whole, &web).await;
    whole.again(DeleteContainer { id: web, with_snapshot: true }).await;
    let topic = "/done".to_owned();
    whole.again(PublishEvent { topic, payload: Any { type_url: "x".to_owned(), value: Vec::new().into() } }).await;

    whole.again(remove("base")).await;
    for name in [name, ImageName::new(images::NAME).unwrap()] {
        whole.again(DeleteImage { name, sync: false }).await;
    }
    let snapshots = whole.again(ListSnapshots { snapshotter: snapshotter.clone(), filters: Vec::new() }).await;
    // The upper one first.
    let (upper, lower): (Vec<_>, Vec<_>) = snapshots.into_iter().partition(|snapshot| snapshot.parent.is_some());
    for snapshot in upper.into_iter().chain(lower) {
        whole.again(remove(snapshot.key.as_str())).await;
    }
    whole.again(CleanupSnapshots { snapshotter }).await;
    for blob in whole.again(ListContent { filters: Vec::new() }).await {
        whole.again(DeleteContent { digest: blob.digest }).await;
    }
}

/// A task's part of it.
async fn run(whole: &Whole<'_>, web: &ContainerId) {
    let (container_id, exec_id) = (web.clone(), Some(ExecId::new("x").unwrap()));
    let stdio = Stdio::default();
    whole
        .again(CreateTask {
            container_id: container_id.clone(),
            rootfs: Rootfs::Snapshot,
            stdio: stdio.clone(),
            options: None,
            runtime_path: String::new(),
            checkpoint: None,
        })
        .await;
    let start = |exec_id: &Option<ExecId>| StartTask { container_id: web.clone(), exec_id: exec_id.clone() };
    whole.again(start(&None)).await;
    let spec = Any { type_url: Any::PROCESS.to_owned(), value: b"{}".to_vec().into() };
    whole.again(ExecTask { container_id: container_id.clone(), exec_id: ExecId::new("x").unwrap(), stdio, spec }).await;
    whole.again(start(&exec_id)).await;
    whole.again(ResizePty { container_id: container_id.clone(), exec_id: exec_id.clone(), width: 1, height: 2 }).await;
    whole.again(CloseIo { container_id: container_id.clone(), exec_id: exec_id.clone() }).await;
    whole.again(PauseTask { container_id: container_id.clone() }).await;
    whole.again(ResumeTask { container_id: container_id.clone() }).await;
    whole.again(ListPids { container_id: container_id.clone() }).await;
    whole.again(GetMetrics { filters: Vec::new() }).await;
    let resources = Any { type_url: Any::RESOURCES.to_owned(), value: b"{}".to_vec().into() };
    whole.again(UpdateTask { container_id: container_id.clone(), resources, annotations: Labels::new() }).await;
    for exec_id in [exec_id, None] {
        let wait = WaitTask { container_id: container_id.clone(), exec_id: exec_id.clone() };
        let kill = KillTask { container_id: container_id.clone(), exec_id: exec_id.clone(), signal: 9, all: false };
        let killing = async {
            // The waiter is there first.
            tokio::time::sleep(Duration::from_millis(2)).await;
            whole.again_or(kill, "already finished").await
        };
        let (exit, _) = tokio::join!(whole.again(wait), killing);
        assert_eq!(exit.code, 137);
        let deleted = whole.again(DeleteTask { container_id: container_id.clone(), exec_id }).await;
        assert_eq!(deleted.exit, exit);
    }
}

/// What happened to each object, in order: the contract of the log.
type History = BTreeMap<String, Vec<String>>;

/// What the history says, without what differs from run to run: processes' numbers, and attempts at a layer.
fn history(world: &World) -> History {
    let mut told = History::new();
    for event in world.events() {
        let debug = format!("{event:?}");
        let what = debug.split(' ').next().unwrap_or_default().to_owned();
        let (object, what) = match event {
            Event::ChildRestarted { .. } => continue,
            Event::SnapshotPrepared { key, .. } | Event::SnapshotRemoved { key, .. }
                if key.as_str().starts_with("extract-") =>
            {
                continue;
            }
            Event::SnapshotPrepared { key, .. } | Event::SnapshotRemoved { key, .. } => {
                (format!("snapshot {key}"), what)
            }
            Event::SnapshotCommitted { name, .. } => (format!("snapshot {name}"), what),
            // A pull has a lease of its own each time it is tried.
            Event::LeaseCreated { id } | Event::LeaseDeleted { id } if id.as_str().starts_with("pull-") => continue,
            Event::LeaseCreated { .. } | Event::LeaseDeleted { .. } => ("lease".to_owned(), what),
            Event::TaskExited { exec_id, exit, .. } | Event::TaskDeleted { exec_id, exit, .. } => {
                ("task".to_owned(), format!("{what} {exec_id:?} {exit:?}"))
            }
            Event::TaskCreated { .. } | Event::TaskStarted { .. } | Event::TaskExecStarted { .. } => {
                ("task".to_owned(), what)
            }
            _ if what.starts_with("Task") => ("task".to_owned(), what),
            Event::ContentCreated { .. } | Event::ContentDeleted { .. } => (debug, what),
            _ => ("others".to_owned(), debug),
        };
        told.entry(object).or_default().push(what);
    }
    told
}

/// Fails unless nothing is left of the life.
async fn nothing_is_left(whole: &Whole<'_>, at: &str) {
    let filters = Vec::new();
    assert!(whole.again(ListImages { filters: filters.clone() }).await.is_empty(), "{at}: images");
    assert!(whole.again(ListContainers { filters: filters.clone() }).await.is_empty(), "{at}: containers");
    assert!(whole.again(ListTasks { filters: filters.clone() }).await.is_empty(), "{at}: tasks");
    assert!(whole.again(ListContent { filters: filters.clone() }).await.is_empty(), "{at}: content");
    assert!(whole.again(ListIngests { filters: filters.clone() }).await.is_empty(), "{at}: ingests");
    assert_eq!(whole.again(ListNamespaces { filters: filters.clone() }).await.len(), 1, "{at}: namespaces");
    // What a pull that was cut off held is given back beside.
    for _ in 0..200 {
        if whole.again(ListLeases { filters: filters.clone() }).await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let leases: Vec<LeaseId> = whole.again(ListLeases { filters }).await.into_iter().map(|lease| lease.id).collect();
    assert_eq!(leases, [], "{at}: leases");
    use crate::drivers::shim::ShimLauncher;
    assert_eq!(whole.shims.bundles().unwrap(), [], "{at}: bundles");
    assert_eq!(whole.folders(&images::native()), Vec::<std::path::PathBuf>::new(), "{at}: snapshots' folders");
    assert_eq!(whole.world.store.blobs().list().unwrap(), [], "{at}: blobs");
}

/// Runs the life in a new world, with these failpoints; answers the history and the points passed.
fn attacked(rules: &str) -> (History, Vec<String>) {
    attacked_with(rules, |writer| writer)
}

fn attacked_with<L: Log>(rules: &str, log: impl FnOnce(Writer) -> L) -> (History, Vec<String>) {
    let root = tempfile::tempdir().unwrap();
    let mut seen = (History::new(), Vec::new());
    run_with(root.path(), log, async |world| {
        let whole = Whole::start(world).await;
        let _gave_up = world.watch();
        let points = wharf_failpoints::local(rules);
        live(&whole).await;
        let passed = points.passed();
        drop(points);
        nothing_is_left(&whole, rules).await;
        seen = (history(world), passed);
    });
    seen
}

/// Of so many points one is attacked by the tests that always run; `make crash` attacks them all.
const SAMPLE: usize = 8;

/// The first pass of each of the actors' points, and where an actor goes on after something the last one as well.
fn chosen(passed: &[String]) -> Vec<(String, usize)> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for point in passed.iter().filter(|point| point.split('/').count() == 3) {
        *counts.entry(point).or_default() += 1;
    }
    let goes_on = |point: &str| point.ends_with("/waited") || point.ends_with("/resumed");
    let chosen = counts.iter().flat_map(|(point, count)| {
        let last = if goes_on(point) { count - 1 } else { 0 };
        [(*point, 0), (*point, last)]
    });
    let distinct: BTreeSet<_> = chosen.map(|(point, skip)| (point.to_owned(), skip)).collect();
    distinct.into_iter().collect()
}

#[test]
fn a_panic_at_any_message_of_any_actor_costs_nothing() {
    attack_messages(SAMPLE);
}

#[test]
#[ignore = "long: make crash"]
fn a_panic_at_every_message_of_every_actor_costs_nothing() {
    attack_messages(1);
}

/// Panics at one of so many points, each in a world of its own.
fn attack_messages(stride: usize) {
    std::panic::set_hook(Box::new(|_| ()));
    let (quiet, passed) = attacked("");
    let mut failed = Vec::new();
    for (point, skip) in chosen(&passed).into_iter().step_by(stride) {
        let rule = format!("{point}=panic,skip={skip},times=1");
        let outcome = std::panic::catch_unwind(|| attacked(&rule).0);
        match outcome {
            Ok(history) if history == quiet => {}
            Ok(history) => failed.push(format!("{rule}: {}", difference(&quiet, &history))),
            Err(panic) => failed.push(format!("{rule}: {}", crate::runtime::panic_message(&*panic))),
        }
    }
    drop(std::panic::take_hook());
    assert!(failed.is_empty(), "{} of the attacks:\n{}", failed.len(), failed.join("\n"));
}

fn difference(quiet: &History, other: &History) -> String {
    let objects: BTreeSet<_> = quiet.keys().chain(other.keys()).collect();
    let different = objects.into_iter().filter(|object| quiet.get(*object) != other.get(*object));
    let said = different.map(|object| {
        format!("{object}\n    should be {:?}\n    and is    {:?}", quiet.get(object), other.get(object))
    });
    said.collect::<Vec<_>>().join("\n  ")
}

/// The store's writer, with a panic before or after one of its batches.
struct Bursting {
    writer: Writer,
    batches: Arc<AtomicUsize>,
    at: usize,
    after: bool,
    /// What was done before the panic, as the writer keeps it.
    settled: Option<Vec<Answer<Committed>>>,
}

impl Log for Bursting {
    fn settled(&mut self) -> Option<Vec<Answer<Committed>>> {
        self.settled.take().or_else(|| Log::settled(&mut self.writer))
    }

    fn commit(&mut self, batch: &[Commit], now: Timestamp) -> Vec<Answer<Committed>> {
        let burst = self.batches.fetch_add(1, Ordering::SeqCst) == self.at;
        assert!(!burst || self.after, "before the batch");
        let answers = Log::commit(&mut self.writer, batch, now);
        if burst {
            self.settled = Some(answers);
            panic!("after the batch");
        }
        answers
    }

    fn cut(&mut self, retention: &Retention, now: Timestamp) -> Answer<u64> {
        Log::cut(&mut self.writer, retention, now)
    }

    fn log_size(&self) -> LogSize {
        Log::log_size(&self.writer)
    }

    fn is_broken(&self) -> bool {
        Log::is_broken(&self.writer)
    }

    fn reopen(&mut self) -> Answer<()> {
        Log::reopen(&mut self.writer)
    }

    fn last_seq(&self) -> Seq {
        Log::last_seq(&self.writer)
    }
}

#[test]
fn a_panic_at_any_write_of_the_journal_costs_nothing() {
    attack_writes(SAMPLE);
}

#[test]
#[ignore = "long: make crash"]
fn a_panic_at_every_write_of_the_journal_costs_nothing() {
    attack_writes(1);
}

/// Panics before and after one of so many of the journal's batches, each in a world of its own.
fn attack_writes(stride: usize) {
    std::panic::set_hook(Box::new(|_| ()));
    let batches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&batches);
    let quiet =
        attacked_with("", |writer| Bursting { writer, batches: counted, at: usize::MAX, after: false, settled: None })
            .0;
    let mut failed = Vec::new();
    for at in (0..batches.load(Ordering::SeqCst)).step_by(stride) {
        for after in [false, true] {
            let log = |writer| Bursting { writer, batches: Arc::default(), at, after, settled: None };
            let outcome = std::panic::catch_unwind(|| attacked_with("", log).0);
            match outcome {
                Ok(history) if history == quiet => {}
                Ok(history) => failed.push(format!("batch {at}, {after}: {}", difference(&quiet, &history))),
                Err(panic) => failed.push(format!("batch {at}, {after}: {}", crate::runtime::panic_message(&*panic))),
            }
        }
    }
    drop(std::panic::take_hook());
    assert!(failed.is_empty(), "{} of the attacks:\n{}", failed.len(), failed.join("\n"));
}
