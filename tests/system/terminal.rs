//! A real terminal: raw mode, sizes, signals by key, and who gets the terminal back.

use crate::fixture::{BUSYBOX, with_busybox};
use wharf_tests::Daemon;

/// A prompt that the shell's echo of a command line does not contain.
const READY: &str = "READY>";

fn shell(daemon: &Daemon, id: &str) -> wharf_tests::Pty {
    let mut terminal = daemon.terminal(["run", "--rm", "-t", "--env", "PS1=REA\"\"DY>", BUSYBOX, id, "sh"]);
    // PS1 is expanded, the quotes in it are not.
    terminal.expect("REA\"\"DY>");
    terminal.send(&format!("PS1='{}'\"DY>\"\n", "REA"));
    terminal.expect(READY);
    terminal
}

#[test]
fn a_shell_on_a_terminal() {
    let daemon = with_busybox();
    let mut terminal = shell(&daemon, "a");
    assert!(terminal.is_raw(), "keys go to the container as they are");
    terminal.send("tty; echo $((6*7))\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("42");
    terminal.expect(READY);
    terminal.send("stty size\n");
    terminal.expect("24 80");
    terminal.send("exit 7\n");
    assert_eq!(terminal.exit_code(), 7, "{}", terminal.screen());
    assert!(!terminal.is_raw(), "the terminal is given back as it was");
    daemon.expect_nothing_left();
}

#[test]
fn a_change_of_size_is_passed_on() {
    let daemon = with_busybox();
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut terminal = daemon.terminal(["run", "--rm", "-t", BUSYBOX, "a", "sh", "-c", script]);
    terminal.expect("ready");
    terminal.resize(50, 132);
    terminal.expect("50 132");
    terminal.resize(25, 81);
    terminal.expect("25 81");
    terminal.send("\x03");
    assert_eq!(terminal.exit_code(), 130);
}

#[test]
fn keys_become_signals_inside() {
    let daemon = with_busybox();
    let mut terminal = shell(&daemon, "a");
    terminal.send("sleep 1000\n");
    daemon.until("tasks ps a", "sleep runs", |output| output.table().len() == 3);
    // Until sleep has the terminal, the key would be the shell's: asked for again until it is answered.
    wharf_tests::eventually("the interrupt", || {
        terminal.send("\x03");
        let ps = daemon.ok("tasks ps a");
        (ps.table().len() == 2).then_some(())
    });
    terminal.send("echo code $?\n");
    terminal.expect("code 130");
    terminal.expect(READY);
    // Job control: stop a job by key, see it, bring it back, end it.
    terminal.send("cat\n");
    daemon.until("tasks ps a", "cat runs", |output| output.table().len() == 3);
    terminal.send("echoed\n");
    terminal.expect("echoed");
    terminal.expect("echoed");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect(READY);
    terminal.send("fg\n");
    terminal.expect("cat");
    terminal.send("again\n");
    terminal.expect("again");
    terminal.expect("again");
    // End of input.
    terminal.send("\x04");
    terminal.expect(READY);
    terminal.send("\x04");
    assert_eq!(terminal.exit_code(), 0, "{}", terminal.screen());
    daemon.expect_nothing_left();
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    let daemon = with_busybox();
    crate::fixture::sleeper(&daemon, "web");
    let mut terminal = daemon.terminal("tasks exec -t --exec-id x web sh");
    terminal.expect("/ #");
    terminal.send("stty size; tty\n");
    terminal.expect("24 80");
    terminal.expect("/dev/pts/");
    terminal.send("exit 9\n");
    assert_eq!(terminal.exit_code(), 9, "{}", terminal.screen());
    daemon.until_task("web", "RUNNING");
}

#[test]
fn a_terminal_is_created_started_and_attached_to() {
    let daemon = with_busybox();
    daemon.ok(["containers", "create", "-t", BUSYBOX, "a", "sh"]);
    let mut first = daemon.terminal("tasks start a");
    first.send("echo here $((1+1))\n");
    first.expect("here 2");
    // The first client dies without a word; the shell lives, and a second one takes its terminal over.
    drop(first);
    daemon.until_task("a", "RUNNING");
    let mut second = daemon.terminal("tasks attach a");
    second.send("\necho there $((2+2)); stty size\n");
    second.expect("there 4");
    second.expect("24 80");
    second.send("exit 5\n");
    assert_eq!(second.exit_code(), 5, "{}", second.screen());
    daemon.ok("containers rm a");
    daemon.expect_nothing_left();
}

#[test]
fn a_terminal_that_nobody_watches() {
    let daemon = with_busybox();
    daemon.ok(["run", "-d", "-t", BUSYBOX, "a", "sh", "-c", "stty size; exit 6"]);
    daemon.until_task("a", "STOPPED");
    assert!(daemon.ok("tasks rm a").stderr.contains("exit code 6"));
    daemon.ok("containers rm a");
}
