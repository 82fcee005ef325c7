//! Images to test with. Those that take time are made once and kept under `.cache/`, by a key of their recipe.
//!
//! Some are made by the tools that people use (umoci, skopeo, debootstrap), some entry by entry, so that they hold what
//! no tool would put there.

pub mod layer;
pub mod layout;

use crate::{command::tool, paths};
pub use layer::{Layer, Packing, mode};
pub use layout::{Blob, Image, Layout, architecture, digest};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// The tag of every image here.
pub const TAG: &str = "latest";

/// Makes something once: by one process while the others wait, and never seen half made.
fn cached(name: &str, recipe: &[u8], make: impl FnOnce(&Path)) -> PathBuf {
    let folder = paths::cache().join("images");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}-{}", &digest(recipe)[7..19]));
    let lock = fs::File::create(folder.join(format!("{name}.lock"))).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    if !path.exists() {
        let half = folder.join(format!("{name}.half"));
        if half.exists() {
            fs::remove_dir_all(&half).unwrap();
        }
        fs::create_dir(&half).unwrap();
        make(&half);
        fs::rename(&half, &path).unwrap();
    }
    path
}

/// The recipes themselves: a change of them makes everything new.
const RECIPES: &[u8] = concat!(include_str!("mod.rs"), include_str!("layer.rs"), include_str!("layout.rs")).as_bytes();

fn cached_layout(name: &str, make: impl FnOnce(&Path)) -> Layout {
    Layout::at(cached(name, RECIPES, |path| make(&path.join("layout"))).join("layout"))
}

/// A busybox with all its applets, made by umoci from Debian's static binary. Its command is `sh`.
#[must_use]
pub fn busybox() -> Layout {
    cached_layout("busybox", |layout| {
        let work = layout.with_file_name("work");
        umoci_new(layout);
        let image = format!("{}:{TAG}", layout.display());
        tool("umoci", ["unpack", "--image", &image, work.to_str().unwrap()]);
        fill_busybox(&work.join("rootfs"));
        tool("umoci", ["repack", "--image", &image, work.to_str().unwrap()]);
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        tool("umoci", ["config", "--image", &image, "--config.cmd", "sh", "--config.env", path]);
        tool("umoci", ["gc", "--layout", layout.to_str().unwrap()]);
        fs::remove_dir_all(work).unwrap();
    })
}

fn umoci_new(layout: &Path) {
    tool("umoci", ["init", "--layout", layout.to_str().unwrap()]);
    tool("umoci", ["new", "--image", &format!("{}:{TAG}", layout.display())]);
}

