//! Containers that another OCI runtime makes, because their options name it.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, Empty, ExecProcessRequest, PauseRequest, PidsRequest, PidsResponse, ResumeRequest, Status,
    UpdateTaskRequest,
};
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::ttrpc::Code;
use harness::fifo::Fifo;
use harness::{World, any, is_alive, set, spec};
use protobuf::Message;
use serde_json::json;

/// A container that runc makes, in a root of the test's own; nothing without runc on the machine.
fn with_runc(args: &[&str], terminal: bool) -> Option<(World, Options)> {
    std::fs::exists("/usr/sbin/runc").unwrap().then_some(())?;
    let mut world = World::with_spec(|id| {
        let mut spec = spec(id, args);
        set(&mut spec, "/process", "terminal", json!(terminal));
        spec
    });
    world.start_shim(3);
    let root = world.folder.0.join("runc").to_str().unwrap().to_owned();
    Some((world, Options { binary_name: "runc".into(), root, ..Default::default() }))
}

fn create(world: &World, options: &Options, stdout: &str, terminal: bool) -> i32 {
    let mut request = world.create_request();
    request.options = Some(any("containerd.runc.v1.Options", options.write_to_bytes().unwrap())).into();
    request.stdout = stdout.into();
    request.terminal = terminal;
    world.client().create(&request).unwrap()
}

#[test]
fn a_whole_life() {
    let Some((world, options)) = with_runc(&["sh", "-c", "echo said; exit 7"], false) else { return };
    let (id, client) = (&world.id, world.client());
    let out = Fifo::new(&world.folder.0, "out");
    let reader = out.reader();
    let pid = create(&world, &options, &out.name(), false);
    assert_eq!(client.start(id, "").unwrap(), pid);
    assert_eq!(client.wait(id, "").unwrap(), 7);
    assert_eq!(client.kill(id, "", libc::SIGKILL, false).unwrap_err().code, Code::NOT_FOUND);
    assert_eq!(client.delete(id, "").unwrap().exit_status, 7);
    assert_eq!(reader.rest(), "said\n");
    assert!(!world.folder.0.join("runc/test").join(id).exists(), "runc has forgotten it");
    world.assert_gone();
    world.events.wait_for("/tasks/delete");
    assert_eq!(world.events.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
}

#[test]
fn its_words_are_passed_on() {
    let Some((world, options)) = with_runc(&["nosuch"], false) else { return };
    let mut request = world.create_request();
    request.options = Some(any("containerd.runc.v1.Options", options.write_to_bytes().unwrap())).into();
    let refused = world.client().create(&request).unwrap_err();
    assert!(refused.message.starts_with("OCI runtime create failed: "), "{}", refused.message);
    assert!(refused.message.contains("executable file not found in $PATH"), "{}", refused.message);
    world.assert_gone();
    let mut missing = options;
    missing.binary_name = "no-such-runtime".into();
    request.options = Some(any("containerd.runc.v1.Options", missing.write_to_bytes().unwrap())).into();
    let refused = world.client().create(&request).unwrap_err();
    assert_eq!(refused.code, Code::NOT_FOUND);
    assert!(refused.message.contains("no-such-runtime"), "{}", refused.message);
    world.assert_gone();
}

#[test]
fn verbs_reach_it() {
    let Some((world, options)) = with_runc(&["sleep", "1000"], false) else { return };
    let (id, client) = (&world.id, world.client());
    create(&world, &options, "", false);
    client.start(id, "").unwrap();

    let process =
        json!({"args": ["sh", "-c", "exit 5"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    let exec = ExecProcessRequest {
        id: id.clone(),
        exec_id: "x".into(),
        spec: Some(any("types.containerd.io/opencontainers/runtime-spec/1/Process", process.to_string().into())).into(),
        ..Default::default()
    };
    client.call::<_, Empty>("Exec", &exec).unwrap();
    client.start(id, "x").unwrap();
    assert_eq!(client.wait(id, "x").unwrap(), 5);
    client.delete(id, "x").unwrap();

    client.call::<_, Empty>("Pause", &PauseRequest { id: id.clone(), ..Default::default() }).unwrap();
    assert_eq!(client.status(id), Status::PAUSED);
    client.call::<_, Empty>("Resume", &ResumeRequest { id: id.clone(), ..Default::default() }).unwrap();
    assert_eq!(client.status(id), Status::RUNNING);
    let limits = r#"{"pids":{"limit":50}}"#.into();
    let resources = any("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", limits);
    let update = UpdateTaskRequest { id: id.clone(), resources: Some(resources).into(), ..Default::default() };
    client.call::<_, Empty>("Update", &update).unwrap();
    let pids: PidsResponse = client.call("Pids", &PidsRequest { id: id.clone(), ..Default::default() }).unwrap();
    assert_eq!(pids.processes.len(), 1);
    // Whether CRIU works here or not, the container is answered for and lives on.
    let image = world.folder.0.join("image").to_str().unwrap().to_owned();
    let checkpoint = CheckpointTaskRequest { id: id.clone(), path: image, ..Default::default() };
    if let Err(refused) = client.call::<_, Empty>("Checkpoint", &checkpoint) {
        assert!(
            refused.message.starts_with("runc did not terminate successfully: exit status "),
            "{}",
            refused.message
        );
    }
    assert_eq!(client.status(id), Status::RUNNING);
    client.kill(id, "", libc::SIGKILL, true).unwrap();
    assert_eq!(client.wait(id, "").unwrap(), 137);
    client.delete(id, "").unwrap();
    world.assert_gone();
}

#[test]
fn a_terminal_comes_from_it() {
    let Some((world, options)) = with_runc(&["tty"], true) else { return };
    let out = Fifo::new(&world.folder.0, "out");
    let mut reader = out.reader();
    create(&world, &options, &out.name(), true);
    world.client().start(&world.id, "").unwrap();
    reader.expect("/dev/pts/0\r\n");
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 0);
}

#[test]
fn a_dead_shims_container_is_deleted_by_it() {
    let Some((world, options)) = with_runc(&["sleep", "1000"], false) else { return };
    let pid = create(&world, &options, "", false);
    world.client().start(&world.id, "").unwrap();
    world.kill_shim();
    assert_eq!(world.delete_dead().exit_status, 137);
    assert!(!is_alive(pid));
    assert!(!world.folder.0.join("runc/test").join(&world.id).exists());
    world.assert_gone();
}
