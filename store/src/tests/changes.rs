//! Every change and every refusal.

use super::world::*;
use crate::{Change, Commit};
use wharf_messages::{RefusalKind, event::Event};

#[test]
fn a_batch_keeps_its_commits_apart() {
    let mut world = World::new();
    let answers = world.batch(vec![
        Commit::one(&ns(), Change::CreateImage(image("a", &[]))),
        Commit::one(&ns(), Change::CreateImage(image("b", &[]))).change(Change::CreateImage(image("a", &[]))),
        Commit::one(&ns(), Change::CreateImage(image("c", &[]))),
    ]);
    assert!(answers[0].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().to_string(), "image \"a\": already exists");
    assert_eq!(answers[1].as_ref().unwrap_err().kind, RefusalKind::AlreadyExists);
    let last = answers[2].as_ref().unwrap();
    assert!(
        matches!(&last.events[..], [record] if matches!(&record.event, Event::ImageCreated { name, .. } if name.as_str() == "c"))
    );

    let world = world.reopened();
    let reader = world.store.read().unwrap();
    let names: Vec<String> =
        reader.images(&ns()).unwrap().map(|image| image.unwrap().name.as_str().to_owned()).collect();
    assert_eq!(names, ["a", "c"]);
    let events = reader.events(Default::default(), 100).unwrap();
    let topics: Vec<&str> = events.iter().map(|record| record.event.topic()).collect();
    assert_eq!(topics, ["/namespaces/create", "/images/create", "/images/create"]);
    assert_eq!(events.iter().map(|record| record.seq.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(last.last_seq, reader.last_seq().unwrap());
}
