//! `backup`: a copy of the daemon's metadata, of one moment, while it runs.

use crate::{
    context::Context,
    failure::{Failure, Outcome},
};
use clap::Args;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use wharf_messages::{Refusal, system::BackupMetadata};

/// Where the copy goes.
#[derive(Debug, Args)]
pub struct Backup {
    /// A file that is not there yet, or - for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Backup {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal, or why the file could not be written; then it is not there.
    pub async fn run(self, context: &Context) -> Outcome {
        if self.file == Path::new("-") {
            return write(context, &mut io::stdout().lock()).await;
        }
        if self.file.exists() {
            return Err(Failure::new(format!("{} is there already", self.file.display())));
        }
        let failed = |error: io::Error| Refusal::io(format!("write {}", self.file.display()), &error);
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = self.file.file_name().ok_or_else(|| Failure::new("the file needs a name"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".unfinished");
        let unfinished = folder.join(hidden);
        // It holds what containers' specs hold: secrets, often.
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished).map_err(failed)?;
        let written = async {
            write(context, &mut file).await?;
            file.sync_all().map_err(failed)?;
            fs::rename(&unfinished, &self.file).map_err(failed)?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
            Ok(())
        };
        let written = written.await;
        if written.is_err() {
            // The first error is the one to tell.
            fs::remove_file(&unfinished).ok();
        }
        written
    }
}

async fn write(context: &Context, out: &mut impl Write) -> Outcome {
    let client = context.client().await?;
    let mut chunks = client.items(BackupMetadata {}).await?;
    while let Some(chunk) = chunks.next().await? {
        out.write_all(&chunk)?;
    }
    out.flush()?;
    Ok(chunks.reply().await?)
}
