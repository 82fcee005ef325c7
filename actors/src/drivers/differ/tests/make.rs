//! Making layers: what is packed and applied again is what there was.

use super::*;
use crate::drivers::{mount::TempMount, snapshotter};
use snapshotter::{Native, Overlayfs, Placement, Snapshotter};
use std::{
    os::unix::fs::{PermissionsExt, chown, symlink},
    process::Command,
};
use wharf_messages::snapshot::SnapshotKind::{Active, View};

fn make(lower: &[Mount], upper: &[Mount], compression: Compression) -> (Vec<u8>, Diffed) {
    let mut layer = Vec::new();
    let made = diff(lower, upper, &mut layer, compression, &DiffOptions::default(), &|| false).unwrap();
    (layer, made)
}

fn old(root: &Path) {
    for folder in ["etc", "dir/sub", "gone/deep", "replaced", "opaque/deep", "same"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in ["etc/a", "etc/b", "dir/sub/f", "gone/deep/f", "replaced/f", "opaque/deep/f", "same/f", "touched"] {
        fs::write(root.join(file), file).unwrap();
    }
    fs::hard_link(root.join("same/f"), root.join("same/g")).unwrap();
    symlink("etc", root.join("link")).unwrap();
}

fn change(root: &Path) {
    fs::write(root.join("etc/a"), "changed").unwrap();
    fs::remove_file(root.join("etc/b")).unwrap();
    fs::remove_dir_all(root.join("gone")).unwrap();
    fs::remove_dir_all(root.join("replaced")).unwrap();
    fs::write(root.join("replaced"), "a file now").unwrap();
    fs::remove_dir_all(root.join("opaque")).unwrap();
    fs::create_dir(root.join("opaque")).unwrap();
    fs::write(root.join("opaque/new"), "new").unwrap();
    chown(root.join("dir/sub/f"), Some(1000), Some(3_000_000)).unwrap();
    fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o1700)).unwrap();
    fs::write(root.join("new"), "new").unwrap();
    fs::hard_link(root.join("new"), root.join("dir/new-link")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    symlink("nowhere", root.join("link")).unwrap();
    rustix::fs::lsetxattr(root.join("touched"), "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
}

/// Two layers on a snapshotter: what there was, and what changed.
fn two_layers(backend: &dyn Snapshotter, temp: &Path) -> (Vec<Mount>, Vec<Mount>) {
    let first = Placement::new(1, Active, &[]);
    backend.prepare(&first).unwrap();
    old(TempMount::new(&backend.mounts(&first).unwrap(), temp).unwrap().path());
    backend.commit(&first).unwrap();
    let (lower, upper) = (Placement::new(2, View, &[1]), Placement::new(3, Active, &[1]));
    backend.prepare(&lower).unwrap();
    backend.prepare(&upper).unwrap();
    let mounts = backend.mounts(&upper).unwrap();
    change(TempMount::new(&mounts, temp).unwrap().path());
    (backend.mounts(&lower).unwrap(), mounts)
}

#[test]
fn a_layer_that_was_made_and_applied_is_the_same_tree() {
    for overlayfs in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (root, temp) = (dir.path().join("root"), dir.path().join("temp"));
        fs::create_dir(&temp).unwrap();
        let backend: Box<dyn Snapshotter> =
            if overlayfs { Box::new(Overlayfs::open(&root).unwrap()) } else { Box::new(Native::open(&root).unwrap()) };
        let (lower, upper) = two_layers(&*backend, &temp);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let again = tempfile::tempdir().unwrap();
            let (base, _) = make(&[], &lower, compression);
            apply_to(&base, again.path()).unwrap();
            let (layer, made) = make(&lower, &upper, compression);
            let applied = apply_to(&layer, again.path()).unwrap();
            assert_eq!((&applied.diff_id, applied.entries), (&made.diff_id, made.entries));
            let shown = TempMount::new(&upper, &temp).unwrap();
            let mut wanted = listing(shown.path());
            // Sockets are left out; the root's own looks are no part of a layer.
            wanted.remove("socket");
            let mut got = listing(again.path());
            for listing in [&mut wanted, &mut got] {
                listing.remove("");
            }
            assert_eq!(wanted, got, "overlayfs: {overlayfs}");
            assert_eq!(make(&lower, &upper, compression).0, layer, "the same again");
        }
    }
}

#[test]
fn only_what_changed_is_in_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Overlayfs::open(&dir.path().join("root")).unwrap();
    let (lower, upper) = two_layers(&backend, dir.path());
    let shown = TempMount::new(&upper, dir.path()).unwrap();
    let recorded = make(&lower, &upper, Compression::None).0;
    // By another way to the same place, it has to be compared.
    let compared = make(&lower, &bind(shown.path()), Compression::None).0;
    for layer in [recorded, compared] {
        let archive = dir.path().join("layer.tar");
        fs::write(&archive, &layer).unwrap();
        let output = Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut names: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        names.sort();
        names.retain(|name| !name.starts_with("opaque"));
        let expected = [
            ".wh.gone",
            "dir/",
            "dir/new-link",
            "dir/sub/",
            "dir/sub/f",
            "etc/",
            "etc/.wh.b",
            "etc/a",
            "link",
            "new",
            "replaced",
            "touched",
        ];
        assert_eq!(names, expected);
    }
}

#[test]
fn a_new_name_of_an_old_file_stays_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    fs::create_dir(&lower).unwrap();
    old(&lower);
    crate::drivers::files::copy_tree(&lower, &upper).unwrap();
    fs::hard_link(upper.join("same/f"), upper.join("new-name")).unwrap();
    let (layer, made) = make(&bind(&lower), &bind(&upper), Compression::None);
    // The new name, the two old ones, and the folder that has them.
    assert_eq!(made.entries, 4);
    apply_to(&layer, &lower).unwrap();
    let ino = |name: &str| fs::metadata(lower.join(name)).unwrap().ino();
    assert!(ino("new-name") == ino("same/f") && ino("same/f") == ino("same/g"));
}

#[test]
fn times_can_be_bounded() {
    let dir = tempfile::tempdir().unwrap();
    old(dir.path());
    let options = DiffOptions { time_max_seconds: Some(1000), ..DiffOptions::default() };
    let mut layer = Vec::new();
    diff(&[], &bind(dir.path()), &mut layer, Compression::None, &options, &|| false).unwrap();
    let again = tempfile::tempdir().unwrap();
    apply_to(&layer, again.path()).unwrap();
    for (path, _) in listing(again.path()).into_iter().skip(1) {
        assert_eq!(fs::symlink_metadata(again.path().join(&path)).unwrap().mtime(), 1000, "{path}");
    }
}

#[test]
fn who_cancels_a_diff_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    old(dir.path());
    let options = DiffOptions::default();
    let refusal = diff(&[], &bind(dir.path()), &mut io::sink(), Compression::Gzip, &options, &|| true).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Canceled);
}
