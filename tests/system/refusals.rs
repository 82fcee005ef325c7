//! Bad input: each a clear error with the right exit code, and nothing left behind.

use crate::fixture::{BUSYBOX, import_busybox, sleeper, with_busybox};
use std::fs;
use wharf_tests::{
    Daemon,
    daemon::Settings,
    hostile::{Behaviour, HostileRegistry},
    images::{self, Blob, Image, Layer, Layout, Packing, TAG, digest, mode},
};

/// Nothing of a failed pull or import is to be seen.
#[track_caller]
fn nothing_came_of_it(daemon: &Daemon) {
    daemon.ok("images ls -q").prints("");
    daemon.ok("snapshots ls").prints("KEY PARENT KIND");
    daemon.expect_nothing_left();
}

fn refused_pull(behave: impl Fn(&wharf_tests::hostile::Request) -> Behaviour + Send + Sync + 'static, words: &[&str]) {
    let daemon = Daemon::start();
    let registry = HostileRegistry::serve(&images::busybox(), behave);
    let reference = registry.reference("app");
    let output = daemon.wharf(["images", "pull", "--plain-http", &reference]);
    let address = registry.address().to_string();
    output.refused(&[words, &[address.as_str()]].concat());
    nothing_came_of_it(&daemon);
}

#[test]
fn unknown_images_and_containers() {
    let daemon = with_busybox();
    daemon
        .wharf("run --rm docker.io/library/none:latest a")
        .refused(&["image \"docker.io/library/none:latest\"", "not found"]);
    for command in ["info", "rm"] {
        daemon.wharf(["containers", command, "none"]).refused(&["container \"none\"", daemon.namespace(), "not found"]);
    }
    for command in ["start", "kill", "rm", "pause", "resume", "ps", "metrics", "attach"] {
        daemon.wharf(["tasks", command, "none"]).refused(&["none", "not found"]);
    }
    daemon.wharf("tasks exec --exec-id x none true").refused(&["none", "not found"]);
    daemon.ok(["containers", "create", BUSYBOX, "idle", "true"]);
    daemon.wharf("tasks kill idle").refused(&["idle", "not found"]);
    daemon.ok("containers rm idle");
    daemon.expect_nothing_left();
}

#[test]
fn names_that_are_none() {
    let daemon = with_busybox();
    for id in ["bad id", "../x", "", "a/b", "-x", ".", "a..b", &"x".repeat(77)] {
        let output = daemon.wharf(["run", "--rm", BUSYBOX, id, "true"]);
        output.refused(&[]);
    }
    daemon.wharf(["images", "pull", "Not A Ref"]).refused(&["Not A Ref"]);
    daemon.wharf(["images", "pull", "127.0.0.1:1/app@sha256:123"]).refused(&["sha256:123"]);
    daemon.wharf(["tasks", "kill", "-s", "NOSUCH", "x"]).refused(&["NOSUCH"]);
    daemon.ok("containers ls -q").prints("");
}

