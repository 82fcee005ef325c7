//! `images push`: an image to its registry.

use crate::{
    commands::pull::{RegistryFlags, follow},
    context::{Context, parse},
    failure::Outcome,
    progress::{Screen, Transfer},
};
use clap::Args;
use wharf_client::Client;
use wharf_messages::{
    Descriptor, Platform,
    content::GetContent,
    descriptor::media_type,
    image::{PushImage, PushSource},
};

/// Push an image.
#[derive(Debug, Args)]
pub struct Push {
    /// How to talk to the registry.
    #[command(flatten)]
    registry: RegistryFlags,
    /// Push the manifest or index with this digest instead of an image
    #[arg(long, value_name = "DIGEST", conflicts_with = "local")]
    manifest: Option<String>,
    /// Its media type
    #[arg(long, value_name = "TYPE", default_value = media_type::OCI_MANIFEST)]
    manifest_type: String,
    /// Of an index, only the manifest for this platform, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Blobs sent at once; 0 means the daemon's default
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_concurrent_uploaded_layers: u32,
    /// Send layers that must not be distributed, too
    #[arg(long)]
    allow_non_distributable_blobs: bool,
    /// Where to: registry, repository and tag
    #[arg(value_name = "REF")]
    remote: String,
    /// The image, if it has another name here
    #[arg(value_name = "LOCAL")]
    local: Option<String>,
}

impl Push {
    /// Pushes the image.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let registry = self.registry.options()?;
        let client = context.client().await?;
        let call = PushImage {
            source: self.source(&client).await?,
            reference: self.remote,
            platform: self.platform,
            allow_non_distributable: self.allow_non_distributable_blobs,
            max_concurrent_uploads: self.max_concurrent_uploaded_layers,
            registry,
        };
        let mut transfer = Transfer::of_parts();
        let mut screen = Screen::stdout();
        let items = client.items(call).await?;
        follow(items, &mut transfer, &mut screen, context.debug).await?;
        let text = if context.debug { String::new() } else { transfer.draw(screen.style()) };
        Ok(screen.show(&text)?)
    }

    async fn source(&self, client: &Client) -> Outcome<PushSource> {
        let Some(manifest) = &self.manifest else {
            return Ok(PushSource::Image(parse(self.local.as_ref().unwrap_or(&self.remote))?));
        };
        let info = client.call(GetContent { digest: parse(manifest)? }).await?;
        Ok(PushSource::Content(Descriptor::new(&self.manifest_type, info.digest, info.size_bytes)))
    }
}
