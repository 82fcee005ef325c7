//! Image archives: an OCI layout in a tar, or what `docker save` writes, read and written as streams.
//!
//! # Spec
//! OCI image specification 1.1, image-layout.md; moby image specification 1.2, "Combined Image JSON + Filesystem
//! Changeset Format"; names as containerd `images/archive` 1.6 gives them.

mod read;
mod write;

pub use read::{Archive, BlobSink, ImageInArchive, read_archive};
pub use write::{BlobSource, DockerParts, ExportedImage, write_archive};

/// The full name of an image, as containerd's export writes it.
pub const IMAGE_NAME_ANNOTATION: &str = "io.containerd.image.name";
/// The tag, or whatever the writer liked.
pub const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// The largest manifest, index or config that is read.
pub const JSON_MAX_BYTES: u64 = 8 << 20;
