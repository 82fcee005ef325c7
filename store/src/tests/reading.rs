//! Reading: one moment, and the log.

use super::world::*;
use crate::{Change, Commit, GrowingBlob, IngestFile, Reader, Rows, Store, Writer};
use wharf_messages::{
    Answer, Any, Stored, Timestamp,
    container::{Container, UpdateContainer},
    event::{Event, Seq},
    image::Image,
};

#[test]
fn handles_go_where_they_are_needed() {
    fn anywhere<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    anywhere::<Store>();
    anywhere::<Reader>();
    moved::<Writer>();
    moved::<Rows<Image>>();
    moved::<IngestFile>();
    moved::<GrowingBlob>();
}

#[test]
fn a_reader_sees_its_moment() {
    let mut world = World::new();
    world.change(Change::CreateImage(image("a", &[]))).unwrap();
    let reader = world.store.read().unwrap();
    let mut rows = reader.images(&ns()).unwrap();
    world.change(Change::CreateImage(image("b", &[]))).unwrap();
    world.change(Change::DeleteImage(image("a", &[]).name)).unwrap();
    assert_eq!(reader.images(&ns()).unwrap().count(), 1);
    drop(reader);
    // Rows keep their moment alive.
    assert_eq!(rows.next().unwrap().unwrap().name.as_str(), "a");
    assert!(rows.next().is_none());
}

#[test]
fn what_lies_in_place_stays_as_it_was() {
    let mut world = World::new();
    let with = |byte| Container { spec: Some(Any::new(Any::SPEC, vec![byte; 9_000])), ..container("c") };
    world.change(Change::CreateContainer(with(1))).unwrap();
    let reader = world.store.read().unwrap();
    let copied: Vec<Container> = reader.containers(&ns()).unwrap().map(Result::unwrap).collect();
    let in_place: Vec<Stored<Container>> = reader.containers_in_place(&ns()).unwrap().map(Result::unwrap).collect();
    let values = || in_place.iter().map(Stored::get).collect::<Answer<Vec<_>>>().unwrap();
    assert_eq!(values(), copied);
    drop(reader);
    // Pages that nobody needs any more are written again.
    for byte in 2..50 {
        let update = UpdateContainer { container: with(byte), mask: vec!["spec".to_owned()] };
        world.change(Change::UpdateContainer(update)).unwrap();
    }
    assert_eq!(values(), copied);
}

#[test]
fn neighbours_in_the_keys_are_not_mixed_up() {
    let mut world = World::new();
    for name in ["a", "a-b", "ab", "b"] {
        let namespace = wharf_messages::Namespace::new(name).unwrap();
        world.commit(Commit::one(&namespace, Change::CreateImage(image("i", &[])))).unwrap();
        world.commit(Commit::one(&namespace, Change::CreateContainer(container("c")))).unwrap();
    }
    let reader = world.store.read().unwrap();
    for name in ["a", "a-b", "ab", "b"] {
        let namespace = wharf_messages::Namespace::new(name).unwrap();
        assert_eq!(reader.images(&namespace).unwrap().count(), 1, "{name}");
        assert_eq!(reader.containers(&namespace).unwrap().count(), 1, "{name}");
    }
}

fn published(bytes: usize) -> Event {
    Event::Published { topic: "/t".to_owned(), payload: Any::new("x", vec![7; bytes]) }
}

#[test]
fn the_log_is_read_from_anywhere() {
    let mut world = World::new();
    let reader = world.store.read().unwrap();
    assert_eq!((reader.first_seq().unwrap(), reader.last_seq().unwrap()), (None, Seq(0)));
    assert_eq!(reader.seq_at(Timestamp(0)).unwrap(), Seq(0));
    for at in [10, 20, 20, 30] {
        world.writer.commit(vec![Commit::default().event(published(1))], Timestamp(at)).remove(0).unwrap();
    }
    let reader = world.store.read().unwrap();
    let seqs = |after, max| -> Vec<u64> { reader.events(Seq(after), max).unwrap().iter().map(|e| e.seq.0).collect() };
    assert_eq!(seqs(0, 100), [1, 2, 3, 4]);
    assert_eq!(seqs(2, 1), [3]);
    assert_eq!(seqs(4, 10), [0; 0]);
    assert_eq!(seqs(u64::MAX, 10), [0; 0]);
    for (time, after) in [(0, 0), (10, 0), (11, 1), (20, 1), (21, 3), (30, 3), (31, 4)] {
        assert_eq!(reader.seq_at(Timestamp(time)).unwrap(), Seq(after), "{time}");
    }
}

#[test]
fn large_events_come_in_small_helpings() {
    let mut world = World::new();
    for _ in 0..4 {
        world.commit(Commit::default().event(published(3 << 20))).unwrap();
    }
    let reader = world.store.read().unwrap();
    assert_eq!(reader.events(Seq(0), 100).unwrap().len(), 1);
    assert_eq!(reader.events(Seq(3), 100).unwrap().len(), 1);
    let refusal = world.commit(Commit::default().event(published(17 << 20))).unwrap_err();
    assert!(refusal.is(wharf_messages::RefusalKind::ResourceExhausted), "{refusal}");
}

#[test]
fn trimming_keeps_the_numbers_going() {
    let mut world = World::new();
    for _ in 0..5 {
        world.commit(Commit::default().event(published(1))).unwrap();
    }
    assert_eq!(world.writer.trim(Seq(3)).unwrap(), 2);
    assert_eq!(world.writer.trim(Seq(3)).unwrap(), 0);
    let reader = world.store.read().unwrap();
    assert_eq!((reader.first_seq().unwrap(), reader.last_seq().unwrap()), (Some(Seq(3)), Seq(5)));
    assert_eq!(reader.seq_at(Timestamp(0)).unwrap(), Seq(2));
    assert_eq!(world.writer.trim(Seq(u64::MAX)).unwrap(), 2);
    let mut world = world.reopened();
    let told = world.commit(Commit::default().event(published(1))).unwrap();
    assert_eq!(told.last_seq, Seq(6));
}
