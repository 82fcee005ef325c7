//! How layers are packed, and what happens to streams that are not as they should be.

use super::{
    archive::{Archive, Member, gzip},
    *,
};

/// An archive that is big enough for two threads.
fn big() -> Vec<u8> {
    // Not compressible, or it would be small after all.
    let mut state = 1u64;
    let mut body = Vec::new();
    while body.len() < 3 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        body.extend(state.to_be_bytes());
    }
    Archive::of([Member::file("big", &body), Member::file("small", "x")])
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

#[test]
fn every_packing_is_the_same_layer() {
    for plain in [Archive::of([Member::file("a", "hello"), Member::folder("d/")]), big()] {
        let (first, second) = plain.split_at(plain.len() / 2);
        let several_members = [gzip(first), gzip(second)].concat();
        let several_frames = [&zst(first)[..], &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &zst(second)].concat();
        for packed in [plain.clone(), gzip(&plain), several_members, zst(&plain), several_frames] {
            let dir = tempfile::tempdir().unwrap();
            let applied = apply_to(&packed, dir.path()).unwrap();
            assert_eq!(applied, Applied { diff_id: sha256(&plain), size_bytes: plain.len() as u64, entries: 2 });
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        }
    }
}

#[test]
fn the_digest_covers_what_follows_the_archive() {
    let mut plain = Archive::of([Member::file("a", "hello")]);
    plain.extend(vec![7; 100_000]);
    for packed in [plain.clone(), gzip(&plain), zst(&plain)] {
        let dir = tempfile::tempdir().unwrap();
        let applied = apply_to(&packed, dir.path()).unwrap();
        assert_eq!((applied.diff_id, applied.size_bytes), (sha256(&plain), plain.len() as u64));
    }
}

#[test]
fn nothing_at_all_is_an_empty_layer() {
    let dir = tempfile::tempdir().unwrap();
    for plain in [vec![], vec![0; 512], vec![0; 1024]] {
        assert_eq!(apply_to(&plain, dir.path()).unwrap().entries, 0);
    }
}

#[test]
fn a_cut_layer_is_data_loss() {
    for plain in [Archive::of([Member::file("a", vec![1; 5000])]), big()] {
        for packed in [plain[..plain.len() - 2000].to_vec(), gzip(&plain), zst(&plain)] {
            let dir = tempfile::tempdir().unwrap();
            let cut = &packed[..packed.len() - 9];
            let refusal = apply_to(cut, dir.path()).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::DataLoss, "{refusal}");
        }
    }
}

#[test]
fn damage_and_garbage_are_told() {
    let plain = big();
    for (mut packed, at) in [(gzip(&plain), 100_000), (zst(&plain), 5)] {
        packed[at] ^= 0xff;
        packed[at + 1] ^= 0xff;
        let dir = tempfile::tempdir().unwrap();
        let refusal = apply_to(&packed, dir.path()).unwrap_err();
        assert_ne!(refusal.kind, RefusalKind::Internal, "{refusal}");
    }
    for garbage in [&b"PK\x03\x04"[..], &[b'x'; 600], b"<html>"] {
        let dir = tempfile::tempdir().unwrap();
        assert!(apply_to(garbage, dir.path()).is_err());
        // As Go's reader: what follows the last member of a gzip stream has to be another one.
        assert!(apply_to(&[gzip(&plain), garbage.to_vec()].concat(), dir.path()).is_err());
    }
}

/// Hands out some bytes and then fails.
struct Failing<'a>(&'a [u8], fn() -> io::Error);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(self.1()) } else { self.0.read(buffer) }
    }
}

#[test]
fn the_readers_own_refusal_comes_out() {
    let packed = gzip(&big());
    for length in [0, 10, 100_000, packed.len() - 1] {
        let dir = tempfile::tempdir().unwrap();
        let read = |error| {
            let mut reader = Failing(&packed[..length], error);
            let options = ApplyOptions::default();
            apply(&mut reader, Compression::Gzip, &bind(dir.path()), &options, &|| false).unwrap_err()
        };
        let refusal = read(|| io::Error::other(Refusal::unauthenticated("registry x")));
        assert_eq!(refusal.kind, RefusalKind::Unauthenticated);
        assert!(refusal.detail.ends_with("registry x"), "{refusal}");
        assert_eq!(read(|| io::ErrorKind::ConnectionReset.into()).kind, RefusalKind::Unavailable);
    }
}

#[test]
fn who_cancels_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let asked = std::cell::Cell::new(0);
    let cancelled = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let plain = big();
    let refusal =
        apply(&mut &plain[..], Compression::None, &bind(dir.path()), &ApplyOptions::default(), &cancelled).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Canceled);
}

#[test]
fn a_window_that_would_take_too_much_memory_is_refused() {
    // A frame header that asks for a window of 2 GiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3];
    frame.extend([0x01, 0, 0]);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(apply_to(&frame, dir.path()).unwrap_err().kind, RefusalKind::DataLoss);
}
