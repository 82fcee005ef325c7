//! A request is done once, and that it was is known after a restart too.

use super::world::*;
use crate::{Options, open, requests::REQUESTS_MAX};
use wharf_messages::{RefusalKind, Timestamp, event::Event};

#[test]
fn a_request_is_done_once_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut writer) = open(folder.path(), Options::default()).unwrap();
    let told = |name: &str| Event::ChildRestarted { path: name.to_owned(), reason: String::new(), restarts: 0 };
    let commit = |name: &str, request| crate::Commit { events: vec![told(name)], request, ..Default::default() };
    assert_eq!(store.done(7), None);
    let seq = writer.commit([commit("a", 7)], Timestamp::ZERO).remove(0).unwrap().last_seq;
    assert_eq!(store.done(7), Some(seq));
    // Refused also within one batch; none of it is done, and what is refused is not remembered.
    let answers = writer.commit([commit("b", 7), commit("c", 8), commit("d", 8)], Timestamp::ZERO);
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|refusal| refusal.kind)).collect();
    assert_eq!(kinds, [Some(RefusalKind::Aborted), None, Some(RefusalKind::Aborted)]);
    assert_eq!(store.read().unwrap().last_seq().unwrap().0, seq.0 + 1);
    let refused =
        crate::Commit::one(&ns(), crate::Change::DeleteImage(wharf_messages::ImageName::new("none").unwrap()))
            .request(9);
    assert!(writer.commit([refused], Timestamp::ZERO)[0].is_err());
    assert_eq!(store.done(9), None);
    drop((store, writer));

    let (store, mut writer) = open(folder.path(), Options::default()).unwrap();
    assert_eq!(store.done(7), Some(seq));
    assert_eq!(writer.commit([commit("e", 8)], Timestamp::ZERO)[0].as_ref().unwrap_err().kind, RefusalKind::Aborted);
    // The oldest are forgotten, in the table as in memory.
    let many: Vec<_> = (0..REQUESTS_MAX as u64 - 1).map(|n| commit("x", 100 + n)).collect();
    assert!(writer.commit(many, Timestamp::ZERO).iter().all(Result::is_ok));
    assert_eq!((store.done(7), store.done(8).is_some()), (None, true));
    drop((store, writer));
    let (store, _writer) = open(folder.path(), Options::default()).unwrap();
    assert_eq!((store.done(7), store.done(8).is_some(), store.done(100).is_some()), (None, true, true));
}
