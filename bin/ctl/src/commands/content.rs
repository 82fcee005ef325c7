//! `content`: blobs, and blobs under way.

use crate::{
    commands::{
        objects::{FetchObject, PushObject},
        prune::{Prune, explained},
        pull::Fetch,
    },
    context::{Context, parse},
    failure::{Failure, Outcome, Several},
    labels,
    output::{self, table::Table, time::parse_duration, units},
    terminal::Input,
};
use clap::{Args, Subcommand};
use std::{
    io::{Read, Write},
    process::Stdio,
    time::{Duration, SystemTime},
};
use wharf_client::Client;
use wharf_messages::{
    Digest, IngestRef, Labels, RefusalKind, Timestamp,
    content::{
        ContentInfo, DeleteContent, GetContent, IngestStatus, ListContent, ListIngests, ReadContent, UpdateContent,
        WriteContent,
    },
    gc::ExplainGarbage,
};

/// Manage content: blobs and unfinished blobs.
#[derive(Debug, Subcommand)]
pub enum Content {
    /// List unfinished blobs
    Active(Active),
    /// Delete blobs and print the digests of those that are gone
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(Delete),
    /// Open a blob in an editor and print the digest of the result
    Edit(Edit),
    /// Fetch an image's content from its registry without unpacking it
    Fetch(Box<Fetch>),
    /// Write what a reference names in its registry to standard output
    FetchObject(Box<FetchObject>),
    /// Write a blob to standard output
    Get(Get),
    /// Make a blob of standard input
    Ingest(Ingest),
    /// List blobs
    #[command(visible_alias = "ls")]
    List(List),
    /// Push one blob to a registry, without what it points to
    PushObject(Box<PushObject>),
    /// Set labels of a blob; an empty value deletes the label
    Label(Label),
    /// Tell of each thing what keeps it, and which nothing keeps; nothing is deleted
    Explain(Explain),
    /// Delete what nothing keeps, in every namespace, and tell how much space that gave back
    Prune(Prune),
}

/// Which to list.
#[derive(Debug, Args)]
pub struct Active {
    // ctr has both and takes no notice of them.
    #[arg(long = "timeout", short = 't', value_parser = parse_duration, hide = true)]
    _timeout: Option<Duration>,
    #[arg(long = "root", default_value = "/tmp/content", hide = true)]
    _root: String,
    /// Only those that pass this, such as ref~=^layer
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
}

/// Which to delete.
#[derive(Debug, Args)]
pub struct Delete {
    /// Their digests
    #[arg(value_name = "DIGEST")]
    digests: Vec<String>,
}

/// What to edit, and with what.
#[derive(Debug, Args)]
pub struct Edit {
    // Refused, as by ctr.
    #[arg(long, hide = true)]
    validate: Option<String>,
    /// The command that edits a file
    #[arg(long, env = "EDITOR", hide_env_values = true, value_name = "COMMAND")]
    editor: Option<String>,
    /// Its digest
    #[arg(value_name = "DIGEST")]
    digest: String,
}

/// Which to write out.
#[derive(Debug, Args)]
pub struct Get {
    /// Its digest
    #[arg(value_name = "DIGEST")]
    digest: String,
}

/// What the blob must turn out to be.
#[derive(Debug, Args)]
pub struct Ingest {
    /// Refuse any other length; 0 means any
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    expected_size: u64,
    /// Refuse any other digest
    #[arg(long, value_name = "DIGEST")]
    expected_digest: Option<String>,
    /// A name for the blob while it is unfinished
    #[arg(value_name = "KEY")]
    reference: String,
}

