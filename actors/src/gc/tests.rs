use super::*;
use crate::{
    content::{self, OpenIngest},
    drivers::registry::fake::Fault,
    serve::{CallIo, Serve},
    testing::{
        START, meta,
        whole::{Whole, run_collecting},
    },
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Descriptor, Digest, ImageName, IngestRef, Labels, LeaseId, Meta, Namespace, SnapshotKey, SnapshotterName,
    content::ReadContent,
    descriptor::media_type,
    event::Event,
    gc::{ExplainGarbage, Reason, Resource, Verdict},
    image::{CreateImage, DeleteImage, PlatformChoice, PullImage, RegistryOptions},
    lease::{CreateLease, DeleteLease, EXPIRE_LABEL},
    snapshot::{CommitSnapshot, PrepareSnapshot, ViewSnapshot},
};

/// A call whose items are read by the test.
fn streaming<I>(capacity: usize) -> (CallIo<I>, mpsc::Receiver<I>) {
    let (items, told) = mpsc::channel(capacity);
    (CallIo { items, upload: mpsc::channel(1).1, cancel: CancellationToken::new() }, told)
}

async fn insert(whole: &Whole<'_>, meta: &Meta, bytes: &str, labels: &[(&str, &str)]) -> Digest {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    content::insert(&whole.wharf.drivers.content, meta, bytes.into(), None, labels).await.unwrap()
}

async fn collect(whole: &Whole<'_>) -> Collected {
    whole.call(meta(), CollectGarbage {}).await.unwrap()
}

fn has(whole: &Whole<'_>, digest: &Digest) -> bool {
    let row = whole.wharf.store.read().unwrap().content(meta().namespace().unwrap(), digest).unwrap().is_some();
    assert_eq!(row, whole.wharf.store.blobs().path(digest).exists(), "row and file of {digest}");
    row
}

fn lease(id: &str) -> Meta {
    Meta { lease: Some(LeaseId::new(id).unwrap()), ..meta() }
}

async fn make_lease(whole: &Whole<'_>, id: &str, labels: &[(&str, &str)]) -> Meta {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    whole.call(meta(), CreateLease { id: Some(LeaseId::new(id).unwrap()), labels }).await.unwrap();
    lease(id)
}

async fn explain(whole: &Whole<'_>) -> Vec<(Resource, Reason)> {
    let (io, mut told) = streaming::<Verdict>(1);
    let call = tokio::spawn(ExplainGarbage {}.serve(whole.wharf.clone(), meta(), io));
    let mut verdicts = Vec::new();
    while let Some(verdict) = told.recv().await {
        verdicts.push((verdict.resource, verdict.reason));
    }
    call.await.unwrap().unwrap();
    verdicts.sort_by(|one, other| one.0.cmp(&other.0));
    verdicts
}

#[test]
fn each_thing_is_explained_and_what_is_being_written_is_in_use() {
    run_collecting(async |whole| {
        let loose = insert(whole, &meta(), "loose", &[]).await;
        let held = insert(whole, &meta(), "held", &[("containerd.io/gc.root", "1")]).await;
        let reference = IngestRef::new("layer").unwrap();
        let expected = Some(Digest::from_sha256(&[7; 32]));
        let open =
            OpenIngest { reference: reference.clone(), total_bytes: 0, expected, labels: Labels::new(), shares: false };
        let writer = whole.wharf.actors.content.ask(meta(), open).await.unwrap();
        let mut expected = vec![
            (Resource::Content(loose), Reason::Unreferenced),
            (Resource::Content(held), Reason::Labelled),
            (Resource::Ingest(reference), Reason::InUse),
        ];
        expected.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(explain(whole).await, expected);
        drop(writer);
        assert!(matches!(explain(whole).await[2].1, Reason::Until(_)), "an unfinished blob is kept for its day");
    });
}

#[test]
fn what_nothing_keeps_goes_with_its_files_and_is_told() {
    run_collecting(async |whole| {
        let loose = insert(whole, &meta(), "loose", &[]).await;
        let layer = insert(whole, &meta(), "layer", &[]).await;
        let label = ("containerd.io/gc.ref.content.l.0", layer.as_str());
        let manifest = insert(whole, &meta(), "manifest", &[label, ("containerd.io/gc.root", "1")]).await;
        let collected = collect(whole).await;
        assert_eq!((collected.contents, collected.freed_bytes), (1, 5), "{collected:?}");
        assert_eq!([&loose, &layer, &manifest].map(|digest| has(whole, digest)), [false, true, true]);
        assert!(whole.world.events().contains(&Event::ContentDeleted { digest: loose }));
        let again = collect(whole).await;
        assert_eq!(again, Collected { elapsed_nanos: again.elapsed_nanos, ..Collected::default() });
    });
}

