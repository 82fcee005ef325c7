//! Images from an archive: its blobs into the content store as they come, then unpacked, then named in one commit.

use super::{
    board::Board,
    claim::Claim,
    derived,
    resolve::{self, Resolved},
    unpack::{Layer, Source, Unpack},
};
use crate::{
    Wharf,
    archive::{Archive, BlobSink, ImageInArchive, read_archive},
    content,
    drivers::differ,
    image_graph,
    runtime::{blocking, waiting},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Descriptor, Digest, ImageName, Labels, Meta, Namespace, Refusal, RefusalKind, Timestamp,
    content::UpdateContent,
    id::DigestAlgorithm,
    image::{CreateImage, Image, ImportImages, PlatformChoice, Progress, ProgressState},
    labels::UNCOMPRESSED,
};
use wharf_store::{Change, Commit, IngestFile, Placed};

/// How much of an archive is read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Imports the images of an archive; answers them as they are now named.
///
/// # Errors
/// `InvalidArgument` for what is no image archive or names nothing, refusals of the content store and the unpacking.
/// Blobs that were read stay until they are collected.
pub async fn import(
    wharf: Wharf,
    meta: Meta,
    call: ImportImages,
    input: impl Read + Send + 'static,
    board: Board,
    cancel: CancellationToken,
) -> Answer<Vec<Image>> {
    let mut claim = Claim::take(&wharf.journal, meta, "import").await?;
    let done = claimed(wharf, &mut claim, call, input, board, cancel).await;
    claim.settled(done).await
}

async fn claimed(
    wharf: Wharf,
    claim: &mut Claim,
    call: ImportImages,
    mut input: impl Read + Send + 'static,
    board: Board,
    cancel: CancellationToken,
) -> Answer<Vec<Image>> {
    let meta = claim.meta().clone();
    let namespace = meta.namespace()?.clone();
    let (reading, claimed, shown, compress) = (wharf.clone(), meta.clone(), board.clone(), call.compress);
    let archive = waiting("read an image archive", move || {
        let (board, handle) = (&shown, Handle::current());
        let mut sink = Sink { wharf: &reading, meta: &claimed, board, handle, compress };
        read_archive(&mut input, &mut sink)
    })
    .await?;
    let named = names(&call, &archive, wharf.clock.now())?;
    let mut labels: BTreeMap<Digest, Labels> = BTreeMap::new();
    let targets: BTreeSet<Digest> = named.iter().map(|(_, target)| target.digest.clone()).collect();
    for target in targets {
        let Some((_, target)) = named.iter().find(|(_, t)| t.digest == target) else { continue };
        let ties = tie(&wharf, &namespace, target).await?;
        labels.extend(ties);
        if call.unpack {
            for (digest, more) in unpack(&wharf, &meta, &call, target, &board, &cancel).await? {
                labels.entry(digest).or_default().extend(more);
            }
        }
    }
    let mut commit = Commit::new(&namespace);
    for (digest, labels) in labels.into_iter().filter(|(_, labels)| !labels.is_empty()) {
        let mask = labels.keys().map(|key| format!("labels.{key}")).collect();
        commit = commit.change(Change::UpdateContent(UpdateContent { digest, labels, mask }));
    }
    for (name, target) in named {
        commit = commit.change(Change::PutImage(CreateImage { name, target, labels: Labels::new() }));
    }
    let committed = claim.conclude(commit).await?;
    Ok(committed
        .outcomes
        .into_iter()
        .filter_map(|outcome| match outcome {
            wharf_store::Outcome::Image(image) => Some(image),
            _ => None,
        })
        .collect())
}

/// Stores an archive's blobs.
struct Sink<'a> {
    wharf: &'a Wharf,
    meta: &'a Meta,
    board: &'a Board,
    handle: Handle,
    /// Whether plain layers are wanted in gzip.
    compress: bool,
}

