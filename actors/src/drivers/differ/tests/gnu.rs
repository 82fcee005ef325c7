//! GNU tar as the judge: the same archive, extracted by both, is the same tree.

use super::{archive::gzip, *};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};
use std::{
    os::unix::fs::{PermissionsExt, chown, symlink},
    process::Command,
};

fn tar(arguments: &[&str]) {
    let output = Command::new("tar").args(arguments).output().unwrap();
    assert!(output.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A tree with one of everything.
fn everything(root: &Path) {
    let long = "long".repeat(60);
    let deep = root.join(&long).join(&long).join("deep");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "deep").unwrap();
    fs::create_dir(root.join("sticky")).unwrap();
    fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o3777)).unwrap();
    fs::write(root.join("suid"), vec![1; 100_000]).unwrap();
    chown(root.join("suid"), Some(1234), Some(5678)).unwrap();
    fs::set_permissions(root.join("suid"), fs::Permissions::from_mode(0o6755)).unwrap();
    // CAP_NET_RAW, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fs::write(root.join("ping"), "ping").unwrap();
    chown(root.join("ping"), Some(0), Some(3_000_000)).unwrap();
    lsetxattr(root.join("ping"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    lsetxattr(root.join("ping"), "user.note", b"a=b\n\0c", XattrFlags::empty()).unwrap();
    fs::hard_link(root.join("ping"), root.join("sticky/pong")).unwrap();
    symlink("../nowhere", root.join("sticky/link")).unwrap();
    symlink(&long, root.join("long-link")).unwrap();
    fs::write(root.join("na\u{ef}ve \u{1f41b}\n"), "").unwrap();
    let node = |name: &str, kind, device| {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    node("pipe", FileType::Fifo, 0);
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    for n in 0..60u64 {
        rustix::io::pwrite(&sparse, &[7; 5000], n * 700_000).unwrap();
    }
    fs::File::create(root.join("hole")).unwrap().set_len(10 << 20).unwrap();
    let old =
        fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789));
    for name in ["suid", "sticky", "ping"] {
        fs::File::open(root.join(name)).unwrap().set_times(old).unwrap();
    }
}

/// Packs with GNU tar, extracts with both, compares.
pub(super) fn agree(source: &Path, options: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (archive, theirs, ours) = (dir.path().join("a.tar"), dir.path().join("theirs"), dir.path().join("ours"));
    fs::create_dir(&theirs).unwrap();
    fs::create_dir(&ours).unwrap();
    let mut pack = vec!["-C", source.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "--numeric-owner"];
    pack.extend(options);
    pack.push(".");
    tar(&pack);
    let all = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner"];
    let unpack = ["-C", theirs.to_str().unwrap(), "-xpf", archive.to_str().unwrap()];
    tar(&[&unpack[..], &all[..]].concat());
    let plain = fs::read(&archive).unwrap();
    let applied = apply_to(&gzip(&plain), &ours).unwrap();
    assert_eq!(applied.diff_id, sha256(&plain));
    let (theirs_listed, ours_listed) = (listing(&theirs), listing(&ours));
    for (path, seen) in &theirs_listed {
        assert_eq!(Some(seen), ours_listed.get(path), "{options:?}: {path}");
    }
    assert_eq!(theirs_listed.len(), ours_listed.len());
    for name in ["sparse", "hole"] {
        if let Ok(meta) = fs::metadata(theirs.join(name)) {
            let mine = fs::metadata(ours.join(name)).unwrap();
            assert!(mine.blocks() <= meta.blocks() + 64, "{options:?}: {name} has {} blocks", mine.blocks());
        }
    }
}

#[test]
fn every_format_of_gnu_tar_extracts_the_same() {
    let dir = tempfile::tempdir().unwrap();
    everything(dir.path());
    let attributes = ["--xattrs", "--xattrs-include=*"];
    for format in [
        &["--format=posix"][..],
        &["--format=posix", "--sparse"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        agree(dir.path(), &[format, &attributes[..]].concat());
    }
    for format in [&["--format=gnu"][..], &["--format=gnu", "--sparse"], &["--format=oldgnu", "--sparse"]] {
        agree(dir.path(), format);
    }
}

#[test]
fn a_real_tree_extracts_the_same() {
    // Whatever this machine has there: programs, links, setuid.
    agree(Path::new("/usr/sbin"), &["--format=gnu"]);
    agree(Path::new("/usr/share/perl5"), &["--format=posix"]);
}
