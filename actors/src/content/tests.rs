//! Content through calls: who may write what, and what is left when it goes wrong.

use super::{ContentDeps, Sharing, have, sharing::SHAREABLE_LABEL};
use crate::{
    serve::{CallIo, Serve},
    testing::{
        meta,
        whole::{Whole, run_whole},
    },
};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Digest, IngestRef, Labels, LeaseId, Meta, Namespace, Refusal, RefusalKind,
    content::{AbortIngest, DeleteContent, GetContent, GetIngest, ReadContent, WriteContent, Written},
    event::Event,
    lease::{CreateLease, ListLeaseResources},
    namespace::UpdateNamespace,
};

fn hello() -> (Bytes, Digest) {
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    (Bytes::from_static(b"hello"), Digest::new(digest).unwrap())
}

fn reference() -> IngestRef {
    IngestRef::new("one").unwrap()
}

fn write() -> WriteContent {
    WriteContent {
        reference: reference(),
        offset_bytes: None,
        total_bytes: 0,
        expected: None,
        commit: true,
        labels: Labels::new(),
    }
}

/// Writes these pieces.
async fn upload(whole: &Whole<'_>, meta: Meta, call: WriteContent, pieces: &[&[u8]]) -> Answer<Written> {
    let (sender, upload) = mpsc::channel(16);
    for piece in pieces {
        sender.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
    }
    drop(sender);
    call.serve(whole.wharf.clone(), meta, CallIo { upload, ..CallIo::none() }).await
}

async fn offset(whole: &Whole<'_>) -> Answer<u64> {
    whole.call(meta(), GetIngest { reference: reference() }).await.map(|status| status.offset_bytes)
}

async fn read(whole: &Whole<'_>, meta: Meta, offset_bytes: u64, size_bytes: u64) -> Answer<Vec<u8>> {
    let (items, mut chunks) = mpsc::channel(16);
    let io = CallIo { items, upload: mpsc::channel(1).1, cancel: CancellationToken::new() };
    let call = ReadContent { digest: hello().1, offset_bytes, size_bytes };
    call.serve(whole.wharf.clone(), meta, io).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        bytes.extend(chunk);
    }
    Ok(bytes)
}

fn elsewhere() -> Meta {
    Meta::in_namespace(Namespace::new("elsewhere").unwrap())
}

fn refused<T: std::fmt::Debug>(answer: Answer<T>) -> RefusalKind {
    answer.unwrap_err().kind
}

#[test]
fn isolated_namespaces_have_what_they_bring_and_what_is_shareable() {
    run_whole(async |whole| {
        let (bytes, digest) = hello();
        upload(whole, meta(), write(), &[&bytes]).await.unwrap();
        let isolated = ContentDeps { sharing: Sharing::Isolated, ..whole.wharf.drivers.content.clone() };
        let has = async |deps: &ContentDeps| have(deps, &elsewhere(), &digest, Labels::new()).await.unwrap();
        assert!(!has(&isolated).await);
        assert_eq!(refused(read(whole, elsewhere(), 0, 0).await), RefusalKind::NotFound);
        for (value, shareable) in [("false", false), ("true", true)] {
            let labels = Labels::from([(SHAREABLE_LABEL.to_owned(), value.to_owned())]);
            let name = meta().namespace().unwrap().clone();
            whole.call(meta(), UpdateNamespace { name, labels, mask: Vec::new() }).await.unwrap();
            assert_eq!(has(&isolated).await, shareable);
        }
        // What it has it keeps, whatever becomes of the label.
        assert_eq!(read(whole, elsewhere(), 0, 0).await.unwrap(), bytes);
        let third = Meta::in_namespace(Namespace::new("third").unwrap());
        assert!(have(&whole.wharf.drivers.content, &third, &digest, Labels::new()).await.unwrap());
    });
}

#[test]
fn written_read_and_deleted() {
    run_whole(async |whole| {
        let (bytes, digest) = hello();
        let labels = Labels::from([("a".to_owned(), "1".to_owned())]);
        let call = WriteContent { total_bytes: 5, expected: Some(digest.clone()), labels: labels.clone(), ..write() };
        let written = upload(whole, meta(), call, &[&bytes[..2], &bytes[2..]]).await.unwrap();
        assert_eq!(written, Written { offset_bytes: 5, digest: Some(digest.clone()) });
        assert_eq!(refused(offset(whole).await), RefusalKind::NotFound);
        let info = whole.call(meta(), GetContent { digest: digest.clone() }).await.unwrap();
        assert_eq!((info.size_bytes, info.labels), (5, labels));
        assert_eq!(read(whole, meta(), 0, 0).await.unwrap(), b"hello");
        assert_eq!(read(whole, meta(), 1, 3).await.unwrap(), b"ell");
        assert_eq!(read(whole, meta(), 5, 9).await.unwrap(), b"");
        assert_eq!(refused(read(whole, meta(), 6, 0).await), RefusalKind::OutOfRange);
        whole.call(meta(), DeleteContent { digest: digest.clone() }).await.unwrap();
        assert_eq!(refused(read(whole, meta(), 0, 0).await), RefusalKind::NotFound);
        assert_eq!(refused(whole.call(meta(), DeleteContent { digest }).await), RefusalKind::NotFound);
        let told = |e: &Event| matches!(e, Event::ContentCreated { .. } | Event::ContentDeleted { .. });
        assert_eq!(whole.world.events().iter().filter(|e| told(e)).count(), 2);
    });
}

