//! OCI image layouts on disk, written blob by blob.

use super::layer::{Layer, Packing};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// `sha256:` and the hexadecimal digest of these bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// This machine's architecture as images name it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A layer as it is stored.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The digest of its archive before packing.
    pub diff_id: String,
}

/// An image in the making.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Blob>,
    /// The config's `config`: what to run and how.
    run: Value,
    platform: (String, Option<String>),
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

impl Image {
    /// An image without layers and without a command, for this machine.
    #[must_use]
    pub fn new() -> Self {
        let run = json!({ "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] });
        Self { layers: Vec::new(), run, platform: (architecture().to_owned(), None) }
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(self, layer: Layer, packing: Packing) -> Self {
        let tar = layer.tar();
        let blob =
            Blob { media_type: packing.media_type().to_owned(), bytes: packing.pack(&tar), diff_id: digest(&tar) };
        self.blob(blob)
    }

    /// Adds a layer as it is, whether it fits its own description or not.
    #[must_use]
    pub fn blob(mut self, blob: Blob) -> Self {
        self.layers.push(blob);
        self
    }

    /// Sets a field of the config's `config`: `Cmd`, `Entrypoint`, `User`, `WorkingDir`, ...
    #[must_use]
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.run[key] = value;
        self
    }

    /// Sets the architecture and variant.
    #[must_use]
    pub fn platform(mut self, architecture: &str, variant: Option<&str>) -> Self {
        self.platform = (architecture.to_owned(), variant.map(str::to_owned));
        self
    }
}

/// A folder in OCI layout.
#[derive(Debug, Clone)]
pub struct Layout(PathBuf);

impl Layout {
    /// Makes an empty one.
    #[must_use]
    pub fn create(path: &Path) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self(path.to_path_buf());
        layout.write_index(&json!({ "schemaVersion": 2, "manifests": [] }));
        layout
    }

    /// Takes one that is there.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        assert!(path.join("index.json").is_file(), "{} is no OCI layout", path.display());
        Self(path)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a blob.
    #[must_use]
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.0.join("blobs").join(digest.replace(':', "/"))
    }

    /// Reads a blob, if it is there.
    #[must_use]
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        fs::read(self.blob_path(digest)).ok()
    }

    /// Reads a blob of JSON.
    #[must_use]
    pub fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(&self.blob(digest).unwrap()).unwrap()
    }

    /// Adds an image under a tag; gives its manifest's descriptor.
    #[must_use]
    pub fn add(&self, tag: &str, image: &Image) -> Value {
        let descriptor = self.write_image(image);
        self.tag(tag, &descriptor);
        descriptor
    }

    /// Adds an index of images under a tag; gives its descriptor.
    #[must_use]
    pub fn add_index(&self, tag: &str, images: &[Image]) -> Value {
        let manifests: Vec<_> = images.iter().map(|image| self.write_image(image)).collect();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        let descriptor = self.write(media_type, &serde_json::to_vec(&index).unwrap());
        self.tag(tag, &descriptor);
        descriptor
    }

    /// Stores bytes; gives their descriptor.
    #[must_use]
    pub fn write(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// The descriptor that a tag names.
    ///
    /// # Panics
    /// If there is no such tag.
    #[must_use]
    pub fn descriptor(&self, tag: &str) -> Value {
        let index = self.read_index();
        let named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
        index["manifests"].as_array().unwrap().iter().find(named).expect("the tag is in the layout").clone()
    }

    /// The digest that a tag names.
    #[must_use]
    pub fn digest(&self, tag: &str) -> String {
        self.descriptor(tag)["digest"].as_str().unwrap().to_owned()
    }

    /// The digests of the layers of the image (no index) that a tag names, lowest first.
    #[must_use]
    pub fn layers(&self, tag: &str) -> Vec<String> {
        let manifest = self.json(&self.digest(tag));
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
    }

    /// Packs it into one file.
    pub fn archive(&self, path: &Path) {
        crate::command::tool("tar", ["-cf", path.to_str().unwrap(), "-C", self.0.to_str().unwrap(), "."]);
    }

    fn write_image(&self, image: &Image) -> Value {
        let layers: Vec<_> = image.layers.iter().map(|layer| self.write(&layer.media_type, &layer.bytes)).collect();
        let diff_ids: Vec<_> = image.layers.iter().map(|layer| &layer.diff_id).collect();
        let mut platform = json!({ "architecture": image.platform.0, "os": "linux" });
        if let Some(variant) = &image.platform.1 {
            platform["variant"] = json!(variant);
        }
        let mut config = platform.clone();
        config["config"] = image.run.clone();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        config["created"] = json!("2020-09-13T12:26:40Z");
        let config = self.write("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config).unwrap());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let mut descriptor = self.write(media_type, &serde_json::to_vec(&manifest).unwrap());
        descriptor["platform"] = platform;
        descriptor
    }

    fn tag(&self, tag: &str, descriptor: &Value) {
        let mut named = descriptor.clone();
        named["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let mut index = self.read_index();
        index["manifests"].as_array_mut().unwrap().push(named);
        self.write_index(&index);
    }

    fn read_index(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.join("index.json")).unwrap()).unwrap()
    }

    fn write_index(&self, index: &Value) {
        fs::write(self.0.join("index.json"), serde_json::to_vec(index).unwrap()).unwrap();
    }
}
