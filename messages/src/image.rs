//! Images: names that point to manifests, and how they get here.

use crate::{Descriptor, Digest, ImageName, Labels, Platform, SnapshotterName, Timestamp};
use serde::{Deserialize, Serialize};

/// An image as it is kept: a name for a manifest or an index in the content store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name; usually a reference.
    pub name: ImageName,
    /// The manifest or index it names.
    pub target: Descriptor,
    /// Its labels.
    pub labels: Labels,
    /// When it was made; set by the daemon.
    pub created_at: Timestamp,
    /// When it was last changed; set by the daemon.
    pub updated_at: Timestamp,
}

/// Names a target. Refused with `AlreadyExists`, or `InvalidArgument` for a target without digest, type or size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateImage {
    /// Its name.
    pub name: ImageName,
    /// What it names.
    pub target: Descriptor,
    /// Its labels.
    pub labels: Labels,
}

/// Changes an image. Refused with `NotFound`, or `InvalidArgument` for an unknown path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateImage {
    /// Its name.
    pub name: ImageName,
    /// The new target, if the mask takes it.
    pub target: Descriptor,
    /// The new labels, if the mask takes them.
    pub labels: Labels,
    /// `labels`, `labels.KEY`, `target`, `annotations`, `annotations.KEY`; empty replaces all.
    pub mask: Vec<String>,
}

/// Forgets a name. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteImage {
    /// Its name.
    pub name: ImageName,
    /// Whether to answer only after the content that nothing else holds is gone.
    pub sync: bool,
}

/// Reads one image. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetImage {
    /// Its name.
    pub name: ImageName,
}

/// Reads images, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListImages {
    /// containerd filters on `name`, `target.digest`, `target.mediatype`, `labels`, `annotations`.
    pub filters: Vec<String>,
}

/// An image with what a listing shows beside its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSummary {
    /// The row.
    pub image: Image,
    /// Sum of the sizes of all blobs it needs (all platforms present here).
    pub size_bytes: u64,
    /// The platforms it can run on, as far as its manifests are here.
    pub platforms: Vec<Platform>,
    /// Blobs that are not here, if any.
    pub missing: Vec<Digest>,
}

/// Reads images with size and platforms in one call (containerd's clients need several calls an image for that).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SummarizeImages {
    /// As in [`ListImages`].
    pub filters: Vec<String>,
}

/// What one platform's image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedImage {
    /// The row.
    pub image: Image,
    /// The manifest chosen.
    pub manifest: Descriptor,
    /// Its config blob.
    pub config: Descriptor,
    /// The config itself: an OCI image config as JSON, at most 4 MiB.
    #[serde(with = "crate::bytes")]
    pub config_json: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The name of the unpacked whole: OCI chain id of all layers.
    pub chain_id: Digest,
    /// Whether the snapshotter asked about has it unpacked.
    pub unpacked: bool,
}

/// Chooses the manifest for a platform and reads its config. Refused with `NotFound` for the image, the platform or a
/// blob that is not here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResolveImage {
    /// Its name.
    pub name: ImageName,
    /// For which platform; none means this machine's.
    pub platform: Option<Platform>,
    /// Where to look for the unpacked layers; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
}

/// How to talk to a registry for one request; what is not set comes from the daemon's configuration.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegistryOptions {
    /// Plain HTTP instead of TLS.
    pub plain_http: bool,
    /// Accept any certificate.
    pub skip_verify: bool,
    /// Name and secret; a name without a secret is a bearer refresh token.
    pub user: Option<(String, String)>,
    /// A hosts.toml folder instead of the configured ones.
    pub hosts_dir: Option<String>,
    /// Trusted roots, PEM.
    pub tls_ca_pem: Option<Vec<u8>>,
    /// Client certificate and key, PEM.
    pub tls_client_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// Log requests and responses with their headers, secrets left out.
    pub http_dump: bool,
}

impl std::fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets stay out of logs and traces.
        f.debug_struct("RegistryOptions")
            .field("plain_http", &self.plain_http)
            .field("skip_verify", &self.skip_verify)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("hosts_dir", &self.hosts_dir)
            .finish_non_exhaustive()
    }
}

/// Which platforms of an index to take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PlatformChoice {
    /// The best for this machine.
    #[default]
    Host,
    /// The best for each of these.
    These(Vec<Platform>),
    /// Every one.
    All,
}

/// Fetches an image from its registry, names it and unpacks it. A second pull of the same name joins the first.
///
/// Items: [`Progress`]. Refused with `InvalidArgument` for the reference, `NotFound`, `Unauthenticated`,
/// `Unavailable` from the registry, `DataLoss` for a digest that does not match, `Canceled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullImage {
    /// A fully spelt reference; it becomes the image's name.
    pub reference: String,
    /// Which platforms.
    pub platforms: PlatformChoice,
    /// Fetch manifests of other platforms too, without their layers.
    pub all_metadata: bool,
    /// Labels for the image.
    pub labels: Labels,
    /// Whether to unpack (not only fetch).
    pub unpack: bool,
    /// Whether to name an image at the end (`content fetch` names one too; `false` leaves only content).
    pub name_image: bool,
    /// Where to unpack; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
    /// Blobs fetched at once, 1 to 64; 0 means the daemon's default (3).
    pub max_concurrent_downloads: u32,
    /// How to talk to the registry.
    pub registry: RegistryOptions,
}

