//! The push of an image: blobs first, several at once, then what points to them, the tag last.
//!
//! ```text
//!   graph (all of it here, all of it leased) -> blobs: there? mountable? else sent -> manifests -> index -> tag
//! ```
//!
//! PUSH-1. Nothing is sent before all of the image is known to be here: a registry never has half of one by our doing
//! unless the connection or the caller breaks off.

use super::{board::Board, claim::Claim, pull::ingest_name, resolve, sources};
use crate::{
    Wharf, content,
    drivers::registry::{BlobSource, BlobStream, Pushed, Registry},
    image_graph::{self, Node},
    runtime::blocking,
};
use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all, stream};
use std::{
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};
use tokio::sync::Semaphore;
use wharf_messages::{
    Answer, Descriptor, Digest, Labels, Meta, Namespace, Platform, Refusal,
    content::UpdateContent,
    descriptor::media_type,
    image::{Progress, ProgressState, PushImage, PushSource},
    reference::Reference,
};
use wharf_store::{Change, Commit, Reader, Store, refuse};

/// The most blobs that one push sends at once.
const UPLOADS_MAX: u32 = 64;
/// How much of a blob is read at once.
const CHUNK_BYTES: u64 = 256 << 10;

/// A blob or document of an image, and the repositories of the registry that are known to have it.
struct Part {
    descriptor: Descriptor,
    repositories: Vec<String>,
    /// The labels by which that is known.
    labels: Labels,
}

/// Pushes an image; answers what its reference names in the registry now.
///
/// # Errors
/// `NotFound` for the image, its platform or a blob that is not here, `FailedPrecondition` for a blob that is not as
/// long as its manifest says, and the registry's refusals.
pub async fn push(wharf: Wharf, meta: Meta, call: PushImage, board: Board) -> Answer<Descriptor> {
    let reference = Reference::parse(&call.reference)?;
    let to = call.reference.clone();
    Pusher { reference, wharf, call, board }.run(meta).await.map_err(|refusal| refusal.context(format!("push {to}")))
}

struct Pusher {
    wharf: Wharf,
    call: PushImage,
    reference: Reference,
    board: Board,
}

impl Pusher {
    async fn run(&self, meta: Meta) -> Answer<Descriptor> {
        let namespace = meta.namespace()?.clone();
        let mut claim = Claim::take(&self.wharf.journal, meta, "push").await?;
        let (blobs, documents) = self.parts(&namespace).await?;
        for part in blobs.iter().chain(&documents) {
            let digest = &part.descriptor.digest;
            if !content::have(&self.wharf.drivers.content, claim.meta(), digest, Labels::new()).await? {
                return Err(refuse::no_content(digest));
            }
            self.say(part, ProgressState::Waiting, 0);
        }
        let registry = self.wharf.drivers.registries.open(&self.call.registry);
        let room = match self.call.max_concurrent_uploads {
            0 => self.wharf.config.max_concurrent_downloads,
            some => some,
        };
        let room = Semaphore::new(room.clamp(1, UPLOADS_MAX) as usize);
        try_join_all(blobs.iter().map(|blob| async {
            let _place = room.acquire().await.map_err(|_| Refusal::internal("the uploads' semaphore is closed"))?;
            self.blob(&*registry, blob).await
        }))
        .await?;
        // What points to others comes after them.
        for (at, document) in documents.iter().enumerate() {
            self.document(&*registry, document, at + 1 == documents.len()).await?;
        }
        let target = documents.last().or(blobs.last()).map(|part| part.descriptor.clone());
        let commit = blobs.iter().chain(&documents).fold(Commit::new(&namespace), |c, part| self.remember(c, part));
        claim.conclude(commit).await?;
        target.ok_or_else(|| Refusal::internal("nothing was pushed"))
    }

