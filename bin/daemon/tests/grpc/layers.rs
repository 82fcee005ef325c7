//! Layers upon layers, by the mounts that a daemon hands out: what is seen at the top is what the same changes make of a
//! plain folder.

use crate::{
    client::Daemon,
    proto::containerd::types,
    snapshots::{SNAPSHOTTERS, Snapshots},
};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
};
use wharf_client::mount;
use wharf_messages::Mount;

/// Layers that a snapshot may stand on.
const LAYERS: usize = 128;

/// A change.
#[derive(Debug, Clone, Copy)]
enum Do {
    Write(&'static str, &'static str),
    Append(&'static str, &'static str),
    Folder(&'static str),
    Link(&'static str, &'static str),
    Hard(&'static str, &'static str),
    Mode(&'static str, u32),
    Owner(&'static str, u32, u32),
    Rename(&'static str, &'static str),
    Remove(&'static str),
}
use Do::{Append, Folder, Hard, Link, Mode, Owner, Remove, Rename, Write};

impl Do {
    fn to(self, root: &Path) -> io::Result<()> {
        let at = |path: &str| root.join(path);
        match self {
            Write(path, text) => fs::write(at(path), text),
            Append(path, text) => {
                let old = fs::read_to_string(at(path))?;
                fs::write(at(path), old + text)
            }
            Folder(path) => fs::create_dir(at(path)),
            Link(path, target) => symlink(target, at(path)),
            Hard(path, target) => fs::hard_link(at(target), at(path)),
            Mode(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(mode)),
            Owner(path, uid, gid) => chown(at(path), Some(uid), Some(gid)),
            Rename(from, to) => fs::rename(at(from), at(to)),
            Remove(path) if fs::symlink_metadata(at(path))?.is_dir() => fs::remove_dir_all(at(path)),
            Remove(path) => fs::remove_file(at(path)),
        }
    }
}

/// What can be seen of a tree, its root included.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let what = if meta.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "folder".to_owned()
        } else if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else {
            format!("{:?} {} links", fs::read_to_string(&path).unwrap(), meta.nlink())
        };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.insert(name, format!("{:o} {}:{} {what}", meta.mode(), meta.uid(), meta.gid()));
    }
    found
}

/// Mounts what a daemon says, looks, and takes it away again.
fn mounted<T>(mounts: Vec<types::Mount>, look: impl FnOnce(&Path) -> T) -> T {
    let place = tempfile::tempdir().unwrap();
    let mount = |wire: types::Mount| Mount {
        kind: wire.r#type,
        source: wire.source,
        target: wire.target,
        options: wire.options,
    };
    mount::mount(&mounts.into_iter().map(mount).collect::<Vec<_>>(), place.path()).unwrap();
    let guard = Unmount(place.path());
    let seen = look(place.path());
    drop(guard);
    seen
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        mount::unmount(self.0, false).unwrap();
    }
}

/// Chains of layers, each with what it is about.
#[rustfmt::skip]
const CHAINS: &[(&str, &[&[Do]])] = &[
    ("transitivity", &[
        &[Write("a", "1"), Folder("d"), Write("d/x", "1")],
        &[Write("b", "2"), Write("d/y", "2")],
        &[Write("c", "3"), Append("a", "+3"), Remove("d/x")],
        &[],
    ]),
    ("a file changed again and again", &[
        &[Write("f", "1")], &[Write("f", "22")], &[Write("f", "3")], &[Append("f", "4")], &[Write("f", "")],
    ]),
    ("a folder removed and made again", &[
        &[Folder("d"), Write("d/old", "x"), Folder("d/deep"), Write("d/deep/old", "x")],
        &[Remove("d")],
        &[Folder("d"), Write("d/new", "y")],
    ]),
    ("a folder replaced in one layer", &[
        &[Folder("d"), Write("d/old", "x")],
        &[Remove("d"), Folder("d"), Write("d/new", "y")],
    ]),
    ("kinds that change", &[
        &[Write("a", "x"), Folder("b"), Write("b/x", "x"), Link("c", "a")],
        &[Remove("a"), Folder("a"), Remove("b"), Write("b", "file"), Remove("c"), Write("c", "no link")],
    ]),
    ("owners", &[
        &[Write("f", "1"), Folder("d"), Write("d/g", "1")],
        &[Owner("f", 1, 2), Owner("d", 3, 4)],
        &[Write("h", "x"), Owner("d/g", 5, 6)],
    ]),
    ("modes of folders last", &[
        &[Folder("d"), Folder("d/e"), Write("d/e/f", "1")],
        &[Mode("d", 0o700), Mode("d/e", 0o1777)],
        &[Write("d/e/g", "2")],
    ]),
    ("files that move from below", &[
        &[Folder("d"), Folder("e"), Write("d/f", "1"), Write("g", "2")],
        &[Rename("d/f", "e/f"), Rename("g", "d/f")],
        &[Rename("e/f", "g")],
    ]),
    ("folders that move in their own layer", &[
        &[Folder("d"), Write("d/f", "1"), Rename("d", "e"), Folder("d")],
        &[Folder("x"), Write("x/y", "1"), Rename("x", "e/x")],
    ]),
    ("files removed above", &[
        &[Write("a", "1"), Write("b", "2"), Folder("d"), Write("d/c", "3")],
        &[Remove("a"), Remove("d/c")],
        &[Remove("b"), Write("a", "again")],
    ]),
    ("hard links", &[
        &[Write("a", "1"), Hard("b", "a")],
        &[Write("c", "2"), Hard("d", "c")],
    ]),
];

