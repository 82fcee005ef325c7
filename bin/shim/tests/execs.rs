//! Other processes in a container.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::Write;

use containerd_shim_protos::api::{Empty, ExecProcessRequest, PidsRequest, PidsResponse, Status};
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted, TaskExit};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::ttrpc::Code;
use harness::client::Refused;
use harness::fifo::Fifo;
use harness::{World, any, eventually, is_alive};
use protobuf::Message;
use serde_json::{Value, json};

const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

fn process(args: &[&str]) -> Value {
    json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true})
}

fn request(world: &World, exec: &str, process: &Value) -> ExecProcessRequest {
    ExecProcessRequest {
        id: world.id.clone(),
        exec_id: exec.into(),
        spec: Some(any(PROCESS, serde_json::to_vec(process).unwrap())).into(),
        ..Default::default()
    }
}

fn add(world: &World, request: &ExecProcessRequest) -> Result<(), Refused> {
    world.client().call::<_, Empty>("Exec", request).map(drop)
}

/// Runs a process to its end and gives what it said and how it ended.
fn output(world: &World, exec: &str, process: &Value) -> (String, u32) {
    let out = Fifo::new(&world.folder.0, exec);
    let reader = out.reader();
    let mut request = request(world, exec, process);
    request.stdout = out.name();
    request.stderr = out.name();
    add(world, &request).unwrap();
    world.client().start(&world.id, exec).unwrap();
    let status = world.client().wait(&world.id, exec).unwrap();
    world.client().delete(&world.id, exec).unwrap();
    (reader.rest(), status)
}

#[test]
fn a_process_has_a_life_of_its_own() {
    let world = World::run(&["sleep", "1000"]);
    let (id, client) = (&world.id, world.client());
    add(&world, &request(&world, "x", &process(&["sh", "-c", "exit 5"]))).unwrap();
    assert_eq!(add(&world, &request(&world, "x", &process(&["true"]))).unwrap_err().code, Code::ALREADY_EXISTS);
    assert_eq!(client.state(id, "x").unwrap().status.enum_value(), Ok(Status::CREATED));
    assert_eq!(client.kill(id, "x", libc::SIGKILL, false).unwrap_err().code, Code::FAILED_PRECONDITION);
    let pid = client.start(id, "x").unwrap();
    assert_eq!(client.wait(id, "x").unwrap(), 5);
    assert_eq!(world.exit_record("exec-x").unwrap()["status"], 5);
    assert_eq!(client.start(id, "x").unwrap_err().code, Code::UNKNOWN);
    assert_eq!(client.kill(id, "x", libc::SIGKILL, false).unwrap_err().code, Code::NOT_FOUND);
    let deleted = client.delete(id, "x").unwrap();
    assert_eq!((deleted.exit_status, i32::try_from(deleted.pid)), (5, Ok(pid)));
    assert!(world.exit_record("exec-x").is_none());
    assert_eq!(client.state(id, "x").unwrap_err().code, Code::NOT_FOUND);
    assert_eq!(client.status(id), Status::RUNNING);

    world.events.wait_for("/tasks/exit");
    let topics = world.events.topics();
    assert_eq!(topics[2..], ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]);
    assert_eq!(world.events.wait_for("/tasks/exec-added").decode::<TaskExecAdded>().exec_id, "x");
    let started: TaskExecStarted = world.events.wait_for("/tasks/exec-started").decode();
    assert_eq!((started.exec_id.as_str(), i32::try_from(started.pid)), ("x", Ok(pid)));
    let exited: TaskExit = world.events.wait_for("/tasks/exit").decode();
    assert_eq!((exited.id.as_str(), exited.exit_status), ("x", 5));
}