impl BlobSink for Sink<'_> {
    fn put(&mut self, expected: Option<&Digest>, size_bytes: u64, reader: &mut dyn Read) -> Answer<Digest> {
        let say = |digest: &Digest, state| {
            self.board.put(Progress {
                reference: format!("blob-{digest}"),
                state,
                offset_bytes: size_bytes,
                total_bytes: size_bytes,
                digest: Some(digest.clone()),
                platform: None,
            });
        };
        if let Some(expected) = expected
            && self.handle.block_on(content::have(&self.wharf.drivers.content, self.meta, expected, Labels::new()))?
        {
            // Here already; the archive's copy only has to be passed over.
            std::io::copy(reader, &mut std::io::sink()).map_err(read_error)?;
            say(expected, ProgressState::Exists);
            return Ok(expected.clone());
        }
        let algorithm = expected.map_or(DigestAlgorithm::Sha256, Digest::algorithm);
        let blobs = self.wharf.store.blobs();
        let file = blobs.begin(algorithm)?;
        let id = file.id().clone();
        let placed = match fill(file, expected, size_bytes, reader) {
            Ok(placed) => placed,
            Err(refusal) => {
                // No row speaks of it, and the disk may be full.
                blobs.discard_ingest(&id, || Ok(true))?;
                return Err(refusal);
            }
        };
        let digest = placed.digest().clone();
        let created = Change::CreateContent { digest: digest.clone(), size_bytes, labels: Labels::new() };
        let commit = Commit::one(self.meta.namespace()?, created).leased(self.meta.lease.clone());
        let committed = self.handle.block_on(self.wharf.journal.commit(commit));
        drop(placed);
        match committed {
            Err(refusal) if !refusal.is(RefusalKind::AlreadyExists) => Err(refusal),
            _ => {
                say(&digest, ProgressState::Done);
                Ok(digest)
            }
        }
    }

    fn compressed(&mut self, layer: &Digest) -> Answer<Option<(Digest, u64)>> {
        if !self.compress {
            return Ok(None);
        }
        let blobs = self.wharf.store.blobs();
        let placed = derived::write(blobs, |output| {
            let (mut plain, _) = blobs.read(layer)?;
            differ::compress(&mut plain, output)
        })?;
        let labels = Labels::from([(UNCOMPRESSED.to_owned(), layer.to_string())]);
        let kept = derived::keep(&self.wharf.drivers.content, self.meta, placed, labels);
        self.handle.block_on(kept).map(Some)
    }
}

/// Writes a blob of an archive, and verifies it.
fn fill(mut file: IngestFile, expected: Option<&Digest>, size_bytes: u64, reader: &mut dyn Read) -> Answer<Placed> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = reader.read(&mut chunk).map_err(read_error)?;
        if length == 0 {
            break;
        }
        file.append(&chunk[..length])?;
    }
    if file.offset_bytes() != size_bytes {
        return Err(Refusal::invalid(format!("it ends after {} of {size_bytes} bytes", file.offset_bytes())));
    }
    file.commit(size_bytes, expected)
}

/// A refusal that came through a reader keeps its kind.
fn read_error(error: std::io::Error) -> Refusal {
    match error.get_ref().and_then(|e| e.downcast_ref::<Refusal>()) {
        Some(refusal) => refusal.clone(),
        None => Refusal::invalid(format!("read the archive: {error}")),
    }
}

