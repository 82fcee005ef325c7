//! The client by itself: names, help, usage errors, where it looks for the daemon.

use crate::fixture::{BUSYBOX, with_busybox};
use wharf_tests::{Daemon, Output, command::Program, paths};

fn wharf() -> Program {
    Program::new(paths::binary("wharf"))
}

#[test]
fn help_is_complete() {
    let help = wharf().run("--help").ok();
    #[rustfmt::skip]
    let commands = ["containers", "content", "events", "images", "leases", "namespaces", "plugins", "run", "snapshots", "tasks", "version"];
    for command in commands {
        assert!(help.stdout.contains(command), "{command} is not in {help}");
        assert!(wharf().run([command, "--help"]).ok().stdout.contains("Usage"), "{command}");
    }
    for flag in ["--address", "--namespace", "--timeout", "--connect-timeout", "--debug"] {
        assert!(help.stdout.contains(flag), "{flag} is not in {help}");
    }
    for name in ["wharfd"] {
        let help = Program::new(paths::binary(name)).run("--help").ok();
        for flag in ["--root", "--state", "--address", "--config", "--log-level"] {
            assert!(help.stdout.contains(flag), "{flag} is not in {help}");
        }
    }
}

#[test]
fn usage_errors_end_as_those_of_ctr() {
    let told = |output: Output, words: &[&str]| {
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is not said: {output}");
        }
        output
    };
    let _ = told(wharf().run("--bogus"), &["bogus"]).exits(1);
    let _ = told(wharf().run("images ls --bogus"), &["bogus"]).exits(1);
    let _ = told(wharf().run("run --bogus image id"), &["bogus"]).exits(1);
    let _ = told(wharf().run("bogus"), &["bogus"]).exits(3);
    let _ = told(wharf().run("images bogus"), &["bogus"]).exits(3);
    let _ = told(wharf().run("run"), &["wharf: "]).exits(1);
    let _ = told(wharf().run(["run", BUSYBOX]), &["wharf: "]).exits(1);
    let _ = told(wharf().run("tasks exec web ls"), &["exec-id"]).exits(1);
    let _ = told(wharf().called("ctr").run("tasks exec web ls"), &["ctr: "]).exits(1);
    let _ = Program::new(paths::binary("wharfd")).run("--bogus").exits(2);
}

#[test]
fn version_tells_both_sides() {
    let daemon = Daemon::start();
    let output = daemon.ok("version");
    for word in ["Client:", "Server:", "Version:", "Revision:", "UUID:", env!("CARGO_PKG_VERSION")] {
        assert!(output.stdout.contains(word), "{word:?} is not in {output}");
    }
    assert_eq!(output.stderr, "", "the same version on both sides is worth no warning");
    assert!(wharf().run("--version").ok().stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let address = "/tmp/no/such/wharf.sock";
    let client = wharf().env("WHARF_ADDRESS", address).before("--connect-timeout 200ms");
    client.run("images ls").refused(&[address]);
    // The client's own version is told all the same.
    let output = client.run("version").exits(1);
    assert!(output.stdout.contains("Client:"), "{output}");
}

#[test]
fn address_and_namespace_come_from_flags_then_variables() {
    let daemon = with_busybox();
    let address = daemon.address();
    let address = address.to_str().unwrap();
    let quiet = "images ls -q";
    wharf().before(["--address", address, "-n", daemon.namespace()]).run(quiet).ok().prints(BUSYBOX);
    wharf().before(["--address", address]).run(quiet).ok().prints("");
    let variables = wharf().env("CONTAINERD_ADDRESS", address).env("CONTAINERD_NAMESPACE", daemon.namespace());
    variables.run(quiet).ok().prints(BUSYBOX);
    variables.clone().env("WHARF_NAMESPACE", "other").run(quiet).ok().prints("");
    variables.before("-n other").run(quiet).ok().prints("");
}

#[test]
fn under_the_name_ctr_it_answers_as_ctr() {
    let daemon = with_busybox();
    daemon.ctr("i ls -q").ok().prints(BUSYBOX);
    daemon.ctr(["run", "--rm", BUSYBOX, "a", "echo", "hi"]).ok().prints("hi");
    daemon.ctr(["run", "--rm", "no/such:image", "a"]).refused(&["ctr: ", "no/such:image", "not found"]);
}

#[test]
fn namespaces_do_not_see_each_other() {
    let daemon = with_busybox();
    let other = format!("{}x", daemon.namespace());
    daemon.ok(["-n", &other, "images", "ls", "-q"]).prints("");
    let refused = daemon.wharf(["-n", &other, "run", "--rm", BUSYBOX, "a", "true"]);
    // A person who forgot -n is told where it is.
    refused.refused(&[BUSYBOX, "not found", daemon.namespace()]);
    daemon.wharf("-n b@d images ls").refused(&["b@d", "invalid argument"]);
    let names = daemon.ok("namespaces ls");
    assert_eq!(names.header(), "NAME LABELS");
    assert!(names.row(daemon.namespace()).is_some(), "{names}");
    daemon.ok(["namespaces", "create", &other, "a=b"]);
    assert_eq!(daemon.ok("namespaces ls").row(&other).unwrap()[1], "a=b");
    daemon.wharf(["namespaces", "rm", daemon.namespace()]).refused(&["must be empty", "images"]);
    daemon.ok(["namespaces", "rm", &other]);
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let daemon = with_busybox();
    let client = paths::binary("wharf");
    let script = format!("{} images ls | true; {} tasks ls | head -c 1", client.display(), client.display());
    let shell = Program::new("sh").env("WHARF_ADDRESS", daemon.address()).env("WHARF_NAMESPACE", daemon.namespace());
    let output = shell.run(["-c", &script]);
    assert!(!output.stderr.contains("panic"), "{output}");
}