#[test]
fn it_is_in_the_container_and_nowhere_else() {
    let world = World::run(&["sleep", "1000"]);
    let script = "cat /proc/1/cmdline | head -c 5; echo; cat /proc/self/cgroup; ls /proc/self/fd; \
                  grep -E 'Cap(Eff|Bnd)|Groups|NoNew|SigIgn|SigBlk' /proc/self/status; echo $HOME";
    let mut process = process(&["sh", "-c", script]);
    process["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
    process["capabilities"] = json!({"bounding": ["CAP_CHOWN"], "effective": [], "permitted": []});
    let (text, status) = output(&world, "where", &process);
    assert_eq!(status, 0, "{text}");
    assert!(text.starts_with("sleep"), "{text}");
    let cgroups = text.lines().filter(|line| line.contains(&format!("/{}", world.id))).count();
    assert!(cgroups >= 1, "{text}");
    // Its three streams, and what it opens itself.
    assert!(text.contains("\n0\n1\n2\n3\n") && !text.contains("\n4\n"), "{text}");
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for line in [
        vec!["CapEff:", "0000000000000000"],
        vec!["CapBnd:", "0000000000000001"],
        vec!["Groups:", "7"],
        vec!["NoNewPrivs:", "1"],
        vec!["SigIgn:", "0000000000000000"],
        vec!["SigBlk:", "0000000000000000"],
        vec!["/tmp"],
    ] {
        assert!(words.contains(&line), "{line:?} in {text}");
    }
}

#[test]
fn a_command_that_is_not_there_is_refused_in_words() {
    let world = World::run(&["sleep", "1000"]);
    add(&world, &request(&world, "x", &process(&["nosuch"]))).unwrap();
    let refused = world.client().start(&world.id, "x").unwrap_err();
    let text = "OCI runtime exec failed: exec failed: unable to start container process: \
                exec: \"nosuch\": executable file not found in $PATH";
    assert_eq!((refused.code, refused.message.as_str()), (Code::UNKNOWN, text));
    world.client().delete(&world.id, "x").unwrap();
    let missing = json!({"args": ["true"], "cwd": "/no/such", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    add(&world, &request(&world, "y", &missing)).unwrap();
    let refused = world.client().start(&world.id, "y").unwrap_err();
    let text = r#"chdir to cwd ("/no/such") set in config.json failed: no such file or directory"#;
    assert!(refused.message.ends_with(text), "{}", refused.message);
}

#[test]
fn its_input_ends_even_if_it_was_closed_before_it_began() {
    let world = World::run(&["sleep", "1000"]);
    let (input, out) = (Fifo::new(&world.folder.0, "in"), Fifo::new(&world.folder.0, "out"));
    let mut request = request(&world, "x", &process(&["cat"]));
    (request.stdin, request.stdout) = (input.name(), out.name());
    add(&world, &request).unwrap();
    let reader = out.reader();
    world.client().close_stdin(&world.id, "x");
    std::thread::scope(|scope| {
        scope.spawn(|| input.writer().write_all(b"early\n").unwrap());
        world.client().start(&world.id, "x").unwrap();
    });
    assert_eq!(world.client().wait(&world.id, "x").unwrap(), 0);
    assert!(["early\n", ""].contains(&reader.rest().as_str()));
}

#[test]
fn it_has_a_terminal_of_its_own() {
    let world = World::run(&["sleep", "1000"]);
    let (input, out) = (Fifo::new(&world.folder.0, "in"), Fifo::new(&world.folder.0, "out"));
    let mut shell = process(&["sh"]);
    shell["consoleSize"] = json!({"height": 10, "width": 20});
    let mut request = request(&world, "t", &shell);
    (request.stdin, request.stdout, request.terminal) = (input.name(), out.name(), true);
    add(&world, &request).unwrap();
    let mut reader = out.reader();
    world.client().start(&world.id, "t").unwrap();
    let mut keys = input.writer();
    keys.write_all(b"stty size\n").unwrap();
    reader.expect("10 20\r\n");
    world.client().resize(&world.id, "t", 77, 33);
    keys.write_all(b"stty size; exit 9\n").unwrap();
    reader.expect("33 77\r\n");
    assert_eq!(world.client().wait(&world.id, "t").unwrap(), 9);
    world.client().delete(&world.id, "t").unwrap();
}

#[test]
fn it_is_known_among_the_processes() {
    let world = World::run(&["sleep", "1000"]);
    add(&world, &request(&world, "x", &process(&["sleep", "1000"]))).unwrap();
    let pid = u32::try_from(world.client().start(&world.id, "x").unwrap()).unwrap();
    let request = PidsRequest { id: world.id.clone(), ..Default::default() };
    let pids: PidsResponse = world.client().call("Pids", &request).unwrap();
    let info = pids.processes.iter().find(|process| process.pid == pid).unwrap().info.clone().unwrap();
    assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
    assert_eq!(ProcessDetails::parse_from_bytes(&info.value).unwrap().exec_id, "x");
    assert_eq!(world.client().delete(&world.id, "x").unwrap_err().code, Code::UNKNOWN);
    world.client().kill(&world.id, "x", libc::SIGTERM, false).unwrap();
    assert_eq!(world.client().wait(&world.id, "x").unwrap(), 143);
}

#[test]
fn inits_end_is_told_after_all_others() {
    let world = World::run(&["sleep", "1000"]);
    for exec in ["a", "b", "c"] {
        add(&world, &request(&world, exec, &process(&["sleep", "1000"]))).unwrap();
        world.client().start(&world.id, exec).unwrap();
    }
    world.client().kill(&world.id, "", libc::SIGKILL, false).unwrap();
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 137);
    for exec in ["a", "b", "c"] {
        assert_eq!(world.client().wait(&world.id, exec).unwrap(), 137);
    }
    world.events.wait_for_nth("/tasks/exit", 3);
    let exits = world.events.all().into_iter().filter(|event| event.topic == "/tasks/exit");
    let ids: Vec<String> = exits.map(|event| event.decode::<TaskExit>().id).collect();
    assert_eq!(ids.last(), Some(&world.id));
    add(&world, &request(&world, "late", &process(&["true"]))).unwrap_err();
    world.client().delete(&world.id, "").unwrap();
    world.assert_gone();
}

#[test]
fn nothing_of_it_stays_in_the_shim() {
    let world = World::run(&["sleep", "1000"]);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", world.shim_pid)).unwrap().count();
    // The first one may open the way to the event service.
    output(&world, "warm", &process(&["true"]));
    let before = eventually("an idle shim", || {
        let count = descriptors();
        std::thread::sleep(std::time::Duration::from_millis(50));
        (count == descriptors()).then_some(count)
    });
    for number in 0..5 {
        output(&world, &format!("x{number}"), &process(&["echo", "x"]));
    }
    eventually("descriptors closed", || (descriptors() <= before).then_some(()));
    assert!(is_alive(world.shim_pid));
}
