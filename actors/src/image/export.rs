//! Images into an archive.

use super::resolve;
use crate::{
    Wharf,
    archive::{BlobSource, DockerParts, ExportedImage, write_archive},
    image_graph::{self, Node},
};
use std::io::{Read, Write};
use wharf_messages::{
    Answer, Digest, ImageName, Namespace, Refusal, RefusalKind,
    descriptor::media_type,
    image::{ExportImages, PlatformChoice},
};
use wharf_store::{Reader, Store, refuse};

/// Writes the images that a call names. Blocks on the disk and on the output.
///
/// # Errors
/// `NotFound` for an image, a platform or a blob that is not here, and what the output says.
pub fn export(wharf: &Wharf, namespace: &Namespace, call: &ExportImages, output: &mut dyn Write) -> Answer<()> {
    if call.names.is_empty() {
        return Err(Refusal::invalid("export: no image is named"));
    }
    let reader = wharf.store.read()?;
    let images = call.names.iter().map(|name| {
        exported(&wharf.store, &reader, namespace, call, name)
            .map_err(|refusal| refusal.context(format!("export {name}")))
    });
    let images = images.collect::<Answer<Vec<_>>>()?;
    write_archive(&images, !call.skip_docker_manifest, &Files(&wharf.store), output)
}

fn exported(
    store: &Store,
    reader: &Reader,
    namespace: &Namespace,
    call: &ExportImages,
    name: &ImageName,
) -> Answer<ExportedImage> {
    let image = reader.image(namespace, name)?.ok_or_else(|| refuse::no_image(name))?;
    let mut blobs = Vec::new();
    let mut to_visit = vec![(image.target.clone(), 0)];
    while let Some((blob, depth)) = to_visit.pop() {
        let kind = &blob.media_type;
        if media_type::is_index(kind) || media_type::is_manifest(kind) {
            let bytes = resolve::document(store, reader, namespace, &blob)?;
            let depth = image_graph::descend(depth)?;
            let children = match Node::parse(&blob, &bytes)? {
                Node::Index { manifests } => image_graph::select(&manifests, &call.platforms)?,
                node @ Node::Manifest { .. } => node.children(),
            };
            to_visit.extend(children.into_iter().map(|child| (child, depth)));
        } else if call.skip_non_distributable && media_type::is_non_distributable(kind) {
            continue;
        } else if reader.content(namespace, &blob.digest)?.is_none() {
            return Err(refuse::no_content(&blob.digest));
        }
        blobs.push(blob);
    }
    // docker load reads one platform only: this machine's, unless others were asked for.
    let platform = match &call.platforms {
        PlatformChoice::These(platforms) => platforms.first(),
        PlatformChoice::Host | PlatformChoice::All => None,
    };
    let docker = match resolve::resolve(store, reader, namespace, &image.target, platform) {
        Ok(resolved) => Some(DockerParts {
            config: resolved.config.digest,
            layers: resolved.layers.into_iter().map(|layer| layer.digest).collect(),
        }),
        Err(refusal) if refusal.is(RefusalKind::NotFound) => None,
        Err(refusal) => return Err(refusal),
    };
    Ok(ExportedImage { name: name.to_string(), target: image.target, blobs, docker })
}

/// Blobs as files of the store.
struct Files<'a>(&'a Store);

impl BlobSource for Files<'_> {
    fn open(&self, digest: &Digest) -> Answer<(u64, Box<dyn Read>)> {
        let (file, size_bytes) = self.0.blobs().read(digest)?;
        Ok((size_bytes, Box::new(file)))
    }
}
