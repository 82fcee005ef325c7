//! Debian's `ctr` against wharfd and against Debian's containerd, command by command.
//!
//! Each scenario is run three times at once, in namespaces and folders of its own: by the real `ctr` on containerd, by
//! the same on wharfd, and by wharf's own client under the name `ctr`. Exit codes, both outputs and the events that
//! the daemons told are compared, without times and random names. wharfd has to answer as containerd does, or otherwise
//! for a reason that stands in the table; what wharf's own client says is told beside it, and held against the real one's exit codes and outputs where a command
//! is done another way. Each test prints its table.

mod commands;
mod containers;
mod content;
mod flags;
mod images;
mod normal;
mod rest;
mod run;
mod side;
mod snapshots;
mod step;
mod tasks;
mod world;

use world::World;

#[test]
fn commands_of_either_client_come_to_the_same() {
    World::compare_clients(commands::SCENARIOS);
}

#[test]
fn containers_are_the_same() {
    World::compare(containers::SCENARIOS);
}

#[test]
fn content_is_the_same() {
    World::compare(content::SCENARIOS);
}

#[test]
fn user_namespaces_are_the_same() {
    World::compare_clients(flags::MAPS);
}

#[test]
fn user_namespaces_by_labels() {
    World::compare_clients(flags::LABELLED_MAPS);
}

#[test]
fn networks_are_the_same() {
    World::compare_clients(flags::NETWORKS);
}

#[test]
fn devices_of_nvidia_are_the_same() {
    World::compare_clients(flags::GPUS);
}

#[test]
fn default_profiles_are_the_same() {
    World::compare_clients(flags::PROFILES);
}

#[test]
fn images_are_the_same() {
    World::compare(images::SCENARIOS);
}

#[test]
fn running_is_the_same() {
    World::compare(run::SCENARIOS);
}

#[test]
fn snapshots_are_the_same() {
    World::compare(snapshots::SCENARIOS);
}

#[test]
fn tasks_are_the_same() {
    World::compare(tasks::SCENARIOS);
}

#[test]
fn the_rest_is_the_same() {
    World::compare(rest::SCENARIOS);
}
