//! A container's life through the shim's socket: what is answered, told and written down, in which order.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use containerd_shim_protos::api::{ConnectRequest, ConnectResponse, PidsRequest, PidsResponse, Status};
use containerd_shim_protos::events::task::{TaskCreate, TaskDelete, TaskExit, TaskStart};
use containerd_shim_protos::ttrpc::Code;
use harness::{World, eventually, is_alive, set, spec};
use serde_json::json;

fn whole_life(version: u32) {
    let mut world = World::new(&["sh", "-c", "exit 7"]);
    world.start_shim(version);
    let (id, client) = (&world.id, world.client());

    let pid = client.create(&world.create_request()).unwrap();
    assert_eq!(client.status(id), Status::CREATED);
    assert_eq!(client.create(&world.create_request()).unwrap_err().code, Code::ALREADY_EXISTS);
    assert_eq!(client.start(id, "").unwrap(), pid);
    assert_eq!(client.wait(id, "").unwrap(), 7);
    assert_eq!(client.wait(id, "").unwrap(), 7, "whoever comes late is told too");
    let state = client.state(id, "").unwrap();
    assert_eq!((state.status.enum_value(), state.exit_status), (Ok(Status::STOPPED), 7));
    let refused = client.kill(id, "", libc::SIGTERM, false).unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (Code::NOT_FOUND, "process already finished: not found"));

    let record = world.exit_record("init").unwrap();
    assert_eq!((&record["pid"], &record["status"], &record["signal"]), (&json!(pid), &json!(7), &json!(0)));
    let deleted = client.delete(id, "").unwrap();
    assert_eq!((deleted.exit_status, i32::try_from(deleted.pid)), (7, Ok(pid)));
    assert_eq!(client.state(id, "").unwrap_err().code, Code::NOT_FOUND);

    world.events.wait_for("/tasks/delete");
    assert_eq!(world.events.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    let pid = u32::try_from(pid).unwrap();
    let created: TaskCreate = world.events.wait_for("/tasks/create").decode();
    assert_eq!((created.container_id.as_str(), created.pid, created.rootfs.len()), (id.as_str(), pid, 1));
    assert_eq!(world.events.wait_for("/tasks/start").decode::<TaskStart>().pid, pid);
    let exited: TaskExit = world.events.wait_for("/tasks/exit").decode();
    assert_eq!((&exited.container_id, &exited.id, exited.pid, exited.exit_status), (id, id, pid, 7));
    let deleted: TaskDelete = world.events.wait_for("/tasks/delete").decode();
    assert_eq!((deleted.exit_status, deleted.exited_at), (7, exited.exited_at));

    world.assert_gone();
    let socket = world.socket();
    assert!(socket.exists());
    client.shutdown(id);
    eventually("the shim's end", || (!is_alive(world.shim_pid) && !socket.exists()).then_some(()));
}

#[test]
fn a_whole_life_by_version_two() {
    whole_life(2);
}

#[test]
fn a_whole_life_by_version_three() {
    whole_life(3);
}

#[test]
fn a_signal_ends_with_128_and_its_number() {
    let world = World::run(&["sleep", "1000"]);
    let (id, client) = (&world.id, world.client());
    assert_eq!(client.delete(id, "").unwrap_err().code, Code::UNKNOWN);
    assert_eq!(client.kill(id, "", 99, false).unwrap_err().code, Code::UNKNOWN);
    client.kill(id, "", libc::SIGKILL, false).unwrap();
    assert_eq!(client.wait(id, "").unwrap(), 137);
    assert_eq!(world.exit_record("init").unwrap()["signal"], 9);
    assert_eq!(client.delete(id, "").unwrap().exit_status, 137);
    world.assert_gone();
}

#[test]
fn a_signal_reaches_a_handler() {
    let ready = |world: &World| world.bundle.join("upper/ready").exists().then_some(());
    let world = World::run(&["sh", "-c", "trap 'exit 42' TERM; echo > /ready; while :; do sleep 0.01; done"]);
    eventually("the handler", || ready(&world));
    world.client().kill(&world.id, "", libc::SIGTERM, false).unwrap();
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 42);
}

