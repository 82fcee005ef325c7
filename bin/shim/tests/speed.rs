//! How long a container's life takes in the shim, beside containerd's own. Asserts nothing; run it by hand:
//!
//! ```sh
//! cargo test --release -p wharf-shim --test speed -- --ignored --nocapture
//! ```
//! `WHARF_SHIM` names another executable to measure, such as the static one.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::shim::oci::Options;
use harness::client::Client;
use harness::{World, any, eventually, is_alive};
use protobuf::Message;

const ROUNDS: usize = 30;
const STEPS: [&str; 6] = ["bootstrap", "create", "start", "wait", "delete", "whole"];

/// One life; how long each step took.
fn life(binary: &str, runc: Option<&str>) -> [Duration; 6] {
    let mut world = World::new(&["true"]);
    fs::create_dir_all(world.bundle.join("rootfs")).unwrap();
    // containerd's shim waits for its log's reader.
    let log = harness::fifo::Fifo::new(&world.bundle, "log");
    let _reader = log.reader();
    let options = runc.map(|binary| Options { binary_name: binary.into(), ..Default::default() });
    let options = options.map(|options| any("containerd.runc.v1.Options", options.write_to_bytes().unwrap()));
    let begin = Instant::now();
    let mut step = begin;
    let mut lap = || {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut step, now))
    };
    let mut child = Command::new(binary)
        .args(["-namespace", harness::NAMESPACE, "-address"])
        .arg(world.folder.0.join("daemon.sock"))
        .args(["-publish-binary", "/bin/false", "-id", &world.id, "start"])
        .current_dir(&world.bundle)
        .env("WHARF_SHIM_SOCKET_DIR", world.folder.0.join("s"))
        .env("TTRPC_ADDRESS", world.folder.0.join("events.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = options.as_ref().map(|any| any.write_to_bytes().unwrap()).unwrap_or_default();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    let client = Client::connect(std::str::from_utf8(&output.stdout).unwrap(), 2);
    let bootstrap = lap();
    let mut request = world.create_request();
    request.options = options.into();
    client.create(&request).unwrap();
    let create = lap();
    client.start(&world.id, "").unwrap();
    let start = lap();
    client.wait(&world.id, "").unwrap();
    let wait = lap();
    client.delete(&world.id, "").unwrap();
    let delete = lap();
    let whole = begin.elapsed();
    world.shim_pid = find_shim(&client, &world.id);
    client.shutdown(&world.id);
    eventually("the shim's end", || (!is_alive(world.shim_pid)).then_some(()));
    [bootstrap, create, start, wait, delete, whole]
}

fn find_shim(client: &Client, id: &str) -> i32 {
    use containerd_shim_protos::api::{ConnectRequest, ConnectResponse};
    let request = ConnectRequest { id: id.into(), ..Default::default() };
    let response: ConnectResponse = client.call("Connect", &request).unwrap();
    i32::try_from(response.shim_pid).unwrap()
}

#[test]
#[ignore = "a measurement"]
fn a_containers_life() {
    let ours = std::env::var("WHARF_SHIM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_wharf-shim").to_owned());
    let theirs = "/usr/bin/containerd-shim-runc-v2".to_owned();
    let mut shims = vec![("wharf-shim", ours.clone(), None), ("wharf-shim, runc", ours, Some("runc"))];
    if fs::exists(&theirs).unwrap() {
        shims.push(("containerd-shim-runc-v2", theirs, None));
    }
    println!("{:26}{}", "median of a step in ms", STEPS.map(|step| format!("{step:>10}")).concat());
    for (name, binary, runc) in shims {
        let rounds: Vec<_> = (0..ROUNDS).map(|_| life(&binary, runc)).collect();
        let medians = std::array::from_fn::<_, 6, _>(|step| {
            let mut times: Vec<_> = rounds.iter().map(|round| round[step]).collect();
            times.sort_unstable();
            format!("{:>10.2}", times[ROUNDS / 2].as_secs_f64() * 1000.0)
        });
        println!("{name:26}{}", medians.concat());
    }
}
