//! What the diff service says to layers that are none, places that are not there and names that cannot be; that a refusal
//! leaves nothing behind.

use crate::{
    client::{Answers, Channel, Daemon, compare, compare_but, eventually, labels, origin, within},
    proto::containerd::{
        services::{
            content::v1::{
                AbortRequest, InfoRequest, ListStatusesRequest, WriteAction, WriteContentRequest,
                content_client::ContentClient,
            },
            diff::v1::{ApplyRequest, DiffRequest, diff_client::DiffClient},
        },
        types::{Descriptor, Mount},
    },
};
use futures_util::{StreamExt, stream};
use std::{fs, path::PathBuf};
use tonic::{Code, Request, Status};
use wharf_grpc::{Any, status::refusal};
use wharf_tests::{
    images::{self, Layer, Packing, mode},
    leftovers::mounts_beneath,
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const ABSENT: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Keeps a blob from garbage collection, which takes what nothing names.
const KEPT: &str = "containerd.io/gc.root=x";

/// A daemon's diff service, and places to ask it about.
struct Diffs {
    diff: DiffClient<Channel>,
    content: ContentClient<Channel>,
    folder: tempfile::TempDir,
    /// Where the daemon has its files.
    home: PathBuf,
    ours: bool,
}

impl Diffs {
    async fn of(daemon: &Daemon) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["target", "lower", "upper", "work"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("upper/file"), "upper").unwrap();
        fs::write(folder.path().join("file"), "no folder").unwrap();
        Self {
            diff: DiffClient::with_origin(daemon.connect().await, origin()),
            content: daemon.content().await,
            folder,
            home: daemon.address().parent().unwrap().to_owned(),
            ours: daemon.name() == "wharf",
        }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn bind(&self, name: &str) -> Mount {
        mount("bind", &self.at(name), &["rbind", "rw"])
    }

    /// A mount whose options name folders: `{}` stands for the folder that all of them are in.
    fn overlay(&self, options: &[&str]) -> Mount {
        let options: Vec<_> = options.iter().map(|option| option.replace("{}", &self.at(""))).collect();
        mount("overlay", "overlay", &options.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Writes a blob and keeps it; its descriptor as a layer of this type.
    async fn put(&mut self, namespace: &str, media_type: &str, bytes: &[u8]) -> Descriptor {
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: "put".to_owned(),
            data: bytes.to_vec().into(),
            labels: labels(&[KEPT]),
            ..WriteContentRequest::default()
        };
        let digest = images::digest(bytes);
        let told = async {
            let mut told = self.content.write(within(namespace, stream::iter([message]))).await?.into_inner();
            told.message().await
        };
        match told.await {
            Ok(told) => assert_eq!(told.unwrap().digest, digest),
            // The same bytes under another type.
            Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status}"),
        }
        let size = i64::try_from(bytes.len()).unwrap();
        Descriptor { media_type: media_type.to_owned(), digest, size, ..Descriptor::default() }
    }

    /// Begins an ingest and leaves it.
    async fn begin(&mut self, reference: &str) {
        let told = self.content.write(within("n", stream::iter([begun(reference)]))).await.unwrap();
        told.into_inner().message().await.unwrap();
    }

    /// Whether it was done.
    async fn apply(&mut self, answers: &mut Answers, step: &str, request: Request<ApplyRequest>) -> bool {
        let told = self.diff.apply(request).await;
        let seen = told.map(|told| {
            let applied = told.into_inner().applied.unwrap();
            format!("{} {} {}", applied.media_type, applied.digest, applied.size)
        });
        let done = seen.is_ok();
        self.note(answers, step, seen).await;
        done
    }

    async fn make(&mut self, answers: &mut Answers, step: &str, request: Request<DiffRequest>) {
        let reference = request.get_ref().r#ref.clone();
        self.only_make(answers, step, request).await;
        if !reference.is_empty() {
            // Whoever holds a reference keeps others from aborting it.
            let aborted = self.content.abort(within("n", AbortRequest { r#ref: reference })).await;
            let aborted = aborted.map(|_| String::new()).map_err(|status| self.plain(&status));
            answers.seen(&format!("abort after {step}"), aborted);
        }
    }

    async fn only_make(&mut self, answers: &mut Answers, step: &str, request: Request<DiffRequest>) {
        let namespace = request.metadata().get("containerd-namespace").cloned();
        let told = async {
            let made = self.diff.diff(request).await?.into_inner().diff.unwrap();
            let namespace = namespace.unwrap();
            let asked = within(namespace.to_str().unwrap(), InfoRequest { digest: made.digest });
            let labels = self.content.info(asked).await?.into_inner().info.unwrap().labels;
            // Bytes differ, and so do digests: each has a compressor of its own.
            let value = |value: &str| if value.starts_with("sha256:") { "DIGEST".to_owned() } else { value.to_owned() };
            let labels = labels.into_iter().map(|(key, text)| format!("{key}={}", value(&text)));
            Ok(format!("{} {}", made.media_type, labels.collect::<Vec<_>>().join(",")))
        };
        let seen = told.await;
        self.note(answers, step, seen).await;
    }

    /// Notes an answer, and which ingests there are after it; no mount may be left.
    async fn note(&mut self, answers: &mut Answers, step: &str, seen: Result<String, Status>) {
        answers.seen(step, seen.map_err(|status| self.plain(&status)));
        let listed = self.content.list_statuses(within("n", ListStatusesRequest::default())).await.unwrap();
        let mut left: Vec<_> = listed.into_inner().statuses.into_iter().map(|status| status.r#ref).collect();
        left.sort();
        answers.seen(&format!("ingests after {step}"), Ok(left.join(",")));
        for folder in [self.folder.path(), &self.home] {
            assert_eq!(mounts_beneath(folder), Vec::<PathBuf>::new(), "{step}");
        }
        if self.ours {
            let scratch: Vec<_> = fs::read_dir(self.home.join("state/scratch")).unwrap().map(Result::unwrap).collect();
            assert!(scratch.is_empty(), "{step}: {scratch:?}");
        }
    }

    /// As clients read it, without what is different each time: where something was mounted for a moment.
    fn plain(&self, status: &Status) -> Status {
        let text = refusal(status).detail.replace(self.folder.path().to_str().unwrap(), "FOLDER");
        let is_place = |word: &str| word.contains("/containerd-mount") || word.contains("/scratch/mount-");
        let word = |word: &str| match (is_place(word), word.ends_with(':')) {
            (true, true) => "PLACE:".to_owned(),
            (true, false) => "PLACE".to_owned(),
            _ => word.to_owned(),
        };
        let text = text.split(' ').map(word).collect::<Vec<_>>().join(" ");
        Status::new(status.code(), text.replace("mount callback failed on PLACE: ", ""))
    }
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    Mount { r#type: kind.to_owned(), source: source.to_owned(), options, ..Mount::default() }
}

/// The beginning of an ingest.
fn begun(reference: &str) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Write.into(),
        r#ref: reference.to_owned(),
        data: b"he".to_vec().into(),
        ..WriteContentRequest::default()
    }
}

fn apply(layer: &Descriptor, mounts: &[Mount]) -> ApplyRequest {
    ApplyRequest { diff: Some(layer.clone()), mounts: mounts.to_vec(), ..ApplyRequest::default() }
}

fn tar() -> Vec<u8> {
    Layer::new().file("f", mode(0o644), "hello").tar()
}

const FAILED: &str = "containerd says before it what failed";
const ENCRYPTED: &str = "containerd looks for a program that decrypts";
const UNKNOWN: &str = "containerd takes a packing that it does not know for none";
const BYTES: &str = "whatever the type says, ours looks at the bytes";

#[tokio::test]
async fn what_cannot_be_applied() {
    let known = [
        ("no namespace", FAILED),
        ("a bad namespace", FAILED),
        ("plain OCI+encrypted", ENCRYPTED),
        ("plain OCI+gzip+encrypted", ENCRYPTED),
        ("gzipped OCI+encrypted", ENCRYPTED),
        ("gzipped OCI+gzip+encrypted", ENCRYPTED),
        ("gzipped OCI+xz", UNKNOWN),
        ("gzipped OCI+", UNKNOWN),
        ("gzipped DOCKER.gzip+encrypted", UNKNOWN),
    ];
    let others = [
        ("plain OCI+xz", UNKNOWN),
        ("plain OCI+", UNKNOWN),
        ("plain DOCKER.gzip+encrypted", UNKNOWN),
        ("gzipped OCI", BYTES),
        ("gzipped DOCKER+gzip", BYTES),
    ];
    compare_but(&known, &others, async |daemon, answers| {
        let mut d = Diffs::of(daemon).await;
        let target = [d.bind("target")];
        let plain = d.put("n", LAYER, &tar()).await;
        let gzip = d.put("n", GZIP, &Packing::Gzip.pack(&tar())).await;
        let of = |digest: &str| Descriptor { digest: digest.to_owned(), ..plain.clone() };
        for digest in ["", "hello", "md5:0", "sha256:0", "sha256:../../etc", ABSENT] {
            let request = within("n", apply(&of(digest), &target));
            d.apply(answers, &format!("digest {digest:?}"), request).await;
        }
        let request = within("other", apply(&plain, &target));
        d.apply(answers, "another namespace's blob", request).await;
        d.apply(answers, "no namespace", Request::new(apply(&plain, &target))).await;
        d.apply(answers, "a bad namespace", within("a/b", apply(&plain, &target))).await;
        for size in [0, 1, -1, plain.size + 1, i64::MAX] {
            let layer = Descriptor { size, ..plain.clone() };
            d.apply(answers, &format!("size {size}"), within("n", apply(&layer, &target))).await;
        }
        for (packed, layer) in [("plain", &plain), ("gzipped", &gzip)] {
            for media_type in [
                "",
                "text/plain",
                "application/vnd.oci.image.manifest.v1+json",
                LAYER,
                GZIP,
                ZSTD,
                "application/vnd.oci.image.layer.v1.tar.gzip",
                "application/vnd.oci.image.layer.v1.tar+xz",
                "application/vnd.oci.image.layer.v1.tar+",
                "application/vnd.oci.image.layer.v1.tar+encrypted",
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                "application/vnd.docker.image.rootfs.diff.tar",
                "application/vnd.docker.image.rootfs.diff.tar+gzip",
                "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted",
                "application/vnd.docker.image.rootfs.diff.tar.xz",
            ] {
                let layer = Descriptor { media_type: media_type.to_owned(), ..layer.clone() };
                let short = media_type.replace(LAYER, "OCI").replace(DOCKER, "DOCKER");
                let step = format!("{packed} {short}");
                d.apply(answers, &step, within("n", apply(&layer, &target))).await;
            }
        }
        let payload = Any { type_url: "nosuch.Type".to_owned(), value: b"garbage".to_vec().into() };
        let payloads = [("nosuch.processor".to_owned(), payload)].into();
        let request = ApplyRequest { payloads, ..apply(&gzip, &target) };
        d.apply(answers, "a payload for nobody", within("n", request)).await;
    })
    .await;
}

#[tokio::test]
async fn layers_that_are_damaged() {
    compare(&[("refused: *", "another reader's words, with the member")], async |daemon, answers| {
        let mut d = Diffs::of(daemon).await;
        let target = [d.bind("target")];
        let (plain, gzip, zstd) = (tar(), Packing::Gzip.pack(&tar()), Packing::Zstd.pack(&tar()));
        let noise: Vec<u8> = (0..2048_u32).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
        let mut broken = plain.clone();
        broken[0] ^= 1;
        let unknown = {
            let mut tar = plain.clone();
            tar[156] = b'Z';
            // The checksum with it.
            tar[148..156].fill(b' ');
            let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
            tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            tar
        };
        for (step, media_type, bytes) in [
            ("nothing", LAYER, Vec::new()),
            ("nothing for gzip", GZIP, Vec::new()),
            ("nothing for zstd", ZSTD, Vec::new()),
            ("tar without an end", LAYER, plain[..1024].to_vec()),
        ] {
            let layer = d.put("n", media_type, &bytes).await;
            assert!(d.apply(answers, step, within("n", apply(&layer, &target))).await, "{step}");
        }
        for (step, media_type, bytes) in [
            ("text", LAYER, b"hello".to_vec()),
            ("text for gzip", GZIP, b"hello".to_vec()),
            ("noise", LAYER, noise.clone()),
            ("noise for zstd", ZSTD, noise.clone()),
            ("tar with a flipped bit", LAYER, broken),
            ("tar cut in a header", LAYER, plain[..100].to_vec()),
            ("tar cut in a file", LAYER, plain[..514].to_vec()),
            ("tar with an unknown type", LAYER, unknown),
            ("whiteout of nothing", LAYER, Layer::new().whiteout("").tar()),
            ("hard link to nothing", LAYER, Layer::new().hard_link("h", &mode(0o644), "nosuch").tar()),
            ("file in a file", LAYER, Layer::new().file("f", mode(0o644), "x").file("f/g", mode(0o644), "x").tar()),
            ("gzip's first bytes", GZIP, gzip[..2].to_vec()),
            ("gzip's header", GZIP, gzip[..10].to_vec()),
            ("gzip cut in the middle", GZIP, gzip[..gzip.len() / 2].to_vec()),
            ("gzip without its checksum", GZIP, gzip[..gzip.len() - 8].to_vec()),
            ("gzip with another checksum", GZIP, [&gzip[..gzip.len() - 8], &[0; 8]].concat()),
            ("gzip with noise behind", GZIP, [&gzip[..], &noise].concat()),
            ("gzip of text", GZIP, Packing::Gzip.pack(b"hello")),
            ("gzip of noise", GZIP, Packing::Gzip.pack(&noise)),
            ("zstd's first bytes", ZSTD, zstd[..4].to_vec()),
            ("zstd cut in the middle", ZSTD, zstd[..zstd.len() / 2].to_vec()),
            ("zstd of noise", ZSTD, [&zstd[..4], &noise].concat()),
            ("zstd of text", ZSTD, Packing::Zstd.pack(b"hello")),
        ] {
            let layer = d.put("n", media_type, &bytes).await;
            let done = d.apply(answers, &format!("refused: {step}"), within("n", apply(&layer, &target))).await;
            assert!(!done, "{step}");
        }
    })
    .await;
}

#[tokio::test]
async fn places_that_cannot_be_written_to() {
    let known = [("to *", MOUNTS)];
    let others =
        [("to bind without its option", BIND), ("to nowhere", "containerd writes to a folder that it forgets")];
    compare_but(&known, &others, async |daemon, answers| {
        let mut d = Diffs::of(daemon).await;
        let layer = d.put("n", LAYER, &tar()).await;
        for (step, mounts) in places(&d) {
            d.apply(answers, &format!("to {step}"), within("n", apply(&layer, &mounts))).await;
        }
        // Files of a layer would stay in the folder that containerd forgets.
        let nothing = d.put("n", LAYER, &[]).await;
        d.apply(answers, "to nowhere", within("n", apply(&nothing, &[]))).await;
    })
    .await;
}

const MOUNTS: &str = "ours says what was to be mounted; what need not be mounted is opened";
const BIND: &str = "its type says already what is to be done";

/// Mounts that fail, or that are not to be written to.
fn places(d: &Diffs) -> Vec<(&'static str, Vec<Mount>)> {
    vec![
        ("no type", vec![mount("", "nosuch", &[])]),
        ("an unknown type", vec![mount("nosuch", "nosuch", &[])]),
        ("an unknown type, bound", vec![mount("nosuch", &d.at("target"), &["bind"])]),
        ("a missing source", vec![d.bind("nosuch")]),
        ("no source", vec![mount("bind", "", &["rbind"])]),
        ("a file", vec![d.bind("file")]),
        ("below a file", vec![d.bind("file/nosuch")]),
        ("read-only", vec![mount("bind", &d.at("target"), &["rbind", "ro"])]),
        ("bind without its option", vec![mount("bind", &d.at("target"), &[])]),
        ("a zero byte", vec![mount("bind", "a\0b", &["rbind"])]),
        ("an unknown option", vec![mount("tmpfs", "tmpfs", &["nosuch=1"])]),
        ("long options", vec![mount("tmpfs", "tmpfs", &[&"x".repeat(5000)])]),
        ("overlay of nothing", vec![d.overlay(&[])]),
        ("overlay without an upper folder", vec![d.overlay(&["lowerdir={}lower:{}target"])]),
        ("overlay without a lower folder", vec![d.overlay(&["upperdir={}nosuch", "workdir={}work"])]),
        ("overlay on nothing", vec![d.overlay(&["upperdir={}nosuch", "workdir={}work", "lowerdir={}lower"])]),
        ("overlay on a file", vec![d.overlay(&["upperdir={}file", "workdir={}work", "lowerdir={}lower"])]),
        ("a second that is missing", vec![d.bind("target"), d.bind("nosuch")]),
        ("a first that is missing", vec![d.bind("nosuch"), d.bind("target")]),
        ("two, the second of an unknown type", vec![d.bind("target"), mount("nosuch", "nosuch", &[])]),
    ]
}

fn make(left: &[Mount], right: &[Mount]) -> DiffRequest {
    DiffRequest {
        left: left.to_vec(),
        right: right.to_vec(),
        r#ref: "r".to_owned(),
        labels: labels(&[KEPT]),
        ..DiffRequest::default()
    }
}

#[tokio::test]
async fn what_cannot_be_made_a_layer() {
    let known = [
        ("a bad namespace", FAILED),
        ("left: *", MOUNTS),
        ("right: *", MOUNTS),
        ("a reference that was begun", MOUNTS),
    ];
    let zstd = "later releases make such layers, too";
    let others = [
        ("left: bind without its option", BIND),
        ("right: bind without its option", BIND),
        ("type \"application/vnd.oci.image.layer.v1.tar+zstd\"", zstd),
    ];
    compare_but(&known, &others, async |daemon, answers| {
        let mut d = Diffs::of(daemon).await;
        let (lower, upper) = ([d.bind("lower")], [d.bind("upper")]);
        d.make(answers, "no mounts", within("n", make(&[], &[]))).await;
        d.make(answers, "no left", within("n", make(&[], &upper))).await;
        d.make(answers, "no right", within("n", make(&upper, &[]))).await;
        d.make(answers, "no namespace", Request::new(make(&lower, &upper))).await;
        d.make(answers, "a bad namespace", within("a/b", make(&lower, &upper))).await;
        for (step, mounts) in sources(&d) {
            d.make(answers, &format!("left: {step}"), within("n", make(&mounts, &upper))).await;
            d.make(answers, &format!("right: {step}"), within("n", make(&lower, &mounts))).await;
        }
        for media_type in [
            "text/plain",
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.layer.v1.tar+xz",
            "application/vnd.oci.image.layer.v1.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+GZIP",
            " application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ZSTD,
            LAYER,
            GZIP,
        ] {
            let request = DiffRequest { media_type: media_type.to_owned(), ..make(&lower, &upper) };
            d.make(answers, &format!("type {media_type:?}"), within("n", request)).await;
        }
        // What somebody has begun stays where nothing could be made.
        d.begin("r").await;
        d.only_make(answers, "a reference that was begun", within("n", make(&[d.bind("nosuch")], &upper))).await;
        // The first that is wrong is told.
        let request = DiffRequest { media_type: "text/plain".to_owned(), ..make(&[d.bind("nosuch")], &upper) };
        d.make(answers, "type and mounts", within("n", request)).await;
    })
    .await;
}

/// Mounts that fail, or that cannot be looked at.
fn sources(d: &Diffs) -> Vec<(&'static str, Vec<Mount>)> {
    vec![
        ("no type", vec![mount("", "nosuch", &[])]),
        ("an unknown type", vec![mount("nosuch", "nosuch", &[])]),
        ("a missing source", vec![d.bind("nosuch")]),
        ("no source", vec![mount("bind", "", &["rbind"])]),
        ("a file", vec![d.bind("file")]),
        ("bind without its option", vec![mount("bind", &d.at("target"), &[])]),
        ("overlay of nothing", vec![d.overlay(&[])]),
        ("overlay on nothing", vec![d.overlay(&["upperdir={}nosuch", "workdir={}work", "lowerdir={}lower"])]),
        ("overlay over nothing", vec![d.overlay(&["upperdir={}upper", "workdir={}work", "lowerdir={}nosuch"])]),
        ("a second that is missing", vec![d.bind("target"), d.bind("nosuch")]),
    ]
}

#[tokio::test]
async fn names_and_labels_that_cannot_be() {
    let long = "ours says how long, as later releases do";
    let known = [("long key *", long), ("long value *", long), ("key and value together *", long)];
    let shown = "a reference is of limited length and can be shown";
    let others = [
        ("reference \"\\n\" *", shown),
        ("reference \"\\0\" *", shown),
        ("reference \"rrrrrrrrrr\" 40000", shown),
        ("abort after reference \"\\n\" *", shown),
        ("abort after reference \"\\0\" *", shown),
        ("abort after reference \"rrrrrrrrrr\" 40000", shown),
        ("ingests after no key \"r\"", "containerd has only the reference left"),
        ("ingests after long value for a layer that is there", "of what is there already no ingest is kept"),
        ("abort after long value for a layer that is there", "of what is there already no ingest is kept"),
    ];
    compare_but(&known, &others, async |daemon, answers| {
        let mut d = Diffs::of(daemon).await;
        let (lower, upper) = ([d.bind("lower")], [d.bind("upper")]);
        for reference in ["", "a/b", "a b", "../x", "\n", "\0", "é", &"r".repeat(300), &"r".repeat(40_000)] {
            let request = DiffRequest { r#ref: reference.to_owned(), ..make(&lower, &upper) };
            let shown: String = reference.chars().take(10).collect();
            d.make(answers, &format!("reference {shown:?} {}", reference.len()), within("n", request)).await;
        }
        let long = "x".repeat(4097);
        for (step, key, value) in [
            ("long key", long.as_str(), "v"),
            ("long value", "k", &long),
            ("key and value together", &"k".repeat(2000), &"v".repeat(2097)),
            ("just not too long", &"k".repeat(2000), &"v".repeat(2096)),
            ("no key", "", "v"),
            ("no value", "k", ""),
            ("a key of blanks", " ", "v"),
            ("a line in a key", "a\nb", "v"),
            ("a wrong diff id", "containerd.io/uncompressed", "garbage"),
        ] {
            for reference in ["r", ""] {
                // Another layer each time: of one that is there already only its labels are changed.
                fs::write(d.at("upper/file"), format!("{step} {reference}")).unwrap();
                let mut request = DiffRequest { r#ref: reference.to_owned(), ..make(&lower, &upper) };
                request.labels.insert(key.to_owned(), value.to_owned());
                d.make(answers, &format!("{step} {reference:?}"), within("n", request)).await;
            }
        }
        // One that is there already.
        let mut request = make(&lower, &upper);
        request.labels.insert("k".to_owned(), long.clone());
        d.make(answers, "long value for a layer that is there", within("n", request)).await;
    })
    .await;
}

#[tokio::test]
async fn a_reference_that_somebody_else_writes_to() {
    compare(&[("locked", "ours does not say since when")], async |daemon, answers| {
        let mut d = Diffs::of(daemon).await;
        let (lower, upper) = ([d.bind("lower")], [d.bind("upper")]);
        let (channel, socket) = daemon.connect_until().await;
        let open = stream::iter([begun("r")]).chain(stream::pending());
        let mut first = crate::client::content(channel).write(within("n", open)).await.unwrap().into_inner();
        assert_eq!(first.message().await.unwrap().unwrap().offset, 2);
        d.only_make(answers, "locked", within("n", make(&lower, &upper))).await;
        // Another namespace has references of its own.
        d.only_make(answers, "another namespace's", within("m", make(&lower, &upper))).await;
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        // It is free once the stream is gone. What was written there is thrown away: a layer is not made from its middle.
        let made = eventually(|| {
            let mut diff = d.diff.clone();
            let request = within("n", make(&lower, &upper));
            async move { diff.diff(request).await }
        });
        made.await;
        d.make(answers, "free again", within("n", make(&lower, &upper))).await;
    })
    .await;
}

/// containerd panics, all of it.
#[tokio::test]
async fn a_layer_must_be_named() {
    let daemon = Daemon::start();
    let mut d = Diffs::of(&daemon).await;
    let refused =
        d.diff.apply(within("n", ApplyRequest { mounts: vec![d.bind("target")], ..Default::default() })).await;
    let refused = refused.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "diff is required: invalid argument"));
}
