//! What every backend must do: one suite, run on each; on the proxy with Debian's containerd behind it.

use super::{Native, Overlayfs, Placement, Prepared, Proxy, Snapshotter};
use crate::drivers::{mount::TempMount, remote::Remote};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::atomic::Ordering,
};
use wharf_messages::{
    RefusalKind,
    snapshot::{
        SNAPSHOT_REF_LABEL,
        SnapshotKind::{self, Active, Committed, View},
    },
};

fn place(id: u64, kind: SnapshotKind, ancestors: &[u64]) -> Placement<'_> {
    Placement { namespace: "suite", ..Placement::new(id, kind, ancestors) }
}

/// Prepares, changes through the mount, and commits.
fn layer(backend: &dyn Snapshotter, temp: &Path, id: u64, ancestors: &[u64], change: impl FnOnce(&Path)) {
    let at = place(id, Active, ancestors);
    backend.prepare(&at).unwrap();
    let mount = TempMount::new(&backend.mounts(&at).unwrap(), temp).unwrap();
    change(mount.path());
    drop(mount);
    backend.commit(&at).unwrap();
}

fn view(backend: &dyn Snapshotter, temp: &Path, id: u64, ancestors: &[u64], look: impl FnOnce(&Path)) {
    let at = place(id, View, ancestors);
    backend.prepare(&at).unwrap();
    let mount = TempMount::new(&backend.mounts(&at).unwrap(), temp).unwrap();
    look(mount.path());
}

fn run(test: fn(&dyn Snapshotter, &Path)) {
    run_on_folders(test);
    run_on_remote(|proxy, _, temp| test(proxy, temp));
}

/// Runs a test on the proxy, with another daemon's snapshotter behind it.
fn run_on_remote(test: impl FnOnce(&Proxy, &Remote, &Path)) {
    let containerd = wharf_tests::Containerd::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let remote = Remote::new(&containerd.address(), runtime.handle().clone());
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::open("remote", remote.clone(), "overlayfs", &dir.path().join("root")).unwrap();
    let temp = dir.path().join("temp");
    fs::create_dir(&temp).unwrap();
    test(&proxy, &remote, &temp);
}

fn run_on_folders(test: fn(&dyn Snapshotter, &Path)) {
    for open in
        [(|root: &Path| Box::new(Overlayfs::open(root).unwrap()) as Box<dyn Snapshotter>) as fn(&Path) -> _, |root| {
            Box::new(Native::open(root).unwrap())
        }]
    {
        let dir = tempfile::tempdir().unwrap();
        let backend = open(&dir.path().join("root"));
        let temp = dir.path().join("temp");
        fs::create_dir(&temp).unwrap();
        test(&*backend, &temp);
    }
}

#[test]
fn a_chain_shows_each_layers_changes() {
    run(|backend, temp| {
        layer(backend, temp, 1, &[], |root| {
            fs::create_dir(root.join("etc")).unwrap();
            fs::write(root.join("etc/a"), "1").unwrap();
            fs::write(root.join("etc/gone"), "1").unwrap();
            fs::create_dir(root.join("opaque")).unwrap();
            fs::write(root.join("opaque/old"), "1").unwrap();
        });
        layer(backend, temp, 2, &[1], |root| {
            fs::write(root.join("etc/a"), "2").unwrap();
            fs::remove_file(root.join("etc/gone")).unwrap();
            fs::remove_dir_all(root.join("opaque")).unwrap();
            fs::create_dir(root.join("opaque")).unwrap();
            fs::write(root.join("opaque/new"), "2").unwrap();
            fs::rename(root.join("etc"), root.join("etc2"))
                .or_else(|e| {
                    // Overlay refuses to rename a folder of a lower layer (EXDEV); mv(1) copies then.
                    assert_eq!(e.raw_os_error(), Some(18));
                    fs::create_dir(root.join("etc2")).and_then(|()| fs::rename(root.join("etc/a"), root.join("etc2/a")))
                })
                .unwrap();
        });
        view(backend, temp, 3, &[2, 1], |root| {
            assert_eq!(fs::read(root.join("etc2/a")).unwrap(), b"2");
            assert!(!root.join("etc2/gone").exists() && !root.join("etc/gone").exists());
            let names: Vec<_> = fs::read_dir(root.join("opaque")).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["new"]);
            assert!(fs::write(root.join("x"), "").is_err());
        });
        view(backend, temp, 4, &[1], |root| {
            assert_eq!(fs::read(root.join("etc/a")).unwrap(), b"1");
            assert!(root.join("opaque/old").exists());
        });
    });
}

