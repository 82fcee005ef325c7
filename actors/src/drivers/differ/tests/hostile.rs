//! Archives that want out, or too much.

use super::{
    archive::{Archive, Member},
    *,
};

/// A target inside a folder that must stay as it is.
struct Prison {
    dir: tempfile::TempDir,
    before: BTreeMap<String, String>,
}

impl Prison {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        let before = listing(&dir.path().join("outside"));
        Self { dir, before }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Applies a layer; nothing outside may have changed.
    fn apply(&self, layer: &[u8]) -> Answer<Applied> {
        let answer = apply_to(layer, &self.root());
        assert_eq!(listing(&self.dir.path().join("outside")), self.before);
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2);
        answer
    }

    /// The way out from the root, absolute.
    fn outside(&self) -> String {
        self.dir.path().join("outside").to_str().unwrap().to_owned()
    }
}

fn refused(members: Vec<Member>, kind: RefusalKind, says: &str) {
    let prison = Prison::new();
    let refusal = prison.apply(&Archive::of(members)).unwrap_err();
    assert_eq!(refusal.kind, kind, "{refusal}");
    assert!(refusal.to_string().contains(says), "{refusal}");
}

#[test]
fn paths_that_lead_out_are_refused() {
    use RefusalKind::InvalidArgument as Invalid;
    refused(vec![Member::file("../outside/new", "x")], Invalid, "leads out");
    refused(vec![Member::file("a/../../outside/new", "x")], Invalid, "leads out");
    refused(vec![Member::folder("..")], Invalid, "leads out");
    refused(vec![Member::file("../outside/.wh.secret", "")], Invalid, "leads out");
    refused(vec![Member::hard_link("a", "../outside/secret")], Invalid, "leads out");
    refused(vec![Member::hard_link("a", "/")], Invalid, "hard link to the root");
    refused(vec![Member::hard_link("a", "missing")], Invalid, "\"missing\", which is not there");
    refused(vec![Member::hard_link("a", "no/such/folder")], Invalid, "which is not there");
    refused(vec![Member::file("/", "x")], Invalid, "root can only be a folder");
    refused(vec![Member::symlink("a", "")], Invalid, "link to nothing");
    refused(vec![Member::file("a", ""), Member::file("a/b", "")], Invalid, "\"a\" is no folder");
    refused(
        vec![Member::symlink("a", "b"), Member::symlink("b", "a"), Member::file("a/x", "")],
        Invalid,
        "is no folder",
    );
}

#[test]
fn paths_that_only_look_like_it_stay_inside() {
    let prison = Prison::new();
    let layer = Archive::of([
        Member::file("/absolute", "x"),
        Member::file("./a//./b/../c", "x"),
        Member::folder("./"),
        Member::file("..a/..", ""),
    ]);
    // The last one is the root again, and no folder.
    assert!(prison.apply(&layer).is_err());
    assert!(prison.root().join("absolute").exists() && prison.root().join("a/c").exists());
}

#[test]
fn links_out_are_followed_inside() {
    let prison = Prison::new();
    let outside = prison.outside();
    let layer = Archive::of([
        Member::symlink("abs", &outside),
        Member::file("abs/secret", "x"),
        Member::symlink("rel", "../outside"),
        Member::file("rel/secret2", "x"),
        Member::symlink("up", "../../../../../../.."),
        Member::file("up/inside", "x"),
        Member::symlink("chain", "rel"),
        Member::folder("chain/deep"),
        Member::file("chain/deep/file", "x"),
        Member::whiteout("abs/.wh.other"),
        Member::symlink("last", &format!("{outside}/secret")),
        Member::file("last", "replaced"),
        Member::symlink("magic", "/proc/self/root"),
        Member::file("magic/file", "x"),
    ]);
    prison.apply(&layer).unwrap();
    let root = prison.root();
    assert!(root.join(outside.trim_start_matches('/')).join("secret").exists());
    assert!(root.join("outside/secret2").exists() && root.join("inside").exists());
    assert!(root.join("outside/deep/file").exists() && root.join("proc/self/root/file").exists());
    assert_eq!(fs::read(root.join("last")).unwrap(), b"replaced");
}

