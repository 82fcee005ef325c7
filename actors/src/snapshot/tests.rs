//! Snapshots through messages, on both real snapshotters.

use crate::testing::{
    meta, run_in,
    whole::{Whole, run_whole},
};
use wharf_messages::{
    Answer, Labels, LeaseId, Meta, Mount, RefusalKind, SnapshotKey, SnapshotterName,
    lease::{CreateLease, ListLeaseResources},
    snapshot::{
        CleanupSnapshots, CommitSnapshot, GetSnapshotMounts, PrepareSnapshot, RemoveSnapshot, SNAPSHOT_REF_LABEL,
        SnapshotKind, StatSnapshot, UpdateSnapshot, ViewSnapshot,
    },
};

/// A snapshotter in a system.
struct On<'a> {
    whole: &'a Whole<'a>,
    name: SnapshotterName,
}

fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

impl On<'_> {
    fn snapshotter(&self) -> Option<SnapshotterName> {
        Some(self.name.clone())
    }

    fn prepared(&self, name: &str, parent: Option<&str>) -> PrepareSnapshot {
        let parent = parent.map(key);
        PrepareSnapshot { snapshotter: self.snapshotter(), key: key(name), parent, labels: Labels::new() }
    }

    async fn prepare(&self, name: &str, parent: Option<&str>) -> Answer<Vec<Mount>> {
        self.whole.call(meta(), self.prepared(name, parent)).await
    }

    async fn view(&self, name: &str, parent: Option<&str>) -> Answer<Vec<Mount>> {
        let (key, parent) = (key(name), parent.map(key));
        let view = ViewSnapshot { snapshotter: self.snapshotter(), key, parent, labels: Labels::new() };
        self.whole.call(meta(), view).await
    }

    async fn commit(&self, from: &str, name: &str) -> Answer<()> {
        let (key, name) = (key(from), key(name));
        let commit = CommitSnapshot { snapshotter: self.snapshotter(), name, key, labels: Labels::new(), parent: None };
        self.whole.call(meta(), commit).await
    }

    async fn remove(&self, name: &str) -> Answer<()> {
        self.whole.call(meta(), RemoveSnapshot { snapshotter: self.snapshotter(), key: key(name) }).await
    }

    async fn kind(&self, name: &str) -> Answer<SnapshotKind> {
        let stat = StatSnapshot { snapshotter: self.snapshotter(), key: key(name) };
        self.whole.call(meta(), stat).await.map(|info| info.kind)
    }

    async fn mounts(&self, name: &str) -> Answer<Vec<Mount>> {
        self.whole.call(meta(), GetSnapshotMounts { snapshotter: self.snapshotter(), key: key(name) }).await
    }

    fn folders(&self) -> usize {
        self.whole.folders(&self.name).len()
    }
}

