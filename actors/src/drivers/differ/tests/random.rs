//! Random trees: GNU tar and the differ agree, and a layer that was made leads from one to another.

use super::*;
use proptest::prelude::*;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

/// One thing that happens to a tree; what cannot happen does not.
#[derive(Debug, Clone)]
enum Step {
    File(String, Vec<u8>, u32),
    Hole(String, u32),
    Folder(String, u32),
    Link(String, String),
    HardLink(String, String),
    Remove(String),
    Owner(String, u32, u32),
    Attribute(String, Vec<u8>),
    Time(String, i64, u32),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => "[abc]",
        1 => "[a-z]{90,110}",
        1 => "\\PC{1,20}".prop_filter("a name", |n| !n.contains('/') && n != "." && n != ".." && !n.starts_with(".wh.")),
    ];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..1500);
    prop_oneof![
        4 => (path(), bytes(), 0u32..0o10000).prop_map(|(p, b, m)| Step::File(p, b, m)),
        1 => (path(), 1u32..20_000_000).prop_map(|(p, n)| Step::Hole(p, n)),
        3 => (path(), 0o700u32..0o10000).prop_map(|(p, m)| Step::Folder(p, m)),
        1 => (path(), path()).prop_map(|(p, to)| Step::Link(p, to)),
        2 => (path(), path()).prop_map(|(p, to)| Step::HardLink(p, to)),
        2 => path().prop_map(Step::Remove),
        1 => (path(), 0u32..3_000_000, 0u32..3_000_000).prop_map(|(p, u, g)| Step::Owner(p, u, g)),
        1 => (path(), bytes()).prop_map(|(p, b)| Step::Attribute(p, b)),
        2 => (path(), 0i64..4_000_000_000, 0u32..1_000_000_000).prop_map(|(p, s, n)| Step::Time(p, s, n)),
    ]
}

fn take(root: &Path, step: &Step) -> io::Result<()> {
    let at = |path: &str| root.join(path);
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    match step {
        Step::File(path, bytes, bits) => fs::write(at(path), bytes).and_then(|()| mode(&at(path), *bits)),
        Step::Hole(path, length) => {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(at(path))?;
            file.set_len(u64::from(*length))?;
            rustix::io::pwrite(&file, b"middle", u64::from(*length) / 2).map(|_| ()).map_err(Into::into)
        }
        Step::Folder(path, bits) => fs::create_dir_all(at(path)).and_then(|()| mode(&at(path), *bits | 0o700)),
        Step::Link(path, to) => symlink(to, at(path)),
        Step::HardLink(path, to) => fs::hard_link(at(to), at(path)),
        Step::Remove(path) => crate::drivers::files::remove_tree(&at(path)),
        Step::Owner(path, uid, gid) => chown(at(path), Some(*uid), Some(*gid)),
        Step::Attribute(path, value) => {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(at(path), "user.random", value, flags).map_err(Into::into)
        }
        Step::Time(path, seconds, nanos) => {
            let time = rustix::fs::Timespec { tv_sec: *seconds, tv_nsec: i64::from(*nanos) };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, at(path), &times, nofollow).map_err(Into::into)
        }
    }
}

/// Does what can be done; most random steps name something that is not there.
fn take_all(root: &Path, steps: &[Step]) -> usize {
    steps.iter().filter(|step| take(root, step).is_ok()).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_extract_as_gnu_tar_does(steps in prop::collection::vec(step(), 1..60), format in 0usize..6) {
        let dir = tempfile::tempdir().unwrap();
        take_all(dir.path(), &steps);
        let posix = ["--format=posix", "--xattrs", "--xattrs-include=*"];
        let options = match format {
            0 => vec!["--format=gnu"],
            1 => vec!["--format=gnu", "--sparse"],
            2 => posix.to_vec(),
            3 => [&posix[..], &["--sparse", "--sparse-version=0.0"]].concat(),
            4 => [&posix[..], &["--sparse", "--sparse-version=0.1"]].concat(),
            _ => [&posix[..], &["--sparse"]].concat(),
        };
        gnu::agree(dir.path(), &options);
    }

    #[test]
    fn a_random_change_made_a_layer_leads_to_the_same_tree(
        before in prop::collection::vec(step(), 1..60),
        after in prop::collection::vec(step(), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        fs::create_dir(&lower).unwrap();
        take_all(&lower, &before);
        crate::drivers::files::copy_tree(&lower, &upper).unwrap();
        prop_assert_eq!(listing(&lower), listing(&upper), "a copy is the same");
        take_all(&upper, &after);
        let mut layer = Vec::new();
        let options = DiffOptions::default();
        diff(&bind(&lower), &bind(&upper), &mut layer, Compression::None, &options, &|| false).unwrap();
        apply_to(&layer, &lower).unwrap();
        let (mut got, mut wanted) = (listing(&lower), listing(&upper));
        got.remove("");
        wanted.remove("");
        prop_assert_eq!(got, wanted);
    }
}