#[test]
fn files_keep_all_that_they_are() {
    run(|backend, temp| {
        layer(backend, temp, 1, &[], |root| {
            fs::set_permissions(root, fs::Permissions::from_mode(0o751)).unwrap();
            std::os::unix::fs::chown(root, Some(7), Some(8)).unwrap();
            fs::write(root.join("file"), "x").unwrap();
            std::os::unix::fs::chown(root.join("file"), Some(1000), Some(1001)).unwrap();
            fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o4755)).unwrap();
            fs::hard_link(root.join("file"), root.join("link")).unwrap();
            symlink("/nowhere", root.join("symlink")).unwrap();
            rustix::fs::lsetxattr(root.join("file"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
        });
        layer(backend, temp, 2, &[1], |_| {});
        view(backend, temp, 3, &[2, 1], |root| {
            let meta = fs::metadata(root).unwrap();
            // containerd 1.6 gives the roots of all its layers one mode; what else there is to them it keeps.
            let mode = if backend.name() == "remote" { 0o755 } else { 0o751 };
            assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (mode, 7, 8));
            let meta = fs::metadata(root.join("file")).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4755, 1000, 1001));
            assert_eq!(meta.ino(), fs::metadata(root.join("link")).unwrap().ino());
            assert_eq!(fs::read_link(root.join("symlink")).unwrap(), Path::new("/nowhere"));
            let mut value = [0; 16];
            let n = rustix::fs::lgetxattr(root.join("file"), "user.note", &mut value[..]).unwrap();
            assert_eq!(&value[..n], b"kept");
        });
    });
}

#[test]
fn a_hundred_and_thirty_layers() {
    run(|backend, temp| {
        let mut ancestors: Vec<u64> = Vec::new();
        for id in 1..=130 {
            layer(backend, temp, id, &ancestors, |root| fs::write(root.join(format!("f{id}")), "").unwrap());
            ancestors.insert(0, id);
        }
        view(backend, temp, 200, &ancestors, |root| assert_eq!(fs::read_dir(root).unwrap().count(), 130));
    });
}

#[test]
fn usage_counts_own_files_and_hard_links_once() {
    run(|backend, temp| {
        layer(backend, temp, 1, &[], |root| {
            fs::write(root.join("a"), vec![1; 8192]).unwrap();
            fs::hard_link(root.join("a"), root.join("b")).unwrap();
        });
        let usage = backend.usage(1).unwrap();
        assert_eq!(usage.inodes, 2, "the root and one file");
        assert!((8192..65536).contains(&usage.size_bytes), "{usage:?}");
    });
}

#[test]
fn numbers_are_used_once_and_committed_ones_are_not_mounted() {
    run(|backend, _| {
        backend.prepare(&place(1, Active, &[])).unwrap();
        assert_eq!(backend.prepare(&place(1, Active, &[])).unwrap_err().kind, RefusalKind::AlreadyExists);
        assert_eq!(backend.mounts(&place(1, Committed, &[])).unwrap_err().kind, RefusalKind::FailedPrecondition);
        assert_eq!(backend.usage(9).unwrap_err().kind, RefusalKind::NotFound);
    });
}

#[test]
fn what_is_removed_or_unknown_goes_through_the_trash() {
    run(|backend, temp| {
        for id in 1..=3 {
            layer(backend, temp, id, &[], |root| fs::write(root.join("a"), "x").unwrap());
        }
        backend.remove(1).unwrap();
        backend.remove(1).unwrap();
        assert_eq!(backend.sweep(&|id| id == 2).unwrap(), [3]);
        assert!(backend.usage(1).is_err() && backend.usage(2).is_ok() && backend.usage(3).is_err());
        backend.empty_trash().unwrap();
        let trash = temp.parent().unwrap().join("root/trash");
        assert_eq!(fs::read_dir(trash).into_iter().flatten().count(), 0);
    });
}

