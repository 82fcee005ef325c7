//! The bytes of blobs: written, resumed, verified, followed, swept.

use super::world::*;
use crate::{Blobs, Change, Commit, FileId, GrowingBlob, IngestRow};
use std::{fs, io::Read, os::unix::fs::PermissionsExt, sync::mpsc, thread};
use wharf_messages::{Digest, IngestRef, Labels, RefusalKind, Timestamp, id::DigestAlgorithm};

const SHA256: DigestAlgorithm = DigestAlgorithm::Sha256;
/// printf hello | sha256sum; printf hello | sha512sum
const HELLO_256: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const HELLO_512: &str = "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043";

fn hello() -> Digest {
    Digest::new(HELLO_256).unwrap()
}

fn bytes_of(blobs: &Blobs, digest: &Digest) -> Vec<u8> {
    blobs.read_all(digest, 1 << 20).unwrap()
}

#[test]
fn a_blob_is_written_and_read() {
    let world = World::in_memory();
    let blobs = world.store.blobs();
    let mut ingest = blobs.begin(SHA256).unwrap();
    assert_eq!(ingest.append(b"hel").unwrap(), 3);
    assert_eq!(ingest.append(b"").unwrap(), 3);
    assert_eq!(ingest.append(b"lo").unwrap(), 5);
    assert_eq!(ingest.digest().unwrap(), hello());
    let id = ingest.id().clone();
    let placed = ingest.commit(5, Some(&hello())).unwrap();
    assert_eq!((placed.digest(), placed.size_bytes()), (&hello(), 5));
    let path = world.root().join("content/blobs/sha256").join(hello().hex());
    assert_eq!(blobs.path(&hello()), path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    let (mut file, size_bytes) = blobs.read(&hello()).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), size_bytes), ("hello", 5));
    assert_eq!(blobs.ingest_status(&id).unwrap(), None);
    assert_eq!((blobs.list().unwrap(), blobs.list_ingests().unwrap().len()), (vec![hello()], 0));
    assert!(blobs.read(&digest(1)).unwrap_err().is(RefusalKind::NotFound));
    assert!(blobs.read_all(&hello(), 4).unwrap_err().is(RefusalKind::ResourceExhausted));
    // A damaged file is found out.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, "jello").unwrap();
    assert!(blobs.read_all(&hello(), 5).unwrap_err().is(RefusalKind::DataLoss));
    // The same blob again replaces it, as after a power cut that left it empty.
    drop(blobs.insert(b"hello", Some(&hello())).unwrap());
    assert_eq!(bytes_of(blobs, &hello()), b"hello");
}

#[test]
fn a_blob_is_read_piece_by_piece_from_memory_or_disk() {
    let world = World::in_memory();
    let blobs = world.store.blobs();
    let whole: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    let digest = blobs.insert(&whole, None).unwrap().digest().clone();
    let blob = blobs.open_blob(&digest).unwrap();
    assert_eq!(blob.size_bytes(), 100_000);
    for (offset, length) in [(0, 100_000), (99_999, 1), (4095, 8192)] {
        let piece = &whole[offset..offset + length];
        assert!(blob.read_piece(offset as u64, length).unwrap() == piece);
        // It was just written and read: where the file system can do this, it is there.
        if let Some(cached) = blob.read_cached(offset as u64, length) {
            assert!(piece.starts_with(&cached));
        }
    }
    assert!(blob.read_cached(100_000, 1).is_none(), "nothing is behind the end");
    assert!(blob.read_piece(99_999, 2).unwrap_err().is(RefusalKind::DataLoss));
    assert!(blobs.open_blob(&hello()).unwrap_err().is(RefusalKind::NotFound));
}

#[test]
fn an_ingest_is_resumed_at_any_offset() {
    let world = World::in_memory();
    let blobs = world.store.blobs();
    let whole: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    let expected = blobs.insert(&whole, None).unwrap().digest().clone();
    for offset in [0, 1, 4096, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 699_999, 700_000] {
        let mut ingest = blobs.begin(SHA256).unwrap();
        ingest.append(&whole[..offset]).unwrap();
        let id = ingest.id().clone();
        drop(ingest); // the daemon ends here
        assert_eq!(blobs.ingest_status(&id).unwrap().unwrap().0, offset as u64);
        let mut ingest = blobs.resume(&id, SHA256).unwrap();
        assert_eq!(ingest.offset_bytes(), offset as u64);
        ingest.append(&whole[offset..]).unwrap();
        let placed = ingest.commit(700_000, Some(&expected)).unwrap();
        assert_eq!(placed.digest(), &expected, "{offset}");
    }
}