#[test]
fn a_command_starts_with_nothing_blocked_and_nothing_ignored() {
    let mut world = World::new(&["grep", "-E", "Sig(Blk|Ign)|Groups|NoNewPrivs", "/proc/self/status"]);
    world.start_shim(3);
    let out = harness::fifo::Fifo::new(&world.folder.0, "out");
    let mut request = world.create_request();
    request.stdout = out.name();
    let reader = out.reader();
    world.client().create(&request).unwrap();
    world.client().start(&world.id, "").unwrap();
    world.client().wait(&world.id, "").unwrap();
    world.client().delete(&world.id, "").unwrap();
    let text = reader.rest();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for (name, value) in
        [("SigBlk:", "0000000000000000"), ("SigIgn:", "0000000000000000"), ("Groups:", "10"), ("NoNewPrivs:", "1")]
    {
        assert!(lines.contains(&vec![name, value]), "{name} in {text}");
    }
}

#[test]
fn the_daemons_groups_do_not_leak() {
    let mut world = World::with_spec(|id| {
        let mut spec = spec(id, &["sh", "-c", "exit $(grep -c 'Groups:[[:space:]]*$' /proc/self/status)"]);
        set(&mut spec, "/process", "user", json!({"uid": 1000, "gid": 1000}));
        spec
    });
    world.start_shim(3);
    world.client().create(&world.create_request()).unwrap();
    world.client().start(&world.id, "").unwrap();
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 1, "one line without a group");
}

#[test]
fn what_was_made_and_not_started_can_be_deleted() {
    let mut world = World::new(&["sleep", "1000"]);
    world.start_shim(3);
    world.client().create(&world.create_request()).unwrap();
    assert_eq!(world.client().delete(&world.id, "").unwrap().exit_status, 137);
    world.assert_gone();
    world.events.wait_for("/tasks/delete");
    assert_eq!(world.events.topics(), ["/tasks/create", "/tasks/exit", "/tasks/delete"]);
}

#[test]
fn commands_that_cannot_run_are_refused_in_words_and_leave_nothing() {
    let cases: [(&[&str], &str); 4] = [
        (&["nosuch"], "exec: \"nosuch\": executable file not found in $PATH"),
        (&["/no/such"], "exec: \"/no/such\": stat /no/such: no such file or directory"),
        (&["/etc/passwd"], "exec: \"/etc/passwd\": permission denied"),
        (&["/etc"], "exec: \"/etc\": is a directory"),
    ];
    for (args, expected) in cases {
        let mut world = World::new(args);
        world.start_shim(3);
        let refused = world.client().create(&world.create_request()).unwrap_err();
        let text = format!("OCI runtime create failed: unable to start container process: {expected}");
        assert_eq!((refused.code, refused.message), (Code::UNKNOWN, text));
        world.assert_gone();
        assert_eq!(world.client().state(&world.id, "").unwrap_err().code, Code::NOT_FOUND);
        assert!(world.events.all().is_empty());
        world.client().shutdown(&world.id);
        eventually("the shim's end", || (!is_alive(world.shim_pid)).then_some(()));
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut world = World::new(&["true"]);
    world.start_shim(3);
    let client = world.client();
    let refused = |change: &dyn Fn(&mut containerd_shim_protos::api::CreateTaskRequest)| {
        let mut request = world.create_request();
        change(&mut request);
        let refused = client.create(&request).unwrap_err();
        world.assert_gone();
        refused
    };
    assert_eq!(refused(&|r| r.id = "../x".into()).code, Code::INVALID_ARGUMENT);
    assert_eq!(refused(&|r| r.bundle = "relative".into()).code, Code::INVALID_ARGUMENT);
    assert_eq!(refused(&|r| r.bundle = "/no/such/bundle".into()).code, Code::NOT_FOUND);
    assert_eq!(refused(&|r| r.stdout = "/no/such/fifo".into()).code, Code::NOT_FOUND);
    assert_eq!(refused(&|r| r.stdout = "tcp://x/y".into()).code, Code::INVALID_ARGUMENT);
    assert_eq!(refused(&|r| r.checkpoint = "/some/image".into()).code, Code::UNIMPLEMENTED);
    assert_eq!(
        refused(&|r| r.options = Some(harness::any("x.Options", Vec::new())).into()).code,
        Code::INVALID_ARGUMENT
    );
    let mount = refused(&|r| r.rootfs[0].type_ = "nosuchfs".into());
    assert!(mount.message.contains("mount rootfs of type nosuchfs"), "{}", mount.message);
    // After all that it still works.
    client.create(&world.create_request()).unwrap();
}

#[test]
fn processes_are_listed_and_the_shim_tells_who_it_is() {
    let world = World::run(&["sh", "-c", "sleep 1000 & wait"]);
    let request = PidsRequest { id: world.id.clone(), ..Default::default() };
    let pids = eventually("two processes", || {
        let pids: PidsResponse = world.client().call("Pids", &request).unwrap();
        (pids.processes.len() == 2).then_some(pids)
    });
    let request = ConnectRequest { id: world.id.clone(), ..Default::default() };
    let connected: ConnectResponse = world.client().call("Connect", &request).unwrap();
    assert_eq!(i32::try_from(connected.shim_pid), Ok(world.shim_pid));
    assert!(pids.processes.iter().any(|process| process.pid == connected.task_pid));
}

#[test]
fn a_shared_pid_namespace_is_cleared_when_init_ends() {
    let world = World::with_spec(|id| {
        let mut spec = spec(id, &["sh", "-c", "sleep 1000 & echo $! > /child; sleep 0.05"]);
        set(&mut spec, "/linux", "namespaces", json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]));
        spec
    });
    let mut world = world;
    world.start_shim(3);
    world.client().create(&world.create_request()).unwrap();
    world.client().start(&world.id, "").unwrap();
    world.client().wait(&world.id, "").unwrap();
    let child: i32 = std::fs::read_to_string(world.bundle.join("upper/child")).unwrap().trim().parse().unwrap();
    eventually("the child's death", || (!is_alive(child)).then_some(()));
    world.client().delete(&world.id, "").unwrap();
    world.assert_gone();
}

