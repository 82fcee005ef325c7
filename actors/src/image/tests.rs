//! Images through calls, from a registry in memory: pulled alone and together, cut, cancelled, and moved as archives.

use crate::{
    drivers::registry::fake::Fault,
    serve::{CallIo, Serve},
    testing::{
        meta,
        whole::{Whole, run_whole},
    },
};
use bytes::Bytes;
use std::collections::BTreeSet;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Descriptor, ImageName, Labels, LeaseId, Meta, Platform, Refusal, RefusalKind, SnapshotKey, SnapshotterName,
    content::{GetContent, ListContent, ListIngests},
    descriptor::media_type,
    event::Event,
    image::{
        CreateImage, DeleteImage, ExportImages, GetImage, Image, ImportImages, ListImages, PlatformChoice, Progress,
        PullImage, RegistryOptions, ResolveImage,
    },
    lease::{CreateLease, ListLeaseResources, ListLeases},
    snapshot::{ListSnapshots, SnapshotKind, StatSnapshot},
};

pub(crate) const NAME: &str = "reg.local:5000/app:1";

/// What was put into the registry.
pub(crate) struct Put {
    pub(crate) manifest: Descriptor,
    pub(crate) config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Put {
    fn blobs(&self) -> BTreeSet<String> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers).map(|blob| blob.digest.to_string()).collect()
    }
}

fn layer(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let content = name.repeat(5000);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

fn json(blobs: &[Descriptor]) -> Vec<serde_json::Value> {
    let one = |blob: &Descriptor| {
        let mut value = serde_json::json!({
            "mediaType": blob.media_type, "digest": blob.digest.to_string(), "size": blob.size_bytes
        });
        if let Some(platform) = &blob.platform {
            value["platform"] = serde_json::json!({ "os": platform.os, "architecture": platform.architecture });
        }
        value
    };
    blobs.iter().map(one).collect()
}

/// Puts an image of these layers there. `diff_ids` of none are the layers' true ones.
fn put_for(whole: &Whole<'_>, names: &[&str], platform: &Platform, diff_ids: Option<Vec<String>>) -> Put {
    let put = |media_type, bytes: Vec<u8>| whole.registry.put(media_type, bytes);
    let layers: Vec<_> = names.iter().map(|name| put(media_type::OCI_LAYER, layer(name))).collect();
    let true_ids = || layers.iter().map(|layer| layer.digest.to_string()).collect();
    let config = serde_json::json!({
        "os": platform.os, "architecture": platform.architecture,
        "rootfs": { "type": "layers", "diff_ids": diff_ids.unwrap_or_else(true_ids) },
    });
    let config = put(media_type::OCI_CONFIG, serde_json::to_vec(&config).unwrap());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": json(std::slice::from_ref(&config))[0], "layers": json(&layers),
    });
    let manifest = put(media_type::OCI_MANIFEST, serde_json::to_vec(&manifest).unwrap());
    Put { manifest: Descriptor { platform: Some(platform.clone()), ..manifest }, config, layers }
}

/// Puts an image there under the name.
pub(crate) fn put(whole: &Whole<'_>, names: &[&str]) -> Put {
    let put = put_for(whole, names, &Platform::host(), None);
    whole.registry.tag(NAME, &Descriptor { platform: None, ..put.manifest.clone() });
    put
}

pub(crate) fn pull() -> PullImage {
    PullImage {
        reference: NAME.to_owned(),
        platforms: PlatformChoice::Host,
        all_metadata: false,
        labels: Labels::new(),
        unpack: false,
        name_image: true,
        snapshotter: Some(native()),
        max_concurrent_downloads: 0,
        registry: RegistryOptions::default(),
    }
}

pub(crate) fn native() -> SnapshotterName {
    SnapshotterName::new("native").unwrap()
}

/// A pull that goes on beside the test.
struct Pulling {
    end: JoinHandle<Answer<Image>>,
    cancel: CancellationToken,
    shown: mpsc::Receiver<Progress>,
}

fn begin(whole: &Whole<'_>, call: PullImage) -> Pulling {
    let (items, shown) = mpsc::channel(4096);
    let cancel = CancellationToken::new();
    let io = CallIo { items, upload: mpsc::channel(1).1, cancel: cancel.clone() };
    Pulling { end: tokio::task::spawn_local(call.serve(whole.wharf.clone(), meta(), io)), cancel, shown }
}