#[test]
fn what_containers_do_to_the_layer_below_is_seen_above_alone() {
    run(|backend, temp| {
        layer(backend, temp, 1, &[], |root| {
            for folder in ["keep", "move/deep", "chown"] {
                fs::create_dir_all(root.join(folder)).unwrap();
                fs::write(root.join(folder).join("f"), folder).unwrap();
            }
            fs::hard_link(root.join("keep/f"), root.join("keep/g")).unwrap();
        });
        layer(backend, temp, 2, &[1], |root| {
            std::os::unix::fs::chown(root.join("chown/f"), Some(5), Some(6)).unwrap();
            std::os::unix::fs::chown(root.join("chown"), Some(5), Some(6)).unwrap();
            fs::rename(root.join("move/deep/f"), root.join("moved")).unwrap();
            fs::set_permissions(root.join("keep/f"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::hard_link(root.join("keep/f"), root.join("h")).unwrap();
            // Gone and made again: nothing of before comes back.
            fs::remove_dir_all(root.join("move")).unwrap();
            fs::create_dir(root.join("move")).unwrap();
        });
        layer(backend, temp, 3, &[2, 1], |root| {
            fs::remove_file(root.join("moved")).unwrap();
            fs::write(root.join("move/new"), "").unwrap();
        });
        view(backend, temp, 4, &[3, 2, 1], |root| {
            let meta = fs::metadata(root.join("chown/f")).unwrap();
            assert_eq!((meta.uid(), meta.gid(), fs::metadata(root.join("chown")).unwrap().uid()), (5, 6, 5));
            assert!(!root.join("moved").exists() && !root.join("move/deep").exists() && root.join("move/new").exists());
            assert_eq!(fs::metadata(root.join("h")).unwrap().mode() & 0o777, 0o600);
            assert_eq!(fs::read(root.join("h")).unwrap(), b"keep");
        });
        view(backend, temp, 5, &[1], |root| {
            assert_eq!(fs::metadata(root.join("chown/f")).unwrap().uid(), 0);
            assert_eq!(fs::read(root.join("move/deep/f")).unwrap(), b"move/deep");
        });
    });
}

#[test]
fn two_of_one_parent_do_not_meet() {
    run(|backend, temp| {
        layer(backend, temp, 1, &[], |root| fs::write(root.join("a"), "1").unwrap());
        let (left, right) = (place(2, Active, &[1]), place(3, Active, &[1]));
        let mount = |at| {
            backend.prepare(at).unwrap();
            TempMount::new(&backend.mounts(at).unwrap(), temp).unwrap()
        };
        let (one, two) = (mount(&left), mount(&right));
        fs::write(one.path().join("a"), "left").unwrap();
        fs::remove_file(two.path().join("a")).unwrap();
        assert_eq!(fs::read(one.path().join("a")).unwrap(), b"left");
        assert!(!two.path().join("a").exists());
        // Removing one while it is mounted harms neither the other nor the parent.
        backend.remove(2).unwrap();
        fs::write(two.path().join("b"), "").unwrap();
        drop(one);
        backend.empty_trash().unwrap();
        view(backend, temp, 4, &[1], |root| assert_eq!(fs::read(root.join("a")).unwrap(), b"1"));
    });
}

#[test]
fn all_kinds_of_files_and_their_holes_are_kept() {
    run(|backend, temp| {
        layer(backend, temp, 1, &[], |root| {
            let node = |name: &str, kind, device| {
                let mode = rustix::fs::Mode::from_raw_mode(0o640);
                rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, mode, device).unwrap();
            };
            node("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
            node("pipe", rustix::fs::FileType::Fifo, 0);
            let sparse = fs::File::create(root.join("sparse")).unwrap();
            sparse.set_len(64 << 20).unwrap();
            rustix::io::pwrite(&sparse, b"middle", 32 << 20).unwrap();
            let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(5, 7));
            fs::create_dir(root.join("old")).unwrap();
            fs::write(root.join("old/f"), "").unwrap();
            fs::File::open(root.join("old")).unwrap().set_times(old).unwrap();
        });
        layer(backend, temp, 2, &[1], |_| {});
        view(backend, temp, 3, &[2, 1], |root| {
            let null = fs::metadata(root.join("null")).unwrap();
            assert_eq!((null.rdev(), null.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o640));
            assert_eq!(fs::metadata(root.join("sparse")).unwrap().len(), 64 << 20);
            let old = fs::metadata(root.join("old")).unwrap();
            assert_eq!((old.mtime(), old.mtime_nsec()), (5, 7));
        });
        let usage = backend.usage(1).unwrap();
        assert!(usage.size_bytes < 1 << 20, "{usage:?}");
        assert!(backend.usage(2).unwrap().size_bytes < 1 << 20, "a copy keeps holes");
    });
}

#[test]
fn a_crash_in_the_middle_leaves_what_is_swept() {
    run_on_folders(|backend, temp| {
        let root = temp.parent().unwrap().join("root");
        // As a crash between making and renaming, and one between renaming and the row, would leave it.
        fs::create_dir_all(root.join("new/7/fs/half")).unwrap();
        layer(backend, temp, 8, &[], |_| {});
        fs::create_dir_all(root.join("snapshots/not-a-number")).unwrap();
        let mut swept = backend.sweep(&|_| false).unwrap();
        swept.sort_unstable();
        assert_eq!(swept, [7, 8]);
        assert!(root.join("snapshots/not-a-number").exists(), "what is not ours is left alone");
        backend.empty_trash().unwrap();
        // A number whose making was cut off can be used.
        fs::create_dir_all(root.join("new/9/fs/half")).unwrap();
        layer(backend, temp, 9, &[], |root| assert!(!root.join("half").exists()));
    });
}

#[test]
fn a_root_that_mount_options_cannot_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a:b", "a,b", "a\\b"] {
        let refused = |refusal: wharf_messages::Refusal| refusal.kind == RefusalKind::InvalidArgument;
        assert!(refused(Overlayfs::open(&dir.path().join(name)).err().unwrap()), "{name}");
        assert!(!dir.path().join(name).exists());
    }
}