/// Runs a test on each snapshotter.
fn on_each(test: impl AsyncFn(On<'_>)) {
    for name in ["overlayfs", "native"] {
        run_whole(async |whole| test(On { whole, name: SnapshotterName::new(name).unwrap() }).await);
    }
}

fn refused<T: std::fmt::Debug>(answer: Answer<T>) -> RefusalKind {
    answer.unwrap_err().kind
}

#[test]
fn a_stack_is_made_from_below_and_removed_from_above() {
    on_each(async |on| {
        let mounts = on.prepare("base-active", None).await.unwrap();
        assert_eq!(on.mounts("base-active").await.unwrap(), mounts);
        on.commit("base-active", "base").await.unwrap();
        assert_eq!(on.kind("base").await, Ok(SnapshotKind::Committed));
        assert_eq!(refused(on.kind("base-active").await), RefusalKind::NotFound);
        assert_eq!(refused(on.mounts("base").await), RefusalKind::FailedPrecondition);
        on.prepare("top", Some("base")).await.unwrap();
        on.view("look", Some("base")).await.unwrap();
        assert_eq!(on.kind("look").await, Ok(SnapshotKind::View));
        assert_eq!(refused(on.commit("look", "x").await), RefusalKind::FailedPrecondition);
        assert_eq!(refused(on.remove("base").await), RefusalKind::FailedPrecondition);
        assert_eq!(on.folders(), 3);
        for name in ["look", "top", "base"] {
            on.remove(name).await.unwrap();
        }
        assert_eq!(refused(on.remove("base").await), RefusalKind::NotFound);
        assert_eq!(on.folders(), 0);
        let cleanup = CleanupSnapshots { snapshotter: on.snapshotter() };
        on.whole.call(meta(), cleanup).await.unwrap();
    });
}

#[test]
fn what_is_refused_leaves_no_folder() {
    on_each(async |on| {
        on.prepare("a", None).await.unwrap();
        assert_eq!(refused(on.prepare("a", None).await), RefusalKind::AlreadyExists);
        assert_eq!(refused(on.view("a", None).await), RefusalKind::AlreadyExists);
        assert_eq!(refused(on.prepare("b", Some("nobody")).await), RefusalKind::NotFound);
        assert_eq!(refused(on.prepare("b", Some("a")).await), RefusalKind::InvalidArgument);
        let lease = Some(LeaseId::new("no-lease").unwrap());
        let leased = on.whole.call(Meta { lease, ..meta() }, on.prepared("b", None)).await;
        assert_eq!(refused(leased), RefusalKind::NotFound);
        assert_eq!(on.folders(), 1);
        let other = Some(SnapshotterName::new("zfs").unwrap());
        let unknown = PrepareSnapshot { snapshotter: other, ..on.prepared("b", None) };
        assert_eq!(refused(on.whole.call(meta(), unknown).await), RefusalKind::InvalidArgument);
        on.prepare("b", None).await.unwrap();
        assert_eq!(refused(on.commit("b", "a").await), RefusalKind::AlreadyExists);
        assert_eq!(on.kind("b").await, Ok(SnapshotKind::Active));
    });
}

#[test]
fn what_is_there_already_is_leased_all_the_same() {
    on_each(async |on| {
        let id = LeaseId::new("lease").unwrap();
        let create = CreateLease { id: Some(id.clone()), labels: Labels::new() };
        on.whole.call(meta(), create).await.unwrap();
        on.prepare("a", None).await.unwrap();
        on.commit("a", "chain").await.unwrap();
        let target = Labels::from([(SNAPSHOT_REF_LABEL.to_owned(), "chain".to_owned())]);
        let prepare = PrepareSnapshot { labels: target, ..on.prepared("extract", None) };
        let leased = Meta { lease: Some(id.clone()), ..meta() };
        assert_eq!(refused(on.whole.call(leased, prepare).await), RefusalKind::AlreadyExists);
        let held = on.whole.call(meta(), ListLeaseResources { id }).await.unwrap();
        assert_eq!(held.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["chain"]);
        assert_eq!(on.folders(), 1);
    });
}

#[test]
fn a_container_s_root_announces_its_launch() {
    on_each(async |on| {
        on.prepare("a", None).await.unwrap();
        on.commit("a", "chain").await.unwrap();
        let target = Labels::from([(SNAPSHOT_REF_LABEL.to_owned(), "next".to_owned())]);
        let step = PrepareSnapshot { labels: target, ..on.prepared("extract", Some("chain")) };
        on.whole.call(meta(), step).await.unwrap();
        on.view("look", Some("chain")).await.unwrap();
        assert!(on.whole.shims.calls().is_empty(), "none of these becomes a container's root");
        on.prepare("root", Some("chain")).await.unwrap();
        assert_eq!(on.whole.shims.calls(), ["expect_launch"]);
    });
}

#[test]
fn of_two_who_prepare_one_key_one_gets_it() {
    on_each(async |on| {
        let (a, b) = tokio::join!(on.prepare("a", None), on.prepare("a", None));
        assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
        assert_eq!(on.folders(), 1);
    });
}

#[test]
fn labels_are_changed_by_path() {
    on_each(async |on| {
        on.prepare("a", None).await.unwrap();
        let labels = Labels::from([("x".to_owned(), "1".to_owned()), ("y".to_owned(), "2".to_owned())]);
        let mask = vec!["labels.x".to_owned()];
        let update = UpdateSnapshot { snapshotter: on.snapshotter(), key: key("a"), labels, mask };
        let info = on.whole.call(meta(), update).await.unwrap();
        assert_eq!(info.labels, Labels::from([("x".to_owned(), "1".to_owned())]));
    });
}

#[test]
fn folders_without_a_row_go_at_the_next_start_and_no_others() {
    let root = tempfile::tempdir().unwrap();
    for name in ["overlayfs", "native"] {
        let name = SnapshotterName::new(name).unwrap();
        run_in(root.path(), async |world| {
            let whole = Whole::start(world).await;
            let on = On { whole: &whole, name: name.clone() };
            on.prepare("kept", None).await.unwrap();
            let kept = on.whole.folders(&name);
            std::fs::create_dir(kept[0].with_file_name("4711")).unwrap();
            assert_eq!(on.folders(), 2);
        });
        run_in(root.path(), async |world| {
            let whole = Whole::start(world).await;
            let on = On { whole: &whole, name: name.clone() };
            assert_eq!(on.folders(), 1);
            on.mounts("kept").await.unwrap();
            on.remove("kept").await.unwrap();
        });
    }
}