    /// Everything that has to be in the registry: blobs, and documents in the order in which they can be sent.
    async fn parts(&self, namespace: &Namespace) -> Answer<(Vec<Part>, Vec<Part>)> {
        let (store, namespace, call) = (self.wharf.store.clone(), namespace.clone(), self.call.clone());
        let (label, pinned) = (sources::key(&self.reference), self.reference.digest.clone());
        blocking("walk an image", move || {
            let reader = store.read()?;
            let target = match &call.source {
                PushSource::Image(name) => {
                    reader.image(&namespace, name)?.ok_or_else(|| refuse::no_image(name))?.target
                }
                PushSource::Content(descriptor) | PushSource::Object(descriptor) => descriptor.clone(),
            };
            let mut walk = Walk {
                store: &store,
                reader: &reader,
                namespace: &namespace,
                label: &label,
                skips: !call.allow_non_distributable,
                blobs: Vec::new(),
                documents: Vec::new(),
            };
            let target = match &call.platform {
                Some(platform) => walk.choose(target, platform)?,
                None => target,
            };
            if let Some(pinned) = pinned.filter(|pinned| *pinned != target.digest) {
                return Err(Refusal::invalid(format!(
                    "the reference names {pinned}, what is to be pushed is {}",
                    target.digest
                )));
            }
            match &call.source {
                PushSource::Object(_) => walk.alone(&target)?,
                PushSource::Image(_) | PushSource::Content(_) => walk.visit(&target, 0)?,
            }
            Ok((walk.blobs, walk.documents))
        })
        .await
    }

    async fn blob(&self, registry: &dyn Registry, part: &Part) -> Answer<()> {
        let own = &self.reference.repository;
        let near = |from: &&String| from.split('/').zip(own.split('/')).take_while(|(a, b)| a == b).count();
        // A repository of the same owner is the likeliest to be open to whoever may write to this one.
        let from = part.repositories.iter().filter(|from| *from != own).max_by_key(near);
        let source = self.source(part);
        let pushed = registry.push_blob(&self.reference, &part.descriptor, from.map(String::as_str), source).await?;
        self.say_pushed(part, pushed);
        Ok(())
    }

    async fn document(&self, registry: &dyn Registry, part: &Part, is_last: bool) -> Answer<()> {
        let reference = match is_last {
            true => self.reference.clone(),
            false => Reference { tag: None, digest: None, ..self.reference.clone() },
        };
        let (store, digest) = (self.wharf.store.clone(), part.descriptor.digest.clone());
        let max_bytes = image_graph::DOCUMENT_MAX_BYTES as u64;
        let bytes = blocking("read manifest", move || store.blobs().read_all(&digest, max_bytes)).await?;
        let pushed = registry.push_manifest(&reference, &part.descriptor, bytes.into()).await?;
        self.say_pushed(part, pushed);
        Ok(())
    }

    /// A blob's bytes, told as they go.
    fn source(&self, part: &Part) -> BlobSource {
        let (store, board, descriptor) = (self.wharf.store.clone(), self.board.clone(), part.descriptor.clone());
        Arc::new(move || -> BlobStream {
            let (store, board, descriptor) = (store.clone(), board.clone(), descriptor.clone());
            let chunks = stream::try_unfold(0, move |offset| {
                let (store, board, descriptor) = (store.clone(), board.clone(), descriptor.clone());
                async move {
                    board.put(line(&descriptor, ProgressState::Uploading, offset));
                    let length = (descriptor.size_bytes - offset).min(CHUNK_BYTES);
                    if length == 0 {
                        return Ok(None);
                    }
                    let digest = descriptor.digest;
                    let chunk = blocking("read blob", move || read(&store, &digest, offset, length)).await?;
                    Ok(Some((chunk, offset + length)))
                }
            });
            chunks.boxed()
        })
    }

    /// Notes that the registry has a blob now, for the next push to mount it from.
    fn remember(&self, commit: Commit, part: &Part) -> Commit {
        let Some(labels) = sources::noted(&part.labels, &self.reference) else { return commit };
        let mask = labels.keys().map(|key| format!("labels.{key}")).collect();
        commit.change(Change::UpdateContent(UpdateContent { digest: part.descriptor.digest.clone(), labels, mask }))
    }

