//! Containers through messages.

use crate::testing::{
    meta,
    stage::{self, web},
    whole::{Whole, run_whole},
};
use wharf_messages::{
    Answer, Labels, Meta, RefusalKind, SnapshotKey, SnapshotterName,
    container::{Container, CreateContainer, DeleteContainer, GetContainer, Runtime, UpdateContainer},
    event::Event,
    snapshot::{PrepareSnapshot, RemoveSnapshot, StatSnapshot},
    supervision::RestartChild,
    task::DeleteTask,
};

fn container(snapshot: Option<&str>) -> Container {
    Container {
        image: "i".to_owned(),
        snapshotter: snapshot.map(|_| SnapshotterName::new("native").unwrap()),
        snapshot_key: snapshot.map(|key| SnapshotKey::new(key).unwrap()),
        ..stage::container(Labels::from([("a".to_owned(), "1".to_owned())]), b"{}")
    }
}

async fn create(whole: &Whole<'_>, snapshot: Option<&str>) -> Answer<Container> {
    whole.call(meta(), CreateContainer { container: container(snapshot) }).await
}

async fn delete(whole: &Whole<'_>, with_snapshot: bool) -> Answer<()> {
    whole.call(meta(), DeleteContainer { id: web(), with_snapshot }).await
}

fn kind<T: std::fmt::Debug>(answer: Answer<T>) -> RefusalKind {
    answer.unwrap_err().kind
}

#[test]
fn made_changed_and_deleted() {
    run_whole(async |whole| {
        let made = create(whole, None).await.unwrap();
        assert_eq!((made.id, made.created_at), (web(), crate::testing::START));
        assert_eq!(kind(create(whole, None).await), RefusalKind::AlreadyExists);
        let labels = Labels::from([("b".to_owned(), "2".to_owned())]);
        let changed = UpdateContainer {
            container: Container { labels, image: "unseen".to_owned(), ..container(None) },
            mask: vec!["labels.b".to_owned()],
        };
        let changed = whole.call(meta(), changed).await.unwrap();
        assert_eq!((changed.labels.len(), changed.image.as_str()), (2, "i"));
        let runtime = Runtime { name: "io.containerd.other.v1".to_owned(), options: None };
        let other = UpdateContainer { container: Container { runtime, ..container(None) }, mask: Vec::new() };
        assert_eq!(kind(whole.call(meta(), other).await), RefusalKind::InvalidArgument);
        delete(whole, true).await.unwrap();
        assert_eq!(kind(delete(whole, false).await), RefusalKind::NotFound);
        assert_eq!(kind(whole.call(meta(), GetContainer { id: web() }).await), RefusalKind::NotFound);
        let events = whole.world.events();
        let [Event::NamespaceCreated { .. }, rest @ ..] = &events[..] else { panic!("{events:?}") };
        assert!(
            matches!(
                rest,
                [Event::ContainerCreated { .. }, Event::ContainerUpdated { .. }, Event::ContainerDeleted { .. }]
            ),
            "{events:?}"
        );
    });
}

#[test]
fn a_call_without_a_namespace_is_refused() {
    run_whole(async |whole| {
        let refused = whole.call(Meta::default(), CreateContainer { container: container(None) }).await;
        assert_eq!(refused.unwrap_err().to_string(), "namespace is required: failed precondition");
    });
}

#[test]
fn of_two_creators_one_has_made_it() {
    run_whole(async |whole| {
        let (a, b) = tokio::join!(create(whole, None), create(whole, None));
        assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
        assert_eq!(kind(if a.is_err() { a } else { b }), RefusalKind::AlreadyExists);
    });
}

#[test]
fn its_snapshot_goes_with_it_if_that_is_wanted() {
    run_whole(async |whole| {
        let native = SnapshotterName::new("native").unwrap();
        let key = SnapshotKey::new("web").unwrap();
        let prepare = || PrepareSnapshot {
            snapshotter: Some(native.clone()),
            key: key.clone(),
            parent: None,
            labels: Labels::new(),
        };
        let stat = || StatSnapshot { snapshotter: Some(native.clone()), key: key.clone() };
        whole.call(meta(), prepare()).await.unwrap();
        create(whole, Some("web")).await.unwrap();
        delete(whole, false).await.unwrap();
        whole.call(meta(), stat()).await.unwrap();

        create(whole, Some("web")).await.unwrap();
        delete(whole, true).await.unwrap();
        assert_eq!(kind(whole.call(meta(), stat()).await), RefusalKind::NotFound);
        assert!(whole.folders(&native).is_empty());
        let records = whole.world.records();
        let [.., deleted, removed] = &records[..] else { panic!("{records:?}") };
        assert!(matches!(deleted.event, Event::ContainerDeleted { .. }), "{deleted:?}");
        assert!(matches!(removed.event, Event::SnapshotRemoved { .. }), "{removed:?}");

        // One whose snapshot is gone can still be deleted.
        whole.call(meta(), prepare()).await.unwrap();
        create(whole, Some("web")).await.unwrap();
        let remove = RemoveSnapshot { snapshotter: Some(native.clone()), key: key.clone() };
        whole.call(meta(), remove).await.unwrap();
        delete(whole, true).await.unwrap();
    });
}

#[test]
fn one_with_a_task_stays() {
    run_whole(async |whole| {
        create(whole, None).await.unwrap();
        whole.call(meta(), stage::create()).await.unwrap();
        for with_snapshot in [false, true] {
            assert_eq!(kind(delete(whole, with_snapshot).await), RefusalKind::FailedPrecondition);
        }
        whole.call(meta(), DeleteTask { container_id: web(), exec_id: None }).await.unwrap();
        assert!(whole.shims.is_clean());
        delete(whole, false).await.unwrap();
    });
}

#[test]
fn a_snapshot_goes_with_its_container_even_if_the_actors_are_restarted_meanwhile() {
    let native = SnapshotterName::new("native").unwrap();
    run_whole(async |whole| {
        for moment in 0..24 {
            let key = SnapshotKey::new("web").unwrap();
            let snapshotter = Some(native.clone());
            let parent = None;
            let prepare = PrepareSnapshot { snapshotter, key, parent, labels: Labels::new() };
            whole.call(meta(), prepare).await.unwrap();
            create(whole, Some("web")).await.unwrap();
            let restart = async {
                for _ in 0..moment {
                    tokio::task::yield_now().await;
                }
                let part = if moment % 2 == 0 { "containers" } else { "containers/default/web" };
                // It may be over already.
                drop(whole.call(meta(), RestartChild { path: part.to_owned() }).await);
            };
            let (deleted, ()) = tokio::join!(delete(whole, true), restart);
            if deleted.is_err() {
                // Unheard: it was done, or it is done now.
                drop(delete(whole, true).await);
            }
            whole.world.until(|| whole.folders(&native).is_empty()).await;
        }
    });
}