/// Writes a root file system with busybox and what programs expect around it.
pub fn fill_busybox(root: &Path) {
    for folder in ["bin", "etc", "root", "home", "var", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(busybox_binary(), root.join("bin/busybox")).unwrap();
    for applet in tool("busybox", "--list").lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nguest:x:1000:\nwheel:x:10:root,guest\n").unwrap();
}

fn busybox_binary() -> PathBuf {
    let path = tool("sh", ["-c", "command -v busybox"]);
    fs::canonicalize(path.trim()).unwrap()
}

/// Three layers made by umoci with changes between them: a file changed, one removed, a folder removed.
#[must_use]
pub fn umoci_layers() -> Layout {
    cached_layout("umoci-layers", |layout| {
        umoci_new(layout);
        let image = format!("{}:{TAG}", layout.display());
        for step in 1..=3 {
            let work = layout.with_file_name(format!("work{step}"));
            tool("umoci", ["unpack", "--image", &image, work.to_str().unwrap()]);
            let root = work.join("rootfs");
            match step {
                1 => {
                    fill_busybox(&root);
                    fs::create_dir_all(root.join("srv/gone")).unwrap();
                    fs::write(root.join("srv/gone/file"), "gone").unwrap();
                    fs::write(root.join("srv/removed"), "removed").unwrap();
                    fs::write(root.join("srv/changed"), "first").unwrap();
                }
                2 => {
                    fs::remove_dir_all(root.join("srv/gone")).unwrap();
                    fs::remove_file(root.join("srv/removed")).unwrap();
                    fs::write(root.join("srv/changed"), "second").unwrap();
                }
                _ => fs::write(root.join("srv/changed"), "third").unwrap(),
            }
            tool("umoci", ["repack", "--image", &image, work.to_str().unwrap()]);
            fs::remove_dir_all(work).unwrap();
        }
        tool("umoci", ["config", "--image", &image, "--config.cmd", "sh"]);
        tool("umoci", ["gc", "--layout", layout.to_str().unwrap()]);
    })
}

/// A Debian root made by debootstrap. The first use on a machine takes a minute and needs Debian's packages.
#[must_use]
pub fn debian() -> Layout {
    let suite = "bookworm";
    let made = cached("debian", suite.as_bytes(), |path| {
        let (layout, root, tar) = (path.join("layout"), path.join("root"), path.join("layer.tar"));
        tool("debootstrap", ["--variant=minbase", suite, root.to_str().unwrap()]);
        // What apt downloaded is of no use in the image.
        for folder in ["var/cache/apt/archives", "var/lib/apt/lists"] {
            fs::remove_dir_all(root.join(folder)).unwrap();
        }
        tool("tar", ["--xattrs", "-cf", tar.to_str().unwrap(), "-C", root.to_str().unwrap(), "."]);
        umoci_new(&layout);
        let image = format!("{}:{TAG}", layout.display());
        tool("umoci", ["raw", "add-layer", "--image", &image, tar.to_str().unwrap()]);
        tool("umoci", ["config", "--image", &image, "--config.cmd", "bash"]);
        tool("umoci", ["gc", "--layout", layout.to_str().unwrap()]);
        fs::remove_dir_all(root).unwrap();
        fs::remove_file(tar).unwrap();
    });
    Layout::at(made.join("layout"))
}

/// Every kind of entry a layer can have, in three layers, packed like this; `/bin/busybox` is in it too.
#[must_use]
pub fn every_entry(packing: Packing) -> Layout {
    cached_layout(&format!("every-entry-{packing:?}").to_lowercase(), |path| {
        let busybox = fs::read(busybox_binary()).unwrap();
        // Revision 2, effective, permitted and inheritable: cap_net_raw+ep.
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let long = "long/".to_owned() + &"x".repeat(90) + "/" + &"y".repeat(120);
        let bottom = Layer::new()
            .folder("bin", mode(0o755))
            .file("bin/busybox", mode(0o755), busybox)
            .symlink("bin/sh", "busybox")
            .file("bin/su", mode(0o4755), "setuid")
            .file("bin/ping", mode(0o755).xattr("security.capability", &capability), "capability")
            .folder("etc", mode(0o755))
            .file("etc/old", mode(0o644), "removed above")
            .file("etc/changed", mode(0o644), "first")
            .folder("hidden", mode(0o755))
            .file("hidden/below", mode(0o644), "hidden above")
            .folder("swapped", mode(0o755))
            .file("swapped/file", mode(0o644), "this folder becomes a file")
            .folder("long", mode(0o755));
        let data = mode(0o640).owner(1000, 10).mtime(1_234_567_890);
        let middle = Layer::new()
            .file("data", data.clone().xattr("user.note", b"kept"), "data")
            .hard_link("data-too", &data, "data")
            .file(&long, mode(0o600), "a long name")
            .folder("sticky", mode(0o1777).owner(1000, 1000))
            .fifo("fifo", mode(0o620))
            .device("null", mode(0o666), 1, 3)
            .symlink("absolute", "/etc/changed")
            .symlink("dangling", "../../../nowhere");
        let top = Layer::new()
            .whiteout("etc/old")
            .file("etc/changed", mode(0o600), "second")
            .opaque("hidden")
            .file("hidden/above", mode(0o644), "seen")
            .whiteout("swapped")
            .file("swapped", mode(0o644), "a file now");
        let image = Image::new().layer(bottom, packing).layer(middle, packing).layer(top, packing);
        let _ = Layout::create(path).add(TAG, &image.config("Cmd", json!(["/bin/sh"])));
    })
}

/// An index of three platforms, this machine's among them; `/platform` tells which one it is.
#[must_use]
pub fn multi_platform() -> Layout {
    cached_layout("multi-platform", |path| {
        let image = |architecture: &str, variant: Option<&str>| {
            let layer = Layer::new()
                .folder("bin", mode(0o755))
                .file("bin/busybox", mode(0o755), fs::read(busybox_binary()).unwrap())
                .symlink("bin/sh", "busybox")
                .symlink("bin/cat", "busybox")
                .file("platform", mode(0o644), architecture);
            Image::new()
                .layer(layer, Packing::Gzip)
                .platform(architecture, variant)
                .config("Cmd", json!(["/bin/cat", "/platform"]))
        };
        let images = [image("amd64", None), image("arm64", Some("v8")), image("s390x", None)];
        let _ = Layout::create(path).add_index(TAG, &images);
    })
}

/// An image that has one text file, no command and nothing to run.
#[must_use]
pub fn without_command() -> Layout {
    cached_layout("without-command", |path| {
        let layer = Layer::new().file("readme", mode(0o644), "nothing to run");
        let _ = Layout::create(path).add(TAG, &Image::new().layer(layer, Packing::Gzip));
    })
}

/// A large image: so many layers of so many megabytes each, half of it compressible, in files of all sizes.
#[must_use]
pub fn large(layers: u32, megabytes_each: usize, packing: Packing) -> Layout {
    cached_layout(&format!("large-{layers}-{megabytes_each}-{packing:?}").to_lowercase(), |path| {
        let mut image = Image::new().config("Cmd", json!(["/bin/sh"]));
        for number in 0..layers {
            image = image.layer(noise(number, megabytes_each << 20), packing);
        }
        let _ = Layout::create(path).add(TAG, &image);
    })
}

/// A layer of files of 100 bytes to 2 MB, the same for the same number.
fn noise(number: u32, size_bytes: usize) -> Layer {
    let top = format!("layer{number}");
    let mut layer = Layer::new().folder(&top, mode(0o755));
    // xorshift64: any sequence that gzip cannot guess will do, as long as it is the same each time.
    let mut state = u64::from(number) * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut written, mut file) = (0, 0);
    while written < size_bytes {
        // Many small files and few large ones, as in a real root file system.
        let length = match next() % 100 {
            0 => 2 << 20,
            1..10 => 128 << 10,
            10..50 => 12 << 10,
            _ => 100 + usize::try_from(next() % 3000).unwrap(),
        };
        let length = length.min(size_bytes - written).max(1);
        let mut content = Vec::with_capacity(length + 64);
        while content.len() < length {
            content.extend_from_slice(&next().to_le_bytes().map(|byte| b'a' + (byte & 15)));
            content.extend_from_slice(b"the same words ");
        }
        content.truncate(length);
        if file % 100 == 0 {
            layer = layer.folder(&format!("{top}/{}", file / 100), mode(0o755));
        }
        layer = layer.file(&format!("{top}/{}/{file}", file / 100), mode(0o644), content);
        written += length;
        file += 1;
    }
    layer
}

/// The image as `docker save` writes it, under a name, by skopeo.
#[must_use]
pub fn docker_archive(layout: &Layout, name: &str) -> PathBuf {
    let key = format!("{}{name}", layout.digest(TAG));
    let made = cached("docker-archive", key.as_bytes(), |path| {
        let from = format!("oci:{}:{TAG}", layout.path().display());
        let to = format!("docker-archive:{}:{name}", path.join("image.tar").display());
        tool("skopeo", ["--insecure-policy", "copy", "--quiet", &from, &to]);
    });
    made.join("image.tar")
}

/// The image's OCI layout in one file.
#[must_use]
pub fn oci_archive(layout: &Layout) -> PathBuf {
    let made = cached("oci-archive", layout.digest(TAG).as_bytes(), |path| layout.archive(&path.join("image.tar")));
    made.join("image.tar")
}
