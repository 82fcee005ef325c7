//! Standard streams: FIFOs whose readers come and go, terminals, files and logging binaries.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::ttrpc::Code;
use harness::fifo::Fifo;
use harness::{World, eventually, set, spec};
use serde_json::json;

/// A container whose streams a test chooses; started.
fn started(args: &[&str], choose: impl FnOnce(&World, &mut CreateTaskRequest)) -> World {
    let mut world = World::new(args);
    world.start_shim(3);
    let mut request = world.create_request();
    choose(&world, &mut request);
    world.client().create(&request).unwrap();
    world.client().start(&world.id, "").unwrap();
    world
}

fn fifo(world: &World, name: &str) -> Fifo {
    Fifo::new(&world.folder.0, name)
}

#[test]
fn output_and_errors_go_their_own_ways_and_end() {
    let mut streams = None;
    let world = started(&["sh", "-c", "echo out; echo err >&2"], |world, request| {
        let (out, err) = (fifo(world, "out"), fifo(world, "err"));
        (request.stdout, request.stderr) = (out.name(), err.name());
        streams = Some((out.reader(), err.reader()));
    });
    let (out, err) = streams.unwrap();
    assert_eq!((out.rest().as_str(), err.rest().as_str()), ("out\n", "err\n"));
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 0);
}

#[test]
fn a_megabyte_arrives_whole() {
    let mut reader = None;
    let _world = started(&["dd", "if=/proc/self/exe", "bs=65536", "count=16"], |world, request| {
        let out = fifo(world, "out");
        request.stdout = out.name();
        reader = Some(out.reader());
    });
    let mut reader = reader.unwrap();
    // Not text: the reader counts what it makes of it, so only the end is waited for.
    assert!(!reader.read_until(|_| false));
    assert!(reader.text.len() > 600_000, "{}", reader.text.len());
}

#[test]
fn readers_come_and_go() {
    let script = "for i in 1 2 3; do until test -e /go$i; do sleep 0.01; done; echo line$i; done; sleep 1000";
    let mut out = None;
    let world = started(&["sh", "-c", script], |world, request| {
        let fifo = fifo(world, "out");
        request.stdout = fifo.name();
        out = Some(fifo);
    });
    let out = out.unwrap();
    let go = |number: u32| world.touch(&format!("go{number}"));
    let mut first = out.reader();
    go(1);
    first.expect("line1");
    drop(first);
    // Nobody reads, and the container goes on; what it says is there for who comes next.
    go(2);
    let mut second = out.reader();
    second.expect("line2");
    go(3);
    second.expect("line3");
    assert_eq!(world.client().state(&world.id, "").unwrap().exit_status, 0);
}

#[test]
fn input_is_passed_on_and_ends_when_it_is_closed() {
    let mut streams = None;
    let world = started(&["cat"], |world, request| {
        let (input, out) = (fifo(world, "in"), fifo(world, "out"));
        (request.stdin, request.stdout) = (input.name(), out.name());
        streams = Some((input, out.reader()));
    });
    let (input, mut out) = streams.unwrap();
    let mut writer = input.writer();
    writer.write_all(b"one\n").unwrap();
    out.expect("one\n");
    // A client that goes away does not end the input.
    drop(writer);
    let mut writer = input.writer();
    writer.write_all(b"two\n").unwrap();
    out.expect("two\n");
    writer.write_all(b"three\n").unwrap();
    world.client().close_stdin(&world.id, "");
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 0, "though a writer is still there");
    assert_eq!(out.rest(), "one\ntwo\nthree\n");
}

#[test]
fn a_container_outlives_a_client_that_reads_nothing() {
    let mut out = None;
    let world = started(&["sh", "-c", "echo begin; yes | head -c 30000; echo end"], |world, request| {
        let fifo = fifo(world, "out");
        request.stdout = fifo.name();
        out = Some(fifo);
    });
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 0);
    let text = out.unwrap().reader();
    let mut text = text;
    text.expect("end\n");
    assert!(text.text.starts_with("begin\n"));
}

#[test]
fn a_terminal_has_a_size_and_echoes() {
    let mut world = World::with_spec(|id| {
        let mut spec = spec(id, &["sh"]);
        set(&mut spec, "/process", "terminal", json!(true));
        set(&mut spec, "/process", "consoleSize", json!({"height": 24, "width": 80}));
        spec
    });
    world.start_shim(3);
    let (input, out) = (fifo(&world, "in"), fifo(&world, "out"));
    let mut request = world.create_request();
    (request.terminal, request.stdin, request.stdout) = (true, input.name(), out.name());
    let mut reader = out.reader();
    let client = world.client();
    client.create(&request).unwrap();
    client.start(&world.id, "").unwrap();
    let mut keys = input.writer();
    keys.write_all(b"stty size; tty\n").unwrap();
    reader.expect("24 80\r\n/dev/pts/0\r\n");
    client.resize(&world.id, "", 132, 50);
    keys.write_all(b"stty size\n").unwrap();
    reader.expect("50 132\r\n");
    // Another client attaches.
    drop(reader);
    let mut reader = out.reader();
    keys.write_all(b"echo again; exit 3\n").unwrap();
    reader.expect("again\r\n");
    assert_eq!(client.wait(&world.id, "").unwrap(), 3);
    client.delete(&world.id, "").unwrap();
    world.assert_gone();
}

