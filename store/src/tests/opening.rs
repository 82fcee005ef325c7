//! Opening a root, and who may.

use super::world::*;
use crate::{Change, DATABASE_FILE, OpenError, Options, SCHEMA_VERSION, open, schema};
use std::fs;

#[test]
fn a_root_keeps_its_id() {
    let mut world = World::new();
    world.change(Change::CreateImage(image("a", &[]))).unwrap();
    let uuid = world.store.uuid().to_owned();
    let shape: Vec<usize> = uuid.split('-').map(str::len).collect();
    assert_eq!((shape, &uuid[14..15]), (vec![8, 4, 4, 4, 12], "4"), "{uuid}");
    let world = world.reopened();
    assert_eq!((world.store.uuid(), world.store.root()), (uuid.as_str(), world.root()));
    assert_ne!(World::new().store.uuid(), uuid);
}

#[test]
fn a_second_daemon_is_told_who_has_the_root() {
    let world = World::new();
    match open(world.root(), Options::default()) {
        Err(error @ OpenError::InUse { pid: Some(pid), .. }) => {
            assert_eq!(pid, std::process::id());
            assert_eq!(
                error.to_string(),
                format!("root {} is in use by the process with pid {pid}", world.root().display())
            );
        }
        other => panic!("{other:?}"),
    }
    // As long as anybody reads, the root is held.
    let World { store, writer, folder, .. } = world;
    drop(writer);
    assert!(matches!(open(folder.path(), Options::default()), Err(OpenError::InUse { .. })));
    drop(store);
    open(folder.path(), Options::default()).unwrap();
}

#[test]
fn a_root_of_an_older_daemon_gets_the_tables_that_came_later() {
    let World { store, writer, folder, .. } = World::new();
    drop((store, writer));
    let database = redb::Database::open(folder.path().join(DATABASE_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    assert!(transaction.delete_table(schema::RESTARTS).unwrap());
    assert!(transaction.delete_table(schema::HEALTH).unwrap());
    transaction.commit().unwrap();
    drop(database);
    let (store, _writer) = open(folder.path(), Options::default()).unwrap();
    assert_eq!(store.read().unwrap().restart(&ns(), &container_id("web")).unwrap(), None);
    assert_eq!(store.read().unwrap().healths(&ns()).unwrap().count(), 0);
}

/// Writes into `meta` behind the store's back.
fn tamper(world: World, rows: &[(&str, Option<&[u8]>)]) -> Result<(), OpenError> {
    let World { store, writer, folder, .. } = world;
    drop((store, writer));
    let database = redb::Database::open(folder.path().join(DATABASE_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(schema::META).unwrap();
        for (key, value) in rows {
            match value {
                Some(value) => drop(meta.insert(*key, *value).unwrap()),
                None => drop(meta.remove(*key).unwrap()),
            }
        }
    }
    transaction.commit().unwrap();
    drop(database);
    open(folder.path(), Options::default()).map(drop)
}

#[test]
fn what_a_newer_wharf_wrote_is_left_alone() {
    let newer = (SCHEMA_VERSION + 1).to_le_bytes();
    match tamper(World::new(), &[("schema", Some(&newer))]) {
        Err(error @ OpenError::NewerSchema { .. }) => {
            assert!(
                error.to_string().ends_with("has schema version 2, and this wharf knows versions up to 1"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_root_says_so() {
    for (rows, why) in [
        (&[("schema", Some(&b"x"[..]))][..], "it has no schema version"),
        (&[("uuid", Some(&b"\xff"[..]))], "it has no id"),
        (&[("uuid", None)], "it has no id"),
    ] {
        let error = tamper(World::new(), rows).unwrap_err();
        assert!(matches!(&error, OpenError::Damaged { why: said, .. } if said == why), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wharf.redb.new"), "cut off in the middle").unwrap();
    open(folder.path(), Options::default()).unwrap();
    assert!(!folder.path().join("wharf.redb.new").exists());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(DATABASE_FILE), "this is no database").unwrap();
    let error = open(folder.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error}");
    let error = open(&folder.path().join(DATABASE_FILE).join("below"), Options::default()).unwrap_err();
    assert!(error.to_string().starts_with("make folder "), "{error}");
}