#[test]
fn truncating_starts_the_hash_again() {
    let world = World::in_memory();
    let mut ingest = world.store.blobs().begin(SHA256).unwrap();
    ingest.append(b"hello, world").unwrap();
    assert!(ingest.truncate(13).unwrap_err().is(RefusalKind::OutOfRange));
    ingest.truncate(12).unwrap();
    ingest.truncate(5).unwrap();
    assert_eq!((ingest.offset_bytes(), ingest.digest().unwrap()), (5, hello()));
    ingest.truncate(0).unwrap();
    ingest.append(b"hello").unwrap();
    assert_eq!(ingest.commit(0, None).unwrap().digest(), &hello());
}

#[test]
fn what_is_not_as_expected_is_refused_in_containerds_words() {
    let world = World::in_memory();
    let blobs = world.store.blobs();
    let with = |bytes: &[u8]| {
        let mut ingest = blobs.begin(SHA256).unwrap();
        ingest.append(bytes).unwrap();
        ingest
    };
    let refusal = with(b"hello").commit(6, None).unwrap_err();
    assert_eq!(refusal.to_string(), "unexpected commit size 5, expected 6: failed precondition");
    let ingest = with(b"hello!");
    let id = ingest.id().clone();
    let refusal = ingest.commit(6, Some(&hello())).unwrap_err();
    assert!(refusal.is(RefusalKind::FailedPrecondition));
    assert!(refusal.detail.starts_with("unexpected commit digest sha256:"), "{refusal}");
    assert!(refusal.detail.ends_with(&format!(", expected {HELLO_256}")), "{refusal}");
    // The bytes stay for a second try.
    let mut ingest = blobs.resume(&id, SHA256).unwrap();
    ingest.truncate(5).unwrap();
    ingest.commit(5, Some(&hello())).unwrap();
    // A small blob that is wrong leaves nothing.
    let before = blobs.list_ingests().unwrap().len();
    assert!(blobs.insert(b"hullo", Some(&hello())).unwrap_err().is(RefusalKind::FailedPrecondition));
    assert_eq!(blobs.list_ingests().unwrap().len(), before);
}

#[test]
fn sha512_is_verified_when_it_is_given() {
    let world = World::in_memory();
    let blobs = world.store.blobs();
    let long = Digest::new(HELLO_512).unwrap();
    assert_eq!(blobs.insert(b"hello", Some(&long)).unwrap().digest(), &long);
    assert_eq!(bytes_of(blobs, &long), b"hello");
    // Begun with the other algorithm, because nobody said which.
    let mut ingest = blobs.begin(SHA256).unwrap();
    ingest.append(b"hello").unwrap();
    assert_eq!(ingest.commit(5, Some(&long)).unwrap().digest(), &long);
}

#[test]
fn an_ingest_is_open_once() {
    let world = World::in_memory();
    let blobs = world.store.blobs();
    let ingest = blobs.begin(SHA256).unwrap();
    let id = ingest.id().clone();
    assert!(blobs.resume(&id, SHA256).unwrap_err().is(RefusalKind::Unavailable));
    assert!(!blobs.discard_ingest(&id, || Ok(true)).unwrap());
    drop(ingest);
    drop(blobs.resume(&id, SHA256).unwrap());
    assert!(!blobs.discard_ingest(&id, || Ok(false)).unwrap());
    assert!(blobs.discard_ingest(&id, || Ok(true)).unwrap());
    // A file that is gone begins anew: the row outlived a power cut.
    assert_eq!(blobs.resume(&id, SHA256).unwrap().offset_bytes(), 0);
}

/// Reads in a thread of its own, and says each piece as it comes.
fn follow(mut reader: GrowingBlob) -> mpsc::Receiver<Result<Vec<u8>, String>> {
    let (say, hear) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4];
        loop {
            let piece = reader.read(&mut buffer).map(|n| buffer[..n].to_vec()).map_err(|e| e.to_string());
            let last = !matches!(&piece, Ok(bytes) if !bytes.is_empty());
            if say.send(piece).is_err() || last {
                return;
            }
        }
    });
    hear
}

#[test]
fn a_blob_is_read_while_it_grows() {
    let world = World::in_memory();
    let mut ingest = world.store.blobs().begin(SHA256).unwrap();
    let early = follow(ingest.growing().reader());
    ingest.append(b"hel").unwrap();
    assert_eq!(early.recv().unwrap().unwrap(), b"hel");
    assert!(early.try_recv().is_err(), "it waits for more");
    ingest.append(b"lo").unwrap();
    assert_eq!(early.recv().unwrap().unwrap(), b"lo");
    let growing = ingest.growing();
    assert_eq!(growing.written_bytes(), 5);
    let placed = ingest.commit(5, None).unwrap();
    assert_eq!(early.recv().unwrap().unwrap(), b"");
    // One who comes late reads all the same, also when the file has been deleted since.
    drop(placed);
    assert!(world.store.discard_blob(&hello()).unwrap());
    let late = follow(growing.reader());
    let pieces: Vec<Vec<u8>> = late.iter().map(Result::unwrap).collect();
    assert_eq!(pieces, [b"hell".to_vec(), b"o".to_vec(), Vec::new()]);
}

