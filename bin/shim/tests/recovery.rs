//! What survives whom: a shim its daemon, and a container's exit its shim.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use containerd_shim_protos::api::Status;
use harness::client::Client;
use harness::{World, eventually, is_alive, kill};

#[test]
fn events_wait_for_a_daemon_that_comes_back() {
    let mut world = World::run(&["sleep", "1000"]);
    world.events.wait_for("/tasks/start");
    world.events.stop();
    let id = world.id.clone();
    world.client().kill(&id, "", libc::SIGKILL, false).unwrap();
    world.client().wait(&id, "").unwrap();
    world.client().delete(&id, "").unwrap();
    world.events.restart();
    world.events.wait_for("/tasks/delete");
    assert_eq!(world.events.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
}

#[test]
fn a_daemon_that_comes_back_finds_the_container() {
    let mut world = World::run(&["sh", "-c", "until test -e /go; do sleep 0.01; done; exit 4"]);
    let address = fs::read_to_string(world.bundle.join("address")).unwrap();
    world.client = None;
    world.touch("go");
    eventually("the record", || world.exit_record("init"));
    let client = Client::connect(&address, 2);
    let state = client.state(&world.id, "").unwrap();
    assert_eq!((state.status.enum_value(), state.exit_status), (Ok(Status::STOPPED), 4));
    assert_eq!(client.wait(&world.id, "").unwrap(), 4);
    client.delete(&world.id, "").unwrap();
    world.assert_gone();
}

#[test]
fn a_dead_shims_container_is_killed_and_cleaned_up() {
    let world = World::run(&["sh", "-c", "sleep 1000 & sleep 1000"]);
    let init: i32 = fs::read_to_string(world.bundle.join("init.pid")).unwrap().parse().unwrap();
    world.kill_shim();
    assert!(is_alive(init));
    let deleted = world.delete_dead();
    assert_eq!((i32::try_from(deleted.pid), deleted.exit_status), (Ok(init), 137));
    assert!(deleted.exited_at.seconds > 1_600_000_000);
    assert!(!is_alive(init));
    assert!(!world.socket().exists());
    world.assert_gone();
    // Once more finds nothing to do.
    assert_eq!(world.delete_dead().exit_status, 137);
}

#[test]
fn a_dead_shims_record_tells_how_it_really_ended() {
    let world = World::run(&["sh", "-c", "exit 23"]);
    world.client().wait(&world.id, "").unwrap();
    let record = world.exit_record("init").unwrap();
    world.kill_shim();
    let deleted = world.delete_dead();
    assert_eq!(deleted.exit_status, 23);
    let at = deleted.exited_at.seconds * 1_000_000_000 + i64::from(deleted.exited_at.nanos);
    assert_eq!(at, record["exited_at_ns"].as_i64().unwrap());
    world.assert_gone();
}

#[test]
fn a_shim_with_containers_ignores_being_asked_to_end() {
    let world = World::run(&["sleep", "1000"]);
    kill(world.shim_pid, libc::SIGTERM);
    kill(world.shim_pid, libc::SIGINT);
    assert_eq!(world.client().status(&world.id), Status::RUNNING);
    assert!(is_alive(world.shim_pid));
}

#[test]
fn a_shim_without_containers_ends_when_asked() {
    let mut world = World::new(&["true"]);
    // Its socket is there before it is; one that answers has come so far that it minds signals.
    world.start_shim(3);
    world.client().state(&world.id, "").unwrap_err();
    kill(world.shim_pid, libc::SIGTERM);
    eventually("the shim's end", || (!is_alive(world.shim_pid) && !world.socket().exists()).then_some(()));
}

#[test]
fn garbage_on_the_socket_harms_nobody() {
    let world = World::run(&["sleep", "1000"]);
    let connect = || UnixStream::connect(world.socket()).unwrap();
    // Half a header; a frame over the limit, cut off; what is no protobuf; a response to nothing.
    let frames: [&[u8]; 4] = [
        &[0, 0, 0],
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0, 9, 9],
        &[0, 0, 0, 4, 0, 0, 0, 1, 1, 0, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 0, 0, 0, 0, 1, 2, 0],
    ];
    for frame in frames {
        connect().write_all(frame).unwrap();
    }
    let mut socket = connect();
    socket.write_all(frames[2]).unwrap();
    let mut header = [0; 10];
    socket.read_exact(&mut header).unwrap();
    assert_eq!((header[7], header[8]), (1, 2), "an answer to the call that made no sense");
    assert_eq!(world.client().status(&world.id), Status::RUNNING);
}

#[test]
fn the_shim_is_one_thread_in_a_session_of_its_own() {
    let world = World::run(&["sleep", "1000"]);
    let status = fs::read_to_string(format!("/proc/{}/status", world.shim_pid)).unwrap();
    assert!(status.lines().any(|line| line.split_whitespace().eq(["Threads:", "1"])), "{status}");
    let stat = fs::read_to_string(format!("/proc/{}/stat", world.shim_pid)).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let pid = world.shim_pid.to_string();
    assert_eq!((fields[2], fields[3]), (pid.as_str(), pid.as_str()), "process group and session");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", world.shim_pid)).unwrap().to_str(), Some("/"));
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let shim: i32 =
        fs::read_to_string(format!("/proc/{}/oom_score_adj", world.shim_pid)).unwrap().trim().parse().unwrap();
    assert_eq!(shim, (own + 1).min(1000));
}