/// What a push sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PushSource {
    /// An image's target.
    Image(ImageName),
    /// A manifest or index of the content store that need not have a name.
    Content(Descriptor),
    /// Any blob of the content store, without what it points to.
    Object(Descriptor),
}

/// Sends an image to its registry: what is below it first, what is there already not at all. Answers what the
/// reference names then.
///
/// Items: [`Progress`]. Refused with `NotFound` for the image, its platform or a blob that is not here, and by the
/// registry as [`PullImage`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushImage {
    /// What to send.
    pub source: PushSource,
    /// A fully spelt reference: where to, and under which tag.
    pub reference: String,
    /// Of an index, only the manifest for this platform; none sends all of it.
    pub platform: Option<Platform>,
    /// Send layers that must not be distributed, too.
    pub allow_non_distributable: bool,
    /// Blobs sent at once, 1 to 64; 0 means the daemon's default for pulls.
    pub max_concurrent_uploads: u32,
    /// How to talk to the registry.
    pub registry: RegistryOptions,
}

/// Reads what a reference names from its registry; nothing is kept. Items: its bytes. Answers what it is, once they have
/// been checked against its digest.
///
/// Refused as [`PullImage`] is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchObject {
    /// A fully spelt reference: to a tag, or to the digest of any blob.
    pub reference: String,
    /// How to talk to the registry.
    pub registry: RegistryOptions,
}

/// Names an image that is another one in another form; what has that form already is shared. Answers the new image.
///
/// Refused with `NotFound` for the image, for platforms that its index has not, and for a blob that is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertImage {
    /// The image.
    pub source: ImageName,
    /// The new image's name; whatever has it gives it up.
    pub target: ImageName,
    /// Of an index, the manifests for these.
    pub platforms: PlatformChoice,
    /// Store layers as plain tars.
    pub uncompress: bool,
    /// Say OCI's media types instead of Docker's.
    pub oci: bool,
}

/// Puts an image's programs (and libraries) into a folder of the host: what is in `bin` (and `lib`) of its layers.
/// Answers the folder.
///
/// Refused with `NotFound` as [`ResolveImage`] is, `AlreadyExists` for a file that is there and must not be replaced,
/// and as [`crate::snapshot::ApplyDiff`] is; what was written before stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallImage {
    /// The image; its manifest for this machine.
    pub name: ImageName,
    /// An absolute path; none means the daemon's folder for installed programs.
    pub path: Option<String>,
    /// Libraries too.
    pub libraries: bool,
    /// Replace what is there.
    pub replace: bool,
}

/// Unpacks an image's layers. Items: [`Progress`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnpackImage {
    /// Its name.
    pub name: ImageName,
    /// For which platform; none means this machine's.
    pub platform: Option<Platform>,
    /// Where; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
}

/// Reads images from a docker-save archive or an OCI layout in a tar (uploaded as the call's bytes). Items: [`Progress`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ImportImages {
    /// Prefix for images whose archive only knows a tag; none means `import-YYYY-MM-DD`.
    pub base_name: Option<String>,
    /// Also name each image `base@digest`.
    pub digests: bool,
    /// With `digests`: not for those that have a name.
    pub skip_digest_for_named: bool,
    /// Name the whole archive's index.
    pub index_name: Option<ImageName>,
    /// Keep manifests of platforms that are not this machine's (`None` takes the host's only, as `ctr` does).
    pub platforms: PlatformChoice,
    /// Whether to unpack.
    pub unpack: bool,
    /// Store docker save's layers, which are plain tars, compressed.
    pub compress: bool,
    /// Where to unpack; none means the namespace's default.
    pub snapshotter: Option<SnapshotterName>,
}

/// Writes images as an OCI layout that `docker load` reads too. Items: bytes of the tar.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExportImages {
    /// Their names.
    pub names: Vec<ImageName>,
    /// Which platforms.
    pub platforms: PlatformChoice,
    /// Leave out docker's `manifest.json`.
    pub skip_docker_manifest: bool,
    /// Leave out layers that must not be distributed.
    pub skip_non_distributable: bool,
}

/// What a part of a pull or import is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProgressState {
    /// The reference is being looked up.
    Resolving,
    /// The reference is known.
    Resolved,
    /// Queued behind others.
    Waiting,
    /// Bytes are coming.
    Downloading,
    /// All bytes are here and verified.
    Done,
    /// It was here before.
    Exists,
    /// Being decompressed and written out.
    Unpacking,
    /// Unpacked.
    Unpacked,
    /// Bytes are being sent.
    Uploading,
}

/// One line of a pull's progress; the latest for a `reference` replaces the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it is about: the image's name or `layer-sha256:...`, `config-...`, `manifest-...`, `index-...`.
    pub reference: String,
    /// What it is doing.
    pub state: ProgressState,
    /// Bytes done.
    pub offset_bytes: u64,
    /// Bytes in all; 0 if not known.
    pub total_bytes: u64,
    /// The blob or, while unpacking, the manifest.
    pub digest: Option<Digest>,
    /// Whose, while unpacking.
    pub platform: Option<Platform>,
}
