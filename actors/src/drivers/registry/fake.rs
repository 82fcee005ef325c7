//! A registry in memory, for the tests of whoever pulls and pushes.

use super::{BlobSource, BlobStream, MANIFEST_MAX_BYTES, Pushed, Registries, Registry, resolve::hash};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use wharf_messages::{
    Answer, Descriptor, Digest, Refusal, id::DigestAlgorithm, image::RegistryOptions, reference::Reference,
};

/// How many bytes a chunk of a fetched blob has.
const CHUNK_BYTES: usize = 4096;

/// What a test does to the next calls.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Refuse the call.
    Refuse(Refusal),
    /// Give this many bytes of the blob, then refuse.
    CutAfter(usize, Refusal),
    /// Give this many bytes of the blob, then nothing for ever.
    StallAfter(usize),
    /// Other bytes of the same length.
    Corrupt,
}

/// The registry: cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct FakeRegistry(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    tags: HashMap<String, Descriptor>,
    blobs: HashMap<Digest, Bytes>,
    faults: HashMap<Digest, Vec<Fault>>,
    calls: Vec<String>,
}

impl FakeRegistry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts bytes there; returns what points to them.
    pub(crate) fn put(&self, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
        let bytes = bytes.into();
        let digest = hash(DigestAlgorithm::Sha256, &bytes).unwrap();
        self.state().blobs.insert(digest.clone(), bytes.clone());
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    /// Gives content a name, `host/repository:tag`.
    pub(crate) fn tag(&self, reference: &str, descriptor: &Descriptor) {
        self.state().tags.insert(reference.to_owned(), descriptor.clone());
    }

    /// Makes the next call for this digest go wrong; more faults are for the calls after it, in order.
    pub(crate) fn fail(&self, digest: &Digest, fault: Fault) {
        self.state().faults.entry(digest.clone()).or_default().push(fault);
    }

    /// What was asked so far, such as `fetch sha256:... 0`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn read(&self, call: String, digest: &Digest) -> (Answer<Bytes>, Option<Fault>) {
        let mut state = self.state();
        state.calls.push(call);
        let fault = state.faults.get_mut(digest).filter(|faults| !faults.is_empty()).map(|faults| faults.remove(0));
        let bytes = state.blobs.get(digest).cloned();
        (bytes.ok_or_else(|| Refusal::not_found(format!("blob {digest}"))), fault)
    }
}

impl Registries for FakeRegistry {
    fn open(&self, _options: &RegistryOptions) -> Arc<dyn Registry> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl Registry for FakeRegistry {
    async fn resolve(&self, reference: &Reference) -> Answer<Descriptor> {
        let mut state = self.state();
        state.calls.push(format!("resolve {reference}"));
        let by_digest = |digest: &Digest| state.tags.values().find(|d| d.digest == *digest).cloned();
        let found = match &reference.digest {
            Some(digest) => by_digest(digest),
            None => state.tags.get(&reference.to_string()).cloned(),
        };
        found.ok_or_else(|| Refusal::not_found(reference.to_string()))
    }

    async fn manifest(&self, _reference: &Reference, descriptor: &Descriptor) -> Answer<Bytes> {
        let (bytes, fault) = self.read(format!("manifest {}", descriptor.digest), &descriptor.digest);
        match fault {
            Some(Fault::Refuse(refusal) | Fault::CutAfter(_, refusal)) => Err(refusal),
            Some(Fault::StallAfter(_)) => std::future::pending().await,
            Some(Fault::Corrupt) => Err(Refusal::failed_precondition("sent content with another digest")),
            None => bytes.map(|bytes| bytes.slice(..bytes.len().min(MANIFEST_MAX_BYTES as usize))),
        }
    }

    async fn fetch(&self, _reference: &Reference, descriptor: &Descriptor, offset_bytes: u64) -> Answer<BlobStream> {
        let (bytes, fault) = self.read(format!("fetch {} {offset_bytes}", descriptor.digest), &descriptor.digest);
        let mut bytes = bytes?.slice(offset_bytes as usize..);
        let cut = |bytes: &mut Bytes, at: usize| bytes.truncate(at.min(bytes.len()));
        let last = match fault {
            Some(Fault::Refuse(refusal)) => return Err(refusal),
            Some(Fault::CutAfter(at, refusal)) => {
                cut(&mut bytes, at);
                stream::iter([Err(refusal)]).boxed()
            }
            Some(Fault::StallAfter(at)) => {
                cut(&mut bytes, at);
                stream::pending().boxed()
            }
            Some(Fault::Corrupt) => {
                bytes = bytes.iter().map(|b| !b).collect::<Vec<_>>().into();
                stream::empty().boxed()
            }
            None => stream::empty().boxed(),
        };
        let chunks: Vec<_> = bytes.chunks(CHUNK_BYTES).map(|chunk| Ok(bytes.slice_ref(chunk))).collect();
        Ok(stream::iter(chunks).chain(last).boxed())
    }

    async fn push_blob(
        &self,
        _reference: &Reference,
        descriptor: &Descriptor,
        _mount_from: Option<&str>,
        source: BlobSource,
    ) -> Answer<Pushed> {
        if self.state().blobs.contains_key(&descriptor.digest) {
            return Ok(Pushed::Existed);
        }
        let mut bytes = Vec::new();
        let mut source = source();
        while let Some(chunk) = source.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        self.put(&descriptor.media_type, bytes);
        Ok(Pushed::Sent)
    }

    async fn push_manifest(&self, reference: &Reference, descriptor: &Descriptor, bytes: Bytes) -> Answer<Pushed> {
        self.put(&descriptor.media_type, bytes);
        self.tag(&reference.to_string(), descriptor);
        Ok(Pushed::Sent)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[tokio::test]
    async fn it_behaves_like_a_registry_until_told_otherwise() {
        let fake = FakeRegistry::default();
        let blob = fake.put("text/plain", vec![7; 10_000]);
        fake.tag("h/r:t", &blob);
        let reference = Reference::parse("h/r:t").unwrap();
        assert_eq!(fake.resolve(&reference).await.unwrap(), blob);
        let read = async |offset| {
            let chunks: Vec<_> = fake.fetch(&reference, &blob, offset).await?.collect().await;
            chunks.into_iter().map(|chunk| chunk.map(|c| c.len())).sum::<Answer<usize>>()
        };
        assert_eq!(read(1).await, Ok(9_999));
        fake.fail(&blob.digest, Fault::CutAfter(5, Refusal::unavailable("cut")));
        assert_eq!(read(0).await, Err(Refusal::unavailable("cut")));
        fake.fail(&blob.digest, Fault::Refuse(Refusal::unauthenticated("no")));
        assert_eq!(read(0).await, Err(Refusal::unauthenticated("no")));
        fake.fail(&blob.digest, Fault::Corrupt);
        assert_eq!(read(0).await, Ok(10_000));
        fake.fail(&blob.digest, Fault::StallAfter(5));
        let mut stalled = fake.fetch(&reference, &blob, 0).await.unwrap();
        assert_eq!(stalled.next().await.unwrap().unwrap().len(), 5);
        assert!(futures_util::FutureExt::now_or_never(stalled.next()).is_none());
        assert_eq!(read(0).await, Ok(10_000));
        assert_eq!(fake.calls().len(), 7);
    }
}