async fn done(whole: &Whole<'_>, call: PullImage) -> Answer<Image> {
    begin(whole, call).end.await.unwrap()
}

async fn get(whole: &Whole<'_>) -> Answer<Image> {
    whole.call(meta(), GetImage { name: ImageName::new(NAME).unwrap() }).await
}

/// The blobs that the namespace has.
async fn blobs(whole: &Whole<'_>) -> BTreeSet<String> {
    let listed = whole.call(meta(), ListContent { filters: Vec::new() }).await.unwrap();
    listed.into_iter().map(|info| info.digest.to_string()).collect()
}

async fn ingests(whole: &Whole<'_>) -> Vec<u64> {
    let listed = whole.call(meta(), ListIngests { filters: Vec::new() }).await.unwrap();
    listed.into_iter().map(|ingest| ingest.offset_bytes).collect()
}

async fn snapshots(whole: &Whole<'_>) -> usize {
    let list = ListSnapshots { snapshotter: Some(native()), filters: Vec::new() };
    whole.call(meta(), list).await.unwrap().len()
}

fn calls(whole: &Whole<'_>, prefix: &str) -> usize {
    whole.registry.calls().iter().filter(|call| call.starts_with(prefix)).count()
}

fn refused<T: std::fmt::Debug>(answer: Answer<T>) -> RefusalKind {
    answer.unwrap_err().kind
}

#[test]
fn fetched_tied_together_and_named_in_one_commit() {
    run_whole(async |whole| {
        let there = put(whole, &["a", "b"]);
        let labels = Labels::from([("mine".to_owned(), "yes".to_owned())]);
        let mut pulling = begin(whole, PullImage { labels: labels.clone(), ..pull() });
        let image = (&mut pulling.end).await.unwrap().unwrap();
        assert_eq!((image.target.digest.clone(), image.labels.clone()), (there.manifest.digest.clone(), labels));
        assert_eq!(get(whole).await.unwrap(), image);
        assert_eq!(blobs(whole).await, there.blobs());
        assert!(ingests(whole).await.is_empty());
        let manifest = whole.call(meta(), GetContent { digest: there.manifest.digest.clone() }).await.unwrap();
        let label = |key: &str| manifest.labels.get(&format!("containerd.io/gc.ref.content.{key}")).cloned();
        assert_eq!(label("config"), Some(there.config.digest.to_string()));
        assert_eq!(label("l.1"), Some(there.layers[1].digest.to_string()));
        assert_eq!(manifest.labels.get("containerd.io/distribution.source.reg.local").map(String::as_str), Some("app"));
        let events = whole.world.events();
        let [.., created, released, pulled] = &events[..] else { panic!("{events:?}") };
        assert!(matches!((created, pulled), (Event::ImageCreated { .. }, Event::ImagePulled { .. })), "{events:?}");
        // From the first blob to the name, a lease of the pull's own held all of it (CLAIM-1).
        let Event::LeaseDeleted { id } = released else { panic!("{events:?}") };
        let place = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted).unwrap();
        let leased = place(&|event| *event == Event::LeaseCreated { id: id.clone() });
        assert!(leased < place(&|event| matches!(event, Event::ContentCreated { .. })), "{events:?}");
        // The last that was shown of each part is that it is done.
        let mut last = std::collections::BTreeMap::new();
        while let Ok(line) = pulling.shown.try_recv() {
            last.insert(line.reference.clone(), line);
        }
        let layer = &last[&format!("layer-{}", there.layers[0].digest)];
        assert_eq!((layer.offset_bytes, layer.total_bytes), (layer.total_bytes, there.layers[0].size_bytes));
    });
}

#[test]
fn two_who_pull_one_name_pull_it_once() {
    run_whole(async |whole| {
        let there = put(whole, &["a"]);
        let (a, b) = tokio::join!(done(whole, pull()), done(whole, pull()));
        assert_eq!(a.unwrap(), b.unwrap());
        assert_eq!(calls(whole, "resolve"), 1);
        assert_eq!(calls(whole, &format!("fetch {}", there.layers[0].digest)), 1);
    });
}

#[test]
fn two_names_of_one_blob_fetch_it_once() {
    run_whole(async |whole| {
        let there = put(whole, &["a", "b"]);
        let other = "reg.local:5000/app:2";
        whole.registry.tag(other, &Descriptor { platform: None, ..there.manifest.clone() });
        let second = PullImage { reference: other.to_owned(), ..pull() };
        let (a, b) = tokio::join!(done(whole, pull()), done(whole, second.clone()));
        assert_eq!(a.unwrap().target, b.unwrap().target);
        for layer in &there.layers {
            assert_eq!(calls(whole, &format!("fetch {}", layer.digest)), 1);
        }
        let fetched = calls(whole, "fetch");
        done(whole, second).await.unwrap();
        assert_eq!(calls(whole, "fetch"), fetched, "what is here is not fetched again");
    });
}