#[test]
fn bytes_that_another_namespace_has_stay() {
    run_collecting(async |whole| {
        let other = Meta::in_namespace(Namespace::new("other").unwrap());
        let digest = insert(whole, &meta(), "shared", &[]).await;
        insert(whole, &other, "shared", &[("containerd.io/gc.root", "1")]).await;
        let collected = collect(whole).await;
        assert_eq!((collected.contents, collected.freed_bytes), (1, 0));
        let read = ReadContent { digest, offset_bytes: 0, size_bytes: 0 };
        let (io, mut told) = streaming(4);
        read.serve(whole.wharf.clone(), other, io).await.unwrap();
        assert_eq!(told.recv().await.unwrap(), b"shared");
    });
}

#[test]
fn deleting_an_image_takes_what_it_alone_kept_and_sync_waits_for_that() {
    run_collecting(async |whole| {
        let native = SnapshotterName::new("native").unwrap();
        let snapshot = "chain";
        let labels = &[("containerd.io/gc.ref.snapshot.native", snapshot)];
        for sync in [true, false] {
            let digest = insert(whole, &make_lease(whole, "l", &[]).await, "manifest", labels).await;
            let key = SnapshotKey::new("making").unwrap();
            let named = Some(native.clone());
            let prepare =
                PrepareSnapshot { snapshotter: named.clone(), key: key.clone(), parent: None, labels: Labels::new() };
            whole.call(lease("l"), prepare).await.unwrap();
            let name = SnapshotKey::new(snapshot).unwrap();
            let commit = CommitSnapshot { snapshotter: named, key, name, parent: None, labels: Labels::new() };
            whole.call(lease("l"), commit).await.unwrap();
            let name = ImageName::new("docker.io/library/a:1").unwrap();
            let target = Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), 8);
            whole.call(meta(), CreateImage { name: name.clone(), target, labels: Labels::new() }).await.unwrap();
            whole.call(meta(), DeleteLease { id: LeaseId::new("l").unwrap(), sync: true }).await.unwrap();
            assert!(has(whole, &digest));
            assert_eq!(whole.folders(&native).len(), 1);
            whole.call(meta(), DeleteImage { name, sync }).await.unwrap();
            if !sync {
                whole.world.until(|| !whole.wharf.store.blobs().path(&digest).exists()).await;
                whole.world.until(|| whole.folders(&native).is_empty()).await;
            }
            assert!(!has(whole, &digest));
            assert!(whole.folders(&native).is_empty());
        }
    });
}

#[test]
fn a_lease_that_ends_by_itself_lets_go() {
    run_collecting(async |whole| {
        let end = Timestamp(START.0 + 40_000_000);
        let text = "2020-01-01T00:00:00.04Z";
        assert_eq!(Timestamp::parse_rfc3339(text), Some(end));
        let digest = insert(whole, &make_lease(whole, "short", &[(EXPIRE_LABEL, text)]).await, "held", &[]).await;
        collect(whole).await;
        assert!(has(whole, &digest), "it has not ended");
        whole.world.clock.advance(Duration::from_secs(1));
        whole.world.until(|| !whole.wharf.store.blobs().path(&digest).exists()).await;
        assert!(!has(whole, &digest));
        let lease = LeaseId::new("short").unwrap();
        assert!(whole.world.events().contains(&Event::LeaseDeleted { id: lease }));
    });
}

#[test]
fn a_snapshot_without_a_lease_is_kept_for_the_container_that_is_being_made() {
    run_collecting(async |whole| {
        let native = SnapshotterName::new("native").unwrap();
        let view = |key| ViewSnapshot {
            snapshotter: Some(native.clone()),
            key: SnapshotKey::new(key).unwrap(),
            parent: None,
            labels: Labels::new(),
        };
        let held = make_lease(whole, "l", &[]).await;
        whole.call(held, view("leased")).await.unwrap();
        whole.call(meta(), view("loose")).await.unwrap();
        assert_eq!(explain(whole).await[2].1, Reason::InUse);
        assert_eq!(collect(whole).await.snapshots, 0);
        whole.call(meta(), DeleteLease { id: LeaseId::new("l").unwrap(), sync: true }).await.unwrap();
        assert_eq!(whole.folders(&native).len(), 1, "the end of a lease is the end of what it held");
        whole.world.clock.advance(Duration::from_secs(61));
        assert_eq!(collect(whole).await.snapshots, 1);
        assert!(whole.folders(&native).is_empty());
    });
}

