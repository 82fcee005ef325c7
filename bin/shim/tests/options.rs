//! What runc's options ask for: each is done, or refused by its name.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::path::PathBuf;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::ttrpc::Code;
use harness::fifo::Fifo;
use harness::{World, any, eventually};
use protobuf::Message;

fn encoded(options: &Options) -> Any {
    any("containerd.runc.v1.Options", options.write_to_bytes().unwrap())
}

/// Makes the container with options; what it prints goes to a FIFO.
fn create(world: &World, options: &Options, out: &Fifo) -> Result<i32, harness::client::Refused> {
    let mut request = world.create_request();
    request.options = Some(encoded(options)).into();
    request.stdout = out.name();
    world.client().create(&request)
}

/// Runs a container to its end, with options, and gives what it printed.
fn printed(world: &World, options: &Options) -> String {
    let out = Fifo::new(&world.folder.0, "out");
    let reader = out.reader();
    create(world, options, &out).unwrap();
    world.client().start(&world.id, "").unwrap();
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 0);
    world.client().delete(&world.id, "").unwrap();
    reader.rest()
}

fn world(args: &[&str]) -> World {
    let mut world = World::new(args);
    world.start_shim(3);
    world
}

/// The embedded runtime, and runc where it is installed.
fn runtimes() -> impl Iterator<Item = &'static str> {
    ["", "runc"].into_iter().filter(|name| name.is_empty() || fs::exists("/usr/sbin/runc").unwrap())
}

#[test]
fn streams_belong_to_whom_they_say() {
    for binary in runtimes() {
        let world = world(&["ls", "-lnL", "/proc/self/fd/1"]);
        let root = world.folder.0.join("root").to_str().unwrap().to_owned();
        let options = Options { binary_name: binary.into(), root, io_uid: 1234, io_gid: 5678, ..Default::default() };
        let line = printed(&world, &options);
        let words: Vec<_> = line.split_whitespace().collect();
        // In the end they are the process's user's, who may open them again; their group is left alone.
        assert_eq!(words[2..4], ["0", "5678"], "{binary:?}: {line}");
        world.assert_gone();
    }
}

#[test]
fn a_root_that_is_not_pivoted_is_a_root_all_the_same() {
    for binary in runtimes() {
        let world = world(&["ls", "/"]);
        let root = world.folder.0.join("root").to_str().unwrap().to_owned();
        let options = Options { binary_name: binary.into(), root, no_pivot_root: true, ..Default::default() };
        assert_eq!(printed(&world, &options), "bin\ndev\netc\nproc\nroot\nsys\ntmp\n", "{binary:?}");
        world.assert_gone();
    }
}

#[test]
fn the_runtimes_state_is_where_they_say() {
    for binary in runtimes() {
        let world = world(&["sleep", "1000"]);
        let root = world.folder.0.join("state");
        let options = Options { binary_name: binary.into(), root: root.to_str().unwrap().into(), ..Default::default() };
        create(&world, &options, &Fifo::new(&world.folder.0, "out")).unwrap();
        let state = root.join(harness::NAMESPACE).join(&world.id);
        assert!(state.is_dir(), "{binary:?}");
        world.client().delete(&world.id, "").unwrap();
        assert!(!state.exists(), "{binary:?}");
        world.assert_gone();
    }
}

/// A cgroup that goes with the test.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn the_shim_joins_the_cgroup_that_they_name() {
    let mut world = World::new(&["true"]);
    let name = format!("{}-shim", world.id);
    let named = |name: &str| encoded(&Options { shim_cgroup: format!("/{name}"), ..Default::default() });
    let output = world.try_start(Some(&named(&name)));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains(&name), "there is none: {words}");
    eventually("the end of the shim that nobody knows", || {
        let of_it = |entry: std::io::Result<fs::DirEntry>| {
            let line = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&world.id)
        };
        (!fs::read_dir("/proc").unwrap().any(of_it)).then_some(())
    });
    let first = ["pids", ""].map(|hierarchy| PathBuf::from("/sys/fs/cgroup").join(hierarchy));
    let hierarchy = first.into_iter().find(|folder| folder.join("cgroup.procs").exists()).unwrap();
    let cgroup = Cgroup(hierarchy.join(&name));
    fs::create_dir(&cgroup.0).unwrap();
    world.start_shim_with(3, Some(&named(&name)));
    let joined = fs::read_to_string(format!("/proc/{}/cgroup", world.shim_pid)).unwrap();
    assert!(joined.lines().any(|line| line.ends_with(&format!("/{name}"))), "{joined}");
    // First the shim goes, then its cgroup.
    drop(world);
    drop(cgroup);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let world = world(&["true"]);
    let out = Fifo::new(&world.folder.0, "out");
    if !fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        let refused = create(&world, &Options { systemd_cgroup: true, ..Default::default() }, &out).unwrap_err();
        assert_eq!(refused.code, Code::UNIMPLEMENTED);
        assert!(refused.message.contains("systemd") && refused.message.contains("runc"), "{}", refused.message);
    }
    let mut request = world.create_request();
    request.options = Some(any("some.other.Options", Vec::new())).into();
    let refused = world.client().create(&request).unwrap_err();
    assert_eq!(refused.code, Code::INVALID_ARGUMENT);
    assert!(refused.message.contains("some.other.Options"), "{}", refused.message);
    let mut request = world.create_request();
    request.checkpoint = "/no/such/image".into();
    let refused = world.client().create(&request).unwrap_err();
    assert_eq!(refused.code, Code::UNIMPLEMENTED);
    assert!(refused.message.contains("checkpoint") && refused.message.contains("runc"), "{}", refused.message);
    world.assert_gone();
}
