//! Roots that are really damaged: what a check finds, what a repair makes of them, and what is left to say.

use super::world::*;
use crate::{Change, Checked, DATABASE_FILE, OpenError, Problem, Remedy, Report, record, schema};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use wharf_messages::{container::Container, snapshot::Usage};

fn check(root: &Path, deep: bool) -> Report {
    Checked::open(root, deep).unwrap().check(deep).unwrap()
}

fn lines(report: &Report) -> Vec<String> {
    report.problems.iter().map(ToString::to_string).collect()
}

/// Mends all that can be; answers what was done, and what was found afterwards.
fn mend(root: &Path) -> (Vec<String>, Report) {
    let mut checked = Checked::open(root, true).unwrap();
    let found = checked.check(true).unwrap();
    let done = found.problems.iter().filter_map(|problem| checked.mend(problem).unwrap()).collect();
    let left = checked.check(true).unwrap();
    (done, left)
}

fn folder(root: &Path, id: u64) -> PathBuf {
    root.join("snapshotters/overlayfs/snapshots").join(id.to_string())
}

/// A root as a daemon leaves it: an image of two blobs and two layers, and a container on it.
fn root() -> (TempDir, [wharf_messages::Digest; 2]) {
    let mut world = World::new();
    let mut digests = Vec::new();
    for bytes in [&b"manifest"[..], b"layer"] {
        let placed = world.store.blobs().insert(bytes, None).unwrap();
        let (digest, size_bytes) = (placed.digest().clone(), placed.size_bytes());
        world.change(Change::CreateContent { digest: digest.clone(), size_bytes, labels: labels(&[]) }).unwrap();
        digests.push(digest);
    }
    let mut named = image("i", &[]);
    named.target.digest = digests[0].clone();
    world.change(Change::CreateImage(named)).unwrap();
    for (id, key, parent) in [(1, "one", None), (2, "two", Some("one")), (3, "web", Some("two"))] {
        let fs = folder(world.root(), id).join("fs");
        fs::create_dir_all(&fs).unwrap();
        fs::write(fs.join("file"), vec![b'x'; 300_000]).unwrap();
        world.change(Change::PrepareSnapshot(active(if id == 3 { key } else { "making" }, parent, id))).unwrap();
        if id != 3 {
            world
                .change(Change::CommitSnapshot {
                    snapshotter: overlay(),
                    key: self::key("making"),
                    name: self::key(key),
                    parent: None,
                    labels: labels(&[]),
                    usage: Usage { size_bytes: 300_000 + 8192, inodes: 2 },
                })
                .unwrap();
        }
    }
    let made = Container { snapshotter: Some(overlay()), snapshot_key: Some(key("web")), ..container("web") };
    world.change(Change::CreateContainer(made)).unwrap();
    let World { store, writer, folder, .. } = world;
    drop((store, writer));
    (folder, digests.try_into().unwrap())
}

#[test]
fn a_root_that_is_well_has_no_problems() {
    let (root, _) = root();
    let report = check(root.path(), true);
    assert_eq!((lines(&report), report.repaired_pages), (Vec::new(), false));
    for count in [(1, "images"), (2, "blobs"), (3, "snapshots"), (1, "containers"), (1, "namespaces")] {
        assert!(report.counts.contains(&count), "{:?}", report.counts);
    }
}

#[test]
fn a_root_in_use_or_without_a_database_is_left_alone() {
    let world = World::new();
    assert!(matches!(Checked::open(world.root(), false), Err(OpenError::InUse { .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Checked::open(empty.path(), false), Err(OpenError::Io { .. })));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "a check makes nothing");
}

#[test]
fn blobs_that_are_lost_short_or_changed_are_forgotten() {
    let (root, [manifest, layer]) = root();
    let path = |digest: &wharf_messages::Digest| root.path().join("content/blobs/sha256").join(digest.hex());
    let rewrite = |digest, bytes: &[u8]| {
        fs::remove_file(path(digest)).unwrap();
        fs::write(path(digest), bytes).unwrap();
    };
    rewrite(&layer, b"lAyer");
    assert_eq!(lines(&check(root.path(), false)), Vec::<String>::new(), "of the same length: that takes a deep look");
    assert!(lines(&check(root.path(), true))[0].starts_with(&format!("blob {layer}: its bytes are those of sha256:")));
    rewrite(&layer, b"la");
    assert_eq!(lines(&check(root.path(), false)), [format!("blob {layer}: its file has 2 bytes, its row says 5")]);
    fs::remove_file(path(&manifest)).unwrap();
    let stray = path(&digest(9));
    fs::write(&stray, b"stray").unwrap();
    let (done, left) = mend(root.path());
    assert_eq!(done.len(), 3, "{done:?}");
    assert!(done[0].starts_with("forgotten in namespace \"default\""), "{done:?}");
    assert!(!path(&layer).exists() && !stray.exists());
    // That the image's content is gone is told: its name stays, so that somebody can pull it again.
    let told = format!("image \"i\" in namespace \"default\": its target {manifest} is not here: pull it again");
    assert_eq!(lines(&left), [told]);
}

#[test]
fn unfinished_blobs_are_matched_with_their_files() {
    let (root, _) = root();
    let ingest_row = super::changes::ingest("lost");
    {
        let (_store, mut writer) = crate::open(root.path(), crate::Options::default()).unwrap();
        writer
            .commit(vec![crate::Commit::one(&ns(), Change::PutIngest(ingest_row))], wharf_messages::Timestamp(9))
            .pop()
            .unwrap()
            .unwrap();
    }
    let stray = root.path().join("content/ingest").join("f".repeat(32));
    fs::create_dir(&stray).unwrap();
    let report = check(root.path(), false);
    assert_eq!(report.problems.len(), 2, "{:?}", lines(&report));
    let (done, left) = mend(root.path());
    assert_eq!((done.len(), lines(&left)), (2, Vec::new()));
    assert!(!stray.exists());
}

#[test]
fn damaged_layers_are_dropped_unless_somebody_stands_on_them() {
    let (root, _) = root();
    fs::remove_dir_all(folder(root.path(), 1)).unwrap();
    fs::create_dir_all(folder(root.path(), 77).join("fs")).unwrap();
    let found = lines(&check(root.path(), false));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("is lost") && found[0].contains("kept by container \"web\""), "{found:?}");
    let (done, left) = mend(root.path());
    assert_eq!(
        (done, lines(&left).len()),
        (vec!["deleted".to_owned()], 1),
        "the container's own files are not touched"
    );
    assert!(folder(root.path(), 3).exists() && !folder(root.path(), 77).exists());
    // Without the container nothing keeps them: the layer on top goes too, before what it stands on.
    {
        let (_store, mut writer) = crate::open(root.path(), crate::Options::default()).unwrap();
        let changes = vec![
            Change::DeleteContainer(container_id("web")),
            Change::RemoveSnapshot { snapshotter: overlay(), key: key("web") },
        ];
        for change in changes {
            writer
                .commit(vec![crate::Commit::one(&ns(), change)], wharf_messages::Timestamp(9))
                .pop()
                .unwrap()
                .unwrap();
        }
    }
    fs::remove_dir_all(folder(root.path(), 3)).unwrap();
    let (done, left) = mend(root.path());
    assert_eq!((done.len(), lines(&left)), (2, Vec::new()), "{done:?}");
    assert!(!folder(root.path(), 2).exists());
}