#[test]
fn a_folder_replaced_by_a_link_leads_nowhere_else() {
    let prison = Prison::new();
    let outside = prison.outside();
    let layer = Archive::of([
        Member::folder("dir").mode(0o700),
        Member::file("dir/a", "x"),
        Member::symlink("dir", &outside),
        Member::file("dir/b", "x"),
        Member::folder("dir/sub"),
    ]);
    prison.apply(&layer).unwrap();
    assert!(prison.root().join("dir").is_symlink());
    assert!(prison.root().join(outside.trim_start_matches('/')).join("b").exists());
}

#[test]
fn hard_links_do_not_follow_links() {
    let prison = Prison::new();
    let layer = Archive::of([
        Member::symlink("link", &format!("{}/secret", prison.outside())),
        Member::hard_link("hard", "link"),
        Member::file("hard", "overwritten"),
        Member::hard_link("again", "link"),
        Member::symlink("folder", &prison.outside()),
    ]);
    prison.apply(&layer).unwrap();
    assert!(prison.root().join("again").is_symlink());
    assert!(prison.root().join("hard").is_file());
    let through = Archive::of([Member::hard_link("stolen", "folder/secret")]);
    assert!(prison.apply(&through).is_err());
}

#[test]
fn duplicates_replace_and_do_not_write_through() {
    let prison = Prison::new();
    let layer = Archive::of([
        Member::file("a", "first"),
        Member::hard_link("b", "a"),
        Member::file("a", "second"),
        Member::folder("d"),
        Member::file("d/x", ""),
        Member::folder("d").mode(0o711),
        Member::file("d", "file now"),
        Member::new(b'6', "pipe", 0o644),
        Member::file("pipe", "no reader needed"),
        Member::new(b'3', "null", 0o666).device(1, 3),
        Member::file("null", "not lost"),
    ]);
    prison.apply(&layer).unwrap();
    let read = |name: &str| fs::read_to_string(prison.root().join(name)).unwrap();
    assert_eq!([read("a"), read("b"), read("d")], ["second", "first", "file now"]);
    assert_eq!([read("pipe"), read("null")], ["no reader needed", "not lost"]);
}

