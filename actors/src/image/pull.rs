//! The pull of an image: resolve, fetch what the platforms need, unpack while bytes still come, name it at the end.
//!
//! ```text
//!   resolve -> manifest(s) -> config -> layers --- bytes ---> content
//!                                         `------- same bytes, as they come ---> unpack
//!                                                            all here, all unpacked ---> labels and name, one commit
//! ```

use super::{
    ImageDeps,
    board::Board,
    claim::Claim,
    flights::{Flight, Passenger},
    sources,
    unpack::{self, Layer, Unpack},
};
use crate::{
    content::{self, OpenIngest, Sharing},
    drivers::registry::Registry,
    image_graph::{self, DOCUMENT_MAX_BYTES, ImageConfig, Node},
    runtime::blocking,
};
use futures_util::{
    StreamExt,
    future::{BoxFuture, try_join_all},
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use wharf_messages::{
    Answer, Descriptor, Digest, ImageName, IngestRef, Labels, Meta, Namespace, Refusal, RefusalKind,
    content::{AbortIngest, UpdateContent},
    descriptor::media_type,
    event::Event,
    image::{CreateImage, Image, PlatformChoice, Progress, ProgressState, PullImage},
    reference::Reference,
};
use wharf_store::{Change, Commit, Growing};

/// The most blobs that one pull fetches at once.
const DOWNLOADS_MAX: u32 = 64;
/// How often a blob is fetched again that somebody deleted before it was claimed.
const FLIGHTS_MAX: usize = 3;
/// Chunks of a download that wait to be written; a chunk is what the connection read at once, some 16 KiB.
const CHUNKS_WAITING: usize = 32;
/// How much must have come before watchers are told again.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;

/// Pulls an image. Ends soon after `cancel`; what was fetched stays for the next time.
///
/// # Errors
/// Refusals of the reference, the registry, the content store and the unpacking, each naming its blob.
pub async fn pull(
    deps: Arc<ImageDeps>,
    meta: Meta,
    call: PullImage,
    board: Board,
    cancel: CancellationToken,
) -> Answer<Image> {
    let (namespace, request) = (meta.namespace()?.clone(), meta.request_id);
    let reference = Reference::parse(&call.reference)?;
    let registry = deps.registries.open(&call.registry);
    let downloads = match call.max_concurrent_downloads {
        0 => deps.max_concurrent_downloads,
        some => some,
    };
    let mut puller = Puller {
        registry,
        reference,
        namespace,
        request,
        board,
        room: Arc::new(Semaphore::new(downloads.clamp(1, DOWNLOADS_MAX) as usize)),
        claim: Claim::take(&deps.content.journal, meta, "pull").await?,
        deps,
        call,
        cancel: cancel.clone(),
    };
    let name = puller.call.reference.clone();
    // Unpacking hears of the cancelling by itself and tidies up; everything else may be dropped where it stands.
    let done = puller.run().await.map_err(|refusal| {
        if cancel.is_cancelled() {
            Refusal::canceled(format!("pull {name}"))
        } else {
            refusal.context(format!("pull {name}"))
        }
    });
    puller.claim.settled(done).await
}

struct Puller {
    deps: Arc<ImageDeps>,
    claim: Claim,
    namespace: Namespace,
    /// Done with the commit that names the image.
    request: u64,
    call: PullImage,
    reference: Reference,
    registry: Arc<dyn Registry>,
    board: Board,
    room: Arc<Semaphore>,
    cancel: CancellationToken,
}

/// A manifest or index that was fetched, and what is wanted of its children.
struct Fetched {
    descriptor: Descriptor,
    children: Vec<Descriptor>,
}

/// One platform's image among what was fetched.
struct Single {
    manifest: Descriptor,
    config: Descriptor,
    layers: Vec<Descriptor>,
    /// Whether its layers are wanted, or only its manifest.
    whole: bool,
}

impl Puller {
    async fn run(&mut self) -> Answer<Image> {
        let name = ImageName::new(&self.call.reference)?;
        self.say(&self.call.reference, ProgressState::Resolving, 0, None);
        let target = self.or_cancelled(self.registry.resolve(&self.reference)).await?;
        self.say(&self.call.reference, ProgressState::Resolved, 0, None);
        let (mut fetched, mut singles) = (Vec::new(), Vec::new());
        self.or_cancelled(self.walk(target.clone(), true, 0, &mut fetched, &mut singles)).await?;
        let images = try_join_all(singles.iter().filter(|single| single.whole).map(|single| self.whole(single)));
        let labels = images.await?.into_iter().flatten().collect();
        self.name(name, target, &fetched, labels).await
    }

    /// Fetches a manifest or index and what it leads to.
    fn walk<'a>(
        &'a self,
        descriptor: Descriptor,
        whole: bool,
        depth: usize,
        fetched: &'a mut Vec<Fetched>,
        singles: &'a mut Vec<Single>,
    ) -> BoxFuture<'a, Answer<()>> {
        Box::pin(async move {
            let bytes = self.document(&descriptor).await?;
            match Node::parse(&descriptor, &bytes)? {
                Node::Manifest { config, layers } => {
                    let children =
                        if whole { [config.clone()].into_iter().chain(layers.clone()).collect() } else { Vec::new() };
                    fetched.push(Fetched { descriptor: descriptor.clone(), children });
                    singles.push(Single { manifest: descriptor, config, layers, whole });
                }
                Node::Index { manifests } => {
                    let depth = image_graph::descend(depth)?;
                    let is_image = |blob: &Descriptor| {
                        media_type::is_manifest(&blob.media_type) || media_type::is_index(&blob.media_type)
                    };
                    // What is neither is a part of something else than an image, such as a container's checkpoint.
                    let (manifests, parts): (Vec<_>, Vec<_>) = manifests.into_iter().partition(is_image);
                    for part in &parts {
                        self.fetch(part).await?;
                    }
                    let chosen = match manifests.is_empty() && !parts.is_empty() {
                        true => Vec::new(),
                        false => image_graph::select(&manifests, &self.call.platforms)?,
                    };
                    let all = self.call.all_metadata || self.call.platforms == PlatformChoice::All;
                    let wanted: Vec<_> = if all { manifests } else { chosen.clone() };
                    for child in &wanted {
                        let whole = whole && chosen.iter().any(|c| c.digest == child.digest);
                        self.walk(child.clone(), whole, depth, fetched, singles).await?;
                    }
                    fetched.push(Fetched { descriptor, children: [wanted, parts].concat() });
                }
            }
            Ok(())
        })
    }

    /// A manifest's or index's bytes: from the content store, else from the registry into it.
    async fn document(&self, descriptor: &Descriptor) -> Answer<Vec<u8>> {
        let line = ingest_name(descriptor);
        if content::have(&self.deps.content, self.claim.meta(), &descriptor.digest, self.source_labels()).await? {
            self.say(&line, ProgressState::Exists, descriptor.size_bytes, Some(descriptor));
            return self.read(&descriptor.digest).await;
        }
        let bytes = self.registry.manifest(&self.reference, descriptor).await?.to_vec();
        let digest = Some(descriptor.digest.clone());
        content::insert(&self.deps.content, self.claim.meta(), bytes.clone(), digest, self.source_labels()).await?;
        self.say(&line, ProgressState::Done, descriptor.size_bytes, Some(descriptor));
        Ok(bytes)
    }

    async fn read(&self, digest: &Digest) -> Answer<Vec<u8>> {
        let (store, digest) = (self.deps.content.store.clone(), digest.clone());
        blocking("read blob", move || store.blobs().read_all(&digest, DOCUMENT_MAX_BYTES as u64)).await
    }

    /// Fetches one platform's config and layers, unpacking as they come; answers labels for blobs.
    async fn whole(&self, single: &Single) -> Answer<Vec<(Digest, Labels)>> {
        self.or_cancelled(self.fetch(&single.config)).await?;
        let config = ImageConfig::parse(&single.config, &self.read(&single.config.digest).await?)?;
        let fetch = async {
            let layers = single.layers.iter().map(|layer| self.fetch(layer));
            self.or_cancelled(try_join_all(layers)).await
        };
        let unpack = async {
            if !self.call.unpack {
                return Ok(Vec::new());
            }
            config.check_layers(&single.layers)?;
            let sources = single
                .layers
                .iter()
                .map(|layer| Layer { descriptor: layer.clone(), source: Box::new(|| Box::pin(self.source(layer))) });
            let unpack = Unpack {
                deps: &self.deps,
                meta: self.claim.meta(),
                snapshotter: self.call.snapshotter.clone(),
                platform: single.manifest.platform.clone().unwrap_or_else(|| config.platform.clone()),
                manifest: single.manifest.digest.clone(),
                config: single.config.digest.clone(),
                layers: sources.collect(),
                diff_ids: config.diff_ids.clone(),
                board: &self.board,
                cancel: self.cancel.clone(),
            };
            unpack.run().await
        };
        // Both to their ends: an unpacking that is dropped would leave its half-made snapshot.
        let (fetched, unpacked) = tokio::join!(fetch, unpack);
        fetched?;
        unpacked
    }

    /// Fetches a blob into the content store.
    async fn fetch(&self, descriptor: &Descriptor) -> Answer<()> {
        let line = ingest_name(descriptor);
        let have = || content::have(&self.deps.content, self.claim.meta(), &descriptor.digest, self.source_labels());
        if have().await? {
            self.say(&line, ProgressState::Exists, descriptor.size_bytes, Some(descriptor));
            return Ok(());
        }
        for _ in 0..FLIGHTS_MAX {
            self.say(&line, ProgressState::Waiting, 0, Some(descriptor));
            let mut passenger = self.board_flight(descriptor);
            let tell = |offset| {
                if offset > 0 {
                    self.say(&line, ProgressState::Downloading, offset, Some(descriptor));
                }
            };
            passenger.landed(tell).await.map_err(|refusal| refusal.context(&line))?;
            // Whoever flew it may have done so for another namespace, and until here nobody had claimed it.
            if have().await? {
                self.say(&line, ProgressState::Done, descriptor.size_bytes, Some(descriptor));
                return Ok(());
            }
        }
        Err(Refusal::aborted(format!("{line}: it was deleted each time it was fetched")))
    }

    /// A layer's bytes for unpacking: from its file if it is here, else as they come.
    async fn source(&self, layer: &Descriptor) -> Answer<unpack::Source> {
        if content::have(&self.deps.content, self.claim.meta(), &layer.digest, self.source_labels()).await? {
            return Ok(unpack::Source::Here);
        }
        let mut passenger = self.board_flight(layer);
        let growing = passenger.growing().await.map_err(|refusal| refusal.context(ingest_name(layer)))?;
        Ok(match growing {
            Some(growing) => unpack::Source::Coming(growing, passenger),
            None => unpack::Source::Here,
        })
    }

    fn board_flight(&self, descriptor: &Descriptor) -> Passenger {
        let (deps, room) = (Arc::clone(&self.deps), Arc::clone(&self.room));
        // The lease of who is first aboard may end before the flight does: whoever gets off claims the blob (CLAIM-1).
        let meta = Meta { lease: None, ..self.claim.meta().clone() };
        let (registry, reference) = (Arc::clone(&self.registry), self.reference.clone());
        let (descriptor, labels) = (descriptor.clone(), self.source_labels());
        // Whoever may have a blob only by bringing it must not have what another brings.
        let only = (self.deps.content.sharing == Sharing::Isolated).then_some(&self.namespace);
        self.deps.flights.board(only, &descriptor.digest.clone(), |flight| {
            // In the trace of who is first aboard.
            let span = tracing::trace_span!(
                "blob download",
                digest = %descriptor.digest,
                size_bytes = descriptor.size_bytes,
            );
            let work = async move {
                let _place = room.acquire().await.map_err(|_| Refusal::unavailable("the daemon is stopping"))?;
                download(&deps, &meta, &*registry, &reference, &descriptor, labels, flight).await
            };
            work.instrument(span.or_current())
        })
    }

    /// Names the image, and ties its blobs together for garbage collection, in one commit (IMAGE-1).
    async fn name(
        &mut self,
        name: ImageName,
        target: Descriptor,
        fetched: &[Fetched],
        blob_labels: Vec<(Digest, Labels)>,
    ) -> Answer<Image> {
        let tied = fetched.iter().map(|f| (f.descriptor.digest.clone(), image_graph::gc_labels(&f.children)));
        let came_from = self.new_sources(fetched).await?;
        let mut commit = Commit::new(&self.namespace).request(self.request);
        for (digest, labels) in tied.chain(blob_labels).chain(came_from).filter(|(_, labels)| !labels.is_empty()) {
            let mask = labels.keys().map(|key| format!("labels.{key}")).collect();
            commit = commit.change(Change::UpdateContent(UpdateContent { digest, labels, mask }));
        }
        if self.call.name_image {
            let image = CreateImage { name: name.clone(), target: target.clone(), labels: self.call.labels.clone() };
            commit = commit
                .change(Change::PutImage(image))
                .event(Event::ImagePulled { name: name.clone(), target: target.clone() });
        }
        let committed = self.claim.conclude(commit).await?;
        let zero = wharf_messages::Timestamp::ZERO;
        let unnamed = Image { name, target, labels: self.call.labels.clone(), created_at: zero, updated_at: zero };
        Ok(committed.into_image().unwrap_or(unnamed))
    }

    /// Where a blob came from, so that a push can mount it from there.
    fn source_labels(&self) -> Labels {
        sources::noted(&Labels::new(), &self.reference).unwrap_or_default()
    }

    /// The same for blobs that were here before, from another repository: they are known to be in this one, too.
    async fn new_sources(&self, fetched: &[Fetched]) -> Answer<Vec<(Digest, Labels)>> {
        let all = fetched.iter().flat_map(|f| f.children.iter().chain([&f.descriptor]));
        let digests: BTreeSet<_> = all.map(|blob| blob.digest.clone()).collect();
        let (store, namespace) = (self.deps.content.store.clone(), self.namespace.clone());
        let reference = self.reference.clone();
        blocking("read labels", move || {
            let reader = store.read()?;
            let mut new = Vec::new();
            for digest in digests {
                if let Some(info) = reader.content(&namespace, &digest)?
                    && let Some(labels) = sources::noted(&info.labels, &reference)
                {
                    new.push((digest, labels));
                }
            }
            Ok(new)
        })
        .await
    }

    fn say(&self, line: &str, state: ProgressState, offset_bytes: u64, blob: Option<&Descriptor>) {
        self.board.put(Progress {
            reference: line.to_owned(),
            state,
            offset_bytes,
            total_bytes: blob.map_or(0, |d| d.size_bytes),
            digest: blob.map(|d| d.digest.clone()),
            platform: None,
        });
    }

    async fn or_cancelled<T>(&self, work: impl Future<Output = Answer<T>>) -> Answer<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Refusal::canceled("pull")),
            done = work => done,
        }
    }
}