#[test]
fn layers_whose_bytes_never_reached_the_disk_are_found_by_a_deep_look() {
    let (root, _) = root();
    fs::write(folder(root.path(), 2).join("fs/file"), b"").unwrap();
    assert_eq!(lines(&check(root.path(), false)), Vec::<String>::new());
    let found = lines(&check(root.path(), true));
    assert!(found[0].contains("when it was committed it had 2 in 308192"), "{found:?}");
    fs::remove_file(folder(root.path(), 1).join("fs/file")).unwrap();
    assert_eq!(lines(&check(root.path(), true)).len(), 2);
}

#[test]
fn indexes_that_disagree_with_their_rows_are_written_anew() {
    let (root, _) = root();
    let database = redb::Database::open(root.path().join(DATABASE_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut ids = transaction.open_table(schema::SNAPSHOT_IDS).unwrap();
        ids.remove(("overlayfs", 2)).unwrap();
        ids.insert(("overlayfs", 9), (0, "default", "nobody")).unwrap();
        transaction.open_table(schema::BLOBS).unwrap().retain(|_, _| false).unwrap();
        transaction.open_table(schema::SNAPSHOT_CHILDREN).unwrap().retain(|_, ()| false).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let found = lines(&check(root.path(), false));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|line| line.starts_with("index ")), "{found:?}");
    let (_, left) = mend(root.path());
    assert_eq!(lines(&left), Vec::<String>::new());
}

#[test]
fn rows_that_cannot_be_read_and_references_that_lead_nowhere_are_told_and_left() {
    let (root, _) = root();
    let database = redb::Database::open(root.path().join(DATABASE_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut containers = transaction.open_table(schema::CONTAINERS).unwrap();
        containers.insert(("default", "torn"), &[1_u8, 200][..]).unwrap();
        let lost = Container { snapshotter: Some(overlay()), snapshot_key: Some(key("gone")), ..container("lost") };
        let bytes = record::encode(&lost).unwrap();
        containers.insert(("default", "lost"), bytes.as_slice()).unwrap();
        let mut tasks = transaction.open_table(schema::TASKS).unwrap();
        let bytes = record::encode(&task("ghost")).unwrap();
        tasks.insert(("default", "ghost"), bytes.as_slice()).unwrap();
        let mut events = transaction.open_table(schema::EVENTS).unwrap();
        events.remove(2).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let (done, left) = mend(root.path());
    assert_eq!(done, ["forgotten"], "a task without a container is nobody's");
    let left = lines(&left);
    for word in ["container \"torn\"", "container \"lost\"", "the log has a gap"] {
        assert!(left.iter().any(|line| line.contains(word)), "{word}: {left:?}");
    }
}

#[test]
fn a_database_that_cannot_be_opened_is_said_to_be_so() {
    let (root, _) = root();
    let path = root.path().join(DATABASE_FILE);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, vec![0; whole.len()]).unwrap();
    let error = Checked::open(root.path(), true).unwrap_err();
    assert!(error.to_string().contains(DATABASE_FILE), "{error}");
    // Pages that are damaged within are found by a deep look at the latest.
    let mut found = 0;
    for page in 1..whole.len() / 4096 {
        let mut torn = whole.clone();
        torn[page * 4096..page * 4096 + 64].fill(0xa5);
        fs::write(&path, &torn).unwrap();
        let checked = Checked::open(root.path(), true).map(|checked| checked.check(true));
        found += usize::from(match checked {
            Err(_) | Ok(Err(_)) => true,
            Ok(Ok(report)) => report.repaired_pages || !report.problems.is_empty(),
        });
    }
    assert!(found > 10, "{found} torn pages were noticed");
}

#[test]
fn what_cannot_be_mended_is_not_touched() {
    let (root, _) = root();
    let mut checked = Checked::open(root.path(), false).unwrap();
    let hopeless = Problem { subject: "x".into(), what: "y".into(), remedy: Remedy::None };
    assert_eq!(checked.mend(&hopeless).unwrap(), None);
}
