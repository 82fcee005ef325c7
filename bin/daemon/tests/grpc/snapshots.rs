//! What containerd's suite for snapshotters asks, restated at wire level, of overlayfs and native; containerd itself is
//! asked the same. What layers do to file systems is in `layers.rs`.

use crate::{
    client::{self, Answers, Channel, Daemon, compare, within},
    proto::containerd::{
        services::snapshots::v1::{
            CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
            RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, ViewSnapshotRequest,
            snapshots_client::SnapshotsClient,
        },
        types,
    },
};
use tonic::{Code, Status};

/// The backends that both daemons have.
pub const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

/// Keeps a snapshot from garbage collection, which takes what nothing names.
const KEPT: &str = "containerd.io/gc.root=x";

/// One backend of a daemon, in namespace `n`.
pub struct Snapshots {
    client: SnapshotsClient<Channel>,
    snapshotter: String,
}

pub type Done<T> = Result<T, Status>;

impl Snapshots {
    pub async fn of(daemon: &Daemon, snapshotter: &str) -> Self {
        Self { client: daemon.snapshots().await, snapshotter: snapshotter.to_owned() }
    }

    pub async fn prepare(&mut self, key: &str, parent: &str) -> Done<Vec<types::Mount>> {
        self.prepare_with(key, parent, &[KEPT]).await
    }

    pub async fn prepare_with(&mut self, key: &str, parent: &str, labels: &[&str]) -> Done<Vec<types::Mount>> {
        let (snapshotter, key, parent) = (self.snapshotter.clone(), key.to_owned(), parent.to_owned());
        let request = PrepareSnapshotRequest { snapshotter, key, parent, labels: client::labels(labels) };
        self.client.prepare(within("n", request)).await.map(|answer| answer.into_inner().mounts)
    }

    pub async fn view(&mut self, key: &str, parent: &str) -> Done<Vec<types::Mount>> {
        let (snapshotter, key, parent) = (self.snapshotter.clone(), key.to_owned(), parent.to_owned());
        let request = ViewSnapshotRequest { snapshotter, key, parent, labels: client::labels(&[KEPT]) };
        self.client.view(within("n", request)).await.map(|answer| answer.into_inner().mounts)
    }

    pub async fn commit(&mut self, name: &str, key: &str) -> Done<()> {
        let (snapshotter, name, key) = (self.snapshotter.clone(), name.to_owned(), key.to_owned());
        let labels = client::labels(&[KEPT]);
        let request = CommitSnapshotRequest { snapshotter, name, key, labels, ..CommitSnapshotRequest::default() };
        self.client.commit(within("n", request)).await.map(|_| ())
    }

    pub async fn remove(&mut self, key: &str) -> Done<()> {
        let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        self.client.remove(within("n", request)).await.map(|_| ())
    }

    pub async fn mounts(&mut self, key: &str) -> Done<Vec<types::Mount>> {
        let request = MountsRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        self.client.mounts(within("n", request)).await.map(|answer| answer.into_inner().mounts)
    }

    pub async fn usage(&mut self, key: &str) -> Done<(i64, i64)> {
        let request = UsageRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        self.client.usage(within("n", request)).await.map(|answer| {
            let usage = answer.into_inner();
            (usage.size, usage.inodes)
        })
    }

    pub async fn stat(&mut self, key: &str) -> Done<Info> {
        let request = StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        self.client.stat(within("n", request)).await.map(|answer| answer.into_inner().info.unwrap())
    }

    async fn update(&mut self, info: Info, paths: &[&str]) -> Done<Info> {
        let (snapshotter, update_mask) = (self.snapshotter.clone(), client::mask(paths));
        let request = UpdateSnapshotRequest { snapshotter, info: Some(info), update_mask };
        self.client.update(within("n", request)).await.map(|answer| answer.into_inner().info.unwrap())
    }

    async fn list(&mut self, filters: &[&str]) -> Done<Vec<String>> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = ListSnapshotsRequest { snapshotter: self.snapshotter.clone(), filters };
        let mut told = self.client.list(within("n", request)).await?.into_inner();
        let mut names = Vec::new();
        while let Some(batch) = told.message().await? {
            assert!(batch.info.len() <= 100);
            names.extend(batch.info.into_iter().map(|info| info.name));
        }
        names.sort();
        Ok(names)
    }
}

/// What can be seen of a snapshot, times aside.
fn seen(info: Info) -> String {
    format!("{:?} {} <- {} [{}]", info.kind(), info.name, info.parent, client::shown(&info.labels))
}