#[test]
fn lies_about_sizes_and_numbers() {
    use RefusalKind::{DataLoss, InvalidArgument as Invalid, ResourceExhausted as Exhausted};
    refused(vec![Member::file("a", "x").size(1 << 20)], DataLoss, "\"a\": tar is cut short");
    refused(
        vec![Member::file("a", "x").bytes(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe")],
        Invalid,
        "bad size",
    );
    refused(
        vec![Member::file("a", "x").bytes(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")],
        Exhausted,
        "in one file",
    );
    refused(vec![Member::file("a", "").bytes(108, b"\xff\xff\xff\xff\xff\xff\xff\xff")], Invalid, "bad owner");
    refused(vec![Member::file("a", "").bytes(108, b"\x80\0\0\0\xff\xff\xff\xff")], Invalid, "bad owner");
    refused(vec![Member::new(b'D', "a", 0)], Invalid, "unknown type 'D'");
    refused(vec![Member::new(b'x', "a", 0).size(2 << 20)], Exhausted, "extended header");
    refused(vec![Member::new(b'L', "a", 0).size(u64::from(u32::MAX))], Exhausted, "extended header");
    for (key, value, kind) in [
        ("size", "-1", Invalid),
        ("size", "9223372036854775807", Exhausted),
        ("size", "99999", DataLoss),
        ("uid", "4294967295", Invalid),
        ("path", "../outside/new", Invalid),
        ("path", "a\0b", Invalid),
        ("mtime", "yesterday", Invalid),
    ] {
        let prison = Prison::new();
        let mut archive = Archive::default();
        archive.pax(&[(key, value.as_bytes())]).add(Member::file("a", "x"));
        let refusal = prison.apply(&archive.end()).unwrap_err();
        assert_eq!(refusal.kind, kind, "{key}={value}: {refusal}");
    }
}

#[test]
fn limits_are_named() {
    let limits = ApplyLimits {
        entries: 3,
        total_bytes: 3000,
        file_bytes: 2000,
        xattr_bytes: 100,
        path_bytes: 60,
        path_depth: 5,
        header_bytes: 1000,
        fragments: 2,
    };
    let mut attributes = Archive::default();
    attributes.pax(&[("SCHILY.xattr.user.a", &[b'x'; 200])]).add(Member::file("a", ""));
    for (layer, says) in [
        (Archive::of((0..4).map(|n| Member::file(&n.to_string(), ""))), "limit of 3 members"),
        (Archive::of((0..2).map(|n| Member::file(&n.to_string(), [0; 1600]))), "limit of 3000 bytes"),
        (Archive::of([Member::file("a", [0; 2001])]), "limit of 2000 bytes in one file"),
        (Archive::of([Member::file(&"a".repeat(61), "")]), "path over the limit of 60 bytes"),
        (Archive::of([Member::file("a/a/a/a/a/a", "")]), "path over the limit of 5 components"),
        (attributes.end(), "limit of 100 bytes of extended attributes"),
    ] {
        let prison = Prison::new();
        let options = ApplyOptions { limits, ..ApplyOptions::default() };
        let refusal = apply_with(&layer, &bind(&prison.root()), &options).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::ResourceExhausted, "{refusal}");
        assert!(refusal.detail.contains(says), "{refusal}");
    }
}

#[test]
fn names_that_no_file_can_have() {
    let prison = Prison::new();
    let mut archive = Archive::default();
    archive.pax(&[("path", &[b'n'; 256])]).add(Member::file("a", ""));
    let refusal = prison.apply(&archive.end()).unwrap_err();
    assert!(refusal.detail.contains("File name too long"), "{refusal}");
}

#[test]
fn a_sparse_file_takes_no_space_and_its_lies_are_told() {
    let prison = Prison::new();
    let sparse = |map: &str, real: &str| {
        let mut archive = Archive::default();
        archive
            .pax(&[
                ("GNU.sparse.major", b"0"),
                ("GNU.sparse.minor", b"1"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.size", real.as_bytes()),
                ("GNU.sparse.map", map.as_bytes()),
            ])
            .add(Member::file("a", "0123456789"));
        archive.end()
    };
    prison.apply(&sparse("5,4,1000000,6,2000000,0", "2000000")).unwrap();
    let meta = fs::metadata(prison.root().join("sparse")).unwrap();
    assert_eq!(meta.len(), 2_000_000);
    assert!(meta.blocks() * 512 < 100_000);
    let content = fs::read(prison.root().join("sparse")).unwrap();
    assert_eq!((&content[5..9], &content[1_000_000..1_000_006]), (&b"0123"[..], &b"456789"[..]));
    for (map, real, kind) in [
        ("5,4,8,6", "2000000", RefusalKind::InvalidArgument),
        ("5,4,1000000,7", "2000000", RefusalKind::InvalidArgument),
        ("5,4,1000000,6", "1000000", RefusalKind::InvalidArgument),
        ("5,4,1000000", "2000000", RefusalKind::InvalidArgument),
        ("5,-4,1000000,6", "2000000", RefusalKind::InvalidArgument),
        ("9223372036854775807,9223372036854775807", "9223372036854775807", RefusalKind::InvalidArgument),
        ("0,10", "9223372036854775807", RefusalKind::ResourceExhausted),
        ("0,10", "-1", RefusalKind::InvalidArgument),
    ] {
        let refusal = prison.apply(&sparse(map, real)).unwrap_err();
        assert_eq!(refusal.kind, kind, "{map} of {real}: {refusal}");
    }
}