#[test]
fn names_that_are_taken() {
    let daemon = with_busybox();
    sleeper(&daemon, "web");
    let pid = daemon.task_pid("web");
    daemon.wharf(["run", "-d", BUSYBOX, "web", "true"]).refused(&["\"web\"", "already exists"]);
    daemon.wharf(["run", "--rm", BUSYBOX, "web", "true"]).refused(&["\"web\"", "already exists"]);
    daemon.wharf(["containers", "create", BUSYBOX, "web", "true"]).refused(&["\"web\"", "already exists"]);
    daemon.wharf("tasks start -d web").refused(&["web", "already exists"]);
    assert_eq!(daemon.task_pid("web"), pid, "the first one is untouched");
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn a_command_that_is_not_in_the_image() {
    let daemon = with_busybox();
    daemon.wharf(["run", "--rm", BUSYBOX, "a", "nosuch"]).refused(&["nosuch", "not found"]);
    daemon.wharf(["run", "--rm", BUSYBOX, "a", "/bin/nosuch"]).refused(&["/bin/nosuch"]);
    daemon.wharf(["run", "--rm", BUSYBOX, "a", "/etc/passwd"]).refused(&["/etc/passwd", "permission"]);
    daemon.wharf(["run", "--rm", "--user", "nobody-here", BUSYBOX, "a", "true"]).refused(&["nobody-here"]);
    daemon.wharf(["run", "-d", BUSYBOX, "b", "nosuch"]).refused(&["nosuch"]);
    // As with ctr the container stays for a look if it was not to be removed.
    let _ = daemon.wharf("containers rm b");
    daemon.ok("containers ls -q").prints("");
    daemon.ok("tasks ls -q").prints("");
    daemon.expect_nothing_left();
}

#[test]
fn an_image_without_a_command() {
    let daemon = Daemon::start();
    let archive = images::docker_archive(&images::without_command(), "docker.io/library/empty:latest");
    daemon.ok(["images", "import", archive.to_str().unwrap()]);
    daemon.wharf("run --rm docker.io/library/empty:latest a").refused(&["command"]);
    daemon.wharf("run --rm docker.io/library/empty:latest a sh").refused(&["sh"]);
    daemon.ok("containers ls -q").prints("");
    daemon.expect_nothing_left();
}

#[test]
fn flags_that_contradict_or_make_no_sense() {
    let daemon = with_busybox();
    for (flags, word) in [
        ("--rm -d", "--rm"),
        ("--memory-limit x", "x"),
        ("--cpus much", "much"),
        ("--mount type=bind", "mount"),
        ("--mount nonsense", "nonsense"),
        ("--with-ns nonsense", "nonsense"),
        ("--env-file /no/such", "/no/such"),
        ("--seccomp --seccomp-profile /no/such", "/no/such"),
        ("--seccomp --seccomp-profile /etc/passwd", "/etc/passwd"),
        ("--runtime nonsense", "nonsense"),
        ("--runtime io.containerd.absent.v1", "absent"),
        ("--log-uri nonsense://x", "nonsense"),
        ("--cwd relative", "relative"),
        ("--gpus 0", "nvidia-container-cli"),
        ("--cni --net-host", "--net-host"),
        ("-d --cni --restart always", "--restart"),
        ("--uidmap 0:1:2 --gidmap nonsense", "container-id:host-id:size"),
        ("--uidmap 0:1:2 --gidmap 0:1:x", "\"x\""),
    ] {
        let mut args = vec!["run"];
        args.extend(flags.split(' '));
        args.extend([BUSYBOX, "a", "true"]);
        let output = daemon.wharf(args.as_slice());
        assert_ne!(output.code, 0, "{flags}: {output}");
        assert!(output.stderr.contains(word), "{flags}: {word:?} is not said: {output}");
        let _ = daemon.wharf("containers rm a");
        daemon.ok("containers ls -q").prints("");
    }
    daemon.expect_nothing_left();
}

#[test]
fn a_bind_mount_of_what_is_not_there() {
    let daemon = with_busybox();
    let mount = "type=bind,src=/no/such/folder,dst=/mnt,options=rbind:ro";
    daemon.wharf(["run", "--rm", "--mount", mount, BUSYBOX, "a", "true"]).refused(&["/no/such/folder"]);
    daemon.ok("containers ls -q").prints("");
    daemon.expect_nothing_left();
}

#[test]
fn a_registry_that_is_not_there() {
    let daemon = Daemon::start();
    daemon.wharf("images pull --plain-http 127.0.0.1:1/x/y:z").refused(&["127.0.0.1:1", "connection refused"]);
    nothing_came_of_it(&daemon);
}

#[test]
fn a_registry_that_says_404() {
    refused_pull(|_| Behaviour::status(404), &["not found"]);
}

#[test]
fn a_registry_that_says_401() {
    let challenge = ("WWW-Authenticate".to_owned(), "Basic realm=\"test\"".to_owned());
    refused_pull(move |_| Behaviour::Status(401, vec![challenge.clone()], "{}".into()), &["unauthenticated"]);
}

#[test]
fn a_registry_that_says_403() {
    refused_pull(|_| Behaviour::status(403), &["403"]);
}

#[test]
fn a_registry_that_says_500() {
    refused_pull(|_| Behaviour::status(500), &["500"]);
}

#[test]
fn a_manifest_that_is_none() {
    refused_pull(
        |request| {
            if request.is_manifest() { Behaviour::Body(b"<html>hello</html>".to_vec()) } else { Behaviour::Proper }
        },
        &[],
    );
}

#[test]
fn a_manifest_larger_than_any() {
    let endless = vec![b' '; 9 << 20];
    refused_pull(
        move |request| if request.is_manifest() { Behaviour::Body(endless.clone()) } else { Behaviour::Proper },
        &["limit"],
    );
}

#[test]
fn a_layer_that_is_not_what_its_digest_says() {
    let layout = images::busybox();
    let layer = layout.layers(TAG).remove(0);
    let mut wrong = layout.blob(&layer).unwrap();
    wrong[1000] ^= 1;
    let of = layer.clone();
    refused_pull(
        move |request| if request.is_blob_of(&of) { Behaviour::Body(wrong.clone()) } else { Behaviour::Proper },
        &["digest", &layer],
    );
}

#[test]
fn a_layer_that_is_cut_short() {
    let layer = images::busybox().layers(TAG).remove(0);
    let of = layer.clone();
    refused_pull(
        move |request| if request.is_blob_of(&of) { Behaviour::Truncated(1000) } else { Behaviour::Proper },
        &[&layer],
    );
}

#[test]
fn a_layer_that_never_arrives_whole() {
    let layer = images::busybox().layers(TAG).remove(0);
    let of = layer.clone();
    refused_pull(
        move |request| if request.is_blob_of(&of) { Behaviour::Cut(10) } else { Behaviour::Proper },
        &[&layer],
    );
}

fn refused_import(daemon: &Daemon, image: &Image, words: &[&str]) {
    let layout = Layout::create(&daemon.dir().folder(wharf_tests::unique("layout")));
    let _ = layout.add(TAG, image);
    let archive = daemon.dir().join(wharf_tests::unique("archive.tar"));
    layout.archive(&archive);
    daemon.wharf(["images", "import", "--base-name", "example.com/bad", archive.to_str().unwrap()]).refused(words);
}

#[test]
fn a_layer_that_wants_out_of_its_root() {
    let daemon = Daemon::start();
    let outside = daemon.dir().folder("outside");
    let target = outside.join("escaped");
    let target = target.to_str().unwrap();
    let link_then_file = |to: &str, path: &str| Layer::new().symlink("link", to).hostile_file(path, "escaped");
    // Each is either refused or kept inside; none may touch what is outside.
    let layers = [
        ("dots", Layer::new().hostile_file("../../../../../../../../../../tmp/wharf-escaped", "escaped")),
        ("dots within", Layer::new().folder("a", mode(0o755)).hostile_file("a/../../escaped", "escaped")),
        ("absolute", Layer::new().hostile_file(target, "escaped")),
        ("through a link", link_then_file(outside.to_str().unwrap(), "link/escaped")),
        ("through a dotted link", link_then_file("../../../../../../../../../..", "link/tmp/wharf-escaped")),
        ("a hard link out", Layer::new().hostile_link("passwd", "../../../../../../../../etc/passwd")),
        ("an absolute hard link", Layer::new().hostile_link("passwd", "/etc/passwd")),
        ("a whiteout of what is above", Layer::new().hostile_file("../.wh.outside", "")),
        ("a whiteout of all", Layer::new().hostile_file(".wh...", "")),
        ("a whiteout of the root", Layer::new().hostile_file(".wh..", "")),
        ("no name", Layer::new().hostile_file("/", "")),
    ];
    for (name, layer) in layers {
        let layout = Layout::create(&daemon.dir().folder(wharf_tests::unique("layout")));
        let _ = layout.add(TAG, &Image::new().layer(layer, Packing::Gzip));
        let archive = daemon.dir().join(wharf_tests::unique("archive.tar"));
        layout.archive(&archive);
        let image = format!("example.com/{}", name.replace(' ', "-"));
        let output = daemon.wharf(["images", "import", "--base-name", &image, archive.to_str().unwrap()]);
        assert!(!std::path::Path::new("/tmp/wharf-escaped").exists(), "{name}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name}");
        if output.code == 0 {
            let target = daemon.dir().folder("mounted");
            daemon.ok(["images", "mount", &format!("{image}:{TAG}"), target.to_str().unwrap()]);
            assert!(!target.join("passwd").exists(), "{name}: a file of the host is in the image");
            daemon.ok(["images", "unmount", "--rm", target.to_str().unwrap()]);
        } else {
            output.refused(&[]);
        }
        assert!(outside.exists(), "{name}");
    }
    daemon.expect_nothing_left();
}

#[test]
fn a_layer_whose_archive_is_broken() {
    let daemon = Daemon::start();
    let tar = Layer::new().file("a", mode(0o644), vec![b'x'; 5000]).tar();
    let blob = |tar: &[u8], bytes: Vec<u8>, packing: Packing| Blob {
        media_type: packing.media_type().to_owned(),
        bytes,
        diff_id: digest(tar),
    };
    let packed = Packing::Gzip.pack(&tar);
    let cases = [
        ("cut gzip", blob(&tar, packed[..packed.len() - 20].to_vec(), Packing::Gzip)),
        ("no gzip at all", blob(&tar, b"this is no gzip".to_vec(), Packing::Gzip)),
        ("cut zstd", blob(&tar, Packing::Zstd.pack(&tar)[..30].to_vec(), Packing::Zstd)),
        ("cut tar", blob(&tar[..2000], Packing::Gzip.pack(&tar[..2000]), Packing::Gzip)),
        ("no tar at all", blob(&[7; 3000], Packing::Gzip.pack(&[7; 3000]), Packing::Gzip)),
        ("another diff id", Blob { diff_id: digest(b"other"), ..blob(&tar, packed.clone(), Packing::Gzip) }),
    ];
    for (name, blob) in cases {
        let blob_digest = digest(&blob.bytes);
        let layout = Layout::create(&daemon.dir().folder(wharf_tests::unique("layout")));
        let _ = layout.add(TAG, &Image::new().blob(blob));
        let archive = daemon.dir().join(wharf_tests::unique("archive.tar"));
        layout.archive(&archive);
        let output = daemon.wharf(["images", "import", "--base-name", "example.com/bad", archive.to_str().unwrap()]);
        assert_eq!(output.code, 1, "{name}: {output}");
        assert!(output.stderr.contains(&blob_digest[..19]), "{name}: the layer is named: {output}");
        daemon.ok("snapshots ls").prints("KEY PARENT KIND");
    }
    daemon.expect_nothing_left();
}

#[test]
fn a_layer_that_grows_beyond_the_limit() {
    let daemon = Daemon::configured("[limits]\nlayer_max_bytes = 67108864\n");
    // A gigabyte of zeros is a megabyte of gzip.
    let bomb = Layer::new().file("zeros", mode(0o644), vec![0; 1 << 30]);
    refused_import(&daemon, &Image::new().layer(bomb, Packing::Gzip), &["67108864", "layer"]);
    daemon.ok("snapshots ls").prints("KEY PARENT KIND");
    let used: u64 = daemon.files("").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(used < 64 << 20, "{used} bytes are left");
    import_busybox(&daemon);
}

#[test]
fn a_full_disk() {
    let daemon = Daemon::with(Settings { size: Some("24m".to_owned()), ..Settings::default() });
    import_busybox(&daemon);
    sleeper(&daemon, "web");
    let large = images::oci_archive(&images::large(1, 64, Packing::Gzip));
    let import = ["images", "import", "--base-name", "example.com/large", large.to_str().unwrap()];
    daemon.wharf(import).refused(&["no space"]);
    daemon.ok("images ls -q").prints(BUSYBOX);
    // What is here goes on working, and what failed has given its space back.
    daemon.ok("tasks exec --exec-id x web echo works").prints("works");
    daemon.ok(["run", "--rm", BUSYBOX, "b", "echo", "too"]).prints("too");
    // Now to the last byte, by somebody else: deleting has to work all the same.
    let filler = daemon.dir().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(7), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    daemon.wharf(["run", "--rm", BUSYBOX, "c", "true"]).refused(&["no space"]);
    daemon.ok("tasks ls").row("web").unwrap();
    fs::remove_file(&filler).unwrap();
    // With space again it recovers by itself.
    daemon.until(["run", "--rm", BUSYBOX, "d", "true"], "it works again", |output| output.code == 0);
    daemon.ok("tasks rm -f web");
    daemon.ok("containers rm web");
    daemon.expect_nothing_left();
}

#[test]
fn a_configuration_that_is_wrong() {
    let daemon = Daemon::start();
    for (text, word) in
        [("nonsense = [", "config.toml"), ("no_such_key = 1\n", "no_such_key"), ("root = 7\n", "line 1")]
    {
        let config = daemon.dir().file("config.toml", text);
        let program = wharf_tests::command::Program::new(wharf_tests::paths::binary("wharfd"));
        let output = program.run(["--config", config.to_str().unwrap()]);
        assert_ne!(output.code, 0, "{text:?}: {output}");
        assert!(output.stderr.contains(word), "{text:?}: {word:?} is not said: {output}");
    }
    let program = wharf_tests::command::Program::new(wharf_tests::paths::binary("wharfd"));
    let output = program.run("--config /no/such/file");
    assert!(output.code != 0 && output.stderr.contains("/no/such/file"), "{output}");
}
