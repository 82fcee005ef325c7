//! A database that something else wrote over: an error that names the file, never a panic, while it is opened.

use super::world::*;
use crate::{Change, DATABASE_FILE, OpenError, disk::Disk};
use std::{fs, sync::Arc};

/// Opens a root on what is left of its database.
fn open_damaged(image: Vec<u8>) -> Result<(), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(Memory::holding(image));
    open_in_memory(folder_in_memory().path(), disk).map(drop)
}

#[test]
fn damage_is_an_error_that_names_the_file() {
    let mut world = World::new();
    for n in 0..50 {
        world.change(Change::CreateContainer(container(&format!("c{n}")))).unwrap();
    }
    let World { store, writer, folder, .. } = world;
    drop((store, writer));
    let whole = fs::read(folder.path().join(DATABASE_FILE)).unwrap();
    open_damaged(whole.clone()).unwrap();

    let mut errors = 0;
    let mut seen = |result: Result<(), OpenError>| {
        if let Err(error) = result {
            assert!(error.to_string().contains(DATABASE_FILE), "{error}");
            errors += 1;
        }
    };
    for page in 0..whole.len() / 4096 {
        let mut lost = whole.clone();
        lost[page * 4096..(page + 1) * 4096].fill(0);
        seen(open_damaged(lost));
        seen(open_damaged(whole[..page * 4096 + 100].to_vec()));
    }
    for at in 0..320 {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        seen(open_damaged(flipped));
    }
    // A page that nothing reads at the start is found later, if it is in use at all.
    assert!(errors > 20, "{errors} kinds of damage were noticed");
}