    fn say_pushed(&self, part: &Part, pushed: Pushed) {
        let (state, offset_bytes) = match pushed {
            Pushed::Existed | Pushed::Mounted => (ProgressState::Exists, 0),
            Pushed::Sent => (ProgressState::Done, part.descriptor.size_bytes),
        };
        self.say(part, state, offset_bytes);
    }

    fn say(&self, part: &Part, state: ProgressState, offset_bytes: u64) {
        self.board.put(line(&part.descriptor, state, offset_bytes));
    }
}

fn line(descriptor: &Descriptor, state: ProgressState, offset_bytes: u64) -> Progress {
    Progress {
        reference: ingest_name(descriptor),
        state,
        offset_bytes,
        total_bytes: descriptor.size_bytes,
        digest: Some(descriptor.digest.clone()),
        platform: None,
    }
}

fn read(store: &Store, digest: &Digest, offset_bytes: u64, length_bytes: u64) -> Answer<Bytes> {
    let (mut file, _) = store.blobs().read(digest)?;
    let mut chunk = vec![0; usize::try_from(length_bytes).unwrap_or_default()];
    file.seek(SeekFrom::Start(offset_bytes))
        .and_then(|_| file.read_exact(&mut chunk))
        .map_err(|e| Refusal::io(format!("read content {digest}"), &e))?;
    Ok(chunk.into())
}

/// Collects an image's parts.
struct Walk<'a> {
    store: &'a Store,
    reader: &'a Reader,
    namespace: &'a Namespace,
    /// The label with the repositories.
    label: &'a str,
    /// Whether layers that must not be distributed are left out.
    skips: bool,
    blobs: Vec<Part>,
    documents: Vec<Part>,
}

impl Walk<'_> {
    fn node(&self, descriptor: &Descriptor) -> Answer<Node> {
        Node::parse(descriptor, &resolve::document(self.store, self.reader, self.namespace, descriptor)?)
    }

    /// The manifest for a platform below a target.
    fn choose(&self, target: Descriptor, platform: &Platform) -> Answer<Descriptor> {
        let resolved = resolve::resolve(self.store, self.reader, self.namespace, &target, Some(platform))?;
        Ok(resolved.manifest)
    }

    /// Depth first, so that what points to others comes after them.
    fn visit(&mut self, descriptor: &Descriptor, depth: usize) -> Answer<()> {
        let kind = &descriptor.media_type;
        let known = |parts: &[Part]| parts.iter().any(|part| part.descriptor.digest == descriptor.digest);
        if known(&self.blobs) || known(&self.documents) {
            return Ok(());
        }
        if !media_type::is_index(kind) && !media_type::is_manifest(kind) {
            if !(self.skips && media_type::is_non_distributable(kind)) {
                let part = self.part(descriptor)?;
                self.blobs.push(part);
            }
            return Ok(());
        }
        let part = self.part(descriptor)?;
        let node = self.node(descriptor)?;
        let depth = if matches!(node, Node::Index { .. }) { image_graph::descend(depth)? } else { depth };
        for child in node.children() {
            self.visit(&child, depth)?;
        }
        self.documents.push(part);
        Ok(())
    }

    /// Only this, whatever it points to.
    fn alone(&mut self, descriptor: &Descriptor) -> Answer<()> {
        let part = self.part(descriptor)?;
        let kind = &descriptor.media_type;
        let is_document = media_type::is_index(kind) || media_type::is_manifest(kind);
        if is_document { &mut self.documents } else { &mut self.blobs }.push(part);
        Ok(())
    }

    fn part(&self, descriptor: &Descriptor) -> Answer<Part> {
        let digest = &descriptor.digest;
        let info = self.reader.content(self.namespace, digest)?.ok_or_else(|| refuse::no_content(digest))?;
        if info.size_bytes != descriptor.size_bytes {
            return Err(Refusal::failed_precondition(format!(
                "content {digest} has {} bytes, what points to it says {}",
                info.size_bytes, descriptor.size_bytes
            )));
        }
        let repositories = sources::repositories(info.labels.get(self.label));
        Ok(Part { descriptor: descriptor.clone(), repositories, labels: info.labels })
    }
}