/// containerd's overlayfs hands the root's owner on, and not its mode.
const ROOT: &[&[Do]] = &[&[Mode("", 0o711), Owner("", 7, 8)], &[Write("f", "1")], &[Mode("", 0o750)], &[Folder("d")]];

/// Commits a chain of layers; the name of the top.
async fn stack(s: &mut Snapshots, name: &str, layers: &[&[Do]], model: &Path) -> String {
    let mut parent = String::new();
    for (at, layer) in layers.iter().enumerate() {
        let key = format!("{name} {at}");
        let mounts = s.prepare(&key, &parent).await.unwrap();
        mounted(mounts, |root| layer.iter().for_each(|change| change.to(root).unwrap()));
        layer.iter().for_each(|change| change.to(model).unwrap());
        parent = format!("{key} committed");
        s.commit(&parent, &key).await.unwrap();
        let view = format!("{key} view");
        let seen = mounted(s.view(&view, &parent).await.unwrap(), |root| {
            let refused = fs::write(root.join("new"), "").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem, "a view is read-only");
            listing(root)
        });
        assert_eq!(seen, listing(model), "{name}, after layer {at}");
        s.remove(&view).await.unwrap();
    }
    parent
}

#[tokio::test]
async fn the_top_is_what_all_layers_make() {
    for daemon in Daemon::both() {
        for snapshotter in SNAPSHOTTERS {
            let mut s = Snapshots::of(&daemon, snapshotter).await;
            for (name, layers) in CHAINS {
                let model = tempfile::tempdir().unwrap();
                fs::set_permissions(model.path(), fs::Permissions::from_mode(0o755)).unwrap();
                stack(&mut s, &format!("{} {snapshotter} {name}", daemon.name()), layers, model.path()).await;
            }
            if daemon.name() == "wharf" {
                let model = tempfile::tempdir().unwrap();
                fs::set_permissions(model.path(), fs::Permissions::from_mode(0o755)).unwrap();
                stack(&mut s, &format!("{snapshotter} root"), ROOT, model.path()).await;
            }
        }
    }
}

#[tokio::test]
async fn two_upon_one_do_not_meet() {
    for snapshotter in SNAPSHOTTERS {
        let daemon = Daemon::start();
        let mut s = Snapshots::of(&daemon, snapshotter).await;
        let model = tempfile::tempdir().unwrap();
        fs::set_permissions(model.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let base = stack(&mut s, "base", &[&[Write("f", "base")]], model.path()).await;
        for key in ["one", "two"] {
            mounted(s.prepare(key, &base).await.unwrap(), |root| fs::write(root.join("f"), key).unwrap());
        }
        for key in ["one", "two"] {
            let text = mounted(s.mounts(key).await.unwrap(), |root| fs::read_to_string(root.join("f")).unwrap());
            assert_eq!(text, key);
        }
        let text = mounted(s.view("v", &base).await.unwrap(), |root| fs::read_to_string(root.join("f")).unwrap());
        assert_eq!(text, "base");
    }
}

#[tokio::test]
async fn usage_is_that_of_the_snapshot_alone() {
    for daemon in Daemon::both() {
        for snapshotter in SNAPSHOTTERS {
            let mut s = Snapshots::of(&daemon, snapshotter).await;
            let who = format!("{} {snapshotter}", daemon.name());
            let mounts = s.prepare("a", "").await.unwrap();
            mounted(mounts, |root| fs::write(root.join("f"), vec![1; 1 << 20]).unwrap());
            let (size, inodes) = s.usage("a").await.unwrap();
            // Its folder and the file, and what the file system keeps of them.
            assert!((1 << 20..2 << 20).contains(&size) && inodes == 2, "{who}: {size} {inodes}");
            s.commit("A", "a").await.unwrap();
            assert_eq!(s.usage("A").await.unwrap(), (size, inodes), "{who}");
            s.prepare("b", "A").await.unwrap();
            let own = s.usage("b").await.unwrap();
            // The native one is a copy.
            assert_eq!(own.0 >= 1 << 20, snapshotter == "native", "{who}: {own:?}");
            assert_eq!(s.usage("A").await.unwrap(), (size, inodes), "{who}");
        }
    }
}

#[tokio::test]
async fn many_layers_can_be_mounted() {
    for snapshotter in SNAPSHOTTERS {
        let daemon = Daemon::start();
        let mut s = Snapshots::of(&daemon, snapshotter).await;
        let mut parent = String::new();
        for layer in 0..LAYERS {
            let (key, name) = (format!("a{layer:03}"), format!("c{layer:03}"));
            let mounts = s.prepare(&key, &parent).await.unwrap();
            if layer % 32 == 0 || layer + 1 == LAYERS {
                mounted(mounts, |root| fs::write(root.join(&name), &name).unwrap());
            }
            s.commit(&name, &key).await.unwrap();
            parent = name;
        }
        let mut names = mounted(s.prepare("top", &parent).await.unwrap(), |root| {
            fs::write(root.join("top"), "").unwrap();
            listing(root).into_keys().collect::<Vec<_>>()
        });
        names.retain(|name| !name.is_empty());
        assert_eq!(names, ["c000", "c032", "c064", "c096", "c127", "top"]);
        // From the top down, and no other way.
        assert!(s.remove(&parent).await.is_err());
        s.remove("top").await.unwrap();
        s.remove(&parent).await.unwrap();
    }
}
