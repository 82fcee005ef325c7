//! `content fetch-object` and `content push-object`: single objects from and to a registry.

use crate::{
    commands::pull::RegistryFlags,
    context::{Context, parse},
    failure::{Failure, Outcome},
    output,
};
use clap::Args;
use std::io::Write;
use wharf_messages::{
    Descriptor, Digest,
    content::GetContent,
    image::{FetchObject as FetchCall, ProgressState, PushImage, PushSource},
};

/// What to fetch.
#[derive(Debug, Args)]
pub struct FetchObject {
    /// How to talk to the registry.
    #[command(flatten)]
    registry: RegistryFlags,
    /// A tag, or the digest of any blob: registry.example.com/app@sha256:...
    #[arg(value_name = "REF")]
    reference: String,
    // The usage of ctr speaks of them, and it takes no notice.
    #[arg(hide = true)]
    _hints: Vec<String>,
}

/// What to push.
#[derive(Debug, Args)]
pub struct PushObject {
    /// How to talk to the registry.
    #[command(flatten)]
    registry: RegistryFlags,
    /// Where to: registry and repository, and for a manifest its tag
    #[arg(value_name = "REF")]
    remote: String,
    /// The blob
    #[arg(value_name = "DIGEST")]
    object: String,
    /// What it is
    #[arg(value_name = "TYPE")]
    media_type: String,
}

impl FetchObject {
    /// Writes the object's bytes.
    ///
    /// # Errors
    /// The daemon's refusal: also if what came is not what its digest says.
    pub async fn run(self, context: &Context) -> Outcome {
        let call = FetchCall { reference: self.reference, registry: self.registry.options()? };
        let mut chunks = context.client().await?.items(call).await?;
        let mut out = output::stdout();
        while let Some(chunk) = chunks.next().await? {
            out.write_all(&chunk)?;
        }
        out.flush()?;
        chunks.reply().await?;
        Ok(())
    }
}

impl PushObject {
    /// Pushes the object and prints what it is.
    ///
    /// # Errors
    /// The daemon's refusal; if the registry has it already, as in `ctr`.
    pub async fn run(self, context: &Context) -> Outcome {
        let digest: Digest = parse(&self.object)?;
        let registry = self.registry.options()?;
        let client = context.client().await?;
        let info = client.call(GetContent { digest }).await?;
        let call = PushImage {
            source: PushSource::Object(Descriptor::new(&self.media_type, info.digest, info.size_bytes)),
            reference: self.remote,
            platform: None,
            // Whoever names a single blob means it.
            allow_non_distributable: true,
            max_concurrent_uploads: 0,
            registry,
        };
        let mut items = client.items(call).await?;
        let mut existed = false;
        while let Some(progress) = items.next().await? {
            existed = progress.state == ProgressState::Exists;
        }
        let pushed = items.reply().await?;
        if existed {
            return Err(Failure::new(format!("content {} on remote: already exists", pushed.digest)));
        }
        Ok(output::line(format_args!("Pushed {} {}", pushed.digest, pushed.media_type))?)
    }
}
