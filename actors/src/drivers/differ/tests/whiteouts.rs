//! Whiteouts: on a whole tree by deleting, on overlayfs by what the kernel reads as such.

use super::{
    archive::{Archive, Member},
    *,
};
use crate::drivers::mount::TempMount;
use std::os::unix::fs::FileTypeExt;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn base() -> Vec<u8> {
    Archive::of([
        Member::folder("etc"),
        Member::file("etc/a", "1"),
        Member::file("etc/b", "1"),
        Member::folder("dir").mode(0o2750).owner(5, 6),
        Member::folder("dir/sub"),
        Member::file("dir/sub/old", "1"),
        Member::file("dir/old", "1"),
        Member::folder("gone"),
        Member::file("gone/old", "1"),
        Member::symlink("link", "etc"),
    ])
}

/// Applies layers one over the other, on overlayfs and on a whole tree, and looks at the result.
fn both(layers: &[Vec<u8>], look: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    fs::create_dir(&whole).unwrap();
    let mut uppers: Vec<PathBuf> = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        apply_to(layer, &whole).unwrap();
        let upper = dir.path().join(format!("{n}/fs"));
        fs::create_dir_all(&upper).unwrap();
        let lowers: Vec<&Path> = uppers.iter().map(PathBuf::as_path).collect();
        let mounts = if n == 0 { bind(&upper) } else { overlay(&upper, &lowers) };
        apply_with(layer, &mounts, &ApplyOptions::default()).unwrap();
        uppers.insert(0, upper);
    }
    look(&whole);
    let lowers: Vec<&Path> = uppers[1..].iter().map(PathBuf::as_path).collect();
    let mounts = overlay(&uppers[0], &lowers);
    let mount = TempMount::new(&mounts, dir.path()).unwrap();
    look(mount.path());
}

#[test]
fn names_and_folders_go() {
    let second = Archive::of([
        Member::whiteout("etc/.wh.a"),
        Member::whiteout(".wh.gone"),
        Member::whiteout("dir/.wh..wh..opq"),
        Member::file("dir/new", "2"),
        Member::whiteout(".wh.link"),
        Member::whiteout("etc/.wh.never"),
    ]);
    both(&[base(), second], |root| {
        assert_eq!(names(root), ["dir", "etc"]);
        assert_eq!(names(&root.join("etc")), ["b"]);
        assert_eq!(names(&root.join("dir")), ["new"]);
    });
}

#[test]
fn a_whiteout_does_not_take_what_its_own_layer_brings() {
    let members = [
        vec![Member::folder("dir"), Member::file("dir/new", "2"), Member::folder("dir/sub")],
        vec![Member::file("etc/a", "2")],
    ];
    let opaque = vec![Member::whiteout("dir/.wh..wh..opq"), Member::whiteout("etc/.wh.a")];
    let gone = vec![Member::whiteout(".wh.dir"), Member::whiteout(".wh.etc")];
    for whiteouts in [opaque, gone] {
        for first in [true, false] {
            let mut all: Vec<Member> = members.concat();
            if first {
                all.splice(0..0, whiteouts.clone());
            } else {
                all.extend(whiteouts.clone());
            }
            both(&[base(), Archive::of(all)], |root| {
                assert_eq!(names(&root.join("dir")), ["new", "sub"], "whiteouts first: {first}");
                assert_eq!(names(&root.join("dir/sub")).len(), 0, "whiteouts first: {first}");
                assert_eq!(fs::read(root.join("etc/a")).unwrap(), b"2");
            });
        }
    }
}

#[test]
fn implied_folders_look_as_below() {
    let second = Archive::of([Member::file("dir/sub/new", "2"), Member::file("other/deep/new", "2")]);
    both(&[base(), second], |root| {
        let meta = fs::metadata(root.join("dir")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), (0o2750, 5, 6, 1_600_000_000));
        assert_eq!(fs::metadata(root.join("other")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(names(&root.join("dir/sub")), ["new", "old"]);
    });
}

#[test]
fn a_folder_removed_and_implied_anew_is_empty_below() {
    let second = Archive::of([Member::whiteout(".wh.dir"), Member::file("dir/sub/new", "2")]);
    both(&[base(), second], |root| {
        assert_eq!(names(&root.join("dir")), ["sub"]);
        assert_eq!(names(&root.join("dir/sub")), ["new"]);
    });
}

#[test]
fn an_opaque_root_hides_everything() {
    for first in [true, false] {
        let mut members = vec![Member::file("etc/new", "2"), Member::folder("dir"), Member::file("gone", "2")];
        members.insert(if first { 0 } else { members.len() }, Member::whiteout(".wh..wh..opq"));
        both(&[base(), Archive::of(members)], |root| {
            assert_eq!(names(root), ["dir", "etc", "gone"], "first: {first}");
            assert_eq!(names(&root.join("etc")), ["new"], "first: {first}");
            assert_eq!(names(&root.join("dir")).len(), 0, "first: {first}");
        });
    }
}

#[test]
fn kinds_replace_each_other() {
    let second = Archive::of([
        Member::file("dir", "2"),
        Member::folder("link"),
        Member::file("link/new", "2"),
        Member::symlink("gone", "/etc"),
        Member::folder("etc/a"),
    ]);
    both(&[base(), second], |root| {
        assert_eq!(fs::read(root.join("dir")).unwrap(), b"2");
        assert_eq!(names(&root.join("link")), ["new"]);
        assert!(root.join("gone").is_symlink() && root.join("etc/a").is_dir());
        assert_eq!(names(&root.join("etc")), ["a", "b"]);
    });
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "etc/.wh..."] {
        let dir = tempfile::tempdir().unwrap();
        let refusal = apply_to(&Archive::of([Member::whiteout(name)]), dir.path()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::InvalidArgument, "{name}: {refusal}");
    }
    let dir = tempfile::tempdir().unwrap();
    apply_to(&Archive::of([Member::whiteout(".wh..wh.plnk"), Member::file(".wh..wh.aufs", "")]), dir.path()).unwrap();
    assert_eq!(names(dir.path()).len(), 0);
}

#[test]
fn a_layer_brings_no_records_of_overlayfs() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Archive::default();
    archive.pax(&[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.kept", b"y"),
    ]);
    archive.add(Member::folder("d"));
    apply_to(&archive.end(), dir.path()).unwrap();
    let mut list = vec![0; 1024];
    let length = rustix::fs::llistxattr(dir.path().join("d"), &mut list[..]).unwrap();
    assert_eq!(&list[..length], b"user.kept\0");
}

#[test]
fn without_a_parent_yet_whiteouts_are_kept_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = ApplyOptions { late_parent: true, ..ApplyOptions::default() };
    let layer = Archive::of([Member::whiteout("etc/.wh.a"), Member::folder("listed"), Member::file("dir/new", "2")]);
    apply_with(&layer, &bind(dir.path()), &options).unwrap();
    let meta = fs::symlink_metadata(dir.path().join("etc/a")).unwrap();
    assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
    let marked = |path: &str| rustix::fs::lgetxattr(dir.path().join(path), IMPLIED_XATTR, &mut [0; 8][..]).is_ok();
    assert!(marked("") && marked("etc") && marked("dir") && !marked("listed"));
}