#[test]
fn readers_of_what_never_becomes_a_blob_fail() {
    let world = World::in_memory();
    let blobs = world.store.blobs();
    for (what, text) in
        [("dropped", "was given up"), ("wrong", "unexpected commit size"), ("truncated", "was truncated")]
    {
        let mut ingest = blobs.begin(SHA256).unwrap();
        ingest.append(b"hel").unwrap();
        let reader = follow(ingest.growing().reader());
        assert_eq!(reader.recv().unwrap().unwrap(), b"hel");
        match what {
            "dropped" => drop(ingest),
            "wrong" => drop(ingest.commit(9, None).unwrap_err()),
            _ => {
                ingest.truncate(0).unwrap();
                // Who starts now, starts with the new bytes.
                let fresh = follow(ingest.growing().reader());
                ingest.append(b"x").unwrap();
                assert_eq!(fresh.recv().unwrap().unwrap(), b"x");
            }
        }
        let refusal = reader.recv().unwrap().unwrap_err();
        assert!(refusal.contains(text), "{what}: {refusal}");
    }
}

#[test]
fn what_has_no_row_is_swept_unless_somebody_is_at_it() {
    let mut world = World::in_memory();
    let blobs = world.store.blobs().clone();
    let content =
        |digest: &Digest| Change::CreateContent { digest: digest.clone(), size_bytes: 5, labels: Labels::new() };
    let row = |file_id: &FileId| IngestRow {
        reference: IngestRef::new("r").unwrap(),
        file_id: file_id.clone(),
        total_bytes: 0,
        expected: None,
        started_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
        labels: Labels::new(),
    };
    let waiting = blobs.insert(b"waiting for its row", None).unwrap();
    let kept = blobs.insert(b"hello", None).unwrap().digest().clone();
    let orphan = blobs.insert(b"orphan", None).unwrap().digest().clone();
    world.change(content(&kept)).unwrap();
    let resumable = blobs.begin(SHA256).unwrap();
    world.change(Change::PutIngest(row(resumable.id()))).unwrap();
    let resumable = resumable.id().clone();
    let writing = blobs.begin(SHA256).unwrap();
    drop(blobs.begin(SHA256).unwrap());
    fs::write(world.root().join("content/blobs/sha256/README"), "not ours").unwrap();

    assert_eq!(world.store.sweep_content().unwrap(), 2);
    let mut left = blobs.list().unwrap();
    left.sort();
    let mut want = vec![waiting.digest().clone(), kept.clone()];
    want.sort();
    assert_eq!(left, want);
    assert!(blobs.read(&orphan).is_err());
    let ids = blobs.list_ingests().unwrap();
    assert!(ids.len() == 2 && ids.contains(&resumable) && ids.contains(writing.id()), "{ids:?}");
    // Once it has let go without a row, it is rubbish like any other.
    drop((waiting, writing));
    assert_eq!(world.store.sweep_content().unwrap(), 2);
}

#[test]
fn a_blob_that_comes_back_while_it_is_deleted_stays() {
    let mut world = World::in_memory();
    let blobs = world.store.blobs().clone();
    let create = |digest: &Digest| {
        Commit::one(&ns(), Change::CreateContent { digest: digest.clone(), size_bytes: 5, labels: Labels::new() })
    };
    drop(blobs.insert(b"hello", None).unwrap());
    world.commit(create(&hello())).unwrap();
    world.change(Change::DeleteContent(hello())).unwrap();
    // Before the file is deleted, another finishes the same blob.
    let placed = blobs.insert(b"hello", None).unwrap();
    assert!(!world.store.discard_blob(&hello()).unwrap());
    world.commit(create(&hello())).unwrap();
    drop(placed);
    assert!(!world.store.discard_blob(&hello()).unwrap());
    assert_eq!(bytes_of(&blobs, &hello()), b"hello");
    world.change(Change::DeleteContent(hello())).unwrap();
    assert!(world.store.discard_blob(&hello()).unwrap());
    assert!(world.store.discard_blob(&hello()).unwrap(), "gone is gone");
    assert!(blobs.read(&hello()).is_err());
}
