//! Copies of the database, made and put back.

use super::{audit::dump, world::*};
use crate::{Change, DATABASE_FILE, OpenError, Options, open, restore};
use std::{fs, io::copy, path::Path};

/// Writes a copy of a world's database to a file.
fn backup(world: &World, to: &Path) {
    let mut from = world.store.backup().unwrap();
    copy(&mut from, &mut fs::File::create(to).unwrap()).unwrap();
}

#[test]
fn a_copy_is_of_one_moment_and_can_be_put_into_an_empty_root() {
    let mut world = World::new();
    for n in 0..300 {
        world.change(Change::CreateContainer(container(&format!("c{n}")))).unwrap();
    }
    let (before, uuid) = (dump(&world.store.read().unwrap()), world.store.uuid().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy");
    let moment = world.store.backup().unwrap();
    world.change(Change::CreateContainer(container("late"))).unwrap();
    copy(&mut { moment }, &mut fs::File::create(&file).unwrap()).unwrap();
    assert!(!world.root().join("wharf.redb.backup").exists(), "nothing is left beside the database");

    let root = folder.path().join("root");
    restore(&root, &file, false).unwrap();
    let (store, mut writer) = open(&root, Options::default()).unwrap();
    assert_eq!(dump(&store.read().unwrap()), before);
    assert_eq!(store.uuid(), uuid);
    // The log goes on where the copy ends.
    let last = writer.last_seq();
    let commit = crate::Commit::one(&ns(), Change::CreateContainer(container("next")));
    let committed = writer.commit(vec![commit], wharf_messages::Timestamp(9)).pop().unwrap().unwrap();
    assert_eq!(committed.last_seq.0, last.0 + 1);
}

#[test]
fn a_root_that_is_in_use_or_has_a_database_is_left_alone() {
    let mut world = World::new();
    world.change(Change::CreateContainer(container("kept"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy");
    backup(&World::new(), &file);
    assert!(matches!(restore(world.root(), &file, true), Err(OpenError::InUse { .. })));
    let World { store, writer, folder: root, .. } = world;
    drop((store, writer));
    let error = restore(root.path(), &file, false).unwrap_err();
    assert!(error.to_string().contains("has a database already"), "{error}");
    let kept = |root: &Path| {
        let (store, _writer) = open(root, Options::default()).unwrap();
        store.read().unwrap().container(&ns(), &container_id("kept")).unwrap().is_some()
    };
    assert!(kept(root.path()));
    // By force; what was there is kept beside it.
    restore(root.path(), &file, true).unwrap();
    assert!(!kept(root.path()));
    fs::rename(root.path().join("wharf.redb.old"), root.path().join(DATABASE_FILE)).unwrap();
    assert!(kept(root.path()));
}

#[test]
fn what_is_no_copy_does_not_take_the_place_of_a_database() {
    let World { store, writer, folder: root, .. } = World::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy");
    let mut whole = Vec::new();
    std::io::Read::read_to_end(&mut store.backup().unwrap(), &mut whole).unwrap();
    drop((store, writer));
    for bad in [&b"not a database"[..], &whole[..whole.len() / 2], &[]] {
        fs::write(&file, bad).unwrap();
        let error = restore(root.path(), &file, true).unwrap_err();
        assert!(error.to_string().contains("copy"), "{error}");
        open(root.path(), Options::default()).unwrap();
        assert!(!root.path().join("wharf.redb.new").exists());
    }
    let missing = restore(root.path(), &folder.path().join("none"), true).unwrap_err();
    assert!(matches!(missing, OpenError::Io { .. }));
}