/// Downloads a blob into the content store, going on where an earlier download stopped.
async fn download(
    deps: &ImageDeps,
    meta: &Meta,
    registry: &dyn Registry,
    reference: &Reference,
    descriptor: &Descriptor,
    labels: Labels,
    flight: watch::Sender<Flight>,
) -> Answer<()> {
    let ingest = IngestRef::new(ingest_name(descriptor))?;
    let open = OpenIngest {
        reference: ingest.clone(),
        total_bytes: descriptor.size_bytes,
        expected: Some(descriptor.digest.clone()),
        labels,
        shares: false,
    };
    let mut writer = match deps.ingests.ask(meta.clone(), open).await {
        Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => return Ok(()),
        other => other?,
    };
    if writer.offset_bytes()? > descriptor.size_bytes {
        writer.truncate(0).await?;
    }
    let growing: Growing = writer.growing()?;
    let offset = writer.offset_bytes()?;
    flight.send_modify(|flight| flight.growing = Some(growing));
    let stream = registry.fetch(reference, descriptor, offset).await?;
    let (chunks, coming) = mpsc::channel(CHUNKS_WAITING);
    let pump = async move {
        let (mut stream, mut offset, mut told) = (stream, offset, offset);
        while let Some(chunk) = stream.next().await {
            offset += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
            if chunks.send(chunk).await.is_err() {
                // The writer has given up and says why.
                return;
            }
            if offset - told >= PROGRESS_STEP_BYTES {
                told = offset;
                flight.send_modify(|flight| flight.offset_bytes = offset);
            }
        }
    };
    let (written, ()) = tokio::join!(writer.write_all(coming), pump);
    if let Err(refusal) = written {
        if refusal.is(RefusalKind::ResourceExhausted) {
            // What is here of it takes the room that everybody lacks.
            drop(writer);
            if let Err(left) = deps.ingests.ask(meta.clone(), AbortIngest { reference: ingest }).await {
                tracing::warn!(digest = %descriptor.digest, %left, "what came of a blob stays for a day");
            }
        }
        return Err(refusal);
    }
    match writer.commit(descriptor.size_bytes, Some(descriptor.digest.clone()), Labels::new()).await {
        Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => Ok(()),
        Err(refusal) if refusal.is(RefusalKind::FailedPrecondition) => {
            // Going on with bytes that are not the blob's would fail for ever.
            deps.ingests.ask(meta.clone(), AbortIngest { reference: ingest }).await?;
            Err(refusal)
        }
        other => other.map(|_| ()),
    }
}

/// The ingest's name for a blob, as containerd's clients make it.
///
/// # Spec
/// containerd `remotes.MakeRefKey`.
#[must_use]
pub fn ingest_name(descriptor: &Descriptor) -> String {
    let kind = &descriptor.media_type;
    let prefix = if media_type::is_manifest(kind) {
        "manifest"
    } else if media_type::is_index(kind) {
        "index"
    } else if media_type::is_config(kind) {
        "config"
    } else if media_type::is_layer(kind) {
        "layer"
    } else {
        "unknown"
    };
    format!("{prefix}-{}", descriptor.digest)
}
