//! Layers to files and back: applying a layer's changes to a place, and packing the changes between two places.
//!
//! ```text
//!   reader --(inflate: a thread)--> chunks --(hash)--> tar --> extract --> folder
//!            gzip, zstd, plain                                   |
//!                                          nothing leaves the folder's root, whatever the archive says
//! ```
//!
//! # Spec
//! OCI image specification 1.1, layer.md (changesets, whiteouts); containerd `archive.Apply` and `diff/apply` for what
//! that leaves open; kernel `filesystems/overlayfs.rst` for whiteouts and opaque folders on disk.

mod changes;
mod extract;
mod inflate;
mod make;
mod tar;
mod target;
mod tree;
mod whiteout;

#[cfg(test)]
mod tests;

pub use make::{DiffOptions, Diffed, diff};
pub(crate) use tree::{below, is_opaque};
pub(crate) use whiteout::hide_root;

use crate::drivers::mount::TempMount;
use inflate::Inflated;
use std::{
    io::{self, BufRead, Read, Write},
    path::PathBuf,
};
use target::Target;
use wharf_messages::{Answer, Digest, Mount, Refusal, descriptor::media_type::Compression};

/// Marks a folder that a layer did not list but needed: it has to look as in the layers below, once they are known.
pub(crate) const IMPLIED_XATTR: &str = "trusted.wharf.implied";

/// What an archive may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyLimits {
    /// Members of one layer.
    pub entries: u64,
    /// The length of all its files, holes counted.
    pub total_bytes: u64,
    /// The length of one file, holes counted.
    pub file_bytes: u64,
    /// The extended attributes of one member.
    pub xattr_bytes: usize,
    /// The length of a path.
    pub path_bytes: usize,
    /// The components of a path.
    pub path_depth: usize,
    /// The length of one extended header.
    pub header_bytes: u64,
    /// The parts of one sparse file.
    pub fragments: usize,
}

impl Default for ApplyLimits {
    /// Far beyond what honest layers have, and below what would hurt.
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            total_bytes: 1 << 40,
            file_bytes: 256 << 30,
            xattr_bytes: 256 << 10,
            path_bytes: 4096,
            path_depth: 512,
            header_bytes: 1 << 20,
            fragments: 1 << 20,
        }
    }
}

/// How a layer is applied.
#[derive(Debug, Clone, Default)]
pub struct ApplyOptions {
    /// What the archive may ask for.
    pub limits: ApplyLimits,
    /// Whether the target is a snapshot without parent that gets one when it is committed: whiteouts stay whiteouts
    /// then, and what the layer implies of its parents is marked for the snapshotter's commit.
    pub late_parent: bool,
    /// Whether to wait until it is all on the disk.
    pub sync: bool,
    /// Where to mount what cannot be written to directly; none means the system's folder for temporary files.
    pub scratch: Option<PathBuf>,
    /// Only members right in these folders, by their paths; everything if there are none.
    pub only: Vec<String>,
}

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The length of the uncompressed layer.
    pub size_bytes: u64,
    /// How many members it has.
    pub entries: u64,
}

/// Applies a layer to what `mounts` show. How it is packed is seen by its first bytes, as containerd does; `declared` is
/// what its media type says.
///
/// A single overlay or bind mount is not mounted: its writable folder is written to. On an error the target is left as
/// far as it came: the caller removes the snapshot. The reader is read to its end.
///
/// # Errors
/// `InvalidArgument` for what is no layer or leads out of the target, `DataLoss` for one that is cut or damaged,
/// `ResourceExhausted` beyond the limits and for a full disk, `Canceled`, what the reader says (a [`Refusal`] inside an
/// [`io::Error`] keeps its kind), and what the kernel says; all name the member.
pub fn apply(
    layer: &mut (dyn Read + Send),
    declared: Compression,
    mounts: &[Mount],
    options: &ApplyOptions,
    cancelled: &dyn Fn() -> bool,
) -> Answer<Applied> {
    let mut mounted = None;
    let target = match Target::direct(mounts, options.late_parent)? {
        Some(target) => target,
        None => {
            let scratch = options.scratch.clone().unwrap_or_else(std::env::temp_dir);
            Target::folder(mounted.insert(TempMount::new(mounts, &scratch)?).path())
        }
    };
    let tree = tree::Tree::open(&target)?;
    std::thread::scope(|scope| {
        let input = Inflated::start(scope, layer, declared).map_err(refusal)?;
        let limits = &options.limits;
        let tar_limits = tar::Limits { header_bytes: limits.header_bytes, fragments: limits.fragments };
        let mut extraction = extract::Extraction::new(tree, limits, &options.only, cancelled);
        let mut reader = tar::Reader::new(input, tar_limits);
        extraction.all(&mut reader)?;
        let entries = extraction.finish(options.sync)?;
        let summary = reader.into_inner().finish().map_err(refusal)?;
        Ok(Applied { diff_id: summary.diff_id, size_bytes: summary.size_bytes, entries })
    })
}

/// Writes a layer's uncompressed bytes; answers what they are called. How it is packed is seen by its first bytes.
///
/// # Errors
/// `DataLoss` for one that is cut or damaged, `ResourceExhausted` beyond `total_bytes_max`, `Canceled`, what the reader and
/// the writer say (a [`Refusal`] inside an [`io::Error`] keeps its kind).
pub fn uncompress(
    layer: &mut (dyn Read + Send),
    declared: Compression,
    output: &mut dyn Write,
    total_bytes_max: u64,
    cancelled: &dyn Fn() -> bool,
) -> Answer<Digest> {
    std::thread::scope(|scope| {
        let mut input = Inflated::start(scope, layer, declared).map_err(refusal)?;
        let mut total_bytes = 0_u64;
        loop {
            if cancelled() {
                return Err(Refusal::canceled("uncompress a layer"));
            }
            let piece = input.fill_buf().map_err(refusal)?;
            if piece.is_empty() {
                return Ok(input.finish().map_err(refusal)?.diff_id);
            }
            let length = piece.len();
            total_bytes += length as u64;
            if total_bytes > total_bytes_max {
                return Err(Refusal::resource_exhausted(format!("layer over the limit of {total_bytes_max} bytes")));
            }
            output.write_all(piece).map_err(refusal)?;
            input.consume(length);
        }
    })
}

/// Writes a plain layer in gzip.
///
/// # Errors
/// What the reader and the writer say.
pub fn compress(plain: &mut dyn Read, output: &mut dyn Write) -> Answer<()> {
    let mut encoder = flate2::write::GzEncoder::new(output, flate2::Compression::default());
    io::copy(plain, &mut encoder).and_then(|_| encoder.finish()).map_err(refusal)?;
    Ok(())
}

/// The refusal inside an error of a layer's stream.
pub(crate) fn refusal(error: io::Error) -> Refusal {
    match error.downcast::<Refusal>() {
        Ok(refusal) => refusal,
        Err(error) => Refusal::io("read the layer", &error),
    }
}