/// Which to list, and how.
#[derive(Debug, Args)]
pub struct List {
    /// Print only digests
    #[arg(long, short)]
    quiet: bool,
    /// Only those that pass one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// A blob and labels.
#[derive(Debug, Args)]
pub struct Label {
    /// Its digest
    #[arg(value_name = "DIGEST")]
    digest: String,
    /// KEY alone means KEY=true
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

/// Which to tell of.
#[derive(Debug, Args)]
pub struct Explain {
    /// Only what nothing keeps
    #[arg(long)]
    garbage: bool,
}

impl Content {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Active(active) => active.run(context).await,
            Self::Delete(delete) => delete.run(context).await,
            Self::Edit(edit) => edit.run(context).await,
            Self::Fetch(fetch) => fetch.run(context).await,
            Self::FetchObject(fetch) => fetch.run(context).await,
            Self::PushObject(push) => push.run(context).await,
            Self::Get(get) => {
                let digest = parse(&get.digest)?;
                let client = context.client().await?;
                let mut out = output::stdout();
                write_blob(&client, digest, &mut out).await?;
                Ok(out.flush()?)
            }
            Self::Ingest(ingest) => ingest.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::Label(label) => label.run(context).await,
            Self::Explain(explain) => explain.run(context).await,
            Self::Prune(prune) => prune.run(context).await,
        }
    }
}

/// Writes a blob's bytes.
///
/// # Errors
/// The daemon's refusal, or the writer's error.
pub async fn write_blob(client: &Client, digest: Digest, out: &mut impl Write) -> Outcome {
    let mut chunks = client.items(ReadContent { digest, offset_bytes: 0, size_bytes: 0 }).await?;
    while let Some(chunk) = chunks.next().await? {
        out.write_all(&chunk)?;
    }
    Ok(chunks.reply().await?)
}

impl Active {
    async fn run(self, context: &Context) -> Outcome {
        let filters = self.filter.into_iter().collect();
        let ingests = context.client().await?.call(ListIngests { filters }).await?;
        let mut out = output::stdout();
        active_rows(&ingests, Timestamp::from(SystemTime::now())).write(&mut out)?;
        Ok(out.flush()?)
    }
}

fn active_rows(ingests: &[IngestStatus], now: Timestamp) -> Table {
    let mut table = Table::tabbed();
    table.row(["REF", "SIZE", "AGE"]);
    for ingest in ingests {
        let size = units::decimal_size(ingest.offset_bytes);
        table.row([ingest.reference.as_str(), &size, &units::age(now.since(ingest.started_at))]);
    }
    table
}

impl Delete {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let mut several = Several::default();
        for text in &self.digests {
            let digest = match parse::<Digest>(text) {
                Ok(digest) => digest,
                Err(refusal) => {
                    several.note(Err(refusal.into()));
                    continue;
                }
            };
            match client.call(DeleteContent { digest }).await {
                Ok(()) => output::line(text)?,
                Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
                Err(refusal) => several.note(Err(Failure::from(refusal).context(format!("could not delete {text}")))),
            }
        }
        several.end()
    }
}

impl Edit {
    async fn run(self, context: &Context) -> Outcome {
        if self.validate.is_some_and(|validate| !validate.is_empty()) {
            return Err(Failure::new("validating the edit result not supported"));
        }
        let digest: Digest = parse(&self.digest)?;
        let editor = self.editor.filter(|editor| !editor.is_empty());
        let editor = editor.ok_or_else(|| Failure::new("editor is required"))?;
        let client = context.client().await?;
        let mut original = Vec::new();
        write_blob(&client, digest.clone(), &mut original).await?;
        let mut file = tempfile::NamedTempFile::with_prefix("edit-")?;
        file.write_all(&original)?;
        file.flush()?;
        // A shell, because EDITOR may carry arguments; the file's name is ours and needs no quoting.
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("{editor} {}", file.path().display()))
            .stdin(Stdio::inherit())
            .status()?;
        if !status.success() {
            return Err(Failure::new(format!("editor {editor:?} failed: {status}")));
        }
        // Editors replace files, so what counts is what the name leads to now.
        let mut edited = std::fs::File::open(file.path())?;
        let mut text = Vec::new();
        edited.read_to_end(&mut text)?;
        if text == original {
            return Ok(output::line(digest)?);
        }
        let write = write_call(IngestRef::new(format!("edit-{digest}"))?, 0, None);
        let written = client.upload(write, std::io::Cursor::new(text)).await?;
        match written.digest {
            Some(digest) => Ok(output::line(digest)?),
            None => Err(Failure::new("the daemon did not commit the blob")),
        }
    }
}

