//! Calls about images and their parts that are neither pulled nor pushed whole: fetched as they are, converted, installed.

use super::{CallIo, Serve, streams::client_gone, transfer::with_room};
use crate::{
    Wharf,
    drivers::registry::Registry,
    image::{convert, install},
};
use futures_util::{StreamExt, stream};
use sha2::digest::DynDigest;
use tokio::sync::mpsc;
use wharf_messages::{
    Answer, Descriptor, Digest, Meta, Refusal,
    descriptor::media_type,
    id::DigestAlgorithm,
    image::{ConvertImage, FetchObject, Image, InstallImage},
    reference::Reference,
};

impl Serve for ConvertImage {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<()>) -> Answer<Image> {
        let converted = convert::convert(wharf.clone(), meta.clone(), self, io.cancel).await;
        with_room(&wharf, &meta, converted).await
    }
}

impl Serve for InstallImage {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<()>) -> Answer<String> {
        install::install(wharf, meta, self, io.cancel).await
    }
}

impl Serve for FetchObject {
    async fn serve(self, wharf: Wharf, _: Meta, io: CallIo<Vec<u8>>) -> Answer<Descriptor> {
        let reference = Reference::parse(&self.reference)?;
        let registry = wharf.drivers.registries.open(&self.registry);
        tokio::select! {
            biased;
            () = io.cancel.cancelled() => Err(client_gone()),
            fetched = fetch(&*registry, &reference, &io.items) => {
                fetched.map_err(|refusal| refusal.context(format!("fetch {}", self.reference)))
            }
        }
    }
}

/// Sends an object's bytes as they come; whether they are what they should be is known at their end.
async fn fetch(registry: &dyn Registry, reference: &Reference, items: &mpsc::Sender<Vec<u8>>) -> Answer<Descriptor> {
    let object = registry.resolve(reference).await?;
    let is_document = media_type::is_manifest(&object.media_type) || media_type::is_index(&object.media_type);
    let mut chunks = match is_document {
        true => stream::iter([registry.manifest(reference, &object).await]).boxed(),
        false => registry.fetch(reference, &object, 0).await?,
    };
    let mut hash: Box<dyn DynDigest + Send> = match object.digest.algorithm() {
        DigestAlgorithm::Sha256 => Box::new(sha2::Sha256::default()),
        DigestAlgorithm::Sha512 => Box::new(sha2::Sha512::default()),
    };
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        hash.update(&chunk);
        items.send(chunk.into()).await.map_err(|_| client_gone())?;
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let came = Digest::new(format!("{}:{hex}", object.digest.algorithm().as_str()))?;
    if came != object.digest {
        return Err(Refusal::data_loss(format!("{} came as {came}", object.digest)));
    }
    Ok(object)
}
