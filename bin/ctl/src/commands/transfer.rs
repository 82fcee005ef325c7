//! `images import` and `images export`: images from and to archives.

use crate::{
    commands::pull::{choice, follow, snapshotter},
    context::{Context, parse},
    failure::{Outcome, warn},
    progress::{Screen, Transfer},
    terminal::Input,
};
use clap::Args;
use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};
use tokio::io::AsyncRead;
use wharf_messages::{
    Answer, ImageName, Platform, Refusal,
    image::{ExportImages, ImportImages},
};

/// What to import.
#[derive(Debug, Args)]
pub struct Import {
    /// Take only images whose name starts with this, and put it before names that are only a tag; without it they are
    /// called import-YYYY-MM-DD
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
    /// Name each image by its digest too
    #[arg(long)]
    digests: bool,
    /// With --digests: not those that have a name
    #[arg(long, requires = "digests")]
    skip_digest_for_named: bool,
    /// Name the archive's index too
    #[arg(long, value_name = "NAME")]
    index_name: Option<String>,
    /// For all platforms
    #[arg(long)]
    all_platforms: bool,
    /// For which platform instead of this machine's
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Store docker save's layers, which are plain tars, compressed
    #[arg(long)]
    compress_blobs: bool,
    /// Do not unpack
    #[arg(long)]
    no_unpack: bool,
    /// Where to unpack; empty means the namespace's default
    #[arg(long, env = "CONTAINERD_SNAPSHOTTER", hide_env_values = true, value_name = "NAME")]
    snapshotter: Option<String>,
    /// The archive; - is standard input
    #[arg(value_name = "FILE")]
    archive: PathBuf,
}

impl Import {
    /// Imports the archive.
    ///
    /// # Errors
    /// The daemon's refusal, or the archive's error.
    pub async fn run(self, context: &Context) -> Outcome {
        let source = open(&self.archive).await?;
        let call = ImportImages {
            base_name: self.base_name,
            digests: self.digests,
            skip_digest_for_named: self.skip_digest_for_named,
            index_name: self.index_name.map(ImageName::new).transpose()?,
            platforms: choice(self.platform.into_iter().collect(), self.all_platforms),
            unpack: !self.no_unpack,
            compress: self.compress_blobs,
            snapshotter: snapshotter(self.snapshotter.as_ref())?,
        };
        let client = context.client().await?;
        let items = client.upload_items(call, source).await?;
        // While it runs a terminal shows what the daemon is at; what stays is what ctr prints.
        let mut transfer = Transfer::of(&self.archive.to_string_lossy());
        let mut screen = Screen::stdout();
        let images = follow(items, &mut transfer, &mut screen, context.debug).await?;
        let mut text = String::new();
        for image in images.iter().filter(|_| !self.no_unpack) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "unpacking {} ({})...done", image.name, image.target.digest);
        }
        Ok(screen.show(&text)?)
    }
}

async fn open(path: &Path) -> Outcome<Box<dyn AsyncRead + Send + Unpin>> {
    if path == Path::new("-") {
        return Ok(Box::new(Input::stdin()?));
    }
    match tokio::fs::File::open(path).await {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(Refusal::io(format!("open {}", path.display()), &error).into()),
    }
}

/// What to export.
#[derive(Debug, Args)]
pub struct Export {
    /// Leave out manifest.json, which only docker needs
    #[arg(long)]
    skip_manifest_json: bool,
    /// Leave out layers that must not be distributed
    #[arg(long)]
    skip_non_distributable: bool,
    /// For which platform instead of this machine's; may be repeated
    #[arg(long = "platform", value_name = "PLATFORM", value_parser = Platform::parse)]
    platforms: Vec<Platform>,
    /// For all platforms, all of which must be here
    #[arg(long)]
    all_platforms: bool,
    /// The archive; - is standard output
    #[arg(value_name = "FILE")]
    archive: PathBuf,
    /// The images
    #[arg(value_name = "REF", required = true)]
    images: Vec<String>,
}

impl Export {
    /// Exports the images.
    ///
    /// # Errors
    /// The daemon's refusal, or the archive's error; then no archive is left.
    pub async fn run(self, context: &Context) -> Outcome {
        let call = ExportImages {
            names: self.images.iter().map(|text| parse(text)).collect::<Answer<_>>()?,
            platforms: choice(self.platforms, self.all_platforms),
            skip_docker_manifest: self.skip_manifest_json,
            skip_non_distributable: self.skip_non_distributable,
        };
        let client = context.client().await?;
        // Asked before the file is made, so that a refusal at once leaves an older archive alone.
        let mut items = client.items(call).await?;
        let Some(first) = items.next().await? else {
            return Ok(items.reply().await?);
        };
        let mut archive = Archive::create(&self.archive)?;
        archive.write(&first)?;
        while let Some(bytes) = items.next().await? {
            archive.write(&bytes)?;
        }
        items.reply().await?;
        archive.keep()
    }
}

/// An archive under construction; removed again unless kept.
struct Archive<'a> {
    path: &'a Path,
    file: Option<File>,
    is_kept: bool,
}

impl<'a> Archive<'a> {
    fn create(path: &'a Path) -> Outcome<Self> {
        let file = match path == Path::new("-") {
            true => None,
            false => Some(File::create(path).map_err(|e| Refusal::io(format!("create {}", path.display()), &e))?),
        };
        Ok(Self { path, file, is_kept: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Outcome {
        match &mut self.file {
            Some(file) => file
                .write_all(bytes)
                .map_err(|error| Refusal::io(format!("write {}", self.path.display()), &error).into()),
            None => Ok(io::stdout().lock().write_all(bytes)?),
        }
    }

    fn keep(mut self) -> Outcome {
        self.is_kept = true;
        if self.file.is_none() {
            io::stdout().lock().flush()?;
        }
        Ok(())
    }
}

impl Drop for Archive<'_> {
    fn drop(&mut self) {
        // Only a file of our own: what stands for a device or a pipe is not ours to remove.
        let is_file = self.file.as_ref().and_then(|file| file.metadata().ok()).is_some_and(|meta| meta.is_file());
        if !self.is_kept
            && is_file
            && let Err(error) = std::fs::remove_file(self.path)
        {
            warn(Refusal::io(format!("remove {}", self.path.display()), &error));
        }
    }
}
