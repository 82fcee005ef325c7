//! `images convert`: an image of another one, in another form.

use crate::{
    commands::pull::choice,
    context::{Context, parse},
    failure::Outcome,
    output,
};
use clap::Args;
use wharf_messages::{ImageName, Platform, image::ConvertImage};

/// What to convert, and how.
#[derive(Debug, Args)]
pub struct Convert {
    /// Store layers as plain tars
    #[arg(long)]
    uncompress: bool,
    /// Say OCI's media types instead of Docker's
    #[arg(long)]
    oci: bool,
    /// For which platform instead of this machine's; may be repeated
    #[arg(long = "platform", value_name = "PLATFORM", value_parser = Platform::parse)]
    platforms: Vec<Platform>,
    /// For all platforms, all of which must be here
    #[arg(long)]
    all_platforms: bool,
    /// The image
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The new image's name
    #[arg(value_name = "CONVERTED")]
    target: String,
}

impl Convert {
    /// Converts the image and prints the digest of the new one.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let (source, target): (ImageName, ImageName) = (parse(&self.source)?, parse(&self.target)?);
        let client = context.client().await?;
        // Says so if another namespace has it.
        context.image(&client, &source).await?;
        let platforms = choice(self.platforms, self.all_platforms);
        let call = ConvertImage { source, target, platforms, uncompress: self.uncompress, oci: self.oci };
        Ok(output::line(client.call(call).await?.target.digest)?)
    }
}
