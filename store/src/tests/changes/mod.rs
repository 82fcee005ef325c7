//! Every change: what it writes, tells and answers, and every refusal, after which nothing has changed.

mod content;
mod records;
mod snapshots;

use super::{
    audit::{audit, dump},
    world::*,
};
use crate::{Change, Commit, FileId, IngestRow, Outcome};
use wharf_messages::{
    Digest, IngestRef, Labels, Namespace, Timestamp,
    event::Event,
    lease::LeaseResource,
    namespace::{CreateNamespace, UpdateNamespace},
    snapshot::Usage,
};

/// Does changes one commit each, which must all be done; answers the last outcome.
pub fn done(world: &mut World, changes: Vec<Change>) -> Outcome {
    let mut last = Outcome::Done;
    for change in changes {
        let text = format!("{change:?}");
        let committed = world.change(change).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        last = committed.outcomes.into_iter().next_back().unwrap();
    }
    audit(&world.store.read().unwrap());
    last
}

/// Tries changes one commit each; each must be refused with these words, and leave everything as it was.
pub fn refused(world: &mut World, cases: Vec<(Change, &str)>) {
    for (change, text) in cases {
        let before = dump(&world.store.read().unwrap());
        let shown = format!("{change:?}");
        let refusal = world.change(change).expect_err(&shown);
        assert_eq!(refusal.to_string(), text, "{shown}");
        assert_eq!(dump(&world.store.read().unwrap()), before, "{shown}");
    }
}

pub fn too_long() -> Labels {
    labels(&[("k", &"v".repeat(4096))])
}

pub const TOO_LONG: &str =
    "label key and value length (4097 bytes) greater than maximum size (4096 bytes), key: k: invalid argument";

pub fn create_namespace(name: &str, labels: Labels) -> Change {
    Change::CreateNamespace(CreateNamespace { name: Namespace::new(name).unwrap(), labels })
}

pub fn update_namespace(name: &str, labels: Labels, mask: &[&str]) -> Change {
    Change::UpdateNamespace(UpdateNamespace { name: Namespace::new(name).unwrap(), labels, mask: strings(mask) })
}

pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub fn commit_snapshot(from: &str, to: &str, parent: Option<&str>) -> Change {
    Change::CommitSnapshot {
        snapshotter: overlay(),
        key: key(from),
        name: key(to),
        parent: parent.map(key),
        labels: labels(&[("l", "1")]),
        usage: Usage { size_bytes: 5, inodes: 2 },
    }
}

pub fn remove_snapshot(name: &str) -> Change {
    Change::RemoveSnapshot { snapshotter: overlay(), key: key(name) }
}

pub fn create_content(n: u8) -> Change {
    Change::CreateContent { digest: digest(n), size_bytes: u64::from(n), labels: Labels::new() }
}

pub fn ingest(reference: &str) -> IngestRow {
    IngestRow {
        reference: IngestRef::new(reference).unwrap(),
        file_id: FileId::new("0123456789abcdef0123456789abcdef").unwrap(),
        total_bytes: 10,
        expected: None,
        started_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
        labels: Labels::new(),
    }
}

pub fn blob_resource(n: u8) -> LeaseResource {
    LeaseResource { kind: "content".to_owned(), id: digest(n).to_string() }
}

#[test]
fn changes_need_a_namespace_and_events_do_not() {
    let mut world = World::new();
    let nowhere = Commit { changes: vec![create_content(1)], ..Commit::default() };
    assert_eq!(world.commit(nowhere).unwrap_err().to_string(), "namespace is required: failed precondition");
    let event = Event::ChildRestarted { path: "tasks".to_owned(), reason: "panic".to_owned(), restarts: 1 };
    let told = world.commit(Commit::default().event(event.clone()).late(true)).unwrap();
    let record = &told.events[0];
    assert_eq!((record.namespace.as_ref(), &record.event, record.late), (None, &event, true));
    // A published event makes no namespace: nothing was written in it.
    world.commit(Commit::new(&ns()).event(event)).unwrap();
    assert_eq!(world.store.read().unwrap().namespaces().unwrap().count(), 0);
}

#[test]
fn digests_of_both_algorithms_are_keys() {
    let mut world = World::new();
    let long = Digest::new(format!("sha512:{}", "ab".repeat(64))).unwrap();
    done(&mut world, vec![Change::CreateContent { digest: long.clone(), size_bytes: 1, labels: Labels::new() }]);
    assert_eq!(world.store.read().unwrap().blob(&long).unwrap(), Some(1));
}