#[test]
fn one_writes_at_a_time_and_the_next_goes_on() {
    run_whole(async |whole| {
        let (sender, upload_bytes) = mpsc::channel(16);
        let io = CallIo { upload: upload_bytes, ..CallIo::none() };
        let writing = tokio::task::spawn_local(write().serve(whole.wharf.clone(), meta(), io));
        sender.send(Ok(Bytes::from_static(b"hel"))).await.unwrap();
        while offset(whole).await != Ok(3) {
            tokio::task::yield_now().await;
        }
        let second = upload(whole, meta(), write(), &[b"x"]).await.unwrap_err();
        assert_eq!(second.kind, RefusalKind::Unavailable, "{second}");
        assert!(second.detail.contains("locked"), "{second}");
        assert_eq!(refused(whole.call(meta(), AbortIngest { reference: reference() }).await), RefusalKind::Unavailable);
        // The client goes away; what came stays, and somebody else goes on with it.
        sender.send(Err(Refusal::canceled("gone"))).await.unwrap();
        assert_eq!(refused(writing.await.unwrap()), RefusalKind::Canceled);
        assert_eq!(offset(whole).await, Ok(3));
        let wrong = WriteContent { offset_bytes: Some(2), ..write() };
        assert_eq!(refused(upload(whole, meta(), wrong, &[b"lo"]).await), RefusalKind::OutOfRange);
        let rest = WriteContent { offset_bytes: Some(3), total_bytes: 5, ..write() };
        let written = upload(whole, meta(), rest, &[b"lo"]).await.unwrap();
        assert_eq!(written.digest, Some(hello().1));
    });
}

#[test]
fn writing_from_the_beginning_forgets_what_was_there() {
    run_whole(async |whole| {
        let part = WriteContent { commit: false, ..write() };
        let written = upload(whole, meta(), part, &[b"other bytes"]).await.unwrap();
        assert_eq!(written, Written { offset_bytes: 11, digest: None });
        let again = WriteContent { offset_bytes: Some(0), ..write() };
        assert_eq!(upload(whole, meta(), again, &[b"hello"]).await.unwrap().digest, Some(hello().1));
    });
}

#[test]
fn other_bytes_than_expected_are_no_blob_and_can_be_thrown_away() {
    run_whole(async |whole| {
        let wrong = WriteContent { expected: Some(hello().1), ..write() };
        let refusal = upload(whole, meta(), wrong, &[b"jello"]).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::FailedPrecondition, "{refusal}");
        let short = WriteContent { total_bytes: 9, offset_bytes: Some(5), ..write() };
        let refusal = upload(whole, meta(), short, &[]).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::FailedPrecondition, "{refusal}");
        assert_eq!(offset(whole).await, Ok(5));
        whole.call(meta(), AbortIngest { reference: reference() }).await.unwrap();
        assert_eq!(refused(offset(whole).await), RefusalKind::NotFound);
        assert_eq!(refused(whole.call(meta(), AbortIngest { reference: reference() }).await), RefusalKind::NotFound);
        assert!(!whole.world.events().iter().any(|e| matches!(e, Event::ContentCreated { .. })));
    });
}

#[test]
fn what_is_here_is_not_written_again_and_is_leased() {
    run_whole(async |whole| {
        upload(whole, meta(), write(), &[b"hello"]).await.unwrap();
        let known = WriteContent { expected: Some(hello().1), ..write() };
        assert_eq!(refused(upload(whole, meta(), known.clone(), &[]).await), RefusalKind::AlreadyExists);
        // Known only at the end.
        assert_eq!(refused(upload(whole, meta(), write(), &[b"hello"]).await), RefusalKind::AlreadyExists);
        assert_eq!(refused(offset(whole).await), RefusalKind::NotFound);
        let id = LeaseId::new("lease").unwrap();
        whole.call(meta(), CreateLease { id: Some(id.clone()), labels: Labels::new() }).await.unwrap();
        let leased = Meta { lease: Some(id.clone()), ..meta() };
        assert_eq!(refused(upload(whole, leased, known, &[]).await), RefusalKind::AlreadyExists);
        let held = whole.call(meta(), ListLeaseResources { id }).await.unwrap();
        assert!(held.iter().any(|resource| resource.id == hello().1.to_string()), "{held:?}");
    });
}

#[test]
fn who_names_a_digest_of_another_namespace_has_it_too() {
    run_whole(async |whole| {
        upload(whole, meta(), write(), &[b"hello"]).await.unwrap();
        assert_eq!(refused(read(whole, elsewhere(), 0, 0).await), RefusalKind::NotFound);
        let named = WriteContent { expected: Some(hello().1), ..write() };
        assert_eq!(refused(upload(whole, elsewhere(), named, &[]).await), RefusalKind::AlreadyExists);
        assert_eq!(read(whole, elsewhere(), 0, 0).await.unwrap(), b"hello");
        // The bytes go with the last who has them.
        whole.call(meta(), DeleteContent { digest: hello().1 }).await.unwrap();
        assert_eq!(read(whole, elsewhere(), 0, 0).await.unwrap(), b"hello");
        whole.call(elsewhere(), DeleteContent { digest: hello().1 }).await.unwrap();
        assert!(whole.wharf.store.blobs().read(&hello().1).is_err());
    });
}