#[test]
fn what_the_remote_has_already_is_taken_up() {
    run_on_remote(|proxy, remote, temp| {
        use wharf_grpc::containerd::services::snapshots::v1 as wire;
        let reference = || [(SNAPSHOT_REF_LABEL.to_owned(), "chain".to_owned())].into();
        // As a daemon leaves it that has unpacked an image.
        let prepare = wire::PrepareSnapshotRequest {
            snapshotter: "overlayfs".to_owned(),
            key: "extract".to_owned(),
            labels: [("containerd.io/gc.root".to_owned(), "x".to_owned())].into(),
            ..Default::default()
        };
        let commit = wire::CommitSnapshotRequest {
            snapshotter: "overlayfs".to_owned(),
            key: "extract".to_owned(),
            name: "chain".to_owned(),
            labels: wharf_messages::Labels::from([
                (SNAPSHOT_REF_LABEL.to_owned(), "chain".to_owned()),
                ("containerd.io/gc.root".to_owned(), "x".to_owned()),
            ]),
            ..Default::default()
        };
        let within = |namespace: &str| namespace.parse::<tonic::metadata::AsciiMetadataValue>().unwrap();
        let suite = within("suite");
        let made = remote.call(std::time::Duration::from_secs(10), move |channel| async move {
            let mut client = wire::snapshots_client::SnapshotsClient::with_origin(channel, Remote::origin());
            let mut request = tonic::Request::new(prepare);
            request.metadata_mut().insert("containerd-namespace", suite.clone());
            client.prepare(request).await?;
            let mut request = tonic::Request::new(commit);
            request.metadata_mut().insert("containerd-namespace", suite);
            client.commit(request).await
        });
        made.unwrap();
        let labels: wharf_messages::Labels = reference();
        let wanted = |id| Placement { labels: &labels, ..place(id, Active, &[]) };
        let Prepared::AlreadyHere(found) = proxy.prepare(&wanted(1)).unwrap() else { panic!("it is there") };
        assert_eq!(found[SNAPSHOT_REF_LABEL], "chain");
        proxy.usage(1).unwrap();
        // It can be built on, and be had twice; it goes when the last of ours does.
        view(proxy, temp, 2, &[1], |root| assert_eq!(fs::read_dir(root).unwrap().count(), 0));
        proxy.remove(2).unwrap();
        assert!(matches!(proxy.prepare(&wanted(3)).unwrap(), Prepared::AlreadyHere(_)));
        proxy.remove(1).unwrap();
        proxy.usage(3).unwrap();
        proxy.remove(3).unwrap();
        assert_eq!(proxy.prepare(&wanted(4)).unwrap(), Prepared::New, "nobody has it now");
    });
}

