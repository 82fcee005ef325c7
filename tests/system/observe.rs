//! What an operator sees of a running daemon: its figures, and its log.

use crate::fixture::{BUSYBOX, sleeper, with_busybox};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};
use wharf_tests::{Daemon, images};

/// Asks for a path over HTTP, and gives the whole answer.
fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: wharf\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a sample.
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in\n{text}")).parse().unwrap()
}

#[test]
fn a_scrape_tells_of_actors_journal_log_subscribers_and_containers() {
    let folder = wharf_tests::TestDir::new();
    let socket = folder.join("metrics.sock");
    let daemon = Daemon::configured(&format!("[metrics]\naddress = \"unix://{}\"\n", socket.display()));
    daemon.ok(["images", "import", images::docker_archive(&images::busybox(), BUSYBOX).to_str().unwrap()]);
    sleeper(&daemon, "web");
    let mut watcher = daemon.background("events --cursor audit --since 0 --follow");
    watcher.expect("/tasks/start");
    let text = get(&socket, "/v1/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("text/plain; version=0.0.4"), "{text}");
    assert_eq!(value(&text, r#"wharf_actors{kind="journal"}"#), 1.0);
    assert_eq!(value(&text, r#"wharf_actors{kind="task"}"#), 1.0);
    assert!(value(&text, "wharf_journal_batch_commits_count") >= 5.0);
    assert_eq!(value(&text, "wharf_log_events"), value(&text, "wharf_log_last_seq_total"));
    assert!(value(&text, "wharf_log_bytes") > 500.0);
    // Parts of the daemon follow the log, too. What a watcher has printed it acknowledges a little later.
    wharf_tests::eventually("the watcher to have read all", || {
        let text = get(&socket, "/v1/metrics");
        let mut lines = text.lines().filter(|line| line.starts_with("wharf_subscriber_behind_events"));
        lines.find(|line| line.contains("audit"))?.ends_with(" 0").then_some(())
    });
    let memory = format!("{{container_id=\"web\",namespace=\"{}\"}}", daemon.namespace());
    assert!(value(&text, &format!("container_memory_usage_usage_bytes{memory}")) > 0.0);
    assert!(value(&text, &format!("container_cpu_total_nanoseconds{memory}")) > 0.0);
    // Every line is one that a scraper understands: a comment, or a name, labels and a number.
    for line in text.split_once("\r\n\r\n").unwrap().1.lines().filter(|line| !line.starts_with('#')) {
        let (_, number) = line.rsplit_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok(), "{line}");
    }
    assert!(get(&socket, "/").starts_with("HTTP/1.1 404 "));
    watcher.signal(nix::sys::signal::Signal::SIGTERM);
    watcher.wait();
}

#[test]
fn what_is_logged_changes_while_the_daemon_runs() {
    let daemon = with_busybox();
    assert!(daemon.ok("debug log-level").stdout.contains("debug"));
    assert!(daemon.ok("debug log-level warn").stdout.contains("warn"));
    let before = daemon.log().len();
    daemon.ok("leases ls");
    assert_eq!(daemon.log().len(), before, "nothing worth a warning");
    daemon.ok("debug log-level debug");
    daemon.ok("leases ls");
    assert!(daemon.log()[before..].contains("leases.list"), "{}", daemon.log());
    daemon.wharf("debug log-level loudest==").refused(&["loudest"]);
}