#[test]
fn the_last_to_leave_cancels_and_the_next_goes_on_where_it_stopped() {
    run_whole(async |whole| {
        let there = put(whole, &["a"]);
        let digest = &there.layers[0].digest;
        whole.registry.fail(digest, Fault::StallAfter(4096));
        let (first, second) = (begin(whole, pull()), begin(whole, pull()));
        while ingests(whole).await != [4096] {
            tokio::task::yield_now().await;
        }
        let other = PullImage { labels: Labels::from([("x".to_owned(), "y".to_owned())]), ..pull() };
        assert_eq!(refused(done(whole, other).await), RefusalKind::Unavailable);
        first.cancel.cancel();
        assert_eq!(refused(first.end.await.unwrap()), RefusalKind::Canceled);
        assert!(!second.end.is_finished());
        second.cancel.cancel();
        assert_eq!(refused(second.end.await.unwrap()), RefusalKind::Canceled);
        assert_eq!(refused(get(whole).await), RefusalKind::NotFound);
        // Until the first has ended a new one is told to come again.
        let image = loop {
            match done(whole, pull()).await {
                Err(refusal) if refusal.is(RefusalKind::Unavailable) => tokio::task::yield_now().await,
                end => break end.unwrap(),
            }
        };
        assert_eq!(image.target.digest, there.manifest.digest);
        assert!(whole.registry.calls().contains(&format!("fetch {digest} 4096")), "{:?}", whole.registry.calls());
    });
}

#[test]
fn a_download_that_is_cut_is_kept() {
    run_whole(async |whole| {
        let there = put(whole, &["a"]);
        let digest = &there.layers[0].digest;
        whole.registry.fail(digest, Fault::CutAfter(5000, Refusal::unavailable("cut")));
        let refusal = done(whole, pull()).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
        assert!(refusal.detail.contains(digest.as_str()) && refusal.detail.contains(NAME), "{refusal}");
        assert_eq!(ingests(whole).await, [5000]);
        done(whole, pull()).await.unwrap();
        assert!(whole.registry.calls().contains(&format!("fetch {digest} 5000")));
        assert!(ingests(whole).await.is_empty());
    });
}

#[test]
fn a_blob_of_other_bytes_is_thrown_away() {
    run_whole(async |whole| {
        let there = put(whole, &["a"]);
        let digest = &there.layers[0].digest;
        whole.registry.fail(digest, Fault::Corrupt);
        let refusal = done(whole, pull()).await.unwrap_err();
        assert!(matches!(refusal.kind, RefusalKind::FailedPrecondition | RefusalKind::DataLoss), "{refusal}");
        assert!(refusal.detail.contains(digest.as_str()), "{refusal}");
        assert!(ingests(whole).await.is_empty());
        assert!(!blobs(whole).await.contains(digest.as_str()));
        assert_eq!(refused(get(whole).await), RefusalKind::NotFound);
        done(whole, pull()).await.unwrap();
    });
}

#[test]
fn what_the_registry_refuses_is_passed_on_with_the_name() {
    run_whole(async |whole| {
        let refusal = done(whole, pull()).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NotFound);
        assert!(refusal.detail.starts_with(&format!("pull {NAME}")), "{refusal}");
        let there = put(whole, &["a"]);
        whole.registry.fail(&there.manifest.digest, Fault::Refuse(Refusal::unauthenticated("who are you")));
        assert_eq!(refused(done(whole, pull()).await), RefusalKind::Unauthenticated);
        let bad = PullImage { reference: "not a reference".to_owned(), ..pull() };
        assert_eq!(refused(done(whole, bad).await), RefusalKind::InvalidArgument);
        assert!(whole.call(meta(), ListImages { filters: Vec::new() }).await.unwrap().is_empty());
    });
}