/// What gets which name.
///
/// # Spec
/// containerd `images/archive` `AddRefPrefix`, `FilterRefPrefix`, `DigestTranslator`; `ctr images import`.
fn names(call: &ImportImages, archive: &Archive, now: Timestamp) -> Answer<Vec<(ImageName, Descriptor)>> {
    let prefix = call.base_name.clone().unwrap_or_else(|| format!("import-{}", date(now)));
    let full = |reference: &str| {
        if !reference.contains(['/', ':', '@']) {
            return Some(format!("{prefix}:{reference}"));
        }
        // With a base name of the caller's, only images of that name are wanted.
        let fits = call.base_name.as_ref().is_none_or(|base| {
            reference
                .strip_prefix(base.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@', '/']))
        });
        fits.then(|| reference.to_owned())
    };
    let mut named = Vec::new();
    for ImageInArchive { name, tag, target } in &archive.images {
        let mut target = target.clone();
        // They name the image in its archive; kept, they would go into the next one.
        target.annotations.retain(|key, _| {
            key != crate::archive::IMAGE_NAME_ANNOTATION && key != crate::archive::REF_NAME_ANNOTATION
        });
        let own = name.as_deref().or(tag.as_deref()).and_then(full);
        if call.digests && !(own.is_some() && call.skip_digest_for_named) {
            named.push((ImageName::new(format!("{prefix}@{}", target.digest))?, target.clone()));
        }
        if let Some(own) = own {
            named.push((ImageName::new(own)?, target));
        }
    }
    if let Some(name) = &call.index_name {
        named.push((name.clone(), archive.index.clone()));
    }
    if named.is_empty() {
        return Err(Refusal::invalid(
            "image archive: none of its images has a name that is wanted; --digests names them by digest, --index-name as a whole",
        ));
    }
    Ok(named)
}

/// The date of an instant, UTC: `2026-11-23`.
///
/// # Spec
/// Days to civil date, proleptic Gregorian calendar.
fn date(now: Timestamp) -> String {
    let days = now.seconds().div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The labels that hold a target's blobs against garbage collection, as far as they are here.
async fn tie(wharf: &Wharf, namespace: &Namespace, target: &Descriptor) -> Answer<Vec<(Digest, Labels)>> {
    let (wharf, namespace, target) = (wharf.clone(), namespace.clone(), target.clone());
    blocking("read an image's graph", move || {
        let reader = wharf.store.read()?;
        let (mut ties, mut to_visit) = (Vec::new(), vec![(target, 0)]);
        while let Some((blob, depth)) = to_visit.pop() {
            let bytes = match resolve::document(&wharf.store, &reader, &namespace, &blob) {
                // An archive of one platform has an index of all.
                Err(refusal) if refusal.is(RefusalKind::NotFound) && depth > 0 => continue,
                other => other?,
            };
            let children = image_graph::children(&blob, &bytes)?;
            let depth = image_graph::descend(depth)?;
            let mut here = Vec::new();
            for child in children {
                if reader.content(&namespace, &child.digest)?.is_some() {
                    if wharf_messages::descriptor::media_type::is_manifest(&child.media_type)
                        || wharf_messages::descriptor::media_type::is_index(&child.media_type)
                    {
                        to_visit.push((child.clone(), depth));
                    }
                    here.push(child);
                }
            }
            ties.push((blob.digest, image_graph::gc_labels(&here)));
        }
        Ok(ties)
    })
    .await
}

/// Unpacks a target for the platforms asked for.
async fn unpack(
    wharf: &Wharf,
    meta: &Meta,
    call: &ImportImages,
    target: &Descriptor,
    board: &Board,
    cancel: &CancellationToken,
) -> Answer<Vec<(Digest, Labels)>> {
    let platforms = match &call.platforms {
        PlatformChoice::These(platforms) => platforms.iter().cloned().map(Some).collect(),
        PlatformChoice::Host | PlatformChoice::All => vec![None],
    };
    let mut labels = Vec::new();
    for platform in platforms {
        let (reading, namespace, target) = (wharf.clone(), meta.namespace()?.clone(), target.clone());
        let resolved = blocking("resolve an image", move || {
            resolve::resolve(&reading.store, &reading.store.read()?, &namespace, &target, platform.as_ref())
        })
        .await?;
        labels.extend(unpack_resolved(wharf, meta, call.snapshotter.clone(), &resolved, board, cancel).await?);
    }
    Ok(labels)
}

/// Unpacks an image whose blobs are all here.
///
/// # Errors
/// As [`Unpack::run`].
pub async fn unpack_resolved(
    wharf: &Wharf,
    meta: &Meta,
    snapshotter: Option<wharf_messages::SnapshotterName>,
    resolved: &Resolved,
    board: &Board,
    cancel: &CancellationToken,
) -> Answer<Vec<(Digest, Labels)>> {
    let deps = wharf.image_deps();
    let layers = resolved
        .layers
        .iter()
        .map(|layer| Layer { descriptor: layer.clone(), source: Box::new(|| Box::pin(async { Ok(Source::Here) })) });
    let unpack = Unpack {
        deps: &deps,
        meta,
        snapshotter,
        platform: resolved.platform.clone(),
        manifest: resolved.manifest.digest.clone(),
        config: resolved.config.digest.clone(),
        layers: layers.collect(),
        diff_ids: resolved.diff_ids.clone(),
        board,
        cancel: cancel.clone(),
    };
    unpack.run().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_392_000, "2026-11-23"),
            (4_107_542_400, "2100-03-01"),
            (-1, "1969-12-31"),
        ] {
            assert_eq!(date(Timestamp::from_parts(seconds, 0)), text);
        }
    }

    #[test]
    fn images_get_the_names_that_ctr_gives_them() {
        let target = |n: u8| Descriptor::new("x", Digest::from_sha256(&[n; 32]), 1);
        let image = |name: Option<&str>, tag: Option<&str>, n| ImageInArchive {
            name: name.map(str::to_owned),
            tag: tag.map(str::to_owned),
            target: target(n),
        };
        let archive = Archive {
            images: vec![
                image(Some("docker.io/library/a:1"), Some("1"), 1),
                image(None, Some("v2"), 2),
                image(None, None, 3),
            ],
            index: target(9),
        };
        let given = |call: ImportImages| -> Vec<String> {
            names(&call, &archive, Timestamp::ZERO).unwrap().into_iter().map(|(name, _)| name.to_string()).collect()
        };
        assert_eq!(given(ImportImages::default()), ["docker.io/library/a:1", "import-1970-01-01:v2"]);
        let base = |base: &str| ImportImages { base_name: Some(base.to_owned()), ..ImportImages::default() };
        assert_eq!(given(base("me/app")), ["me/app:v2"]);
        let digests = ImportImages { digests: true, skip_digest_for_named: true, ..base("me/app") };
        let third = format!("me/app@{}", target(3).digest);
        assert_eq!(given(digests), [format!("me/app@{}", target(1).digest), "me/app:v2".to_owned(), third]);
        let index = ImportImages { index_name: Some(ImageName::new("all").unwrap()), ..ImportImages::default() };
        assert_eq!(given(index).last().unwrap(), "all");
        let nameless = Archive { images: vec![image(None, None, 3)], index: target(9) };
        assert!(names(&ImportImages::default(), &nameless, Timestamp::ZERO).is_err());
    }
}
