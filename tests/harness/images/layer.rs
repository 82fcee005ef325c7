//! Layers, entry by entry: also such as no tool would make.

use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use tar::{Builder, EntryType, Header};

/// How a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// The OCI media type of such a layer.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Packs bytes.
    #[must_use]
    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        }
    }
}

/// What an entry of a layer carries beside its content.
#[derive(Debug, Clone)]
pub struct Attributes {
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// Attributes with these permission bits, owned by root.
#[must_use]
pub fn mode(mode: u32) -> Attributes {
    Attributes { mode, owner: (0, 0), mtime: 1_600_000_000, xattrs: Vec::new() }
}

impl Attributes {
    /// Owned by these.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Last changed then, in seconds since the epoch.
    #[must_use]
    pub fn mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// With an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}

/// A layer in the making.
pub struct Layer(Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds a folder.
    #[must_use]
    pub fn folder(self, path: &str, attributes: Attributes) -> Self {
        self.entry(EntryType::Directory, &format!("{path}/"), "", &attributes, b"")
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: &str, attributes: Attributes, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, "", &attributes, content.as_ref())
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, &mode(0o777), b"")
    }

    /// Adds another name of a file that an earlier entry has made.
    ///
    /// The attributes have to be those of that file, as every tool writes them: who applies them again (containerd
    /// does) and who does not (tar does not) come to the same.
    #[must_use]
    pub fn hard_link(self, path: &str, attributes: &Attributes, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, attributes, b"")
    }

    /// Adds a FIFO.
    #[must_use]
    pub fn fifo(self, path: &str, attributes: Attributes) -> Self {
        self.entry(EntryType::Fifo, path, "", &attributes, b"")
    }

    /// Adds a character device.
    #[must_use]
    pub fn device(mut self, path: &str, attributes: Attributes, major: u32, minor: u32) -> Self {
        let mut header = header(EntryType::Char, &attributes, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &b""[..]).unwrap();
        self
    }

    /// Removes what a lower layer has at this path.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let path = match path.rsplit_once('/') {
            Some((folder, name)) => format!("{folder}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.file(&path, mode(0o644), "")
    }

    /// Hides all that lower layers have in this folder.
    #[must_use]
    pub fn opaque(self, folder: &str) -> Self {
        self.file(&format!("{folder}/.wh..wh..opq"), mode(0o644), "")
    }

    /// Adds a file under a name that is written as it stands, however wrong it is.
    #[must_use]
    pub fn hostile_file(mut self, path: &str, content: &str) -> Self {
        let mut header = header(EntryType::Regular, &mode(0o644), content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, content.as_bytes()).unwrap();
        self
    }

    /// Adds a hard link to a target that is written as it stands.
    #[must_use]
    pub fn hostile_link(mut self, path: &str, target: &str) -> Self {
        let mut header = header(EntryType::Link, &mode(0o644), 0);
        header.set_path(path).unwrap();
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    fn entry(mut self, kind: EntryType, path: &str, target: &str, attributes: &Attributes, content: &[u8]) -> Self {
        let xattrs: Vec<_> =
            attributes.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice())).collect();
        if !xattrs.is_empty() {
            self.0.append_pax_extensions(xattrs.iter().map(|(name, value)| (name.as_str(), *value))).unwrap();
        }
        let mut header = header(kind, attributes, content.len() as u64);
        if target.is_empty() {
            self.0.append_data(&mut header, path, content).unwrap();
        } else {
            self.0.append_link(&mut header, path, target).unwrap();
        }
        self
    }

    /// The finished archive.
    #[must_use]
    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn header(kind: EntryType, attributes: &Attributes, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(attributes.mode);
    header.set_uid(attributes.owner.0);
    header.set_gid(attributes.owner.1);
    header.set_mtime(attributes.mtime);
    header.set_size(size);
    header
}