#[test]
fn a_reader_reads_on_when_its_blob_is_collected() {
    run_collecting(async |whole| {
        let text = "x".repeat(3 << 20);
        let digest = insert(whole, &meta(), &text, &[]).await;
        let (io, mut told) = streaming(1);
        let read = ReadContent { digest: digest.clone(), offset_bytes: 0, size_bytes: 0 };
        let reading = tokio::spawn(read.serve(whole.wharf.clone(), meta(), io));
        let mut got = told.recv().await.unwrap().len();
        assert_eq!(collect(whole).await.freed_bytes, text.len() as u64);
        assert!(!has(whole, &digest));
        while let Some(chunk) = told.recv().await {
            got += chunk.len();
        }
        reading.await.unwrap().unwrap();
        assert_eq!(got, text.len());
    });
}

#[test]
fn a_pull_that_is_under_way_loses_nothing_to_collections() {
    run_collecting(async |whole| {
        let put = |media_type, bytes: Vec<u8>| whole.registry.put(media_type, bytes);
        let layers: Vec<_> = (0..6_u8).map(|n| put(media_type::OCI_LAYER, vec![n; 200_000])).collect();
        let json = |blob: &Descriptor| serde_json::json!({ "mediaType": blob.media_type, "digest": blob.digest.to_string(), "size": blob.size_bytes });
        let platform = wharf_messages::Platform::host();
        let ids: Vec<_> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let config = serde_json::json!({
            "os": platform.os, "architecture": platform.architecture, "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = put(media_type::OCI_CONFIG, serde_json::to_vec(&config).unwrap());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": json(&config),
            "layers": layers.iter().map(json).collect::<Vec<_>>(),
        });
        let manifest = put(media_type::OCI_MANIFEST, serde_json::to_vec(&manifest).unwrap());
        let reference = "reg.local:5000/app:1".to_owned();
        whole.registry.tag(&reference, &manifest);
        // The first attempt stops in the middle of a layer; what came is gone on with.
        whole.registry.fail(&layers[3].digest, Fault::StallAfter(100_000));
        let pull = PullImage {
            reference,
            platforms: PlatformChoice::Host,
            all_metadata: false,
            labels: Labels::new(),
            unpack: false,
            name_image: true,
            snapshotter: None,
            max_concurrent_downloads: 2,
            registry: RegistryOptions::default(),
        };
        let (io, _shown) = streaming(4096);
        let cancel = io.cancel.clone();
        let stalled = tokio::task::spawn_local(pull.clone().serve(whole.wharf.clone(), meta(), io));
        let path = |digest: &Digest| whole.wharf.store.blobs().path(digest);
        let here = || layers.iter().filter(|layer| path(&layer.digest).exists()).count();
        whole.world.until(|| here() == layers.len() - 1).await;
        for _ in 0..3 {
            assert_eq!(collect(whole).await.contents, 0);
        }
        assert_eq!(here(), layers.len() - 1);
        cancel.cancel();
        stalled.await.unwrap().unwrap_err();
        // Nothing keeps what the pull had any more, but the unfinished layer has its day.
        whole.world.until(|| here() == 0).await;
        // The whole pull, with collections all the time.
        let (io, _shown) = streaming(4096);
        let pulling = tokio::task::spawn_local(pull.serve(whole.wharf.clone(), meta(), io));
        while !pulling.is_finished() {
            collect(whole).await;
        }
        pulling.await.unwrap().unwrap();
        assert_eq!(collect(whole).await.contents, 0);
        assert_eq!(here(), layers.len());
        let fetched = |layer: &Descriptor| {
            let calls = whole.registry.calls();
            calls.iter().filter(|call| call.contains(&format!("fetch {}", layer.digest))).count()
        };
        assert_eq!(layers.iter().map(fetched).collect::<Vec<_>>(), [2; 6], "nothing had to be fetched again");
    });
}

#[test]
fn who_asks_during_a_collection_waits_for_the_next() {
    run_collecting(async |whole| {
        // Whatever is under way when each asks, what it has made is gone when it is answered.
        let ask = async |n: usize| {
            let digest = insert(whole, &meta(), &format!("loose {n}"), &[]).await;
            collect(whole).await;
            assert!(!has(whole, &digest));
        };
        futures_util::future::join_all((0..20).map(ask)).await;
    });
}

#[test]
fn many_changes_are_a_reason_to_look_for_garbage() {
    run_collecting(async |whole| {
        let first = insert(whole, &meta(), "first", &[]).await;
        for n in 0..100 {
            insert(whole, &meta(), &format!("more {n}"), &[("containerd.io/gc.root", "1")]).await;
        }
        whole.world.until(|| !whole.wharf.store.blobs().path(&first).exists()).await;
    });
}
