//! containerd's client library, as a program of its users: the same transcript as on Debian's containerd.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
};
use wharf_tests::{Containerd, Daemon, Registry, command::Program, go, images, process::Guarded};

/// Runs the flow on a daemon, which is taken away and brought back where the flow says so, and gives its transcript.
fn flow(address: &Path, namespace: &str, image: &str, dir: &Path, mut daemon: impl FnMut(&str)) -> String {
    let mut command = Program::new(go::flow()).command(["-namespace", namespace, "-image", image]);
    command.arg("-address").arg(address).arg("-dir").arg(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut process = Guarded::new(command.spawn().unwrap());
    let mut orders = process.child().stdin.take().unwrap();
    let mut transcript = String::new();
    for line in BufReader::new(process.child().stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(order) = line.strip_prefix('!') {
            daemon(order);
            orders.write_all(b"done\n").unwrap();
        } else {
            transcript.push_str(&line);
            transcript.push('\n');
        }
    }
    let ended = process.wait_for(wharf_tests::wait::PATIENCE).unwrap();
    assert!(ended.success(), "the flow ended with {ended} (its last words are above) after:\n{transcript}");
    transcript
}

#[test]
fn its_flow_has_the_transcript_that_it_has_on_containerd() {
    let registry = Registry::start();
    let image = registry.push(&images::umoci_layers(), "app/layers:latest");
    let mut daemon = Daemon::start();
    let (address, namespace, dir) = (daemon.address(), daemon.namespace().to_owned(), daemon.dir().folder("flow"));
    let ours = flow(&address, &namespace, &image, &dir, |order| match order {
        "down" => daemon.kill(),
        _ => daemon.up(),
    });
    daemon.expect_nothing_left();
    let mut containerd = Containerd::start();
    let (address, namespace) = (containerd.address(), containerd.namespace().to_owned());
    let dir = containerd.dir().folder("flow");
    let theirs = flow(&address, &namespace, &image, &dir, |order| match order {
        "down" => containerd.kill(),
        _ => containerd.up(),
    });
    let differing: Vec<_> = ours.lines().zip(theirs.lines()).filter(|(ours, theirs)| ours != theirs).collect();
    assert!(ours == theirs, "{differing:#?}\n--- on wharf\n{ours}\n--- on containerd\n{theirs}");
}
