use crate::testing::{
    meta,
    whole::{Whole, run_whole},
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use wharf_messages::{
    Answer, Descriptor, Digest, Labels, Mount, RefusalKind, SnapshotKey,
    content::{GetContent, ListIngests},
    descriptor::media_type,
    snapshot::{ApplyDiff, CommitSnapshot, MakeDiff, PrepareSnapshot},
};

async fn prepare(whole: &Whole<'_>, key: &str, parent: Option<&str>) -> Vec<Mount> {
    let parent = parent.map(|parent| SnapshotKey::new(parent).unwrap());
    let key = SnapshotKey::new(key).unwrap();
    whole.call(meta(), PrepareSnapshot { snapshotter: None, key, parent, labels: Labels::new() }).await.unwrap()
}

async fn commit(whole: &Whole<'_>, key: &str, name: &str) {
    let (key, name) = (SnapshotKey::new(key).unwrap(), SnapshotKey::new(name).unwrap());
    whole
        .call(meta(), CommitSnapshot { snapshotter: None, key, name, parent: None, labels: Labels::new() })
        .await
        .unwrap();
}

/// Where what is written to a snapshot goes.
fn upper(mounts: &[Mount]) -> PathBuf {
    let [mount] = mounts else { panic!("{mounts:?}") };
    let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
    PathBuf::from(upper.unwrap_or(&mount.source))
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

async fn diff(whole: &Whole<'_>, lower: &[Mount], upper: &[Mount], media_type: &str) -> Answer<Descriptor> {
    let labels = Labels::from([("mine".to_owned(), "yes".to_owned())]);
    let (lower, upper, media_type) = (lower.to_vec(), upper.to_vec(), media_type.to_owned());
    whole.call(meta(), MakeDiff { lower, upper, media_type, reference: String::new(), labels }).await
}

#[test]
fn changes_go_into_a_layer_and_come_out_again() {
    run_whole(async |whole| {
        let base = prepare(whole, "base-work", None).await;
        write(&upper(&base), "kept", "old");
        write(&upper(&base), "gone", "old");
        commit(whole, "base-work", "base").await;
        let lower = prepare(whole, "lower", Some("base")).await;
        let changed = prepare(whole, "changed", Some("base")).await;
        let scratch =
            crate::drivers::mount::TempMount::new(&changed, whole.wharf.drivers.apply.scratch.as_ref().unwrap())
                .unwrap();
        write(scratch.path(), "new", &"fresh".repeat(100_000));
        fs::remove_file(scratch.path().join("gone")).unwrap();
        drop(scratch);

        for (asked, given) in [
            ("", media_type::OCI_LAYER_GZIP),
            (media_type::OCI_LAYER, media_type::OCI_LAYER),
            (media_type::OCI_LAYER_ZSTD, media_type::OCI_LAYER_ZSTD),
        ] {
            let layer = diff(whole, &lower, &changed, asked).await.unwrap();
            assert_eq!(layer.media_type, given);
            // Made again, it is the same blob, and no ingest is left of the attempt.
            assert_eq!(diff(whole, &lower, &changed, asked).await.unwrap(), layer);
            assert!(whole.call(meta(), ListIngests::default()).await.unwrap().is_empty());
            let info = whole.call(meta(), GetContent { digest: layer.digest.clone() }).await.unwrap();
            assert_eq!((info.size_bytes, info.labels["mine"].as_str()), (layer.size_bytes, "yes"));

            let key = format!("target-{}", layer.digest);
            let target = prepare(whole, &key, Some("base")).await;
            let apply = ApplyDiff { layer: layer.clone(), mounts: target.clone(), sync: true };
            let applied = whole.call(meta(), apply).await.unwrap();
            let uncompressed = info.labels.get(wharf_messages::labels::UNCOMPRESSED);
            let expected = if given == media_type::OCI_LAYER { None } else { Some(applied.diff_id.to_string()) };
            assert_eq!(uncompressed, expected.as_ref());
            let seen =
                crate::drivers::mount::TempMount::new(&target, whole.wharf.drivers.apply.scratch.as_ref().unwrap())
                    .unwrap();
            assert_eq!(fs::read_to_string(seen.path().join("new")).unwrap(), "fresh".repeat(100_000));
            assert_eq!(fs::read_to_string(seen.path().join("kept")).unwrap(), "old");
            assert!(!seen.path().join("gone").exists());
        }
    });
}

#[test]
fn what_is_no_layer_is_refused_and_leaves_nothing() {
    run_whole(async |whole| {
        let place = prepare(whole, "place", None).await;
        let refusal = diff(whole, &[], &place, "text/plain").await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NotImplemented);
        assert!(refusal.detail.contains("text/plain"), "{refusal}");

        let missing = Mount {
            kind: "bind".to_owned(),
            source: "/no/such/place".to_owned(),
            target: String::new(),
            options: vec!["rbind".to_owned(), "ro".to_owned()],
        };
        let refusal = diff(whole, &[], &[missing], "").await.unwrap_err();
        assert!(refusal.is(RefusalKind::Unknown) && refusal.detail.contains("/no/such/place"), "{refusal}");
        assert!(whole.call(meta(), ListIngests::default()).await.unwrap().is_empty());

        let digest = Digest::new(format!("sha256:{}", "0".repeat(64))).unwrap();
        let layer = Descriptor::new(media_type::OCI_LAYER, digest, 10);
        let apply = ApplyDiff { layer, mounts: place, sync: false };
        assert_eq!(whole.call(meta(), apply).await.unwrap_err().kind, RefusalKind::NotFound);
    });
}