fn write_call(reference: IngestRef, total_bytes: u64, expected: Option<Digest>) -> WriteContent {
    WriteContent { reference, offset_bytes: Some(0), total_bytes, expected, commit: true, labels: Labels::new() }
}

impl Ingest {
    async fn run(self, context: &Context) -> Outcome {
        let expected = self.expected_digest.filter(|text| !text.is_empty()).map(Digest::new).transpose()?;
        let write = write_call(parse(&self.reference)?, self.expected_size, expected);
        let client = context.client().await?;
        match client.upload(write, Input::stdin()?).await {
            Ok(_) => Ok(()),
            // The blob that was to be made is here: that is what was asked for.
            Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl List {
    async fn run(self, context: &Context) -> Outcome {
        let blobs = context.client().await?.call(ListContent { filters: self.filters }).await?;
        let mut out = output::stdout();
        if self.quiet {
            blobs.iter().try_for_each(|blob| writeln!(out, "{}", blob.digest))?;
        } else {
            rows(&blobs, Timestamp::from(SystemTime::now())).write(&mut out)?;
        }
        Ok(out.flush()?)
    }
}

fn rows(blobs: &[ContentInfo], now: Timestamp) -> Table {
    let mut table = Table::tabbed();
    table.line(["DIGEST", "SIZE", "AGE", "LABELS"]);
    for blob in blobs {
        table.line([
            blob.digest.as_str(),
            &units::decimal_size(blob.size_bytes),
            &units::age(now.since(blob.created_at)),
            &output::labels_or_dash(&blob.labels),
        ]);
    }
    table
}

impl Label {
    async fn run(self, context: &Context) -> Outcome {
        let digest = parse(&self.digest)?;
        let change = labels::Change::read(&self.labels);
        let client = context.client().await?;
        let info = if change.is_empty() {
            client.call(GetContent { digest }).await?
        } else {
            client.call(UpdateContent { digest, labels: change.labels, mask: change.mask }).await?
        };
        Ok(output::line(output::labels(&info.labels))?)
    }
}

impl Explain {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let mut verdicts = client.items(ExplainGarbage {}).await?;
        let mut table = Table::narrow();
        table.row(["KIND", "NAME", "SIZE", "KEPT", "WHY"]);
        while let Some(verdict) = verdicts.next().await? {
            if !self.garbage || verdict.is_garbage() {
                table.row(explained(&verdict).each_ref().map(String::as_str));
            }
        }
        verdicts.reply().await?;
        let mut out = output::stdout();
        table.write(&mut out)?;
        Ok(out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_ctr() {
        let now = Timestamp::from_parts(1_000_000, 0);
        let blob = |digest: &str, size_bytes, labels: &[&str]| ContentInfo {
            digest: Digest::new(digest).unwrap(),
            size_bytes,
            created_at: Timestamp::from_parts(1_000_000 - 185, 0),
            updated_at: now,
            labels: labels::read(&labels.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>()),
        };
        let config = "sha256:60f67af656f421b73750405bfd40cfa8dcd8623001baa5629606ca8602694adc";
        let layer = "sha256:0dc572239301f2848b23d0459af4da0d578d91f77d8f48bc168d397379f4dc3a";
        let diff = "sha256:91321ffa1d8d08b0d727f1cc425d8f477f0cd8b1259380079fc8c4fa5b9cf952";
        let blobs = [
            blob(layer, 1_084_026, &[&format!("containerd.io/uncompressed={diff}")]),
            blob(config, 430, &[&format!("containerd.io/gc.ref.snapshot.overlayfs={diff}")]),
        ];
        let mut out = Vec::new();
        rows(&blobs, now).write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), include_str!("../../tests/golden/content.txt"));
    }
}
