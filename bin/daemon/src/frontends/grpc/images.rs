//! `containerd.services.images.v1.Images`.

use super::{
    api::{Api, Reply},
    convert::{descriptor, descriptor_in, paths, required, time},
    proto::containerd::services::images::v1::{
        CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse, Image as Wire,
        ListImagesRequest, ListImagesResponse, UpdateImageRequest, UpdateImageResponse, images_server::Images,
    },
};
use tonic::{Request, async_trait};
use wharf_messages::{
    Answer, Descriptor, Digest, ImageName, Refusal,
    image::{CreateImage, DeleteImage, GetImage, Image, ListImages, UpdateImage},
};

fn image(image: Image) -> Wire {
    let Image { name, target, labels, created_at, updated_at } = image;
    Wire {
        name: name.into(),
        labels,
        target: Some(descriptor(target)),
        created_at: time(created_at),
        updated_at: time(updated_at),
    }
}

fn update(wire: UpdateImageRequest) -> Answer<UpdateImage> {
    let mask = paths(wire.update_mask);
    let Wire { name, labels, target, .. } = required("image", wire.image)?;
    let takes_target = mask.is_empty() || mask.iter().any(|path| path == "target");
    let target = match target {
        Some(target) if takes_target || !target.digest.is_empty() => descriptor_in("image target", Some(target))?,
        _ if takes_target => descriptor_in("image target", None)?,
        // The mask takes annotations at most.
        partial => {
            let annotations = partial.unwrap_or_default().annotations;
            Descriptor { annotations, ..Descriptor::new("", Digest::from_sha256(&[0; 32]), 0) }
        }
    };
    Ok(UpdateImage { name: ImageName::new(name)?, target, labels, mask })
}

#[async_trait]
impl Images for Api {
    async fn get(&self, request: Request<GetImageRequest>) -> Reply<GetImageResponse> {
        self.unary(
            request,
            |wire| Ok(GetImage { name: ImageName::new(wire.name)? }),
            |found| GetImageResponse { image: Some(image(found)) },
        )
        .await
    }

    async fn list(&self, request: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
        self.unary(
            request,
            |wire| Ok(ListImages { filters: wire.filters }),
            |images| ListImagesResponse { images: images.into_iter().map(image).collect() },
        )
        .await
    }

    async fn create(&self, request: Request<CreateImageRequest>) -> Reply<CreateImageResponse> {
        self.unary(
            request,
            |wire| {
                let Wire { name, labels, target, .. } = required("image", wire.image)?;
                let target = descriptor_in("image target", target)?;
                Ok(CreateImage { name: ImageName::new(name)?, target, labels })
            },
            |made| CreateImageResponse { image: Some(image(made)) },
        )
        .await
    }

    async fn update(&self, request: Request<UpdateImageRequest>) -> Reply<UpdateImageResponse> {
        self.unary(request, update, |changed| UpdateImageResponse { image: Some(image(changed)) }).await
    }

    async fn delete(&self, request: Request<DeleteImageRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| {
                // Deleting what the caller did not mean is worse than deleting nothing.
                if wire.target.is_some() {
                    let why = format!("image {}: deleting it only if it names a given target", wire.name);
                    return Err(Refusal::not_implemented(why));
                }
                Ok(DeleteImage { name: ImageName::new(wire.name)?, sync: wire.sync })
            },
            |()| (),
        )
        .await
    }
}