#[test]
fn of_an_index_only_what_is_wanted_is_fetched() {
    run_whole(async |whole| {
        let other = Platform::new("linux", "riscv64", "");
        let (mine, theirs) = (put_for(whole, &["a"], &Platform::host(), None), put_for(whole, &["b"], &other, None));
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
            "manifests": json(&[mine.manifest.clone(), theirs.manifest.clone()]),
        });
        let index = whole.registry.put(media_type::OCI_INDEX, serde_json::to_vec(&index).unwrap());
        whole.registry.tag(NAME, &index);
        done(whole, pull()).await.unwrap();
        let own: BTreeSet<_> = mine.blobs().into_iter().chain([index.digest.to_string()]).collect();
        assert_eq!(blobs(whole).await, own);
        done(whole, PullImage { all_metadata: true, ..pull() }).await.unwrap();
        assert!(blobs(whole).await.contains(theirs.manifest.digest.as_str()));
        assert!(!blobs(whole).await.contains(theirs.layers[0].digest.as_str()));
        done(whole, PullImage { platforms: PlatformChoice::These(vec![other]), ..pull() }).await.unwrap();
        assert!(blobs(whole).await.is_superset(&theirs.blobs()));
        let missing = PlatformChoice::These(vec![Platform::new("linux", "s390x", "")]);
        assert_eq!(refused(done(whole, PullImage { platforms: missing, ..pull() }).await), RefusalKind::NotFound);
    });
}

#[test]
fn unpacked_layer_by_layer_and_not_twice() {
    run_whole(async |whole| {
        let there = put(whole, &["a", "b"]);
        done(whole, PullImage { unpack: true, ..pull() }).await.unwrap();
        let resolve = ResolveImage { name: ImageName::new(NAME).unwrap(), platform: None, snapshotter: Some(native()) };
        let resolved = whole.call(meta(), resolve).await.unwrap();
        assert!(resolved.unpacked);
        let key = SnapshotKey::new(resolved.chain_id.as_str()).unwrap();
        let stat = StatSnapshot { snapshotter: Some(native()), key };
        assert_eq!(whole.call(meta(), stat).await.unwrap().kind, SnapshotKind::Committed);
        assert_eq!(snapshots(whole).await, 2);
        let config = whole.call(meta(), GetContent { digest: there.config.digest.clone() }).await.unwrap();
        let held = config.labels.get("containerd.io/gc.ref.snapshot.native");
        assert_eq!(held.map(String::as_str), Some(resolved.chain_id.as_str()));
        done(whole, PullImage { unpack: true, ..pull() }).await.unwrap();
        assert_eq!(snapshots(whole).await, 2);
    });
}

#[test]
fn a_layer_that_is_not_what_the_config_says_leaves_no_snapshot() {
    run_whole(async |whole| {
        let wrong = vec![format!("sha256:{}", "1".repeat(64))];
        let there = put_for(whole, &["a"], &Platform::host(), Some(wrong));
        whole.registry.tag(NAME, &Descriptor { platform: None, ..there.manifest.clone() });
        let refusal = done(whole, PullImage { unpack: true, ..pull() }).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::InvalidArgument, "{refusal}");
        assert_eq!(snapshots(whole).await, 0);
        assert_eq!(refused(get(whole).await), RefusalKind::NotFound);
    });
}