/// What mounts are, places aside.
fn kinds(mounts: Vec<types::Mount>) -> String {
    mounts.iter().map(|mount| mount.r#type.as_str()).collect::<Vec<_>>().join(",")
}

async fn life(snapshots: &mut Snapshots, answers: &mut Answers) {
    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Ok};
    let s = snapshots;
    answers.note("prepare", Ok, s.prepare("a", "").await, kinds);
    answers.done("prepare again", AlreadyExists, s.prepare("a", "").await);
    answers.done("prepare on an active one", InvalidArgument, s.prepare("b", "a").await);
    answers.done("view of an active one", InvalidArgument, s.view("v", "a").await);
    answers.done("prepare on nothing", NotFound, s.prepare("b", "nobody").await);
    answers.done("view of nothing", NotFound, s.view("v", "nobody").await);
    answers.note("mounts of an active one", Ok, s.mounts("a").await, kinds);
    answers.done("mounts of nothing", NotFound, s.mounts("nobody").await);
    answers.note("stat of an active one", Ok, s.stat("a").await, seen);
    answers.done("stat of nothing", NotFound, s.stat("nobody").await);
    answers.done("usage of nothing", NotFound, s.usage("nobody").await);
    answers.done("commit", Ok, s.commit("A", "a").await);
    answers.done("stat of what was committed", NotFound, s.stat("a").await);
    answers.note("stat of a committed one", Ok, s.stat("A").await, seen);
    answers.done("commit again", AlreadyExists, s.commit("A", "a").await);
    let mounts = s.mounts("A").await;
    assert!(mounts.is_err(), "a committed one is not mounted");
    answers.note("view", Ok, s.view("v", "A").await, kinds);
    answers.note("mounts of a view", Ok, s.mounts("v").await, kinds);
    answers.done("view again", AlreadyExists, s.view("v", "A").await);
    let refused = s.commit("V", "v").await.unwrap_err();
    // containerd's native one looks for a folder that is not there.
    assert!(matches!(refused.code(), FailedPrecondition | Code::Unknown), "commit of a view: {refused}");
    answers.note("prepare on a committed one", Ok, s.prepare("b", "A").await, kinds);
    answers.note("stat of a child", Ok, s.stat("b").await, seen);
    answers.done("commit to a name that is there", AlreadyExists, s.commit("A", "b").await);
    for (filters, want) in [
        (&["kind==view"][..], "v"),
        (&["kind==active"], "b"),
        (&["kind==committed"], "A"),
        (&["parent==A"], "b,v"),
        (&["parent==A,kind==active"], "b"),
        (&["name==A", "name~=^v"], "A,v"),
        (&["name==none"], ""),
        (&[""], "A,b,v"),
        (&[], "A,b,v"),
    ] {
        assert_eq!(s.list(filters).await.unwrap().join(","), want, "{filters:?}");
    }
    // containerd's answer has no code of its own.
    assert!(s.list(&["kind=="]).await.is_err());
    answers.done("remove below others", FailedPrecondition, s.remove("A").await);
    for key in ["b", "v", "A"] {
        answers.done("remove", Ok, s.remove(key).await);
        answers.done("remove again", NotFound, s.remove(key).await);
    }
    assert!(s.list(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn snapshots_go_from_active_to_committed_and_are_removed_in_order() {
    let known = [
        ("prepare on an active one", "containerd names its own key"),
        ("view of an active one", "containerd names its own key"),
        ("prepare on nothing", "ours does not say that it is a parent"),
        ("view of nothing", "ours does not say that it is a parent"),
    ];
    for snapshotter in SNAPSHOTTERS {
        compare(&known, async |daemon, answers| {
            life(&mut Snapshots::of(daemon, snapshotter).await, answers).await;
        })
        .await;
    }
}

#[tokio::test]
async fn labels_change_by_mask_and_nothing_else_does() {
    compare(&[], async |daemon, answers| {
        let mut s = Snapshots::of(daemon, "overlayfs").await;
        answers.done("prepare", Code::Ok, s.prepare_with("a", "", &["x=1", "containerd.io/gc.root=t"]).await);
        answers.note("made with labels", Code::Ok, s.stat("a").await, seen);
        let info = |labels: &[&str]| Info {
            name: "a".to_owned(),
            parent: "other".to_owned(),
            kind: Kind::Committed.into(),
            labels: client::labels(labels),
            ..Info::default()
        };
        for (step, want, labels, paths) in [
            ("one", Code::Ok, &["y=2", "z=3"][..], &["labels.y"][..]),
            ("an empty value", Code::Ok, &["x="], &["labels.x"]),
            ("one that is missing", Code::Ok, &[], &["labels.y"]),
            ("all by name", Code::Ok, &["p=1", "q=2"], &["labels"]),
            ("all", Code::Ok, &["r=1"], &[]),
            ("unknown path", Code::InvalidArgument, &[], &["name"]),
        ] {
            answers.note(step, want, s.update(info(labels), paths).await, seen);
            answers.note(&format!("after {step}"), Code::Ok, s.stat("a").await, seen);
        }
        let nobody = Info { name: "nobody".to_owned(), ..Info::default() };
        answers.done("nobody", Code::NotFound, s.update(nobody, &["labels"]).await);
        // Labels of the active one do not go over to the committed one.
        answers.done("commit", Code::Ok, s.commit("A", "a").await);
        answers.note("committed", Code::Ok, s.stat("A").await, seen);
        answers.note(
            "update of a committed one",
            Code::Ok,
            s.update(Info { name: "A".to_owned(), labels: client::labels(&["c=1"]), ..Info::default() }, &["labels"])
                .await,
            seen,
        );
    })
    .await;
}

#[tokio::test]
async fn a_snapshotter_must_be_named_and_known() {
    compare(&[("unknown", "ours says which there are")], async |daemon, answers| {
        for (step, name) in [("unnamed", ""), ("unknown", "zfs-like")] {
            let mut s = Snapshots::of(daemon, name).await;
            answers.done(step, Code::InvalidArgument, s.stat("k").await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_namespace_sees_its_own() {
    for daemon in Daemon::both() {
        let mut s = Snapshots::of(&daemon, "overlayfs").await;
        s.prepare("a", "").await.unwrap();
        s.commit("A", "a").await.unwrap();
        let key = || "a".to_owned();
        let (snapshotter, parent) = ("overlayfs".to_owned(), "A".to_owned());
        let request = PrepareSnapshotRequest { snapshotter, key: key(), parent, ..PrepareSnapshotRequest::default() };
        let other = s.client.prepare(within("m", request.clone())).await;
        assert_eq!(other.unwrap_err().code(), Code::NotFound, "{}", daemon.name());
        let request = PrepareSnapshotRequest { parent: String::new(), ..request };
        s.client.prepare(within("m", request)).await.unwrap();
        assert_eq!(s.list(&[]).await.unwrap(), ["A"], "{}", daemon.name());
    }
}
