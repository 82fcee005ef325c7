//! Garbage collection as the system sees it: what the daemon works on is kept, whatever the rows say.
//!
//! # Spec
//! API reference, section 3 "GC behaviour".

use crate::{
    Wharf,
    runtime::blocking,
    serve::{CallIo, Serve},
};
use wharf_messages::{
    Answer, Call, Meta, Refusal,
    gc::{ExplainGarbage, Resource, Verdict},
};
use wharf_store::InUse;

/// What is being worked on at this moment without a row that says so.
fn in_use(wharf: &Wharf) -> InUse {
    let written = wharf.drivers.content.being_written().into_iter();
    written.map(|(namespace, reference)| (namespace, Resource::Ingest(reference))).collect()
}

impl Serve for ExplainGarbage {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Verdict>) -> Answer<()> {
        let namespace = meta.namespace()?.clone();
        blocking(Self::NAME, move || {
            // Before the rows are read: a writer that ends in between has its blob's row by then.
            let in_use = in_use(&wharf);
            let marked = wharf.store.read()?.mark(&namespace, wharf.clock.now(), &in_use)?;
            for verdict in marked.verdicts() {
                io.items.blocking_send(verdict).map_err(|_| Refusal::canceled("the client went away"))?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content,
        content::OpenIngest,
        testing::{meta, whole::run_whole},
    };
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;
    use wharf_messages::{Digest, IngestRef, Labels, gc::Reason};

    #[test]
    fn each_thing_is_explained_and_what_is_being_written_is_in_use() {
        run_whole(async |whole| {
            let content = &whole.wharf.drivers.content;
            let loose = content::insert(content, &meta(), b"loose".to_vec(), None, Labels::new()).await.unwrap();
            let root = Labels::from([("containerd.io/gc.root".to_owned(), "1".to_owned())]);
            let held = content::insert(content, &meta(), b"held".to_vec(), None, root).await.unwrap();
            let reference = IngestRef::new("layer").unwrap();
            let expected = Some(Digest::from_sha256(&[7; 32]));
            let open = OpenIngest { reference: reference.clone(), total_bytes: 0, expected, labels: Labels::new() };
            let writer = whole.wharf.actors.content.ask(meta(), open).await.unwrap();
            let explain = async || {
                let (items, mut told) = mpsc::channel(1);
                let io = CallIo { items, upload: mpsc::channel(1).1, cancel: CancellationToken::new() };
                let call = tokio::spawn(ExplainGarbage {}.serve(whole.wharf.clone(), meta(), io));
                let mut verdicts = Vec::new();
                while let Some(verdict) = told.recv().await {
                    verdicts.push((verdict.resource, verdict.reason));
                }
                call.await.unwrap().unwrap();
                verdicts.sort_by(|one, other| one.0.cmp(&other.0));
                verdicts
            };
            let mut expected = vec![
                (Resource::Content(loose), Reason::Unreferenced),
                (Resource::Content(held), Reason::Labelled),
                (Resource::Ingest(reference), Reason::InUse),
            ];
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            assert_eq!(explain().await, expected);
            drop(writer);
            assert!(matches!(explain().await[2].1, Reason::Until(_)), "an unfinished blob is kept for its day");
        });
    }
}