#[test]
fn a_container_without_streams_may_write() {
    let world = World::run(&["sh", "-c", "echo out && echo err >&2 && exit 6"]);
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 6);
}

#[test]
fn hooks_run_and_the_order_stays() {
    let mut world = World::new(&["true"]);
    let mark = |name: &str| {
        let script = format!("sleep 0.05; echo > {}", world.folder.0.join(name).display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let mut spec = spec(&world.id, &["true"]);
    spec["hooks"] = json!({"poststart": mark("started"), "poststop": mark("stopped")});
    std::fs::write(world.bundle.join("config.json"), spec.to_string()).unwrap();
    world.start_shim(3);
    let client = world.client();
    client.create(&world.create_request()).unwrap();
    // It ends while its hook still runs.
    client.start(&world.id, "").unwrap();
    assert!(world.folder.0.join("started").exists());
    assert_eq!(client.wait(&world.id, "").unwrap(), 0);
    client.delete(&world.id, "").unwrap();
    assert!(world.folder.0.join("stopped").exists());
    world.assert_gone();
    world.events.wait_for("/tasks/delete");
    assert_eq!(world.events.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
}

#[test]
fn containers_of_a_group_share_a_shim() {
    let grouped = |id: &str| {
        let mut spec = spec(id, &["sleep", "1000"]);
        spec["annotations"] = json!({"io.kubernetes.cri.sandbox-id": "pod"});
        spec
    };
    let mut world = World::with_spec(grouped);
    world.start_shim(3);
    let other = format!("{}-b", world.id);
    let bundle = harness::make_bundle(&world.folder.0, &other, &grouped(&other));
    world.extra.push(bundle.clone());
    let output = world.command(&other, &bundle, "start").output().unwrap();
    let address = String::from_utf8(harness::succeeded(&output).stdout.clone()).unwrap();
    assert_eq!(address, format!("unix://{}", world.socket().display()), "the old answer is the address alone");

    let client = world.client();
    client.create(&world.create_request()).unwrap();
    client.create(&harness::create_request(&other, &bundle)).unwrap();
    client.start(&world.id, "").unwrap();
    client.start(&other, "").unwrap();
    client.kill(&world.id, "", libc::SIGKILL, false).unwrap();
    client.wait(&world.id, "").unwrap();
    client.delete(&world.id, "").unwrap();
    client.shutdown(&world.id);
    assert_eq!(client.status(&other), Status::RUNNING, "the shim stays for the other");
    client.kill(&other, "", libc::SIGKILL, false).unwrap();
    client.wait(&other, "").unwrap();
    client.delete(&other, "").unwrap();
    client.shutdown(&other);
    eventually("the shim's end", || (!is_alive(world.shim_pid)).then_some(()));
}