#[test]
fn a_terminals_output_ends_with_its_process_and_not_with_its_children() {
    let mut world = World::with_spec(|id| {
        let mut spec = spec(id, &["sh", "-c", "echo said; sleep 1000 &"]);
        set(&mut spec, "/process", "terminal", json!(true));
        set(&mut spec, "/linux", "namespaces", json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]));
        spec
    });
    world.start_shim(3);
    let out = fifo(&world, "out");
    let mut request = world.create_request();
    (request.terminal, request.stdout) = (true, out.name());
    let mut reader = out.reader();
    world.client().create(&request).unwrap();
    world.client().start(&world.id, "").unwrap();
    reader.expect("said\r\n");
    world.client().wait(&world.id, "").unwrap();
    world.client().delete(&world.id, "").unwrap();
    assert_eq!(reader.rest(), "said\r\n");
}

#[test]
fn files_are_appended_to_with_their_folders() {
    let mut file = None;
    let world = started(&["sh", "-c", "echo out; echo err >&2"], |world, request| {
        let path = world.folder.0.join("logs/deep/a.log");
        let name = format!("file://{}", path.display());
        (request.stdout, request.stderr) = (name.clone(), name);
        file = Some(path);
    });
    let file = file.unwrap();
    world.client().wait(&world.id, "").unwrap();
    world.client().delete(&world.id, "").unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
}

/// A logging binary that writes what it is told, and by what name.
fn logging_binary(world: &World, get_ready: &str) -> String {
    let path = world.folder.0.join("logger");
    let script = format!(
        "#!/bin/sh\n{get_ready}\nexec 5>&-\nprintf '%s|%s|%s|' \"$CONTAINER_ID\" \"$CONTAINER_NAMESPACE\" \"$*\" > \"$2\"\n\
         cat <&3 >> \"$2\"\ncat <&4 >> \"$2\"\necho ended >> \"$2\"\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("binary://{}?--to={}", path.display(), world.folder.0.join("logged").display())
}

#[test]
fn a_logging_binary_gets_everything_and_its_end() {
    let world = started(&["sh", "-c", "echo out; echo err >&2"], |world, request| {
        request.stdout = logging_binary(world, "");
    });
    world.client().wait(&world.id, "").unwrap();
    world.client().delete(&world.id, "").unwrap();
    let logged = world.folder.0.join("logged");
    let expected = format!("{}|test|--to {}|out\nerr\nended\n", world.id, logged.display());
    assert_eq!(fs::read_to_string(&logged).unwrap(), expected, "all of it before the deletion is answered");
}

#[test]
fn a_logging_binary_that_is_not_there_is_named() {
    let mut world = World::new(&["true"]);
    world.start_shim(3);
    let mut request = world.create_request();
    request.stdout = "binary:///no/such/logger".into();
    let refused = world.client().create(&request).unwrap_err();
    assert_eq!(refused.code, Code::NOT_FOUND);
    assert!(refused.message.contains("/no/such/logger"), "{}", refused.message);
    world.assert_gone();
}

#[test]
fn others_are_served_while_a_logging_binary_gets_ready() {
    let mut world = World::new(&["true"]);
    world.start_shim(3);
    let go = world.folder.0.join("go");
    let mut request = world.create_request();
    request.stdout = logging_binary(&world, &format!("until test -e {}; do sleep 0.01; done", go.display()));
    std::thread::scope(|scope| {
        let made = scope.spawn(|| world.client().create(&request));
        eventually("the logging binary", || world.client().state(&world.id, "").is_err().then_some(()));
        fs::write(&go, "").unwrap();
        made.join().unwrap().unwrap();
    });
}

#[test]
fn a_user_may_open_the_streams_again() {
    let mut world = World::with_spec(|id| {
        let mut spec = spec(id, &["sh", "-c", "echo reopened > /proc/self/fd/1"]);
        set(&mut spec, "/process", "user", json!({"uid": 1000, "gid": 1000}));
        spec
    });
    world.start_shim(3);
    let out = fifo(&world, "out");
    let mut request = world.create_request();
    request.stdout = out.name();
    let reader = out.reader();
    world.client().create(&request).unwrap();
    world.client().start(&world.id, "").unwrap();
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 0);
    assert_eq!(reader.rest(), "reopened\n");
}