#[test]
fn a_remote_that_is_away_is_told_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let socket = dir.path().join("nobody.sock");
    let remote = Remote::new(&socket, runtime.handle().clone());
    let proxy = Proxy::open("remote", remote, "overlayfs", &dir.path().join("root")).unwrap();
    let refusal = proxy.prepare(&place(1, Active, &[])).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert!(refusal.detail.contains("remote") && refusal.detail.contains("nobody.sock"), "{refusal}");
    // Whether it was made is not known: it is noted, for the sweep to settle when somebody answers.
    assert!(proxy.sweep(&|_| false).is_err());
    assert!(proxy.empty_trash().is_err(), "who asks for a cleanup is told");
    proxy.collected().expect("a collection has nothing to tell it");
    let mut containerd = wharf_tests::Containerd::start();
    symlink(containerd.address(), &socket).unwrap();
    assert_eq!(proxy.sweep(&|_| false).unwrap(), [1]);
    proxy.prepare(&place(2, Active, &[])).unwrap();
    containerd.kill();
    assert_eq!(proxy.mounts(&place(2, Active, &[])).unwrap_err().kind, RefusalKind::Unavailable);
    containerd.up();
    assert_eq!(proxy.mounts(&place(2, Active, &[])).unwrap().len(), 1);
    proxy.remove(2).unwrap();
    containerd.kill();
    proxy.collected().expect("it is asked again by the next collection");
    assert!(proxy.removed.load(Ordering::Relaxed));
    containerd.up();
    proxy.collected().unwrap();
    assert!(!proxy.removed.load(Ordering::Relaxed));
}

#[test]
fn labels_give_a_snapshots_files_to_a_user_namespace() {
    run_on_folders(|backend, temp| {
        layer(backend, temp, 1, &[], |root| {
            fs::create_dir(root.join("etc")).unwrap();
            for (name, uid) in [("etc/root", 0), ("etc/user", 7), ("etc/stranger", 70_000)] {
                fs::write(root.join(name), "x").unwrap();
                std::os::unix::fs::chown(root.join(name), Some(uid), Some(uid)).unwrap();
            }
            fs::write(root.join("su"), "x").unwrap();
            fs::set_permissions(root.join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
            fs::hard_link(root.join("su"), root.join("su2")).unwrap();
            symlink("/etc/hostname", root.join("link")).unwrap();
        });
        layer(backend, temp, 2, &[1], |root| fs::write(root.join("upper"), "x").unwrap());
        let maps = [("uidmapping", "0:1000:65536"), ("gidmapping", "0:2000:65536")];
        let labels = maps.map(|(label, map)| (format!("containerd.io/snapshot/{label}"), map.to_owned())).into();
        let look = |id: u64, ancestors: &[u64], expected: &[(&str, u32, u32)]| {
            let at = Placement { labels: &labels, ..place(id, Active, ancestors) };
            backend.prepare(&at).unwrap();
            let mount = TempMount::new(&backend.mounts(&at).unwrap(), temp).unwrap();
            for (path, uid, gid) in expected {
                let of = mount.path().join(path).symlink_metadata().unwrap();
                assert_eq!((of.uid(), of.gid()), (*uid, *gid), "{path:?} of {}", backend.name());
            }
            let mode = |path| mount.path().join(path).metadata().map(|of| of.mode() & 0o7777).ok();
            assert_eq!((mode("su"), mode("su2")).0, mode("su2"));
            assert!(mode("su").is_none_or(|mode| mode == 0o4755));
        };
        look(3, &[], &[("", 1000, 2000)]);
        look(
            4,
            &[2, 1],
            &[
                ("", 1000, 2000),
                ("etc", 1000, 2000),
                ("etc/root", 1000, 2000),
                ("etc/user", 1007, 2007),
                ("etc/stranger", 70_000, 70_000),
                ("su", 1000, 2000),
                ("su2", 1000, 2000),
                ("link", 1000, 2000),
                ("upper", 1000, 2000),
            ],
        );
        // What it stands on stays as it was, and a view shows that.
        let at = Placement { labels: &labels, ..place(5, View, &[2, 1]) };
        backend.prepare(&at).unwrap();
        let mount = TempMount::new(&backend.mounts(&at).unwrap(), temp).unwrap();
        assert_eq!(mount.path().join("etc/root").metadata().unwrap().uid(), 0);
        drop(mount);
        let bad = [("containerd.io/snapshot/uidmapping".to_owned(), "0:1000:65536".to_owned())].into();
        let at = Placement { labels: &bad, ..place(6, Active, &[2, 1]) };
        assert_eq!(backend.prepare(&at).unwrap_err().kind, RefusalKind::InvalidArgument);
    });
}