#[test]
fn a_pull_that_is_cancelled_while_it_unpacks_leaves_no_snapshot() {
    run_whole(async |whole| {
        let there = put(whole, &["a"]);
        whole.registry.fail(&there.layers[0].digest, Fault::StallAfter(4096));
        let pulling = begin(whole, PullImage { unpack: true, ..pull() });
        while snapshots(whole).await != 1 {
            tokio::task::yield_now().await;
        }
        pulling.cancel.cancel();
        assert_eq!(refused(pulling.end.await.unwrap()), RefusalKind::Canceled);
        while snapshots(whole).await != 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn records_are_made_and_deleted() {
    run_whole(async |whole| {
        let there = put(whole, &["a"]);
        let name = ImageName::new("copy").unwrap();
        let create = CreateImage { name: name.clone(), target: there.manifest.clone(), labels: Labels::new() };
        whole.call(meta(), create.clone()).await.unwrap();
        assert_eq!(refused(whole.call(meta(), create).await), RefusalKind::AlreadyExists);
        let delete = DeleteImage { name, sync: false };
        whole.call(meta(), delete.clone()).await.unwrap();
        assert_eq!(refused(whole.call(meta(), delete).await), RefusalKind::NotFound);
    });
}

async fn export(whole: &Whole<'_>) -> Answer<Vec<u8>> {
    let (items, mut chunks) = mpsc::channel(16);
    let io = CallIo { items, upload: mpsc::channel(1).1, cancel: CancellationToken::new() };
    let call = ExportImages {
        names: vec![ImageName::new(NAME).unwrap()],
        platforms: PlatformChoice::Host,
        skip_docker_manifest: false,
        skip_non_distributable: false,
    };
    let exporting = tokio::task::spawn_local(call.serve(whole.wharf.clone(), meta(), io));
    let mut archive = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        archive.extend(chunk);
    }
    exporting.await.unwrap().map(|()| archive)
}

async fn import(whole: &Whole<'_>, archive: &[u8], unpack: bool) -> Answer<Vec<Image>> {
    let (sender, upload) = mpsc::channel(16);
    let (items, mut shown) = mpsc::channel(16);
    let call = ImportImages { unpack, snapshotter: Some(native()), ..ImportImages::default() };
    let io = CallIo { items, upload, cancel: CancellationToken::new() };
    let importing = tokio::task::spawn_local(call.serve(whole.wharf.clone(), meta(), io));
    tokio::task::spawn_local(async move { while shown.recv().await.is_some() {} });
    for chunk in archive.chunks(10_000) {
        // It may have seen enough.
        if sender.send(Ok(Bytes::copy_from_slice(chunk))).await.is_err() {
            break;
        }
    }
    drop(sender);
    importing.await.unwrap()
}

#[test]
fn out_into_an_archive_and_in_again() {
    let (mut archive, mut digest) = (Vec::new(), None);
    run_whole(async |whole| {
        assert_eq!(refused(export(whole).await), RefusalKind::NotFound);
        digest = Some(put(whole, &["a", "b"]).manifest.digest);
        done(whole, pull()).await.unwrap();
        archive = export(whole).await.unwrap();
        assert_eq!(export(whole).await.unwrap(), archive, "the same bytes each time");
    });
    run_whole(async |whole| {
        let refusal = import(whole, &archive[..archive.len() / 2], false).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::InvalidArgument, "{refusal}");
        assert_eq!(refused(import(whole, b"no archive", false).await), RefusalKind::InvalidArgument);
        for _ in 0..2 {
            let images = import(whole, &archive, true).await.unwrap();
            assert_eq!(images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(), [NAME]);
            assert_eq!(Some(&images[0].target.digest), digest.as_ref());
            assert_eq!(snapshots(whole).await, 2);
        }
        assert!(ingests(whole).await.is_empty());
    });
}

async fn leases(whole: &Whole<'_>) -> Vec<String> {
    let listed = whole.call(meta(), ListLeases::default()).await.unwrap();
    listed.into_iter().map(|lease| lease.id.to_string()).collect()
}

#[test]
fn what_is_found_is_claimed_and_a_job_that_fails_gives_up_its_claim() {
    run_whole(async |whole| {
        let there = put(whole, &["a"]);
        let id = LeaseId::new("mine").unwrap();
        whole.call(meta(), CreateLease { id: Some(id.clone()), labels: Labels::new() }).await.unwrap();
        done(whole, pull()).await.unwrap();
        // Everything is here already; a caller with a lease has all of it in that.
        let leased = Meta { lease: Some(id.clone()), ..meta() };
        let (items, _shown) = mpsc::channel(4096);
        let io = CallIo { items, upload: mpsc::channel(1).1, cancel: CancellationToken::new() };
        pull().serve(whole.wharf.clone(), leased, io).await.unwrap();
        let held = whole.call(meta(), ListLeaseResources { id }).await.unwrap();
        let held: BTreeSet<_> = held.into_iter().filter(|r| r.kind == "content").map(|r| r.id).collect();
        assert_eq!(held, there.blobs());
        assert_eq!(leases(whole).await, ["mine"]);

        let missing = PullImage { reference: "reg.local:5000/app:none".to_owned(), ..pull() };
        done(whole, missing).await.unwrap_err();
        while leases(whole).await != ["mine"] {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn claims_of_a_dead_daemon_end() {
    run_whole(async |whole| {
        let (store, journal) = (&whole.world.store, &whole.world.journal);
        let claim = super::claim::Claim::take(journal, meta(), "pull").await.unwrap();
        // As a kill leaves it.
        std::mem::forget(claim);
        whole.call(meta(), CreateLease { id: LeaseId::new("other").ok(), labels: Labels::new() }).await.unwrap();
        super::claim::sweep(store, journal).await.unwrap();
        assert_eq!(leases(whole).await, ["other"]);
    });
}
